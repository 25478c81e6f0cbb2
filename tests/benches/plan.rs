//! What the hub thinks at a poll, for 10,000 spokes in 20 regions: the decision
//! over the whole fleet and the plan for the data plane. The goal is 50 ms for
//! both together. The same once more for 100,000, with every tunnel alive and every CIDR
//! carried: the time grows as that of sorting does.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "literals of this file")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use criterion::{Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use privnet_model::config::hub::TrustConfig;
use privnet_model::inventory::{Inventory, Partition, PartitionView, SpokeRecord, Transport};
use privnet_model::key::PublicKey;
use privnet_model::net::Supernet;
use privnet_model::peer::{PeerConfig, PeerStatus};
use privnet_reconcile::fleet::{Carried, Fleet, FleetInput, IpsecInput};
use privnet_reconcile::peer;

const SPOKES: u32 = 10_000;
const MANY: u32 = 100_000;
const REGIONS: u32 = 20;

criterion_group!(benches, plan);
criterion_main!(benches);

fn plan(criterion: &mut Criterion) {
    let before = Poll::new(SPOKES - 10);
    let after = Poll::new(SPOKES);
    let configured = before.decide().peers();
    let applied: BTreeMap<PublicKey, SocketAddr> = configured
        .iter()
        .filter_map(|(key, peer)| Some((*key, peer.endpoint?)))
        .collect();
    let actual: Vec<PeerStatus> = configured.into_iter().map(status).collect();

    let mut group = criterion.benchmark_group("plan");
    group.sample_size(20);
    group.bench_function("decide_10000", |bench| {
        bench.iter(|| black_box(after.decide()))
    });
    group.bench_function("decide_and_plan_10000", |bench| {
        bench.iter(|| black_box(peer::plan(&after.decide().peers(), &applied, &actual)));
    });
    group.bench_function("decide_and_plan_10000_at_first", |bench| {
        bench.iter(|| black_box(peer::plan(&after.decide().peers(), &BTreeMap::new(), &[])));
    });
    let many = Poll::new(MANY).settled();
    group.bench_function("decide_100000", |bench| {
        bench.iter(|| black_box(many.decide()))
    });
    let configured = many.decide().peers();
    let actual: Vec<PeerStatus> = configured.into_iter().map(status).collect();
    group.bench_function("decide_and_plan_100000", |bench| {
        bench.iter(|| {
            black_box(peer::plan(
                &many.decide().peers(),
                &BTreeMap::new(),
                &actual,
            ))
        });
    });
    group.finish();
}

fn status((key, config): (PublicKey, PeerConfig)) -> PeerStatus {
    PeerStatus {
        key,
        config,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
    }
}

/// What one poll knows.
struct Poll {
    privnet: Supernet,
    hub_key: PublicKey,
    hub_vpc: privnet_model::id::VpcId,
    hub_cidrs: Vec<IpNet>,
    inventory: Inventory,
    carried: Carried,
    alive: BTreeSet<PublicKey>,
}

impl Poll {
    fn new(spokes: u32) -> Self {
        let mut inventory = Inventory::default();
        for number in 0..spokes {
            let partition = Partition {
                account: "123456789012".parse().unwrap(),
                region: format!("us-test-{}", number % REGIONS).parse().unwrap(),
            };
            let spoke = spoke(number);
            inventory
                .partitions
                .entry(partition)
                .or_insert_with(PartitionView::default)
                .spokes
                .insert(spoke.instance.clone(), spoke);
        }
        Self {
            privnet: Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            hub_key: PublicKey::from_bytes([1; 32]),
            hub_vpc: "vpc-00000000000000000".parse().unwrap(),
            hub_cidrs: vec!["10.255.0.0/16".parse().unwrap()],
            inventory,
            carried: Carried::default(),
            alive: BTreeSet::new(),
        }
    }

    /// The same, when all of it has been carried for a while.
    fn settled(mut self) -> Self {
        let fleet = self.decide();
        self.carried = fleet.carried();
        self.alive = fleet.peers().into_keys().collect();
        self
    }

    fn decide(&self) -> Fleet {
        Fleet::decide(FleetInput {
            privnet: &self.privnet,
            hub_keys: &[self.hub_key],
            hub_vpc: &self.hub_vpc,
            hub_cidrs: &self.hub_cidrs,
            sites: &[],
            inventory: &self.inventory,
            trust: &TrustConfig::default(),
            carried: &self.carried,
            alive: &self.alive,
            health: &BTreeMap::new(),
            preshared: &|_| None,
            ipsec: IpsecInput {
                address: "10.255.0.10".parse().unwrap(),
                id: &"192.0.2.1".parse().unwrap(),
                secret: &|_| None,
                up: &BTreeSet::new(),
                esp: None,
            },
        })
    }
}

fn spoke(number: u32) -> SpokeRecord {
    // A /25 each: 131,072 of them fit into 10.0.0.0/8.
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (number << 7);
    let mut key = [7; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    SpokeRecord {
        instance: format!("i-{number:017x}").parse().unwrap(),
        name: Some(format!("spoke-{number}")),
        launched: Timestamp::from_second(1_700_000_000 + i64::from(number)).ok(),
        zone: None,
        vpc: format!("vpc-{:017x}", number + 1).parse().ok(),
        cidrs: vec![Ipv4Net::new(base.into(), 25).unwrap().into()],
        public_address: Some(IpAddr::V4(
            (u32::from(Ipv4Addr::new(52, 0, 0, 0)) + number).into(),
        )),
        private_address: Some(IpAddr::V4((base + 10).into())),
        public_key: Some(PublicKey::from_bytes(key)),
        port: Some(51820),
        transport: Transport::Wireguard,
        instance_profile: None,
        image: None,
        zone_cidrs: vec![],
        tags: BTreeMap::new(),
        tag_problems: vec![],
    }
}
