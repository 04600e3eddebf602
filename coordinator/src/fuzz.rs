//! What reads a client's values, for the fuzz targets.
//!
//! The function takes any bytes, returns, and asserts what must hold of what was read. `fuzz/README.md` says how it
//! is run; here it is run over its corpus.

pub use crate::hash::fuzz::shard_key;

#[cfg(test)]
mod tests {
    use replay::replay;

    #[test]
    fn shard_key() {
        replay("shard_key", super::shard_key);
    }
}
