//! IPsec by strongSwan: charon does IKE and ESP, and this crate tells it what to
//! do over its VICI socket and understands what it tells.
//!
//! It decides nothing: which connections there should be and what has to change is
//! `privnet_reconcile::ipsec`'s part. It reads no file, starts no process and
//! touches neither routes nor interfaces. In charon it touches only what carries
//! our mark: connections and preshared keys whose names begin with `privnet-`.
//!
//! ```no_run
//! use std::collections::{BTreeMap, BTreeSet};
//! use std::path::Path;
//!
//! use privnet_ipsec::{Charon, Configured, ViciError};
//! use privnet_model::ipsec::ConnectionName;
//! use privnet_reconcile::ipsec::plan;
//!
//! # async fn reconcile(configured: BTreeMap<ConnectionName, Configured>) -> Result<(), ViciError> {
//! let charon = Charon::connect(Path::new("/run/charon.vici")).await?;
//! // Of a charon just connected to, no preshared key is known to be the wanted one.
//! let mut current_secrets = BTreeSet::new();
//! let actual = charon.fetch(&current_secrets).await?;
//! let wanted = configured.iter();
//! let wanted = wanted.map(|(name, it)| (name.clone(), it.connection.wanted())).collect();
//! let changes = plan(&wanted, &actual);
//! for (change, result) in charon.apply(&changes, &configured, &mut current_secrets).await {
//!     if let Err(error) = result {
//!         eprintln!("did not {change}: {error}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
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
mod keeper;
mod reconcile;
pub mod vici;

pub use charon::{Charon, Farewell, Rekey, Stats, Version, Which};
pub use connection::Connection;
pub use event::{AssociationEvent, AssociationEvents, Log, log_line};
pub use keeper::{Keeper, Seen, Wanted};
pub use reconcile::Configured;
pub use vici::ViciError;
