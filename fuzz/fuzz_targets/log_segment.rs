//! See `shard::fuzz::log_segment`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shard::fuzz::log_segment(bytes));
