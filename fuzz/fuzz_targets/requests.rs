//! Fuzzes whole connections; the oracle is in `src/requests.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasend_gateway_fuzz::requests::hold(bytes));
