//! See `proxy::fuzz::hba_rules`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzz::hba_rules(bytes));
