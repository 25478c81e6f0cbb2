//! A world to try Privnet in: VPCs, regions and an internet made of network
//! namespaces, the EC2 API played by moto, instance metadata, a web server, and
//! a proxy that breaks the API on demand. The demo and the namespace tests run
//! the real programs in it.
//!
//! Everything of a world lives inside private namespaces (network, mounts,
//! processes) of the process that made it, and is gone when that process is.
//! It never touches the machine's own network, and needs no root where the
//! kernel allows user namespaces.

#![forbid(unsafe_code)]

pub mod address_fabric;
pub mod adoption;
pub mod capture;
pub mod charon;
pub mod cloudformation;
pub mod cpu;
pub mod daemon;
pub mod deployment;
pub mod fault_proxy;
pub mod firewall;
pub mod guest;
pub mod heartbeat;
pub mod iam;
#[cfg(test)]
mod iam_coverage;
#[cfg(test)]
mod image_check;
pub mod imds;
mod internet;
pub mod iperf;
pub mod isolation;
pub mod long_ping;
pub mod moto;
pub mod namespace;
pub mod process;
pub mod programs;
pub mod requests;
pub mod scale;
#[cfg(test)]
mod terraform;
pub mod topology;
pub mod tuning;
pub mod vpc_fabric;
pub mod vpc_router;
pub mod web;
pub mod world;
