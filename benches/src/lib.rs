//! Criterion benches and comparison runs.
