//! One client: its connection, where it stands in a transaction, and what may be said of an
//! operation that broke.

mod completion;
mod disturb;
mod session;

pub use self::completion::{Effect, Stage, Stop, completion};
pub use self::disturb::Disturbance;
pub use self::session::{Answer, Isolation, Session};
