//! See `shard::fuzz::raft_message`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::raft_message(bytes));
