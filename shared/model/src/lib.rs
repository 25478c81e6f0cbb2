//! The words of Privnet, in one place: ids, keys, networks, config files,
//! what discovery found, what the daemons tell the operator.
//!
//! Everything that comes from outside (a config file, an EC2 answer, an admin
//! request) becomes one of these types or an error that says what was wrong;
//! past this crate no string needs checking again. Pure: no sockets, no files,
//! no clock, no randomness.

#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod connection;
pub mod doctor;
pub mod enrol;
pub mod health;
pub mod id;
pub mod instance;
pub mod inventory;
pub mod ipsec;
pub mod key;
pub mod net;
pub mod offload;
pub mod peer;
pub mod policy;
pub mod secret;
pub mod site_key;
pub mod status;
pub mod vpc;
