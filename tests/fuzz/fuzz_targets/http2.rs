//! Fuzz target: see `e2e::fuzz::http2`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| e2e::fuzz::http2(data));
