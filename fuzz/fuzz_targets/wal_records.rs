//! See `shard::fuzz::wal_records`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::wal_records(bytes));
