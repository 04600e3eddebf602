//! What reads bytes of a client or of a backend, for the fuzz targets.
//!
//! Each function takes any bytes, returns, and asserts what must hold of what was read. `fuzz/README.md` says how they
//! are run; here they are run over their corpora.

pub use crate::access::fuzz::{hba_rules, scram};
pub use crate::analysis::fuzz::statement;
pub use crate::protocol::fuzz::client_messages;
pub use crate::session::fuzz::{backend_messages, copy_rows, startup};

#[cfg(test)]
mod tests {
    use replay::replay;

    #[test]
    fn client_messages() {
        replay("client_messages", super::client_messages);
    }

    #[test]
    fn startup() {
        replay("startup", super::startup);
    }

    #[test]
    fn scram() {
        replay("scram", super::scram);
    }

    #[test]
    fn hba_rules() {
        replay("hba_rules", super::hba_rules);
    }

    #[test]
    fn copy_rows() {
        replay("copy_rows", super::copy_rows);
    }

    #[test]
    fn backend_messages() {
        replay("backend_messages", super::backend_messages);
    }

    #[test]
    fn statement() {
        replay("statement", super::statement);
    }
}
