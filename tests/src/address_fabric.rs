//! A VPC's internet gateway in force: which public address an instance has is what
//! EC2's API says of its Elastic IP, a moment later, as in EC2. An instance from which
//! one was taken has none at all for a while, then the one that it was launched with
//! (EC2 gives it another, "within a few minutes"). What was said by an address that is
//! gone is not answered: EC2 lets open connections go on for a time, which nobody may
//! rely on.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use privnet_model::id::Region;
use roxmltree::Document;

use crate::moto::{Ec2, text_of};
use crate::process::run;
use crate::world::World;

/// How often the API is asked.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long an instance has no public address after it lost its Elastic IP.
const WITHOUT: Duration = Duration::from_secs(8);

/// Public addresses by the name of the instance.
type Public = BTreeMap<&'static str, Ipv4Addr>;

/// An Elastic IP with these tags that nobody has: its allocation.
pub fn allocate(
    world: &World,
    vpc: &str,
    address: Ipv4Addr,
    tags: &[(&str, &str)],
) -> Result<String> {
    let (region, _) = world.vpc_id(vpc)?;
    let named = [("Domain", "vpc"), ("Address", &address.to_string())];
    let answer = world.ec2.call(region, "AllocateAddress", &named)?;
    let allocation = text_of(&answer, "allocationId")?;
    if !tags.is_empty() {
        world.ec2.tag(region, &allocation, tags)?;
    }
    Ok(allocation)
}

/// It ends when it is dropped.
pub struct AddressFabric {
    stop: Arc<AtomicBool>,
    public: Arc<Mutex<Public>>,
    failure: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

struct Spoke {
    name: &'static str,
    private: Ipv4Addr,
    /// The address that it was launched with.
    own: Ipv4Addr,
}

struct Following {
    ec2: Ec2,
    region: Region,
    router: String,
    internet: String,
    uplink: Ipv4Addr,
    /// By interface.
    spokes: BTreeMap<String, Spoke>,
    public: Arc<Mutex<Public>>,
    /// When an instance lost its Elastic IP.
    lost: BTreeMap<&'static str, Instant>,
    /// How often addresses were mapped: connections from before are another zone's.
    mapped: u32,
}

impl AddressFabric {
    /// Follows where the Elastic IPs of the VPC's region are.
    pub fn start(world: &World, vpc: &str, spokes: &[&'static str]) -> Result<Self> {
        let (region, _) = world.vpc_id(vpc)?;
        let mut known = BTreeMap::new();
        let mut now = Public::new();
        for name in spokes {
            let host = world.host(name)?;
            let own = host.instance.public.context("no public address")?;
            now.insert(*name, own);
            let spoke = Spoke {
                name,
                private: host.instance.address,
                own,
            };
            known.insert(host.metadata.interface.clone(), spoke);
        }
        let public = Arc::new(Mutex::new(now));
        let following = Following {
            ec2: world.ec2.clone(),
            region: region.clone(),
            router: world.router(vpc)?.name().to_owned(),
            internet: world.internet().name().to_owned(),
            uplink: world.uplink(vpc)?,
            spokes: known,
            public: Arc::clone(&public),
            lost: BTreeMap::new(),
            mapped: 0,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let failure = Arc::new(Mutex::new(None));
        let failed = Arc::clone(&failure);
        let thread = std::thread::spawn(move || {
            if let Err(error) = following.run(&stopped) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = Some(format!("{error:#}"));
            }
        });
        Ok(Self {
            stop,
            public,
            failure,
            thread: Some(thread),
        })
    }

    /// The address by which the internet knows a spoke, if it has any.
    pub fn of(&self, spoke: &str) -> Result<Option<Ipv4Addr>> {
        self.check()?;
        let public = self.public.lock();
        let public = public.unwrap_or_else(PoisonError::into_inner);
        Ok(public.get(spoke).copied())
    }

    /// Stops following, and tells whether anything went wrong.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ensure!(ended.is_some_and(|ended| ended.is_ok()), "it panicked");
        self.check()
    }

    fn check(&self) -> Result<()> {
        let failure = self.failure.lock();
        match failure.unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(failure) => bail!("the internet gateway: {failure}"),
            None => Ok(()),
        }
    }
}

impl Drop for AddressFabric {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Following {
    fn run(mut self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let before = self.mapped_now();
            let mut now = self.described()?;
            for spoke in self.spokes.values() {
                if now.contains_key(spoke.name) {
                    self.lost.remove(spoke.name);
                } else if before.get(spoke.name).is_some_and(|old| *old != spoke.own) {
                    self.lost.insert(spoke.name, Instant::now());
                }
                let lost = self.lost.get(spoke.name);
                if lost.is_none_or(|lost| lost.elapsed() >= WITHOUT) {
                    now.entry(spoke.name).or_insert(spoke.own);
                }
            }
            if now != before {
                self.map(&before, &now)?;
                *self.public.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
            std::thread::park_timeout(INTERVAL);
        }
        Ok(())
    }

    fn mapped_now(&self) -> Public {
        let public = self.public.lock();
        public.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who has which Elastic IP by what the API says. moto lets an instance keep the one
    /// that it was launched with beside another, which EC2 would take away.
    fn described(&self) -> Result<Public> {
        let answer = self.ec2.call(&self.region, "DescribeAddresses", &[])?;
        let document = Document::parse(&answer)?;
        let mut public = Public::new();
        let text = |node: &roxmltree::Node<'_, '_>, name: &str| {
            let mut children = node.children();
            let child = children.find(|child| child.tag_name().name() == name)?;
            child.text().map(str::to_owned)
        };
        let items = document.descendants();
        for item in items.filter(|node| node.tag_name().name() == "item") {
            let interface = text(&item, "networkInterfaceId");
            let spoke = interface.and_then(|interface| self.spokes.get(&interface));
            let address = text(&item, "publicIp");
            if let (Some(spoke), Some(address)) = (spoke, address) {
                let address: Ipv4Addr = address.parse()?;
                if address != spoke.own {
                    public.insert(spoke.name, address);
                }
            }
        }
        Ok(public)
    }

    fn map(&mut self, before: &Public, now: &Public) -> Result<()> {
        self.mapped += 1;
        let mut script = String::new();
        let changed = || {
            let spokes = self.spokes.values();
            spokes.filter(|spoke| before.get(spoke.name) != now.get(spoke.name))
        };
        let having = |public: &Public| {
            let each = changed().map(|spoke| Some((*public.get(spoke.name)?, spoke.private)));
            each.flatten().collect::<Vec<_>>()
        };
        for (old, private) in having(before) {
            write!(
                script,
                "delete element ip igw public {{ {old} : {private} }};\
                 delete element ip igw private {{ {private} : {old} }};\
                 delete element ip igw mapped {{ {private} }};"
            )?;
        }
        for (new, private) in having(now) {
            write!(
                script,
                "add element ip igw public {{ {new} : {private} }};\
                 add element ip igw private {{ {private} : {new} }};\
                 add element ip igw mapped {{ {private} }};"
            )?;
        }
        // An internet gateway remembers nothing; this one would go on to translate what
        // is established. In a zone of its own it is not found any more.
        script += "add table ip zones; delete table ip zones; table ip zones { chain zones { \
                   type filter hook prerouting priority raw; ";
        for (number, spoke) in (1_u32..).zip(self.spokes.values()) {
            let Some(public) = now.get(spoke.name) else {
                continue;
            };
            let (private, zone) = (spoke.private, self.mapped * 16 + number);
            write!(
                script,
                "iifname != \"uplink\" ip saddr {private} ct zone set {zone}; \
                 iifname \"uplink\" ip daddr {public} ct zone set {zone}; "
            )?;
        }
        script += "}; };";
        run(Command::new("ip")
            .args(["netns", "exec", &self.router, "nft"])
            .arg(script))?;
        for (name, old) in before {
            if !now.values().any(|address| address == old) {
                let route = format!("{old}/32");
                let route = Command::new("ip")
                    .args(["-n", &self.internet, "route", "del", &route])
                    .output();
                route.with_context(|| format!("{name}: {old}"))?;
            }
        }
        for address in now.values() {
            let (route, uplink) = (format!("{address}/32"), self.uplink.to_string());
            run(Command::new("ip")
                .args(["-n", &self.internet, "route", "replace", &route])
                .args(["via", &uplink]))?;
        }
        Ok(())
    }
}
