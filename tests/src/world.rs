//! Makes a [`Network`] real: a namespace for every instance and every VPC
//! router, an internet between them, moto filled to match, instance metadata in
//! every instance, a web server on every plain host. Runs the daemons in it.
//!
//! The VPCs behave as AWS's do where it matters: an instance owns its private
//! address only; the internet gateway maps public addresses one to one and lets
//! nobody else through; each subnet's route table decides where its packets go,
//! so that a private host's packets reach the spoke on its only interface.
//! Source/destination checks, security groups and network ACLs are not modelled.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use privnet_model::id::{Region, VpcId};

use crate::adoption::{Adopted, Member};
use crate::capture::Capture;
use crate::daemon::{self, Daemon};
use crate::fault_proxy::Control;
use crate::guest;
use crate::iam;
use crate::imds::Metadata;
use crate::internet::{Internet, Link};
use crate::moto::{self, Ec2, SubnetId};
use crate::namespace::{Namespace, logs};
use crate::process::{Process, wait_until};
use crate::programs;
use crate::topology::{API, API_PORT, Instance, MOTO, Network, Role, SPOKE_TAGS, Subnet, Vpc, WEB};
use crate::vpc_router::{ROUTER_SYSCTLS, connect_instance, internet_gateway, mac, route_vpc};

/// The tools that a world needs.
const TOOLS: [&str; 6] = ["ip", "nft", "sysctl", "ping", "curl", "mount"];

/// A network that is up.
#[derive(Debug)]
pub struct World {
    // In the order in which they must go: programs before the hosts they run in.
    daemons: BTreeMap<&'static str, Daemon>,
    moto: Process,
    services: Vec<Process>,
    hosts: BTreeMap<&'static str, Host>,
    vpcs: BTreeMap<&'static str, RunningVpc>,
    guests: Vec<&'static str>,
    captures: Vec<Capture>,
    internet: Internet,
    /// The web server's host, on the internet.
    pub web: Namespace,
    /// The EC2 API's host, on the internet.
    pub api: Namespace,
    /// Breaks the EC2 API.
    pub faults: Control,
    /// The EC2 API, past the proxy that breaks it.
    pub ec2: Ec2,
}

/// An instance that runs.
#[derive(Debug)]
pub struct Host {
    _services: Vec<Process>,
    /// Where it runs.
    pub namespace: Namespace,
    /// What it is.
    pub instance: Instance,
    /// Its VPC.
    pub vpc: &'static str,
    /// What its metadata service says.
    pub metadata: Metadata,
    /// The file from which it says so.
    metadata_file: PathBuf,
}

#[derive(Debug)]
struct RunningVpc {
    router: Namespace,
    uplink: Link,
    id: VpcId,
    region: Region,
}

impl World {
    /// Makes the network. Nothing of ours runs in it so far. One world a process:
    /// the kernel takes its time to let go of the namespaces of another.
    pub fn build(network: &Network) -> Result<Self> {
        Self::build_with_guests(network, &[])
    }

    /// Makes the network, with these instances prepared for machines of their own
    /// ([`crate::guest`]). One guest a VPC.
    pub fn build_with_guests(network: &Network, guests: &[&'static str]) -> Result<Self> {
        programs::require_tools(&TOOLS)?;
        if logs().exists() {
            bail!("there was a world in this process already");
        }
        let mut internet = Internet::new()?;
        internet.attach_this_process()?;
        let web = internet.attach_host("web", &[WEB])?;
        let api = internet.attach_host("api", &[MOTO, API])?;
        let simulator = programs::ours("privnet-sim")?;
        let mut services = vec![web.start("web", &simulator, ["web", &format!("{WEB}:80")])?];
        let (moto, ec2) = moto::start(&api, MOTO, API_PORT)?;
        let proxy = SocketAddr::from((API, API_PORT));
        services.push(api.start(
            "proxy",
            &simulator,
            ["proxy", &proxy.to_string(), ec2.endpoint()],
        )?);
        let faults = Control::new(proxy);
        let mut world = Self {
            daemons: BTreeMap::new(),
            moto,
            services,
            hosts: BTreeMap::new(),
            vpcs: BTreeMap::new(),
            guests: guests.to_vec(),
            captures: Vec::new(),
            internet,
            web,
            api,
            faults,
            ec2,
        };
        wait_until("the proxy to answer", Duration::from_secs(20), || {
            world.faults.clear().map(Some)
        })?;
        for vpc in &network.vpcs {
            world.add_vpc(vpc)?;
        }
        Ok(world)
    }

    /// Makes a host on the internet with this address.
    pub fn add_internet_host(&mut self, name: &str, address: Ipv4Addr) -> Result<Namespace> {
        self.internet.attach_host(name, &[address])
    }

    /// Makes a VPC with all its instances.
    pub fn add_vpc(&mut self, vpc: &Vpc) -> Result<()> {
        let ec2 = self.ec2.in_account(vpc.account);
        let id = ec2.create_vpc(&vpc.region, vpc.name, &vpc.cidrs)?;
        let subnets = vpc
            .subnets
            .iter()
            .map(|subnet| ec2.create_subnet(&vpc.region, &id, subnet.cidr, subnet.zone));
        self.adopt(&Adopted {
            subnets: subnets.collect::<Result<_>>()?,
            vpc: vpc.clone(),
            id,
            members: BTreeMap::new(),
        })
    }

    /// Makes real what EC2 has already of a VPC, and launches the instances that it has not.
    pub fn adopt(&mut self, adopted: &Adopted) -> Result<()> {
        let vpc = &adopted.vpc;
        let router = Namespace::add(vpc.name)?;
        router.sysctl(&ROUTER_SYSCTLS)?;
        let uplink = self.internet.attach_router(&router)?;
        router.nft(&internet_gateway())?;
        route_vpc(&router, uplink, vpc)?;
        self.vpcs.insert(
            vpc.name,
            RunningVpc {
                router,
                uplink,
                id: adopted.id.clone(),
                region: vpc.region.clone(),
            },
        );
        for (number, (subnet, id)) in vpc.subnets.iter().zip(&adopted.subnets).enumerate() {
            for instance in &subnet.instances {
                let member = match adopted.members.get(instance.name) {
                    Some(member) => member.clone(),
                    None => self.launch(vpc, id, instance)?,
                };
                self.boot(vpc, (number, id, subnet), instance, member)?;
            }
        }
        Ok(())
    }

    fn launch(&self, vpc: &Vpc, subnet: &SubnetId, instance: &Instance) -> Result<Member> {
        let mut tags = vec![("Name", instance.name)];
        if matches!(instance.role, Role::Spoke | Role::NatHub) {
            tags.extend(SPOKE_TAGS);
        }
        let ec2 = self.ec2.in_account(vpc.account);
        let role = match instance.role {
            Role::Hub => Some("privnet-hub"),
            Role::Spoke | Role::NatHub => Some("privnet-spoke"),
            Role::Host => None,
        };
        Ok(Member {
            launched: ec2.launch(&vpc.region, subnet, instance.address, &tags)?,
            role: role.map(str::to_owned),
            user_data: None,
        })
    }

    fn boot(
        &mut self,
        vpc: &Vpc,
        (subnet_number, subnet_id, subnet): (usize, &SubnetId, &Subnet),
        instance: &Instance,
        member: Member,
    ) -> Result<()> {
        let launched = member.launched;
        let ec2 = self.ec2.in_account(vpc.account);
        let iam_role = member
            .role
            .map(|role| ec2.assume(&role, launched.id.as_str()))
            .transpose()?;
        let network = self.vpc(vpc.name)?;
        let metadata = Metadata {
            instance: launched.id.clone(),
            account: vpc.account.parse()?,
            region: vpc.region.clone(),
            zone: format!("{}{}", vpc.region, subnet.zone).parse()?,
            vpc: network.id.clone(),
            vpc_cidrs: vpc.cidrs.clone(),
            subnet: subnet_id.0.clone(),
            subnet_cidr: subnet.cidr,
            interface: launched.interface,
            mac: mac(instance.address),
            private_address: instance.address,
            public_address: None,
            iam_role,
            spot_notice: None,
            target_lifecycle_state: None,
            user_data: member.user_data,
        };
        let namespace = Namespace::add(instance.name)?;
        let metadata_file = namespace.directory().join("metadata.json");
        metadata.write(&metadata_file)?;
        let simulator = programs::ours("privnet-sim")?;
        let arguments = [OsStr::new("imds"), metadata_file.as_os_str()];
        let mut services = Vec::new();
        if self.guests.contains(&instance.name) {
            // It is not in the namespace, which only has its files: both services are where
            // EC2 has them, on the other side of its interface.
            services.push(guest::connect(
                &network.router,
                subnet_number,
                subnet,
                instance,
            )?);
            services.push(network.router.start("imds", &simulator, arguments)?);
        } else {
            connect_instance(&network.router, subnet_number, subnet, &namespace, instance)?;
            services.push(namespace.start("imds", &simulator, arguments)?);
        }
        if instance.role == Role::Host {
            let listen = format!("{}:80", instance.address);
            services.push(namespace.start("web", &simulator, ["web", &listen])?);
        }
        self.hosts.insert(
            instance.name,
            Host {
                _services: services,
                namespace,
                instance: instance.clone(),
                vpc: vpc.name,
                metadata,
                metadata_file,
            },
        );
        if let Some(public) = instance.public {
            ec2.give_address(&vpc.region, &launched.id, public)?;
            self.map_address(instance.name, Some(public))?;
        }
        Ok(())
    }

    /// Lets the internet gateway map this public address, and no other, to the
    /// instance; its metadata service says so. The EC2 API is not told.
    pub fn map_address(&mut self, name: &str, public: Option<Ipv4Addr>) -> Result<()> {
        let host = self
            .hosts
            .get_mut(name)
            .with_context(|| format!("no host {name}"))?;
        let vpc = self.vpcs.get(host.vpc).context("a host without a VPC")?;
        let private = host.instance.address;
        if let Some(old) = host.metadata.public_address.take() {
            vpc.router.nft(&format!(
                "delete element ip igw public {{ {old} : {private} }}\n\
                 delete element ip igw private {{ {private} : {old} }}\n\
                 delete element ip igw mapped {{ {private} }}\n"
            ))?;
            self.internet
                .namespace
                .ip(&[format!("route del {old}/32")])?;
        }
        if let Some(new) = public {
            vpc.router.nft(&format!(
                "add element ip igw public {{ {new} : {private} }}\n\
                 add element ip igw private {{ {private} : {new} }}\n\
                 add element ip igw mapped {{ {private} }}\n"
            ))?;
            self.internet
                .namespace
                .ip(&[format!("route replace {new}/32 via {}", vpc.uplink.far())])?;
        }
        host.metadata.public_address = public;
        host.metadata.write(&host.metadata_file)
    }

    /// Terminates an instance: all that runs there dies, and EC2 says so.
    pub fn terminate(&mut self, name: &str) -> Result<()> {
        if let Some(daemon) = self.daemons.remove(name) {
            daemon.process.kill()?;
        }
        self.map_address(name, None)?;
        let host = self
            .hosts
            .remove(name)
            .with_context(|| format!("no host {name}"))?;
        let Metadata {
            account,
            region,
            instance,
            ..
        } = &host.metadata;
        self.ec2
            .in_account(account.as_str())
            .terminate(region, instance)
    }

    /// An instance.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .get(name)
            .with_context(|| format!("no host {name}"))
    }

    /// Changes what an instance's metadata service says.
    pub fn change_metadata(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Metadata),
    ) -> Result<()> {
        let host = self
            .hosts
            .get_mut(name)
            .with_context(|| format!("no host {name}"))?;
        change(&mut host.metadata);
        host.metadata.write(&host.metadata_file)
    }

    /// An instance's namespace.
    pub fn namespace(&self, name: &str) -> Result<&Namespace> {
        Ok(&self.host(name)?.namespace)
    }

    /// The access key by which an instance asks AWS: it tells whose a call was.
    pub fn access_key(&self, name: &str) -> Result<&str> {
        let role = self.host(name)?.metadata.iam_role.as_ref();
        let role = role.with_context(|| format!("{name} has no role"))?;
        Ok(role.access_key.as_str())
    }

    /// The region and id of a VPC.
    pub fn vpc_id(&self, name: &str) -> Result<(&Region, &VpcId)> {
        let vpc = self.vpc(name)?;
        Ok((&vpc.region, &vpc.id))
    }

    /// A VPC's router, which also is its internet gateway.
    pub fn router(&self, vpc: &str) -> Result<&Namespace> {
        Ok(&self.vpc(vpc)?.router)
    }

    /// Where the internet finds a VPC's router.
    pub fn uplink(&self, vpc: &str) -> Result<Ipv4Addr> {
        Ok(self.vpc(vpc)?.uplink.far())
    }

    /// The namespace of the internet.
    pub const fn internet(&self) -> &Namespace {
        &self.internet.namespace
    }

    /// Has all that these instances send from now on captured: [`Self::leaked_packets`] looks
    /// at counters, [`Self::captures_are_clean`] at the packets.
    pub fn capture(&mut self, network: &Network, instances: &[&str]) -> Result<()> {
        for vpc in &network.vpcs {
            for (_, instance) in vpc.instances() {
                if instances.contains(&instance.name) {
                    let router = &self.vpc(vpc.name)?.router;
                    let capture = Capture::start(router, vpc, instance.name)?;
                    self.captures.push(capture);
                }
            }
        }
        Ok(())
    }

    /// An error if something of the privnet is in what was captured.
    pub fn captures_are_clean(&self) -> Result<()> {
        for capture in &self.captures {
            // Whoever serves asked EC2 for something.
            let instance = capture.instance();
            if self.daemons.contains_key(instance) || self.guests.contains(&instance) {
                capture.saw_something()?;
            }
            capture.is_clean()?;
        }
        Ok(())
    }

    /// How many packets of the privnet reached an internet gateway in clear:
    /// none ever should.
    pub fn leaked_packets(&self) -> Result<u64> {
        let mut leaked = 0;
        for vpc in self.vpcs.values() {
            let counter = vpc
                .router
                .run("nft", ["list", "counter", "ip", "igw", "leaked"])?;
            leaked += counter
                .split_whitespace()
                .skip_while(|word| *word != "packets")
                .nth(1)
                .and_then(|count| count.parse::<u64>().ok())
                .with_context(|| format!("not a counter: {counter}"))?;
        }
        Ok(leaked)
    }

    /// Starts the daemon that belongs on an instance, with this configuration,
    /// and leaves it running.
    pub fn start(&mut self, name: &str, config: &str) -> Result<&mut Daemon> {
        let host = self
            .hosts
            .get(name)
            .with_context(|| format!("no host {name}"))?;
        let daemon = Daemon::start(host, config)?;
        self.daemons.insert(host.instance.name, daemon);
        self.daemon_mut(name)
    }

    /// Starts the daemon again that was [started](Self::start) there before.
    pub fn start_again(&mut self, name: &str) -> Result<&mut Daemon> {
        let config = daemon::config_file(self.host(name)?);
        let text = std::fs::read_to_string(&config)
            .with_context(|| format!("nothing was started on {name} before"))?;
        self.start(name, &text)
    }

    /// Stops a daemon as the service manager would.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        let daemon = self.take(name)?;
        let status = daemon.process.stop(Duration::from_secs(20))?;
        if !status.success() {
            bail!("the daemon on {name} stopped with {status}");
        }
        Ok(())
    }

    /// Kills a daemon as a crash would.
    pub fn crash(&mut self, name: &str) -> Result<()> {
        self.take(name)?.process.kill()
    }

    /// The daemon on an instance.
    pub fn daemon(&self, name: &str) -> Result<&Daemon> {
        self.daemons
            .get(name)
            .with_context(|| format!("no daemon on {name}"))
    }

    /// An error if a daemon or a server of the world has ended by itself, or a daemon
    /// has asked AWS for what no policy of `ami/iam` allows.
    pub fn check(&mut self) -> Result<()> {
        // Whom the credentials are of may be asked by whoever has them.
        let mut allowed = iam::all_actions()?;
        allowed.insert("sts:GetCallerIdentity".to_owned());
        for call in self.faults.calls()? {
            let action = format!("{}:{}", call.service, call.action);
            ensure!(allowed.contains(&action), "a daemon asked for {action}");
        }
        for daemon in self.daemons.values_mut() {
            daemon.process.check()?;
        }
        self.moto.check()?;
        self.services.iter_mut().try_for_each(Process::check)
    }

    /// The process id of moto.
    pub fn moto_id(&self) -> u32 {
        self.moto.id()
    }

    /// The ends of all daemons' logs, for a failure's report.
    pub fn log_tails(&self, lines: usize) -> String {
        let mut tails = String::new();
        for daemon in self.daemons.values() {
            let _ = writeln!(tails, "{}", daemon.process.log_tail(lines));
        }
        tails
    }

    /// Every host with its private and public address.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    fn daemon_mut(&mut self, name: &str) -> Result<&mut Daemon> {
        self.daemons
            .get_mut(name)
            .with_context(|| format!("no daemon on {name}"))
    }

    fn take(&mut self, name: &str) -> Result<Daemon> {
        self.daemons
            .remove(name)
            .with_context(|| format!("no daemon on {name}"))
    }

    fn vpc(&self, name: &str) -> Result<&RunningVpc> {
        self.vpcs
            .get(name)
            .with_context(|| format!("no VPC {name}"))
    }
}
