//! Fuzzes entries, checkpoints, receipts, keys and tiles; the oracle is in `src/records.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasend_gateway_fuzz::records::hold(bytes));
