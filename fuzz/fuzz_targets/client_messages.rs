//! See `proxy::fuzz::client_messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzz::client_messages(bytes));
