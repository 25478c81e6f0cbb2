//! The hub's program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    privnet_runtime::command::main::<privnet_hub::Hub>()
}
