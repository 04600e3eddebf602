//! Who is let in: rules, passwords, places.
//!
//! [`Hba`] says how a client must prove who it is, `scram` is how it does, [`Places`] how many there may be. The conversation itself
//! is `session/authenticate.rs`.
//!
//! Invariants:
//! - Nothing of a role is kept from one login to the next: PostgreSQL's verifier is read at each and dropped after it, and is
//!   in no log. So a changed password counts from the next login on.
//! - What a client is told before it has proved who it is does not depend on whether there is such a role.
//! - The role that was proved is the one that the backends are opened with.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod hba;
mod hba_file;
mod places;
pub(crate) mod scram;

pub(crate) use hba::{Applicant, Method};
pub use hba::{Hba, HbaError};
pub use places::Places;
pub(crate) use places::{Guest, Place};
