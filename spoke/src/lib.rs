//! `privnet-spoke`: NAT egress for its VPC, and the tunnel to the hub.
//!
//! NAT comes first and goes last: it is in place before the tunnel is opened,
//! and it stays when the daemon stops.

#![forbid(unsafe_code)]

mod doctor;
mod enrol;
mod publish;
mod serving;
mod spoke;

pub use spoke::Spoke;
