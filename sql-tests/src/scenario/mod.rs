//! The stories: each starts with a whole cluster, breaks something or tries to, and says what came of it.

mod garbage;
mod kill;
mod pause;
mod rows;
mod uncommitted;

pub use self::garbage::{GARBAGE, GarbagePlan, GarbageReport, garbage};
pub use self::kill::{KillPlan, KillReport, kill_leaders};
pub use self::pause::{PausePlan, PauseReport, pause_leaders};
pub use self::rows::{RowsReport, load_rows};
pub use self::uncommitted::{UncommittedReport, uncommitted_wal};
