//! See `shard::fuzz::log_entries`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::log_entries(bytes));
