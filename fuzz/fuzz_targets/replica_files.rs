//! See `shard::fuzz::replica_files`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::replica_files(bytes));
