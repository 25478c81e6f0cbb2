//! Who has which CIDR and which key.
//!
//! CIDRs are settled between sites, in an order that does not depend on when
//! anything was heard of: the hub's own VPC; static sites as the config lists them;
//! whoever carries the CIDR already and is alive; then VPCs by the launch of their
//! oldest spoke. Whoever comes later in that order loses, and is shown with the
//! reason.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;
use privnet_model::id::VpcId;
use privnet_model::key::PublicKey;
use privnet_model::net::Supernet;
use privnet_model::status::{ExcludedCidr, Exclusion};

use super::FleetInput;

/// Everything that is claimed so far.
pub(super) struct Claims<'a> {
    privnet: &'a Supernet,
    cidrs: JointPrefixMap<IpNet, Holder<'a>>,
    keys: BTreeMap<PublicKey, &'a str>,
}

/// Who has a CIDR.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder<'a> {
    HubVpc,
    Static(&'a str),
    Vpc(&'a VpcId),
}

impl<'a> Claims<'a> {
    pub(super) fn new(input: FleetInput<'a>) -> Self {
        let mut cidrs = JointPrefixMap::new();
        for cidr in input.hub_cidrs {
            cidrs.insert(*cidr, Holder::HubVpc);
        }
        let hub = input.hub_keys.iter().map(|key| (*key, "the hub itself"));
        Self {
            privnet: input.privnet,
            cidrs,
            keys: hub.collect(),
        }
    }

    /// Gives the key to `name`, unless somebody has it: then tells who.
    pub(super) fn key(&mut self, key: PublicKey, name: &'a str) -> Result<(), &'a str> {
        match self.keys.get(&key) {
            Some(owner) => Err(owner),
            None => {
                self.keys.insert(key, name);
                Ok(())
            }
        }
    }

    /// Gives the CIDR to the holder, unless something stands against it.
    pub(super) fn cidr(&mut self, cidr: IpNet, holder: Holder<'a>) -> Result<(), Exclusion> {
        match self.objection(&cidr, holder) {
            Some(why) => Err(why),
            None => {
                self.cidrs.insert(cidr, holder);
                Ok(())
            }
        }
    }

    /// Gives the holder what it can have of these.
    pub(super) fn settle(
        &mut self,
        wanted: &BTreeSet<IpNet>,
        holder: Holder<'a>,
    ) -> (BTreeSet<IpNet>, Vec<ExcludedCidr>) {
        let mut won = BTreeSet::new();
        let mut excluded = Vec::new();
        for cidr in wanted {
            match self.cidr(*cidr, holder) {
                Ok(()) => {
                    won.insert(*cidr);
                }
                Err(why) => excluded.push(ExcludedCidr { cidr: *cidr, why }),
            }
        }
        (won, excluded)
    }

    /// Why the holder cannot have the CIDR.
    pub(super) fn objection(&self, cidr: &IpNet, holder: Holder<'a>) -> Option<Exclusion> {
        if !self.privnet.contains(cidr) {
            return Some(Exclusion::OutsidePrivnet);
        }
        let around = self.cidrs.get_lpm(cidr);
        let within = self.cidrs.children(cidr);
        let (taken, owner) = around
            .into_iter()
            .chain(within)
            .find(|(_, owner)| **owner != holder)?;
        Some(match owner {
            Holder::HubVpc => Exclusion::OverlapsHubVpc { cidr: taken },
            Holder::Static(site) => Exclusion::OverlapsSite {
                site: (*site).to_owned(),
                cidr: taken,
            },
            Holder::Vpc(vpc) => Exclusion::OverlapsSite {
                site: vpc.to_string(),
                cidr: taken,
            },
        })
    }
}
