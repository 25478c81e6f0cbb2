//! The world: instances in VPCs, and what EC2 says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_model::id::{InstanceId, VpcId};
use privnet_model::inventory::{
    Answer, Fate, Partition, PartitionAnswer, SpokeRecord, TagProblem, Transport,
};
use privnet_model::key::PublicKey;

use crate::event::Says;

pub(crate) const TRUSTED_PROFILE: &str = "arn:aws:iam::111122223333:instance-profile/privnet-spoke";
pub(crate) const REGIONS: [&str; 3] = ["eu-west-1", "us-west-2", "ap-south-1"];
/// EC2 forgets a terminated instance after about an hour.
const FORGOTTEN_AFTER: i64 = 3600;

/// The VPCs that may have spokes: many of them overlap.
const VPCS: [&[&str]; 8] = [
    &["10.1.0.0/16"],
    &["10.1.0.0/16"],
    &["10.1.128.0/17"],
    &["10.2.0.0/16", "10.3.0.0/16"],
    &["10.3.7.0/24"],
    &["10.200.1.0/24", "10.4.0.0/16"],
    &["10.5.0.0/16", "192.168.0.0/16"],
    &["10.0.128.0/20", "10.6.0.0/16"],
];

pub(crate) struct Instance {
    id: InstanceId,
    vpc_id: VpcId,
    pub(crate) number: u32,
    pub(crate) vpc: usize,
    pub(crate) zone: u8,
    pub(crate) launched: i64,
    pub(crate) trusted: bool,
    pub(crate) state: State,
    /// The key that it uses, and the one that it announced.
    pub(crate) key: PublicKey,
    pub(crate) next: Option<PublicKey>,
    pub(crate) linked: bool,
    pub(crate) answers_probes: bool,
    pub(crate) tagged: bool,
    /// EC2 leaves its tags out.
    pub(crate) tagless: bool,
    pub(crate) published: PublicKey,
    pub(crate) garbled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Stopped,
    Terminated { at: i64 },
}

#[derive(Default)]
pub(crate) struct Truth {
    pub(crate) instances: Vec<Instance>,
    pub(crate) grown: BTreeSet<usize>,
    pub(crate) now: i64,
    /// How many keys were made.
    pub(crate) keys: u32,
}

impl Truth {
    pub(crate) fn new_key(&mut self) -> PublicKey {
        self.keys += 1;
        let mut bytes = [3; 32];
        bytes[..4].copy_from_slice(&self.keys.to_be_bytes());
        PublicKey::from_bytes(bytes)
    }

    pub(crate) fn launch(&mut self, vpc: u8, zone: u8, trusted: bool) {
        let key = self.new_key();
        let number = u32::try_from(self.instances.len()).unwrap();
        let vpc = usize::from(vpc) % VPCS.len();
        self.instances.push(Instance {
            id: format!("i-{number:017x}").parse().unwrap(),
            vpc_id: format!("vpc-{vpc:017x}").parse().unwrap(),
            number,
            vpc,
            zone: zone % 2,
            launched: self.now,
            trusted,
            state: State::Running,
            key,
            next: None,
            linked: true,
            answers_probes: true,
            tagged: true,
            tagless: false,
            published: key,
            garbled: false,
        });
    }

    pub(crate) fn choose(&mut self, number: u8) -> Option<&mut Instance> {
        let count = self.instances.len().max(1);
        self.instances.get_mut(usize::from(number) % count)
    }

    pub(crate) fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.id == *id)
    }

    pub(crate) fn cidrs(&self, vpc: usize) -> Vec<IpNet> {
        let mut cidrs: Vec<IpNet> = VPCS[vpc].iter().map(|cidr| cidr.parse().unwrap()).collect();
        if self.grown.contains(&vpc) {
            // Where VPCs 3 and 4 meet another one's CIDR by growing.
            cidrs.push(format!("10.{}.0.0/16", 7 + vpc / 2).parse().unwrap());
        }
        cidrs
    }

    pub(crate) fn grow(&mut self, vpc: u8) {
        self.grown.insert(usize::from(vpc) % VPCS.len());
    }

    /// What EC2 says in a region, asked also for those that are known there.
    pub(crate) fn answer(
        &self,
        region: usize,
        says: Says,
        known: &BTreeSet<InstanceId>,
    ) -> PartitionAnswer {
        let none = |fate: Option<Fate>| Answer {
            spokes: Vec::new(),
            absent: fate
                .into_iter()
                .flat_map(|fate| known.iter().map(move |id| (id.clone(), fate)))
                .collect(),
        };
        let answer = match says {
            Says::Truth => Ok(self.whole_truth(region, known)),
            Says::Error => Err("a region that fails".to_owned()),
            Says::Nothing => Ok(none(None)),
            Says::NothingTagged => Ok(none(Some(Fate::Tagless))),
            Says::NothingKnown => Ok(none(Some(Fate::NotFound))),
        };
        PartitionAnswer {
            partition: partition(region),
            answer,
            calls: 1,
        }
    }

    fn whole_truth(&self, region: usize, known: &BTreeSet<InstanceId>) -> Answer {
        let mut answer = Answer::default();
        for instance in &self.instances {
            if instance.region() != region {
                continue;
            }
            match self.fate(instance) {
                None => answer.spokes.push(self.record(instance)),
                Some(fate) if known.contains(&instance.id()) => {
                    answer.absent.insert(instance.id(), fate);
                }
                Some(_) => {}
            }
        }
        answer
    }

    fn fate(&self, instance: &Instance) -> Option<Fate> {
        match instance.state {
            State::Terminated { at } if self.now - at > FORGOTTEN_AFTER => Some(Fate::NotFound),
            State::Terminated { .. } => Some(Fate::Terminated),
            State::Stopped => Some(Fate::Stopped),
            State::Running if instance.tagless => Some(Fate::Tagless),
            State::Running if !instance.tagged => Some(Fate::Untagged),
            State::Running => None,
        }
    }

    fn record(&self, instance: &Instance) -> SpokeRecord {
        let garbled = instance.garbled;
        let profile = match instance.trusted {
            true => TRUSTED_PROFILE.to_owned(),
            false => TRUSTED_PROFILE.replace("privnet-spoke", "web"),
        };
        let zone = u32::from(instance.zone);
        let first = self.cidrs(instance.vpc)[0].addr();
        let subnet = match first {
            IpAddr::V4(first) => u32::from(first) + (zone << 6),
            IpAddr::V6(_) => 0,
        };
        SpokeRecord {
            instance: instance.id(),
            name: Some(format!("spoke-{}", instance.number)),
            launched: (!garbled).then(|| Timestamp::from_second(instance.launched).unwrap()),
            zone: format!(
                "{}{}",
                REGIONS[instance.region()],
                ["a", "b"][zone as usize]
            )
            .parse()
            .ok(),
            vpc: (!garbled).then(|| instance.vpc_id()),
            cidrs: match garbled {
                true => Vec::new(),
                false => self.cidrs(instance.vpc),
            },
            public_address: (!garbled).then(|| IpAddr::from([203, 0, 113, 9])),
            // Addresses are used again when their instance is gone.
            private_address: Some(IpAddr::from(
                (subnet + 4 + instance.number % 3).to_be_bytes(),
            )),
            public_key: Some(instance.published),
            port: garbled.then_some(1),
            transport: match garbled {
                true => Transport::None,
                false => Transport::Wireguard,
            },
            instance_profile: Some(profile),
            image: None,
            zone_cidrs: vec![
                format!("{}/26", std::net::Ipv4Addr::from(subnet))
                    .parse()
                    .unwrap(),
            ],
            tags: BTreeMap::new(),
            tag_problems: match garbled {
                true => vec![TagProblem {
                    tag: "privnet:port".to_owned(),
                    value: "x".to_owned(),
                    expected: "a UDP port".to_owned(),
                }],
                false => Vec::new(),
            },
        }
    }
}

impl Instance {
    pub(crate) fn id(&self) -> InstanceId {
        self.id.clone()
    }

    pub(crate) fn vpc_id(&self) -> VpcId {
        self.vpc_id.clone()
    }

    pub(crate) fn region(&self) -> usize {
        self.vpc % REGIONS.len()
    }

    pub(crate) fn runs(&self) -> bool {
        self.state == State::Running
    }

    /// Whether its packets reach the hub and the hub's reach it.
    pub(crate) fn reaches(&self) -> bool {
        self.runs() && self.linked
    }
}

pub(crate) fn partition(region: usize) -> Partition {
    Partition {
        account: "111122223333".parse().unwrap(),
        region: REGIONS[region].parse().unwrap(),
    }
}
