//! See `coordinator::fuzz::shard_key`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coordinator::fuzz::shard_key(bytes));
