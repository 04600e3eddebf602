//! What a statement is and where it may run: pure functions from SQL text to a [`Plan`].

pub mod plan;
pub mod refusal;

pub use plan::*;
pub use refusal::Refusal;
