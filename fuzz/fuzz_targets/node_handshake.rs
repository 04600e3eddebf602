//! See `shard::fuzz::node_handshake`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::node_handshake(bytes));
