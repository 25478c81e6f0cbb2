//! See `shared/ipsec/tests/fuzz/vici.rs`.
#![no_main]

#[path = "../../../shared/ipsec/tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vici::run(data));
