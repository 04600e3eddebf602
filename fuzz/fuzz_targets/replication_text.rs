//! See `shard::fuzz::replication_text`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::replication_text(bytes));
