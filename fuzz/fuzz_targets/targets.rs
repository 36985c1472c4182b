//! Fuzzes heads and request targets; the oracle is in `src/targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasend_gateway_fuzz::targets::hold(bytes));
