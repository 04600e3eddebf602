//! The kernel's scheduler groups, which would decide a comparison.

use std::fs;

const SWITCH: &str = "/proc/sys/kernel/sched_autogroup_enabled";

/// Switches the kernel's autogroups off while it lives, as `ops/bench` does: with them each PostgreSQL backend (it is a
/// session of its own) has the same share of the processor as a whole node. Takes root; elsewhere it says what is.
#[derive(Debug)]
pub struct Autogroup {
    switched: bool,
}

impl Autogroup {
    /// Off, where that is possible.
    #[must_use]
    pub fn off() -> Autogroup {
        let switched = state() == "1" && fs::write(SWITCH, "0").is_ok();
        Autogroup { switched }
    }

    /// What is now, in words for below a table.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("sched_autogroup_enabled: {}", state())
    }
}

impl Drop for Autogroup {
    fn drop(&mut self) {
        if self.switched {
            // It could be written before.
            let _ = fs::write(SWITCH, "1");
        }
    }
}

fn state() -> String {
    fs::read_to_string(SWITCH).map_or_else(|_| "absent".to_owned(), |text| text.trim().to_owned())
}
