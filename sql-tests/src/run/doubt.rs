//! What is in doubt when all faults are healed: it must be settled soon, and nothing may be left at the end.

use std::time::Duration;

use ops::config::ClusterConfig;
use ops::in_doubt::gather;
use tokio::time::{Instant, sleep, timeout};

/// From when all groups answer, how long anything that was prepared before may stay in doubt.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How long it is asked at the most.
const WATCHED: Duration = Duration::from_secs(30);

/// How long the answer may take at the end, when all is whole.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen after the last fault was healed. Durations count from then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    /// When all groups first answered; none: they did not.
    pub answered: Option<Duration>,
    /// When something that had been prepared before that was last seen in doubt; none: nothing was.
    pub last_seen: Option<Duration>,
    /// How old the oldest part ever was.
    pub oldest: Duration,
}

impl Doubt {
    /// What is wrong with it, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        // A part that nobody can ask its group about is settled by nobody: that is what being whole is about.
        let since = self.last_seen?.saturating_sub(self.answered?);
        (since > SETTLED_WITHIN).then(|| {
            format!(
                "in doubt for {:.1} s after all groups answered, the oldest prepared {:.1} s before",
                since.as_secs_f64(),
                self.oldest.as_secs_f64()
            )
        })
    }
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = |time: Option<Duration>| {
            time.map_or_else(
                || "never".to_owned(),
                |time| format!("{:.1} s", time.as_secs_f64()),
            )
        };
        write!(
            f,
            "after the last fault was healed: all groups answered after {}, something was last in doubt after {}",
            seconds(self.answered),
            seconds(self.last_seen),
        )
    }
}

/// Asks as `howdah in-doubt` does, from the last heal on, until all groups answer that nothing is left. Nobody must
/// write meanwhile.
pub(super) async fn watch(cluster: &ClusterConfig) -> Doubt {
    let began = Instant::now();
    let mut doubt = Doubt::default();
    while began.elapsed() < WATCHED {
        let asked_at = began.elapsed();
        if let Ok(answers) = gather(cluster).await {
            let all = answers.iter().all(|(_, answer)| answer.is_ok());
            let parts = answers
                .into_iter()
                .filter_map(|(_, answer)| answer.ok())
                .flatten();
            let oldest = parts.map(|part| part.age).max();
            if all {
                doubt.answered.get_or_insert(asked_at);
            }
            if let Some(age) = oldest {
                doubt.last_seen = Some(asked_at);
                doubt.oldest = doubt.oldest.max(age);
            } else if all {
                return doubt;
            }
        }
        sleep(ASK_EVERY).await;
    }
    doubt
}

/// What is left in doubt at the very end, when all is whole and nobody works: there must be nothing.
pub(super) async fn left(cluster: &ClusterConfig) -> Vec<String> {
    let Ok(Ok(answers)) = timeout(PATIENCE, gather(cluster)).await else {
        return vec!["no node says what is in doubt at the end".to_owned()];
    };
    let mut troubles = Vec::new();
    for (group, answer) in answers {
        match answer {
            Ok(parts) => troubles.extend(parts.iter().map(|part| {
                let (gid, age) = (part.gid, part.age);
                format!("left in doubt: {gid} on group {group}, prepared {age:?} ago")
            })),
            Err(why) => troubles.push(format!(
                "group {group} does not say what is in doubt at the end: {why}"
            )),
        }
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_in_doubt_for_long_is_trouble_and_what_is_settled_soon_is_not() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let doubt = |answered, last_seen| Doubt {
            answered,
            last_seen,
            oldest: Duration::ZERO,
        };
        assert_eq!(doubt(seconds(0), None).trouble(), None);
        assert_eq!(doubt(seconds(3), seconds(8)).trouble(), None);
        assert!(doubt(seconds(3), seconds(9)).trouble().is_some());
        assert!(doubt(seconds(0), seconds(30)).trouble().is_some());
    }
}
