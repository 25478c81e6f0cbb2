//! IPsec by strongSwan: charon does IKE and ESP, and this crate tells it what to
//! do over its VICI socket and understands what it tells.
//!
//! It decides nothing: which connections there should be and what has to change is
//! `privnet_reconcile::ipsec`'s part. It reads no file, starts no process and
//! touches neither routes nor interfaces. In charon it touches only what carries
//! our mark: connections and preshared keys whose names begin with `privnet-`.
//!
//! # How one learns why an IKE SA failed
//!
//! Tried with strongSwan 5.9.8 as Debian 12 has it:
//!
//! - The event `ike-updown` tells that an SA is down, not why; the answer to
//!   `initiate` only "establishing CHILD_SA 'x' failed". There is no event `alert`
//!   (charon answers "unknown event").
//! - The plugin `error-notify` tells alerts on a socket of its own: a number of 32
//!   bits and four texts in 768 bytes. It lacks our own proposals, a refusal of
//!   selectors by the peer, and the difference between a wrong key and an unknown
//!   identity; and as initiator it calls our own offer the received one.
//! - The event `log` streams charon's log at level 1, whatever its own log files
//!   are set to, with the connection and the SA that a line is about. It has all of
//!   that, in both roles: so that is what [`Charon::log`] gives and
//!   `privnet_reconcile::ipsec::diagnosis` reads.

#![forbid(unsafe_code)]

mod association;
mod charon;
mod connection;
mod event;
mod reconcile;
pub mod vici;

pub use charon::{Charon, Farewell, Rekey, Stats, Version, Which};
pub use connection::Connection;
pub use event::{AssociationEvent, AssociationEvents, Log, log_line};
pub use reconcile::Configured;
pub use vici::ViciError;
