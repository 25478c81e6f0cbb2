//! A spoke's VPC against moto, as far as it behaves like EC2.
//!
//! ```text
//!  vpc 10.1.0.0/16                 zone a          zone b          zone c
//!  tables "a", "b", "c"            private-a       private-b       private-c
//!  table "public" → igw            public-a        public-b        public-c
//!                                  └ spoke a       └ spoke b       └ spoke c
//!  main table                      spare-a
//! ```
//! A second VPC has a spoke of the same tags and a table, which are none of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use ipnet::IpNet;
use privnet_model::id::{InstanceId, InterfaceId, RouteTableId, Zone};
use privnet_model::vpc::{
    AddressOutcome, Destination, RouteAction, RouteChange, RouteOrigin, RouteOutcome, RouteState,
    RouteTarget,
};

use super::answers::region;
use super::moto::Moto;
use crate::{AddressChoice, Mutation, Permission, SourceDestCheck, Vpc};

const REGION: &str = "eu-west-1";
const ZONES: [&str; 3] = ["eu-west-1a", "eu-west-1b", "eu-west-1c"];
const LONG: Duration = Duration::from_secs(60);
const DEFAULT: &str = "0.0.0.0/0";

struct World {
    client: Client,
    vpc: Vpc,
    id: String,
    /// By name.
    tables: BTreeMap<&'static str, RouteTableId>,
    /// In the order of the zones.
    spokes: Vec<(InstanceId, InterfaceId)>,
    /// A route table of the other VPC.
    elsewhere: RouteTableId,
    gateway: String,
    moto: Moto,
}

impl World {
    async fn build() -> Self {
        let moto = Moto::start().await;
        let client = moto.client(REGION);
        let maker = Maker(&client);
        let id = maker.vpc("10.1.0.0/16").await;
        let other = maker.vpc("10.2.0.0/16").await;
        let gateway = client.create_internet_gateway().send().await.unwrap();
        let gateway = gateway.internet_gateway().unwrap();
        let gateway = gateway.internet_gateway_id().unwrap().to_owned();
        let attach = client.attach_internet_gateway().vpc_id(&id);
        let attach = attach.internet_gateway_id(&gateway);
        attach.send().await.unwrap();

        let public = maker.table(&id, "public").await;
        let route = client.create_route().route_table_id(public.as_str());
        let route = route.destination_cidr_block(DEFAULT).gateway_id(&gateway);
        route.send().await.unwrap();
        let mut tables = BTreeMap::from([("public", public.clone())]);
        let mut spokes = Vec::new();
        for (number, (zone, name)) in ZONES.into_iter().zip(["a", "b", "c"]).enumerate() {
            let table = maker.table(&id, name).await;
            let cidr = format!("10.1.1{number}.0/24");
            let private = maker.subnet(&id, zone, &cidr).await;
            maker.associate(&table, &private).await;
            tables.insert(name, table);
            let cidr = format!("10.1.2{number}.0/24");
            let subnet = maker.subnet(&id, zone, &cidr).await;
            maker.associate(&public, &subnet).await;
            spokes.push(maker.spoke(&subnet).await);
        }
        maker.subnet(&id, ZONES[0], "10.1.30.0/24").await;
        let subnet = maker.subnet(&other, ZONES[0], "10.2.0.0/24").await;
        maker.spoke(&subnet).await;
        let elsewhere = maker.table(&other, "elsewhere").await;
        let vpc = Vpc::new(&moto.context, &region(REGION), &id.parse().unwrap(), LONG);
        Self {
            vpc,
            id,
            tables,
            spokes,
            elsewhere,
            gateway,
            client,
            moto,
        }
    }

    fn interface(&self, spoke: usize) -> InterfaceId {
        self.spokes[spoke].1.clone()
    }

    /// Where a spoke's interface is a target, as moto tells it: without the instance,
    /// which EC2 tells.
    fn target(&self, spoke: usize) -> RouteTarget {
        RouteTarget::Interface {
            interface: self.interface(spoke),
            instance: None,
        }
    }

    fn change(&self, table: &str, action: RouteAction) -> RouteChange {
        RouteChange {
            table: self.tables[table].clone(),
            destination: DEFAULT.parse().unwrap(),
            action,
        }
    }

    fn create(&self, table: &str, to: usize) -> RouteChange {
        let to = self.interface(to);
        self.change(table, RouteAction::Create { to })
    }

    fn replace(&self, table: &str, seen: RouteTarget, to: usize) -> RouteChange {
        let to = self.interface(to);
        self.change(table, RouteAction::Replace { seen, to })
    }

    async fn made(&self, change: RouteChange) -> RouteOutcome {
        let outcomes = self.vpc.change_routes(&[change], |_| true).await;
        let [outcome] = <[_; 1]>::try_from(outcomes).unwrap();
        outcome.unwrap()
    }

    /// Where the default route of a table leads.
    async fn default_route(&self, table: &str) -> Option<RouteTarget> {
        let tables = self.vpc.route_tables().await.unwrap();
        let route = tables[&self.tables[table]].route(&DEFAULT.parse().unwrap());
        route.map(|route| route.target.clone())
    }
}

struct Maker<'a>(&'a Client);

impl Maker<'_> {
    async fn vpc(&self, cidr: &str) -> String {
        let vpc = self.0.create_vpc().cidr_block(cidr).send().await.unwrap();
        vpc.vpc().unwrap().vpc_id().unwrap().to_owned()
    }

    async fn subnet(&self, vpc: &str, zone: &str, cidr: &str) -> String {
        let request = self.0.create_subnet().vpc_id(vpc).availability_zone(zone);
        let subnet = request.cidr_block(cidr).send().await.unwrap();
        subnet.subnet().unwrap().subnet_id().unwrap().to_owned()
    }

    async fn table(&self, vpc: &str, name: &str) -> RouteTableId {
        let request = self.0.create_route_table().vpc_id(vpc);
        let tags = tagged(ResourceType::RouteTable, &[("Name", name)]);
        let table = request.tag_specifications(tags).send().await.unwrap();
        let table = table.route_table().unwrap();
        table.route_table_id().unwrap().parse().unwrap()
    }

    async fn associate(&self, table: &RouteTableId, subnet: &str) {
        let request = self.0.associate_route_table().subnet_id(subnet);
        request.route_table_id(table.as_str()).send().await.unwrap();
    }

    async fn spoke(&self, subnet: &str) -> (InstanceId, InterfaceId) {
        let request = self.0.run_instances().image_id("ami-12345678");
        let request = request.min_count(1).max_count(1).subnet_id(subnet);
        let tags = tagged(ResourceType::Instance, &[("service", "nat")]);
        let launched = request.tag_specifications(tags).send().await.unwrap();
        let instance = &launched.instances()[0];
        let interface = &instance.network_interfaces()[0];
        (
            instance.instance_id().unwrap().parse().unwrap(),
            interface.network_interface_id().unwrap().parse().unwrap(),
        )
    }

    /// An address that a host may have: of its own choice moto gives loopback ones.
    async fn address(&self, address: &str, tags: &[(&str, &str)]) -> String {
        let tags = tagged(ResourceType::ElasticIp, tags);
        let request = self.0.allocate_address().address(address);
        let made = request.tag_specifications(tags).send().await.unwrap();
        made.allocation_id().unwrap().to_owned()
    }
}

fn tagged(kind: ResourceType, tags: &[(&str, &str)]) -> TagSpecification {
    let tags = tags
        .iter()
        .map(|(key, value)| Tag::builder().key(*key).value(*value).build());
    TagSpecification::builder()
        .resource_type(kind)
        .set_tags(Some(tags.collect()))
        .build()
}

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test]
async fn the_running_spokes_of_the_vpc_are_siblings() {
    let world = World::build().await;
    let service = tags(&[("service", "nat")]);

    let found = world.vpc.siblings(&service).await.unwrap();

    assert_eq!(found.incomplete, BTreeMap::new());
    assert_eq!(found.spokes.len(), 3);
    for (number, (instance, interface)) in world.spokes.iter().enumerate() {
        let sibling = &found.spokes[instance];
        assert_eq!(&sibling.interface, interface);
        assert_eq!(sibling.zone.as_str(), ZONES[number]);
        let subnet: IpNet = format!("10.1.2{number}.0/24").parse().unwrap();
        assert!(subnet.contains(&sibling.address), "{}", sibling.address);
        assert_eq!(sibling.tags, service);
    }

    let (gone, _) = &world.spokes[1];
    let stop = world.client.stop_instances().instance_ids(gone.as_str());
    stop.send().await.unwrap();
    let found = world.vpc.siblings(&service).await.unwrap();
    assert_eq!(found.spokes.len(), 2);
    assert!(!found.spokes.contains_key(gone));
    let other = tags(&[("service", "nat"), ("env", "prod")]);
    assert!(world.vpc.siblings(&other).await.unwrap().spokes.is_empty());
}

#[tokio::test]
async fn route_tables_come_with_their_routes_and_the_zones_they_serve() {
    let world = World::build().await;

    let tables = world.vpc.route_tables().await.unwrap();

    assert_eq!(tables.len(), 5, "{tables:?}");
    let zone = |name: &str| -> Zone { name.parse().unwrap() };
    for (name, zone) in ["a", "b", "c"].into_iter().zip(ZONES.map(zone)) {
        let table = &tables[&world.tables[name]];
        assert_eq!(table.tags["Name"], name);
        assert!(!table.main && !table.leads_to_internet_gateway());
        assert_eq!(table.subnets.values().collect::<Vec<_>>(), [&zone]);
        let [local] = &table.routes[..] else {
            panic!("{table:?}");
        };
        let own = Destination::Cidr("10.1.0.0/16".parse().unwrap());
        assert_eq!(local.destination, own);
        assert_eq!(local.target, RouteTarget::Local);
        assert_eq!(local.origin, RouteOrigin::CreateRouteTable);
        assert_eq!(local.state, RouteState::Active);
    }
    let public = &tables[&world.tables["public"]];
    assert!(public.leads_to_internet_gateway());
    assert_eq!(public.subnets.len(), 3);
    let default = public.route(&DEFAULT.parse().unwrap()).unwrap();
    assert_eq!(
        default.target,
        RouteTarget::InternetGateway(world.gateway.clone())
    );
    assert_eq!(default.origin, RouteOrigin::CreateRoute);
    let main: Vec<_> = tables.values().filter(|table| table.main).collect();
    assert_eq!(main.len(), 1);
    // The subnet that nobody associated with a table.
    let served: Vec<_> = main[0].subnets.values().collect();
    assert_eq!(served, [&zone(ZONES[0])]);
}

#[tokio::test]
async fn a_route_is_made_and_moved_and_each_again_changes_nothing() {
    let world = World::build().await;
    assert_eq!(world.made(world.create("a", 0)).await, RouteOutcome::Done);
    assert_eq!(world.default_route("a").await, Some(world.target(0)));
    assert_eq!(world.made(world.create("a", 0)).await, RouteOutcome::Done);

    let moved = world.replace("a", world.target(0), 1);
    assert_eq!(world.made(moved.clone()).await, RouteOutcome::Done);
    assert_eq!(world.default_route("a").await, Some(world.target(1)));
    assert_eq!(world.made(moved).await, RouteOutcome::Done);
    assert_eq!(world.default_route("b").await, None);
}

#[tokio::test]
async fn several_changes_are_made_at_once_and_told_in_their_order() {
    let world = World::build().await;
    let changes = [
        world.create("a", 2),
        world.create("public", 2),
        world.create("b", 2),
        world.replace("c", world.target(0), 2),
    ];
    let outcomes = world.vpc.change_routes(&changes, |_| true).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    let igw = RouteTarget::InternetGateway(world.gateway.clone());
    assert_eq!(
        outcomes,
        [
            RouteOutcome::Done,
            RouteOutcome::Conflict { now: Some(igw) },
            RouteOutcome::Done,
            RouteOutcome::Conflict { now: None },
        ]
    );
    assert_eq!(world.default_route("a").await, Some(world.target(2)));
    assert_eq!(world.default_route("b").await, Some(world.target(2)));
    assert_eq!(world.default_route("c").await, None);
    assert_eq!(world.vpc.change_routes(&[], |_| true).await, []);
}

#[tokio::test]
async fn a_route_that_is_not_as_it_was_seen_stays() {
    let world = World::build().await;
    world.made(world.create("a", 1)).await;
    let now = Some(world.target(1));
    let conflict = RouteOutcome::Conflict { now: now.clone() };
    // EC2 refuses to make a route that exists; moto would make it lead elsewhere.
    assert_eq!(world.made(world.create("a", 0)).await, conflict);
    let stale = world.replace("a", world.target(2), 0);
    assert_eq!(world.made(stale).await, conflict);
    assert_eq!(world.default_route("a").await, now);
}

#[tokio::test]
async fn what_leads_to_a_gateway_stays_even_if_a_plan_has_it() {
    let world = World::build().await;
    let gateway = RouteTarget::InternetGateway(world.gateway.clone());
    let now = Some(gateway.clone());
    let planned = world.replace("public", gateway, 0);
    assert_eq!(
        world.made(planned).await,
        RouteOutcome::Conflict { now: now.clone() }
    );
    assert_eq!(world.default_route("public").await, now);
    let mut local = world.replace("a", RouteTarget::Local, 0);
    local.destination = "10.1.0.0/16".parse().unwrap();
    let now = Some(RouteTarget::Local);
    assert_eq!(world.made(local).await, RouteOutcome::Conflict { now });
}

#[tokio::test]
async fn tables_of_other_vpcs_and_unknown_ones_are_none() {
    let world = World::build().await;
    for table in [&world.elsewhere, &"rtb-00000000".parse().unwrap()] {
        let mut change = world.create("a", 0);
        change.table = table.clone();
        assert_eq!(world.made(change).await, RouteOutcome::NoTable, "{table}");
    }
    let request = world.client.describe_route_tables();
    let request = request.route_table_ids(world.elsewhere.as_str());
    let described = request.send().await.unwrap();
    assert_eq!(described.route_tables()[0].routes().len(), 1);
}

#[tokio::test]
async fn the_source_destination_check_is_switched_off_once() {
    let world = World::build().await;
    let interface = world.interface(0);
    let mutation = Mutation::SourceDestCheckOff {
        interface: interface.clone(),
    };
    let permission = world.vpc.permission(&mutation).await;
    assert_eq!(permission, Permission::Permitted);
    assert_eq!(world.vpc.source_dest_check(&interface).await, Ok(true));
    for outcome in [SourceDestCheck::SwitchedOff, SourceDestCheck::WasOff] {
        let switched = world.vpc.switch_source_dest_check_off(&interface).await;
        assert_eq!(switched, Ok(outcome));
        assert_eq!(world.vpc.source_dest_check(&interface).await, Ok(false));
    }
    let other = world.vpc.source_dest_check(&world.interface(1)).await;
    assert_eq!(other, Ok(true));
    let unknown = "eni-00000000".parse().unwrap();
    let error = world.vpc.source_dest_check(&unknown).await.unwrap_err();
    assert!(error.to_string().contains("no word of its check"));
}

#[tokio::test]
async fn an_elastic_ip_goes_to_who_asks_and_is_taken_only_from_the_named_holder() {
    let world = World::build().await;
    let maker = Maker(&world.client);
    let pool = [("privnet:pool", "a")];
    let first = maker.address("198.51.100.9", &pool).await.parse().unwrap();
    let second = maker.address("198.51.100.10", &[]).await.parse().unwrap();
    let by_tag = AddressChoice::Tags(tags(&pool));
    let by_id = AddressChoice::Allocations([first, second].into());
    let AddressChoice::Allocations(ids) = &by_id else {
        panic!();
    };
    let addresses = async |choice| world.vpc.addresses(choice).await.unwrap();
    assert_eq!(addresses(&by_id).await.len(), 2);
    let no_tags = AddressChoice::Tags(BTreeMap::new());
    assert_eq!(addresses(&no_tags).await, [], "no tags are not all tags");
    let found = addresses(&by_tag).await;
    assert_eq!(found.len(), 1);
    let address = &found[0];
    assert!(ids.contains(&address.allocation));
    assert_eq!(address.address.to_string(), "198.51.100.9");
    assert_eq!(address.holder, None);
    let allocation = &address.allocation;

    let associate = async |spoke, from| {
        let to = world.interface(spoke);
        let outcome = world.vpc.associate_address(allocation, &to, from).await;
        outcome.unwrap()
    };
    let holder = async || addresses(&by_tag).await[0].holder.clone();
    let mutation = Mutation::AssociateAddress {
        allocation: allocation.clone(),
        to: world.interface(0),
    };
    let permission = world.vpc.permission(&mutation).await;
    assert_eq!(permission, Permission::Permitted);
    assert_eq!(holder().await, None, "a dry run");

    assert_eq!(associate(0, None).await, AddressOutcome::Done);
    let had = holder().await.unwrap();
    assert_eq!(had.interface, Some(world.interface(0)));
    assert_eq!(associate(0, None).await, AddressOutcome::Done);
    assert_eq!(holder().await.as_ref(), Some(&had));

    let now = Some(had.clone());
    let conflict = AddressOutcome::Conflict { now };
    assert_eq!(associate(1, None).await, conflict);
    assert_eq!(holder().await.as_ref(), Some(&had));
    assert_eq!(associate(1, Some(&had)).await, AddressOutcome::Done);
    let has = holder().await.unwrap();
    assert_eq!(has.interface, Some(world.interface(1)));
    // What was seen first is no longer so.
    let now = Some(has.clone());
    let conflict = AddressOutcome::Conflict { now };
    assert_eq!(associate(2, Some(&had)).await, conflict);
    assert_eq!(holder().await, Some(has));

    let unknown = "eipalloc-00000000".parse().unwrap();
    let to = world.interface(0);
    let outcome = world.vpc.associate_address(&unknown, &to, None).await;
    assert_eq!(outcome, Ok(AddressOutcome::NoAddress));
}

/// EC2 changes nothing in a dry run. moto does where routes are concerned: so this is
/// what is told of an EC2 that does not heed it.
#[tokio::test]
async fn an_ec2_that_carries_out_a_dry_run_gives_no_permission() {
    let world = World::build().await;
    for action in [world.create("a", 0), world.replace("a", world.target(0), 0)] {
        let permission = world.vpc.permission(&Mutation::Route(action)).await;
        let Permission::Unclear(error) = permission else {
            panic!("{permission:?}");
        };
        let text = error.to_string();
        assert!(
            text.contains("carried out what was to be a dry run"),
            "{text}"
        );
        assert!(text.contains(world.tables["a"].as_str()), "{text}");
    }
    assert!(world.id.starts_with("vpc-") && world.moto.url.starts_with("http://127."));
}
