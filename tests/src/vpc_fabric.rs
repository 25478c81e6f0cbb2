//! A VPC's route tables in force: what EC2's API says they are is what the VPC's router
//! does, a moment later, as in EC2.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use privnet_model::id::Region;
use roxmltree::Document;

use crate::moto::Ec2;
use crate::process::run;
use crate::world::World;

/// How often the API is asked.
const INTERVAL: Duration = Duration::from_millis(100);

/// A private subnet whose routes follow the API, by the name of a host in it.
#[derive(Debug, Clone, Copy)]
pub struct Follower {
    /// The host.
    pub host: &'static str,
    /// The number of its subnet in the topology.
    pub subnet: usize,
}

/// One route that changed: when, of which host's subnet, to what, to which spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// When the router did.
    pub at: Instant,
    /// A host in the subnet.
    pub host: &'static str,
    /// The destination.
    pub destination: String,
    /// The spoke.
    pub to: &'static str,
}

/// The routes that each host's subnet has: destination, interface.
type Routes = BTreeMap<(&'static str, String), String>;

/// It ends when it is dropped.
pub struct Fabric {
    stop: Arc<AtomicBool>,
    moves: Arc<Mutex<Vec<Moved>>>,
    /// The route table of each follower, in the order of their ids.
    tables: Vec<(String, &'static str)>,
    gateway: String,
    thread: Option<JoinHandle<Result<()>>>,
}

struct Following {
    ec2: Ec2,
    region: Region,
    /// The name of its namespace.
    router: String,
    /// By route table.
    followers: BTreeMap<String, Follower>,
    /// By interface.
    spokes: BTreeMap<String, (&'static str, Ipv4Addr)>,
    moves: Arc<Mutex<Vec<Moved>>>,
}

impl Fabric {
    /// Gives each follower's subnet a route table, still without a route, and follows
    /// it. All other subnets are public: their table has an internet gateway.
    pub fn start(
        world: &World,
        vpc: &str,
        followers: &[Follower],
        spokes: &[&'static str],
    ) -> Result<Self> {
        let (region, id) = world.vpc_id(vpc)?;
        let ec2 = world.ec2.clone();
        let gateway = ec2.call(region, "CreateInternetGateway", &[])?;
        let gateway = crate::moto::text_of(&gateway, "internetGatewayId")?;
        let attach = [
            ("InternetGatewayId", gateway.as_str()),
            ("VpcId", id.as_str()),
        ];
        ec2.call(region, "AttachInternetGateway", &attach)?;
        let main = ec2.call(
            region,
            "DescribeRouteTables",
            &[
                ("Filter.1.Name", "vpc-id"),
                ("Filter.1.Value.1", id.as_str()),
            ],
        )?;
        let main = crate::moto::text_of(&main, "routeTableId")?;
        ec2.call(
            region,
            "CreateRoute",
            &[
                ("RouteTableId", main.as_str()),
                ("DestinationCidrBlock", "0.0.0.0/0"),
                ("GatewayId", gateway.as_str()),
            ],
        )?;
        let router = world.router(vpc)?;
        let mut tables: BTreeMap<String, Follower> = BTreeMap::new();
        for follower in followers {
            let table = ec2.call(region, "CreateRouteTable", &[("VpcId", id.as_str())])?;
            let table = crate::moto::text_of(&table, "routeTableId")?;
            let subnet = world.host(follower.host)?.metadata.subnet.clone();
            let associate = [
                ("RouteTableId", table.as_str()),
                ("SubnetId", subnet.as_str()),
            ];
            ec2.call(region, "AssociateRouteTable", &associate)?;
            router.ip(&[format!("route flush table {}", 1000 + follower.subnet)])?;
            tables.insert(table, *follower);
        }
        let spokes = spokes
            .iter()
            .map(|name| {
                let host = world.host(name)?;
                Ok((
                    host.metadata.interface.clone(),
                    (*name, host.instance.address),
                ))
            })
            .collect::<Result<_>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let moves = Arc::new(Mutex::new(Vec::new()));
        let followed = tables.iter().map(|(id, one)| (id.clone(), one.host));
        let followed: Vec<_> = followed.collect();
        ensure!(!followed.is_empty(), "nobody to follow");
        let following = Following {
            ec2,
            region: region.clone(),
            router: router.name().to_owned(),
            followers: tables,
            spokes,
            moves: Arc::clone(&moves),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || following.run(&stopped));
        Ok(Self {
            stop,
            moves,
            tables: followed,
            gateway,
            thread: Some(thread),
        })
    }

    /// Every change so far.
    pub fn moves(&self) -> Vec<Moved> {
        let moves = self.moves.lock();
        moves.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spoke that a host's default route leads to.
    pub fn egress_of(&self, host: &str) -> Option<&'static str> {
        let moves = self.moves();
        let last = moves
            .iter()
            .rfind(|moved| moved.host == host && moved.destination == "0.0.0.0/0");
        last.map(|moved| moved.to)
    }

    /// The follower whose route table has the lowest id.
    pub fn first(&self) -> &'static str {
        self.tables[0].1
    }

    /// The id of a follower's route table.
    pub fn table_of(&self, host: &str) -> Result<&str> {
        let mut tables = self.tables.iter();
        let found = tables.find(|(_, follower)| *follower == host);
        let (id, _) = found.with_context(|| format!("{host} is not followed"))?;
        Ok(id.as_str())
    }

    /// The id of the VPC's internet gateway.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Stops following, and tells whether anything went wrong.
    pub fn end(mut self) -> Result<Vec<Moved>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Ok(result) = thread.join()
        {
            result?;
        }
        Ok(self.moves())
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Following {
    fn run(self, stop: &AtomicBool) -> Result<()> {
        let mut known = Routes::new();
        while !stop.load(Ordering::Relaxed) {
            let now = self.described()?;
            for ((host, destination), interface) in &now {
                let key = (*host, destination.clone());
                if known.get(&key) != Some(interface) {
                    self.follow(host, destination, interface)?;
                }
            }
            known = now;
            std::thread::park_timeout(INTERVAL);
        }
        Ok(())
    }

    fn described(&self) -> Result<Routes> {
        let answer = self.ec2.call(&self.region, "DescribeRouteTables", &[])?;
        let document = Document::parse(&answer)?;
        let named = |node: &roxmltree::Node<'_, '_>, name: &str| {
            node.children()
                .find(|child| child.tag_name().name() == name)
                .and_then(|child| child.text())
                .map(str::to_owned)
        };
        let mut routes = Routes::new();
        let all = document.descendants();
        let sets = all.filter(|node| node.tag_name().name() == "routeSet");
        for set in sets {
            let table = set.parent().context("a route set of no table")?;
            let table = named(&table, "routeTableId").unwrap_or_default();
            let Some(follower) = self.followers.get(&table) else {
                continue;
            };
            for route in set.children().filter(roxmltree::Node::is_element) {
                let destination = named(&route, "destinationCidrBlock");
                let interface = named(&route, "networkInterfaceId");
                if let (Some(destination), Some(interface)) = (destination, interface) {
                    routes.insert((follower.host, destination), interface);
                }
            }
        }
        Ok(routes)
    }

    fn follow(&self, host: &'static str, destination: &str, interface: &str) -> Result<()> {
        let Some((to, address)) = self.spokes.get(interface) else {
            bail!("a route of {host} leads to {interface}, which is no spoke's");
        };
        let mut followers = self.followers.values();
        let follower = followers.find(|one| one.host == host);
        let table = 1000 + follower.context("a host without a subnet")?.subnet;
        let (address, table) = (address.to_string(), table.to_string());
        run(Command::new("ip")
            .args(["-n", &self.router, "route", "replace", destination])
            .args(["via", &address, "table", &table]))?;
        let moved = Moved {
            at: Instant::now(),
            host,
            destination: destination.to_owned(),
            to,
        };
        let moves = self.moves.lock();
        moves.unwrap_or_else(PoisonError::into_inner).push(moved);
        Ok(())
    }
}
