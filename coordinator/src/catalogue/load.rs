//! Reads a [`Catalogue`](super::Catalogue) in one transaction.
