//! The config files: TOML in, checked types or a list of everything wrong out.

pub mod document;
pub mod hub;
pub mod spoke;
