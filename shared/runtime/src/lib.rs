//! What both daemons share around their own work: logging, signals, the
//! service manager, the admin socket and its client, state and key files, the
//! clock of a repeated poll.
//!
//! Everything here talks to the host and to nothing else; it knows neither EC2
//! nor the data plane, so that `tunnels` can use it and stay small.

#![forbid(unsafe_code)]

pub mod admin;
mod atomic_file;
pub mod client;
pub mod key_file;
pub mod logging;
pub mod poll_clock;
pub mod service;
pub mod signals;
pub mod state_file;
