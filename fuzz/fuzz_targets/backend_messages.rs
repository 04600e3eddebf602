//! See `proxy::fuzz::backend_messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzz::backend_messages(bytes));
