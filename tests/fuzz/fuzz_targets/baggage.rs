//! Fuzz target: see `e2e::fuzz::baggage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| e2e::fuzz::baggage(data));
