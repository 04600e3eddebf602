//! When a session has to do something although nobody has said anything.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

/// Rings once at a time that can be moved. While it is only put off, as most are that statement after statement sets,
/// no timer is touched.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    due: Option<Instant>,
    /// Ends when the alarm rings or before.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Rings then, or not at all.
    pub(crate) fn set(&mut self, due: Option<Instant>) {
        self.due = due;
    }

    /// Ready when it rings; then it is not set any more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                self.due = None;
                self.sleep = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn rings(alarm: &mut Alarm) -> bool {
        std::future::poll_fn(|cx| alarm.poll(cx)).now_or_never().is_some()
    }

    #[tokio::test]
    async fn it_rings_once_at_the_time_that_was_set_last() {
        let soon = Duration::from_millis(20);
        let passes = || tokio::time::sleep(2 * soon);
        let mut alarm = Alarm::default();
        assert!(!rings(&mut alarm));
        alarm.set(Some(Instant::now() + soon));
        assert!(!rings(&mut alarm));
        alarm.set(Some(Instant::now() + Duration::from_secs(3600)));
        passes().await;
        assert!(!rings(&mut alarm), "put off");
        alarm.set(Some(Instant::now() + soon));
        assert!(!rings(&mut alarm));
        passes().await;
        assert!(rings(&mut alarm), "and brought forward");
        assert!(!rings(&mut alarm));
        alarm.set(Some(Instant::now() + soon));
        alarm.set(None);
        passes().await;
        assert!(!rings(&mut alarm), "taken back");
    }
}
