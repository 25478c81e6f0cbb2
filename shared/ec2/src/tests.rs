//! The crate against servers: moto, which plays EC2 well, and two of our own,
//! which play it badly: one over TCP, one inside the SDK's client.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod accounts;
mod answers;
mod doctor;
mod environment;
mod fates;
mod faults;
mod hostile;
mod imds;
mod memory;
mod moto;
mod proof;
mod secret;
mod server;
mod vpc;
mod vpc_faults;
mod vpc_hostile;
