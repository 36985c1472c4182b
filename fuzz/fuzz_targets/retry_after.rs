//! Fuzzes the provider's `Retry-After`; the oracle is in `src/retry_after.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasend_gateway_fuzz::retry_after::hold(bytes));
