//! The crate against servers: moto, which plays EC2 well, and one of our own,
//! which plays it badly.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod answers;
mod environment;
mod faults;
mod imds;
mod moto;
mod server;
