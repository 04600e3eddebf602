//! See `proxy::fuzz::startup`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzz::startup(bytes));
