//! The name of a network interface.
//!
//! Such names end up in nftables text and in paths under `/proc/sys`, so one
//! that could mean something else there (a quote, a slash, nft's `*`) is never
//! an `InterfaceName`. Stricter than the kernel on purpose.

use std::fmt;
use std::str::FromStr;

/// A network interface's name: 1 to 15 ASCII letters, digits or `_ - . @ +`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

/// `IFNAMSIZ` of `linux/if.h`, less the terminating zero.
const MAX_LENGTH: usize = 15;

impl InterfaceName {
    /// The name, checked.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidInterfaceName> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@+".contains(&byte);
        // `all` and `default` are taken: net/ipv4/conf/all is no interface.
        let reserved = matches!(name.as_str(), "." | ".." | "all" | "default");
        let fits = (1..=MAX_LENGTH).contains(&name.len());
        if !fits || reserved || !name.bytes().all(allowed) {
            return Err(InvalidInterfaceName { name });
        }
        Ok(Self(name))
    }

    /// The name as the kernel knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a string is no interface name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not an interface name: expected 1 to {MAX_LENGTH} of letters, digits and _ - . @ +, \
     and not \"all\" or \"default\""
)]
pub struct InvalidInterfaceName {
    name: String,
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = InvalidInterfaceName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl AsRef<str> for InterfaceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// One interface by its name, or those whose names begin alike, as nft's `iifname` and
/// `oifname` take it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfacePattern(String);

impl InterfacePattern {
    /// Those whose names begin so.
    pub(crate) fn beginning(prefix: &'static str) -> Self {
        Self(format!("{prefix}*"))
    }
}

impl From<InterfaceName> for InterfacePattern {
    fn from(name: InterfaceName) -> Self {
        Self(name.0)
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_accepted() {
        for name in ["eth0", "ens5", "privnet0", "eth0.100", "br-lan", "veth@3"] {
            assert!(InterfaceName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_mean_something_else_elsewhere_are_refused() {
        let bad = [
            "",
            ".",
            "..",
            "all",
            "default",
            "a/b",
            "eth*",
            "e\"; flush ruleset; \"",
            "two words",
            "line\nbreak",
            "schön",
            "sixteencharacter",
        ];
        for name in bad {
            assert!(InterfaceName::new(name).is_err(), "{name:?}");
        }
    }
}
