//! See `shard::fuzz::node_frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::node_frames(bytes));
