//! VICI, the protocol of charon's control socket, as strongSwan's
//! `src/libcharon/plugins/vici/README.md` describes it.
//!
//! A client of our own, because those that exist hang when the daemon dies,
//! lose their place in the stream when an event comes between a command and its
//! answer, or stop answering commands when nobody fetches events.

mod client;
mod error;
mod events;
mod message;
mod packet;

pub use client::Client;
pub use error::ViciError;
pub use events::{Events, Happening};
pub use message::{Element, MOST_DEPTH, MOST_ELEMENTS, Malformed, Section};
pub use packet::{Incoming, MOST_BYTES, event_registration, request};
