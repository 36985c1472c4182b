//! Fuzzes configuration files and the policies in them; the oracle is in `src/files.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasend_gateway_fuzz::files::hold(bytes));
