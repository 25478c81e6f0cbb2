//! See `shared/tunnel/tests/fuzz/uapi.rs`.
#![no_main]
#![expect(dead_code, reason = "the other targets' functions")]

#[path = "../../../shared/tunnel/tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::uapi::run(data));
