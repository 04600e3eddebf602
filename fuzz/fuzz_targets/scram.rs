//! See `proxy::fuzz::scram`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzz::scram(bytes));
