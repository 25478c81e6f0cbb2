//! `privnet-hub`: finds the spokes through EC2, keeps a tunnel to each, and
//! routes between them.
//!
//! What it should do is decided in `privnet-reconcile`, by pure functions; this
//! crate asks EC2, remembers the answers and carries the decisions out. It is
//! not on the packet path: it may hang or stop, and EC2 may fail, while packets
//! flow on.

#![forbid(unsafe_code)]

mod cache;
mod doctor;
mod enrolment;
mod gateways;
mod hub;
mod journal;
mod poll;
mod restart;
mod strangers;
mod tally;

pub use hub::Hub;
