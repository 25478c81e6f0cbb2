//! What should be, against what is: the pure half of every reconciler.
//!
//! Each module turns desired and actual state into a plan, the ordered changes
//! between them. Nothing here reads a clock, a file or a socket, or changes
//! anything; the crates that do are thin because of it.

#![forbid(unsafe_code)]

pub mod address;
pub mod alive;
pub mod connections;
pub mod conntrack;
pub mod denials;
pub mod doctor;
pub mod explain;
pub mod fleet;
pub mod gateway;
pub mod health;
pub mod host;
pub mod interface;
pub mod inventory;
pub mod ipsec;
pub mod kernel;
pub mod memory;
pub mod observe;
pub mod peer;
pub mod pin;
pub mod policy;
pub mod proof;
pub mod remedy;
pub mod route;
pub mod ruleset;
pub mod self_test;
pub mod sysctl;
pub mod takeover;
pub mod trust;
pub mod vpc_route;
pub mod why;
pub mod xfrm;
