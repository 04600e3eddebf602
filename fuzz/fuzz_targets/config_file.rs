//! See `ops::fuzz::config_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ops::fuzz::config_file(bytes));
