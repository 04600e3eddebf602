//! See `proxy::fuzz::statement`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzz::statement(bytes));
