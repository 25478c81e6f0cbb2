//! Networks: the privnet itself, and the questions asked of CIDRs.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The supernet: one or more CIDRs (of either family) that make up the private
/// network. Traffic inside it is never NATed. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<IpNet>", into = "Vec<IpNet>")]
pub struct Supernet(Vec<IpNet>);

impl Supernet {
    /// The supernet of these CIDRs, host bits cleared and merged where one
    /// holds the other; `None` when there are none.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Option<Self> {
        let nets: Vec<IpNet> = nets.into_iter().map(|net| net.trunc()).collect();
        let nets = IpNet::aggregate(&nets);
        (!nets.is_empty()).then_some(Self(nets))
    }

    /// Its CIDRs, in order.
    pub fn nets(&self) -> &[IpNet] {
        &self.0
    }

    /// Whether the whole of `net` lies inside.
    pub fn contains(&self, net: &IpNet) -> bool {
        self.0.iter().any(|own| own.contains(net))
    }

    /// Whether the address lies inside.
    pub fn contains_address(&self, address: IpAddr) -> bool {
        self.0.iter().any(|own| own.contains(&address))
    }
}

impl TryFrom<Vec<IpNet>> for Supernet {
    type Error = &'static str;

    fn try_from(nets: Vec<IpNet>) -> Result<Self, Self::Error> {
        Self::new(nets).ok_or("the privnet needs at least one CIDR")
    }
}

impl From<Supernet> for Vec<IpNet> {
    fn from(supernet: Supernet) -> Self {
        supernet.0
    }
}

impl fmt::Display for Supernet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, net) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{net}")?;
        }
        Ok(())
    }
}

/// Whether two CIDRs share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_supernet_clears_host_bits_and_merges() {
        let supernet = Supernet::new([net("10.1.2.3/8"), net("10.0.0.0/9"), net("fd00::/8")]);
        assert_eq!(supernet.unwrap().to_string(), "10.0.0.0/8, fd00::/8");
    }

    #[test]
    fn only_what_lies_wholly_inside_is_contained() {
        let supernet = Supernet::new([net("10.0.0.0/16")]).unwrap();
        assert!(supernet.contains(&net("10.0.3.0/24")));
        assert!(!supernet.contains(&net("10.0.0.0/8")));
        assert!(supernet.contains_address("10.0.255.1".parse().unwrap()));
    }

    #[test]
    fn an_empty_supernet_is_none() {
        assert_eq!(Supernet::new([]), None);
    }

    #[test]
    fn overlap_is_symmetric() {
        assert!(overlap(&net("10.0.0.0/8"), &net("10.3.0.0/16")));
        assert!(overlap(&net("10.3.0.0/16"), &net("10.0.0.0/8")));
        assert!(!overlap(&net("10.3.0.0/16"), &net("10.4.0.0/16")));
    }
}
