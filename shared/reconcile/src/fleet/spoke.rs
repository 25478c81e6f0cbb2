//! A spoke as discovered, on its way to being a tunnel: what keeps it from being
//! one, whatever the others are.

use std::net::SocketAddr;

use jiff::Timestamp;
use privnet_model::config::hub::{ProofMode, SiteLink};
use privnet_model::id::{InstanceId, VpcId};
use privnet_model::inventory::{Partition, PartitionView, Pin, Proof, SpokeRecord, Transport};
use privnet_model::ipsec::IKE_PORTS;
use privnet_model::key::PublicKey;
use privnet_model::status::{Note, Origin, Reason};

use super::ipsec;
use super::{
    DEFAULT_PORT, FleetInput, KEEPALIVE, KeyBeside, Obstacle, PlannedTunnel, Site, SiteSecret,
    TunnelId,
};
use crate::{pin, trust};

/// A spoke and what is known of it.
pub(super) struct Spoke<'a> {
    pub(super) partition: &'a Partition,
    pub(super) record: &'a SpokeRecord,
    /// Whether its tunnel carries traffic.
    pub(super) alive: bool,
    pub(super) tunnel: PlannedTunnel,
}

impl<'a> Spoke<'a> {
    pub(super) fn new(
        partition: &'a Partition,
        view: &'a PartitionView,
        record: &'a SpokeRecord,
        input: FleetInput<'_>,
    ) -> Self {
        let by_wireguard = record.transport == Transport::Wireguard;
        let pin = view.pins.get(&record.instance).filter(|_| by_wireguard);
        let (key, beside) = match pin {
            Some(pin) => {
                let (key, beside) = pin::in_use(pin, input.alive);
                (Some(key), beside)
            }
            None => (record.public_key.filter(|_| by_wireguard), None),
        };
        let connected = ipsec::connection(&record.instance);
        let connected = connected.is_some_and(|name| input.ipsec.up.contains(&name));
        let alive = |key: Option<PublicKey>| key.is_some_and(|key| input.alive.contains(&key));
        let keyed = |key: PublicKey| KeyBeside {
            public_key: key,
            preshared_key: (input.preshared)(&key),
        };
        let tunnel = PlannedTunnel {
            name: name(record).to_owned(),
            origin: Origin::Discovered,
            partition: Some(partition.clone()),
            zone: record.zone.clone(),
            vpc: record.vpc.clone(),
            instance: Some(record.instance.clone()),
            launched: record.launched,
            private_address: record.private_address,
            cidrs: Vec::new(),
            excluded: Vec::new(),
            address: None,
            site: record.vpc.as_ref().map(VpcId::to_string),
            transport: record.transport,
            endpoint: record
                .public_address
                .map(|address| SocketAddr::new(address, port(record))),
            public_key: key,
            preshared_key: key.and_then(|key| (input.preshared)(&key)),
            beside: beside.map(keyed),
            keepalive: by_wireguard.then_some(KEEPALIVE),
            ipsec: None,
            health: None,
            obstacle: obstacle(partition, record, pin, key, input),
            notes: notes(view, record, pin, input.trust.proof),
        };
        Self {
            partition,
            record,
            alive: alive(key) || alive(beside) || (!by_wireguard && connected),
            tunnel,
        }
    }

    pub(super) fn id(&self) -> TunnelId {
        TunnelId::Spoke(self.partition.clone(), self.record.instance.clone())
    }

    pub(super) fn name(&self) -> &'a str {
        name(self.record)
    }

    /// Older first; an instance whose launch time EC2 does not tell comes last.
    pub(super) fn seniority(&self) -> (bool, Option<Timestamp>, &'a InstanceId) {
        let SpokeRecord {
            launched, instance, ..
        } = self.record;
        (launched.is_none(), *launched, instance)
    }

    pub(super) fn reject(&mut self, reason: Reason) {
        self.tunnel.obstacle = Some(Obstacle::Rejected(reason));
    }
}

pub(super) fn site_tunnel(site: &Site) -> PlannedTunnel {
    let config = &site.config;
    let tunnel = PlannedTunnel::named(config.name.clone(), Origin::Static);
    match &config.link {
        SiteLink::Wireguard(link) => PlannedTunnel {
            endpoint: link.endpoint,
            public_key: Some(link.public_key),
            preshared_key: match &site.secret {
                SiteSecret::Wireguard(key) => key.clone(),
                SiteSecret::Ipsec { .. }
                | SiteSecret::Awaited { .. }
                | SiteSecret::Unreadable { .. } => None,
            },
            keepalive: link.keepalive,
            ..tunnel
        },
        SiteLink::Ipsec(link) => PlannedTunnel {
            transport: Transport::Ipsec,
            endpoint: link
                .endpoint
                .map(|address| SocketAddr::new(address, IKE_PORTS[0])),
            ..tunnel
        },
    }
}

fn port(record: &SpokeRecord) -> u16 {
    match record.transport {
        Transport::Ipsec => IKE_PORTS[0],
        Transport::Wireguard | Transport::None => record.port.unwrap_or(DEFAULT_PORT),
    }
}

fn name(record: &SpokeRecord) -> &str {
    record.name.as_deref().unwrap_or(record.instance.as_str())
}

/// What keeps a spoke from having a tunnel, the most telling thing first.
fn obstacle(
    partition: &Partition,
    spoke: &SpokeRecord,
    pin: Option<&Pin>,
    key: Option<PublicKey>,
    input: FleetInput<'_>,
) -> Option<Obstacle> {
    if spoke.transport == Transport::None {
        return Some(Obstacle::Rejected(Reason::NoTransport));
    }
    if let Some(reason) = trust::objection(input.trust, partition, spoke) {
        return Some(Obstacle::Rejected(reason));
    }
    if let Some(problem) = spoke.tag_problems.first() {
        return Some(Obstacle::Pending(Reason::BadTag {
            problem: problem.clone(),
        }));
    }
    let by_ipsec = spoke.transport == Transport::Ipsec;
    let missing = if spoke.vpc.is_none() {
        Some(Reason::NoVpc)
    } else if !by_ipsec && key.is_none() {
        Some(Reason::NoPublicKey)
    } else if !by_ipsec && spoke.public_address.is_none() {
        Some(Reason::NoPublicAddress)
    } else if spoke.cidrs.is_empty() {
        Some(Reason::NoCidrs)
    } else if by_ipsec && !ipsec::has_key(&spoke.instance, input) {
        Some(Reason::NoFleetSecret)
    } else {
        None
    };
    if let Some(reason) = missing {
        return Some(Obstacle::Pending(reason));
    }
    match input.trust.proof {
        ProofMode::Off | ProofMode::Ask => None,
        // Its key proves that it has the fleet's secret, and no more.
        ProofMode::Require if by_ipsec => Some(Obstacle::Rejected(Reason::NoProof {
            problem: Some("none can be given over IPsec, and trust.proof requires it".to_owned()),
        })),
        ProofMode::Require => unproven(pin)
            .map(|proof| Reason::NoProof {
                problem: problem(proof),
            })
            .map(Obstacle::Unproven),
    }
}

/// The spoke's proof, when it proves nothing.
fn unproven(pin: Option<&Pin>) -> Option<&Proof> {
    let proof = pin.map_or(&Proof::Missing, |pin| &pin.proof);
    (!matches!(proof, Proof::Accepted { .. })).then_some(proof)
}

fn problem(proof: &Proof) -> Option<String> {
    match proof {
        Proof::Refused { problem } => Some(problem.clone()),
        Proof::Missing | Proof::Accepted { .. } => None,
    }
}

fn notes(
    view: &PartitionView,
    record: &SpokeRecord,
    pin: Option<&Pin>,
    proof: ProofMode,
) -> Vec<Note> {
    let absent = view.absent.get(&record.instance);
    let absent = absent.map(|absence| Note::Absent {
        fate: absence.fate,
        since: absence.since,
        kept: absence.kept,
    });
    let quarantined = pin.and_then(|pin| pin::quarantined(pin, record));
    let rotating = pin.and_then(|pin| pin.next);
    let asked = (proof == ProofMode::Ask).then(|| unproven(pin)).flatten();
    let failing = view.failing_since;
    [
        absent,
        quarantined.map(|key| Note::KeyQuarantined { key }),
        rotating.map(|key| Note::KeyRotating { key }),
        asked.map(|proof| Note::Unproven {
            problem: problem(proof),
        }),
        failing.map(|since| Note::PartitionFailing { since }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether the spoke uses the key already, and is alive.
pub(super) fn is_incumbent(key: &PublicKey, instance: &InstanceId, input: FleetInput<'_>) -> bool {
    input.alive.contains(key) && input.carried.keys.get(key) == Some(instance)
}
