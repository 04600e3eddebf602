//! See `shard::fuzz::replication_messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::replication_messages(bytes));
