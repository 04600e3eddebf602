//! See `proxy::fuzz::copy_rows`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzz::copy_rows(bytes));
