//! IPsec.

#![forbid(unsafe_code)]

pub mod vici;
