//! See `shared/tunnel/tests/fuzz/tun_input.rs`.
#![no_main]
#![expect(dead_code, reason = "the other targets' functions")]

#[path = "../../../shared/tunnel/tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tun_input::run(data));
