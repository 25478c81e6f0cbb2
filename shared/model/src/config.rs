//! The config files: TOML in, checked types or a list of everything wrong out.
//!
//! `ami/hub.toml` and `ami/spoke.toml` are the reference of all keys, for
//! operators; tests hold them and the readers here together. Never reads a
//! file itself: the daemons do, and say so when they cannot.

mod document;
pub mod hub;
pub mod ipsec;
mod report;
mod source;
pub mod spoke;
mod syntax;
mod value;

#[cfg(test)]
mod examples;
#[cfg(test)]
mod wrong;

pub use document::{ConfigError, ConfigErrors};
pub use value::parameter_name;
