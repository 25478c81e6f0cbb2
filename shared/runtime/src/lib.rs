//! What both daemons share around their own work: logging, signals, the
//! service manager, the admin socket and its client, metrics, state and key files, the
//! clock of a repeated poll, the fleet's secret, the self-test of NAT egress, the port by
//! which siblings ask each other how they are, the command line, the doctor, the events of the main loop, and
//! the router that brings tunnels and host to what they should be.
//!
//! What there should be is decided elsewhere, by pure functions. Nothing here
//! knows EC2.

#![forbid(unsafe_code)]

pub mod admin;
mod atomic_file;
pub mod client;
pub mod command;
pub mod connections;
pub mod doctor;
pub mod events;
pub mod fleet_secret;
pub mod health_port;
mod http;
pub mod key_file;
pub mod logging;
pub mod metrics;
pub mod metrics_port;
pub mod poll_clock;
pub mod probe;
pub mod router;
pub mod self_test;
pub mod service;
pub mod signals;
pub mod state_file;
pub mod tunnel_client;
pub mod tunnel_port;
