//! The instance as a router: its data plane and its host's routes, rules and
//! settings, brought to what they should be and kept there.
//!
//! It remembers what is wanted, compares it with what is, and applies the
//! difference, also when nothing was asked: what somebody changes by hand is
//! put right at the next look. A step that fails is told and tried again; it
//! keeps no other from being made.

mod denied;
mod esp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use privnet_dataplane::{Device, DeviceConfig, UapiAccess};
use privnet_host::{Host, HostError, MacAddress, Scope};
use privnet_ipsec::{Keeper, Wanted};
use privnet_model::admin::{Action, Change};
use privnet_model::config::spoke::NatConfig;
use privnet_model::inventory::{Identity, Transport};
use privnet_model::ipsec::{ConnectionName, IkeFailure};
use privnet_model::key::{PrivateKey, PublicKey};
use privnet_model::net::Supernet;
use privnet_model::offload::{OffloadState, Offloads};
use privnet_model::peer::{PeerConfig, PeerStatus};
use privnet_model::policy::PolicyTable;
use privnet_model::status::{
    CharonStatus, EspStatus, FlowtableState, InterfaceStatus, NatStatus, Reason, Tunnel,
    TunnelState,
};
use privnet_reconcile::conntrack::{CountClock, Destinations, Trouble, Watch};
use privnet_reconcile::denials::Denials;
use privnet_reconcile::fleet::PlannedTunnel;
use privnet_reconcile::gateway::{self, GatewayInput, TunnelInput};
use privnet_reconcile::host::{HostChange, HostPlan};
use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::ipsec::ledger::Report;
use privnet_reconcile::kernel::Kernel;
use privnet_reconcile::observe::{self, Link, RateMeter};
use privnet_reconcile::peer;
use privnet_reconcile::ruleset::Ruleset;
use privnet_reconcile::xfrm::XfrmInterface;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use self::denied::Reading;
use self::esp::{EspSide, keep_others};

/// How long one look at the host and its changes may take. Well below the
/// service manager's watchdog: a host that hangs must not cost the tunnels.
const HOST_PATIENCE: Duration = Duration::from_secs(12);

/// After this many reconciliations the kernel's answer that it has no flowtables
/// is believed.
const FLOWTABLE_TRIES: u8 = 4;

/// How the tunnel interface is opened.
#[derive(Debug)]
pub struct TunnelInterface {
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: u16,
    /// The UDP port.
    pub listen_port: u16,
    /// The private key.
    pub private_key: PrivateKey,
    /// Worker threads; `None` is the default.
    pub workers: Option<NonZeroUsize>,
    /// The offloads to use, where the kernel has them.
    pub offloads: Offloads,
    /// Whether packets go from peer to peer without the kernel.
    pub relay: bool,
    /// Its addresses, beside the instance's own.
    pub addresses: Vec<IpAddr>,
}

/// What the router should be like.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// The peers.
    pub peers: BTreeMap<PublicKey, PeerConfig>,
    /// What is routed into the tunnel interface.
    pub destinations: Vec<IpNet>,
    /// The tunnels by IPsec.
    pub ipsec: Wanted,
    /// What lies behind tunnels by IPsec, also while they cannot be set up: it ends here
    /// while none leads there.
    pub behind_ipsec: BTreeSet<IpNet>,
}

/// The router.
pub struct Router {
    privnet: Supernet,
    identity: Identity,
    uplink: InterfaceName,
    gateway: Option<IpAddr>,
    host: Host,
    nat: Option<NatConfig>,
    self_test: bool,
    tunnel: Option<OpenTunnel>,
    keeper: Keeper,
    /// Who does ESP, as strongSwan said last.
    esp: Option<EspStatus>,
    /// Whose ESP the host is ready for since the last look that worked.
    ready: Option<EspStatus>,
    /// The XFRM interfaces that were there then.
    interfaces: BTreeSet<NonZeroU32>,
    /// Whether the nftables rules were in place as wanted at the last look.
    ruled: bool,
    policy: PolicyTable,
    denials: Denials,
    reading: Option<Reading>,
    /// Why what nftables denied could not be read the last time.
    uncounted: Option<String>,
    applied_endpoints: BTreeMap<PublicKey, SocketAddr>,
    desired: Desired,
    nat_active: bool,
    kernel: Kernel,
    /// How often the kernel may still be asked for flowtables: a machine that
    /// boots is slow to load what it needs for the answer.
    flowtable_tries: u8,
    connections: Watch,
    count_clock: CountClock,
    counting: Option<(Instant, JoinHandle<Result<Destinations, HostError>>)>,
    connection_troubles: Vec<(Trouble, String)>,
    problems: Vec<String>,
    metadata_problem: Option<String>,
    meter: RateMeter<PublicKey>,
    ipsec_meter: RateMeter<ConnectionName>,
    states: BTreeMap<String, TunnelState>,
}

struct OpenTunnel {
    name: InterfaceName,
    mtu: u16,
    addresses: Vec<IpAddr>,
    public_key: PublicKey,
    device: Arc<Device>,
}

impl Router {
    /// Opens the tunnel interface, if there is to be one, and finds the
    /// interface towards the VPC. Changes nothing else yet.
    pub async fn open(
        privnet: Supernet,
        identity: Identity,
        nat: Option<NatConfig>,
        tunnel: Option<TunnelInterface>,
        charon: &Path,
    ) -> Result<Self> {
        let host = Host::new();
        let uplink = match nat.as_ref().and_then(|nat| nat.interface.as_ref()) {
            Some(name) => host.interface(&InterfaceName::new(name)?).await?,
            None => {
                let mac: MacAddress = identity.mac.parse()?;
                host.primary_interface(mac).await?
            }
        };
        let kernel = host.kernel(&uplink.name).await?;
        let local = identity.vpc_cidrs.iter().copied().collect();
        let tunnel = tunnel
            .map(|tunnel| OpenTunnel::open(tunnel, local))
            .transpose()?;
        Ok(Self {
            privnet,
            identity,
            uplink: uplink.name,
            gateway: None,
            host,
            nat,
            self_test: false,
            tunnel,
            keeper: Keeper::start(charon.to_owned()),
            esp: None,
            ready: None,
            interfaces: BTreeSet::new(),
            ruled: false,
            policy: PolicyTable::default(),
            denials: Denials::default(),
            reading: None,
            uncounted: None,
            applied_endpoints: BTreeMap::new(),
            desired: Desired::default(),
            nat_active: false,
            kernel,
            flowtable_tries: FLOWTABLE_TRIES,
            connections: Watch::default(),
            count_clock: CountClock::default(),
            counting: None,
            connection_troubles: Vec::new(),
            problems: Vec::new(),
            metadata_problem: None,
            meter: RateMeter::default(),
            ipsec_meter: RateMeter::default(),
            states: BTreeMap::new(),
        })
    }

    /// Sets what is wanted from now on; [`Router::reconcile`] brings it about.
    pub fn want(&mut self, desired: Desired) {
        self.desired = desired;
    }

    /// Who and where the instance is, as last told.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes note of what the metadata service says now: VPCs gain CIDRs.
    pub fn set_identity(&mut self, identity: Identity) {
        let own = &self.identity;
        if (&identity.instance, &identity.account) != (&own.instance, &own.account) {
            return self.metadata_failed(&format!(
                "it says that this is {} of {}, and said {} of {} before",
                identity.instance, identity.account, own.instance, own.account
            ));
        }
        if identity.vpc_cidrs != own.vpc_cidrs
            && let Some(tunnel) = &self.tunnel
        {
            let local = identity.vpc_cidrs.iter().copied().collect();
            if let Err(error) = tunnel.device.set_local(local) {
                return self.metadata_failed(&format!("the data plane: {error}"));
            }
        }
        self.identity = identity;
        self.metadata_problem = None;
    }

    /// Takes note that the metadata service cannot be used; what it said before
    /// stays in force.
    pub fn metadata_failed(&mut self, problem: &str) {
        let problem = format!("instance metadata cannot be used: {problem}");
        if self.metadata_problem.as_ref() != Some(&problem) {
            warn!(problem, "using what it said before");
            self.metadata_problem = Some(problem);
        }
    }

    /// Who may talk to whom through the tunnels.
    pub fn policy(&self) -> &PolicyTable {
        &self.policy
    }

    /// Changes that; `rules` are the rules of it in words, by number.
    ///
    /// # Errors
    /// The data plane is gone. What was set before stays.
    pub fn set_policy(&mut self, table: &PolicyTable, rules: &[String]) -> Result<()> {
        if self.policy == *table {
            self.denials.reworded(rules);
            return Ok(());
        }
        let by_data_plane = self.denied_by_data_plane();
        if let Some(tunnel) = &self.tunnel {
            let set = tunnel.device.set_policy(table.clone());
            set.context("setting the policy")?;
        }
        self.denials.renewed(rules, &by_data_plane);
        self.policy = table.clone();
        Ok(())
    }

    /// Another private key of our own. Sessions live on until new ones have taken
    /// their place.
    ///
    /// # Errors
    /// The data plane is gone, or there is none.
    pub fn set_private_key(&mut self, key: PrivateKey) -> Result<()> {
        let tunnel = self.tunnel.as_mut().context("there is no tunnel")?;
        let public_key = key.public();
        tunnel
            .device
            .set_private_key(Some(key))
            .context("changing the private key")?;
        tunnel.public_key = public_key;
        Ok(())
    }

    /// Another private network, or another way to do NAT.
    pub fn set_config(&mut self, privnet: Supernet, nat: Option<NatConfig>) {
        self.privnet = privnet;
        self.nat = nat;
    }

    /// Whether there is a self-test ([`crate::self_test`]), which needs a way back and
    /// NAT like a host behind this one. [`Router::reconcile`] brings it about.
    pub fn set_self_test(&mut self, on: bool) {
        self.self_test = on;
    }

    /// Brings peers and host to what they should be. Tells what it changed on
    /// the host; what failed is among the [`Router::problems`] until it works.
    pub async fn reconcile(&mut self) -> (Vec<Change>, Vec<String>) {
        let mut failures = Vec::new();
        if let Err(error) = self.apply_peers().await {
            failures.push(format!("{error:#}"));
        }
        let changes = match timeout(HOST_PATIENCE, self.reconcile_host(&mut failures)).await {
            Ok(changes) => changes,
            Err(_) => {
                failures.push(format!("the host did not answer within {HOST_PATIENCE:?}"));
                Vec::new()
            }
        };
        self.want_ipsec();
        // Only now: no rule waits for a kernel that is slow to say what it has.
        self.ask_for_flowtables().await;
        failures.extend(gateway::problems(&self.input(&[], None)));
        for failure in &failures {
            if !self.problems.contains(failure) {
                warn!(problem = %failure, "not as it should be; trying again");
            }
        }
        self.problems.clone_from(&failures);
        (changes, failures)
    }

    /// Behind the rules and routes that keep what they carry where it belongs; and not
    /// while the policy between them is not in force.
    fn want_ipsec(&self) {
        if self.policy.is_empty() || self.ruled {
            self.keeper.want(Wanted {
                interfaces: self.interfaces.clone(),
                esp: self.ready,
                ..self.desired.ipsec.clone()
            });
        }
    }

    async fn reconcile_host(&mut self, failures: &mut Vec<String>) -> Vec<Change> {
        self.ruled = false;
        let HostPlanned {
            plan,
            unseen,
            esp,
            existing,
            mut interfaces,
        } = match self.plan_host().await {
            Ok(planned) => planned,
            Err(error) => {
                failures.push(format!("{error:#}"));
                return Vec::new();
            }
        };
        // Rules that could not be read are as they were.
        let mut nat_failed = unseen.is_some() && !self.nat_active;
        let read = unseen.is_none();
        failures.extend(unseen);
        if read {
            self.count_denied_now().await;
        }
        let (changes, mut failed) = self.apply(&plan).await;
        let loads = |change: &HostChange| matches!(change, HostChange::LoadRuleset(_));
        self.ruled = read && !failed.iter().any(|(change, _)| loads(change));
        if self.ruled {
            if plan.changes().iter().any(loads) {
                self.denials.loaded();
            }
            self.denials.are_in_force();
        }
        let made = |change: &HostChange| match change {
            HostChange::SetInterface(interface) => Some(interface.if_id),
            _ => None,
        };
        let unmade: BTreeSet<NonZeroU32> = failed.iter().filter_map(|(it, _)| made(it)).collect();
        interfaces.retain(|if_id| existing.contains(if_id) || !unmade.contains(if_id));
        self.interfaces = interfaces;
        self.ready = esp;
        // One cause is told once, and not with each setting and route that needs it.
        let names: Vec<String> = unmade
            .into_iter()
            .map(|if_id| XfrmInterface::name(if_id).to_string())
            .collect();
        let follows = |change: &HostChange| {
            let words = change.to_string();
            made(change).is_none() && names.iter().any(|name| words.contains(name))
        };
        failed.retain(|(change, _)| !follows(change));
        nat_failed |= failed.iter().any(|(change, _)| carries_nat(change));
        let problems: BTreeSet<String> = failed.into_iter().map(|(_, problem)| problem).collect();
        failures.extend(problems);
        self.nat_active = self.nat.as_ref().is_some_and(|nat| !nat.is_off()) && !nat_failed;
        changes
    }

    /// Makes the changes. Rules that the kernel does not take with the short cut
    /// are loaded without: better slow than none.
    async fn apply(&mut self, plan: &HostPlan) -> (Vec<Change>, Vec<(HostChange, String)>) {
        let mut changes = Vec::new();
        let mut failed = Vec::new();
        for (change, result) in self.host.apply(plan).await {
            let result = match (result, without_short_cut(&change)) {
                (Err(error), Some(plain)) => self.apply_plain(plain, error).await,
                (result, _) => result,
            };
            match result {
                Ok(()) => {
                    info!(%change, "host changed");
                    changes.push(told(&change));
                }
                Err(error @ HostError::NoXfrmInterfaces) => {
                    failed.push((change, error.to_string()));
                }
                Err(error) => {
                    let problem = format!("{change}: {:#}", anyhow!(error));
                    failed.push((change, problem));
                }
            }
        }
        (changes, failed)
    }

    async fn apply_plain(&mut self, plain: Ruleset, error: HostError) -> Result<(), HostError> {
        let plan = HostPlan::of(HostChange::LoadRuleset(Box::new(plain)));
        let results = self.host.apply(&plan).await;
        if let Some((_, Err(error))) = results.into_iter().next() {
            return Err(error);
        }
        let error = format!("{:#}", anyhow!(error));
        warn!(error, "NAT goes without the kernel's short cut");
        self.kernel.flowtable = Err(error);
        self.flowtable_tries = 0;
        Ok(())
    }

    /// What [`Router::reconcile`] would change on the host if `desired` were wanted.
    pub async fn preview(&mut self, desired: Desired) -> Result<Vec<Change>> {
        let wanted = std::mem::replace(&mut self.desired, desired);
        let plan = self.plan_host().await;
        self.desired = wanted;
        Ok(plan?.plan.changes().iter().map(told).collect())
    }

    async fn plan_host(&mut self) -> Result<HostPlanned> {
        // A default route that is missing for a moment (DHCP renews it) says
        // nothing about the VPC's router.
        if let Some(found) = self.host.default_gateway(&self.uplink).await? {
            self.gateway = Some(found);
        }
        let peers = self.desired.peers.values();
        let endpoints: Vec<IpAddr> = peers.filter_map(|it| Some(it.endpoint?.ip())).collect();
        self.esp = self.esp();
        let esp = EspSide::of(&self.desired, &self.host, self.esp).await?;
        let mut desired = gateway::desired(self.input(&endpoints, esp.as_ref()));
        let mut scope = Scope::of(&desired);
        let mut unseen = None;
        let actual = match self.host.fetch(&scope).await {
            Ok(actual) => actual,
            // Perhaps it is the rules that cannot be read; the routes do not
            // wait for them.
            Err(error) => {
                scope.without_ruleset = true;
                desired.ruleset = None;
                unseen = Some(format!("{:#}", anyhow!(error)));
                self.host.fetch(&scope).await?
            }
        };
        keep_others(&mut desired, &actual, &self.desired.ipsec);
        Ok(HostPlanned {
            plan: HostPlan::new(&desired, &actual),
            unseen,
            esp: esp.map_or(self.esp, |esp| Some(esp.status())),
            existing: actual.xfrm.iter().map(|it| it.if_id).collect(),
            interfaces: desired.xfrm.iter().map(|it| it.if_id).collect(),
        })
    }

    async fn ask_for_flowtables(&mut self) {
        let wanted = self
            .nat
            .as_ref()
            .is_some_and(|nat| nat.flowtable && !nat.is_off());
        if wanted && self.kernel.flowtable.is_err() && self.flowtable_tries > 0 {
            self.flowtable_tries -= 1;
            self.kernel.flowtable = self.host.flowtable(&self.uplink).await;
        }
    }

    /// What the host's configuration follows from.
    fn input<'a>(&'a self, endpoints: &'a [IpAddr], esp: Option<&'a EspSide>) -> GatewayInput<'a> {
        GatewayInput {
            privnet: &self.privnet,
            identity: &self.identity,
            uplink: &self.uplink,
            router: self.gateway,
            tunnel: self.tunnel.as_ref().map(|tunnel| TunnelInput {
                interface: &tunnel.name,
                mtu: tunnel.mtu,
                addresses: &tunnel.addresses,
                destinations: &self.desired.destinations,
                endpoints,
            }),
            ipsec: esp.map(|esp| esp.input(&self.policy)),
            nat: self.nat.as_ref(),
            kernel: &self.kernel,
            self_test: self.self_test,
        }
    }

    /// Brings the tunnels alone to what they should be: a failover does not wait for
    /// the host, whose routes stay the same.
    ///
    /// # Errors
    /// They could not be changed; the next [`Router::reconcile`] tries again.
    pub async fn apply_tunnels(&mut self) -> Result<()> {
        self.want_ipsec();
        self.apply_peers().await
    }

    async fn apply_peers(&mut self) -> Result<()> {
        let Some(tunnel) = &self.tunnel else {
            return Ok(());
        };
        let plan = peer::plan(
            &self.desired.peers,
            &self.applied_endpoints,
            &tunnel.device.peers(),
        );
        if plan.is_empty() {
            return Ok(());
        }
        // A new peer costs some key arithmetic, 0.1 ms: a second for 10,000.
        let device = Arc::clone(&tunnel.device);
        tokio::task::spawn_blocking(move || device.apply(&plan))
            .await
            .context("changing peers")?
            .context("changing peers")?;
        self.applied_endpoints = self
            .desired
            .peers
            .iter()
            .filter_map(|(key, peer)| Some((*key, peer.endpoint?)))
            .collect();
        Ok(())
    }

    /// What failed at the last look, and did not work since.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let troubles = self.connection_troubles.iter().map(|(_, words)| words);
        let seen = self.keeper.seen();
        let lost = seen
            .charon
            .problem
            .filter(|_| !self.desired.ipsec.tunnels.is_empty());
        let lost = lost.map(|problem| format!("IPsec tunnels wait for strongSwan: {problem}"));
        let own = self.problems.iter().chain(&self.metadata_problem);
        let own = own.chain(&self.uncounted).chain(troubles).cloned();
        own.chain(lost).chain(seen.problems)
    }

    /// Looks at the kernel's connection table, where NAT needs one, and logs
    /// what goes wrong with it since the last look.
    pub async fn watch_connections(&mut self) {
        if !self.nat_active {
            self.connections = Watch::default();
            self.connection_troubles.clear();
            return;
        }
        self.count_destinations().await;
        let now = Instant::now();
        match self.host.connections().await {
            Ok(connections) => self.connections.sample(now, connections),
            // A kernel may do NAT and not count: nothing is known then.
            Err(error) => debug!("{:#}", anyhow!(error)),
        }
        let before = std::mem::take(&mut self.connection_troubles);
        for trouble in self.connections.troubles(now) {
            let words = trouble.to_string();
            if !before.iter().any(|(known, _)| known.is_like(&trouble)) {
                warn!(problem = words, "connections are lost, or will be");
            }
            self.connection_troubles.push((trouble, words));
        }
    }

    /// Has connections counted by destination now and then, and waits for nothing.
    async fn count_destinations(&mut self) {
        let now = Instant::now();
        match self.counting.take() {
            Some((began, counting)) if counting.is_finished() => {
                self.count_clock.done(now - began, now);
                let busiest = match counting.await {
                    Ok(Ok(counted)) => counted.busiest(),
                    // Nothing is known then: what was counted before may be long over.
                    Ok(Err(error)) => {
                        debug!("{:#}", anyhow!(error));
                        Vec::new()
                    }
                    Err(error) => {
                        debug!("counting connections broke off: {error}");
                        Vec::new()
                    }
                };
                self.connections.counted(busiest);
            }
            Some(counting) => self.counting = Some(counting),
            None if self.count_clock.is_due(now) => {
                let host = self.host;
                let none = self.nat.as_ref().map(Destinations::of).unwrap_or_default();
                let counting = tokio::spawn(async move { host.destinations(none).await });
                self.counting = Some((now, counting));
            }
            None => {}
        }
    }

    /// The peers as the data plane knows them.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let device = self.tunnel.as_ref().map(|tunnel| &tunnel.device);
        device.map(|device| device.peers()).unwrap_or_default()
    }

    /// The IPsec tunnels that can carry packets now.
    pub fn connected(&self) -> BTreeSet<ConnectionName> {
        let tunnels = self.keeper.seen().tunnels.into_iter();
        let up = tunnels.filter(|(_, report)| report.state == TunnelState::Up);
        let standing_by = &self.desired.ipsec.standing_by;
        up.map(|(name, _)| name)
            .filter(|name| !standing_by.contains(name))
            .collect()
    }

    /// How many bytes came out of each IPsec tunnel that can carry packets, and since when its
    /// newest keys are in use.
    pub fn received_by_ipsec(&self) -> BTreeMap<ConnectionName, (u64, Option<SystemTime>)> {
        let connected = self.connected();
        let tunnels = self.keeper.seen().tunnels.into_iter();
        tunnels
            .filter(|(name, _)| connected.contains(name))
            .map(|(name, report)| (name, (report.rx_bytes, report.last_handshake)))
            .collect()
    }

    /// How the IPsec tunnels are that stand by: `StandsByReady` where the peer lets us in.
    pub fn standing_by(&self) -> BTreeMap<ConnectionName, Reason> {
        let seen = self.keeper.seen();
        let standing_by = self.desired.ipsec.standing_by.iter();
        let reason = |name| match seen.ready.contains(name) {
            true => Reason::StandsByReady,
            false => {
                let report = seen.tunnels.get(name);
                let reason = report.and_then(|report| report.reason.clone());
                reason.unwrap_or(Reason::StandsBy)
            }
        };
        standing_by
            .map(|name| (name.clone(), reason(name)))
            .collect()
    }

    /// Who does ESP, as strongSwan said last.
    pub fn esp(&self) -> Option<EspStatus> {
        self.keeper.seen().charon.esp.or(self.esp)
    }

    /// Whether strongSwan has told how its tunnels are, or could not be asked: before that
    /// nothing is known.
    pub fn knows_connected(&self) -> bool {
        self.keeper.seen().is_known()
    }

    /// Done when an IPsec tunnel is in another state than at the last call, or
    /// strongSwan is. Cancel-safe.
    pub async fn ipsec_changed(&mut self) {
        self.keeper.changed().await;
    }

    /// Makes the host ready where somebody else does ESP than at the last look.
    pub async fn follow_charon(&mut self) {
        let said = self.keeper.seen().charon.esp;
        if said.is_some() && said != self.esp {
            self.reconcile().await;
        }
    }

    /// strongSwan, for the operator; `None` where nothing needs it.
    pub fn charon_status(&self) -> Option<CharonStatus> {
        (!self.desired.ipsec.tunnels.is_empty()).then(|| self.keeper.seen().charon)
    }

    /// Keys that knocked since this was asked last, and are no peer of ours.
    pub fn knocks(&self) -> BTreeSet<PublicKey> {
        let device = self.tunnel.as_ref().map(|tunnel| &tunnel.device);
        device
            .map(|device| device.take_unknown_keys())
            .unwrap_or_default()
    }

    /// Why strongSwan refused peers that no tunnel is with, since this was asked last.
    pub fn strangers(&mut self) -> Vec<IkeFailure> {
        self.keeper.strangers()
    }

    /// Looks at the tunnels: takes a sample for the rates, and logs what
    /// changed its state since the last look.
    ///
    /// # Errors
    /// The interface is gone: somebody deleted it. There is nothing to go on with.
    pub fn observe<'a>(
        &mut self,
        planned: impl IntoIterator<Item = &'a PlannedTunnel>,
    ) -> Result<Vec<Tunnel>> {
        if let Some(tunnel) = &self.tunnel
            && tunnel.device.is_closed()
        {
            return Err(anyhow!("the interface {} was deleted", tunnel.name));
        }
        let peers = self.peers().into_iter();
        let bytes = peers.map(|peer| (peer.key, peer.rx_bytes, peer.tx_bytes));
        self.meter.sample(bytes, SystemTime::now());
        let by_ipsec = self.keeper.seen().tunnels.into_iter();
        let bytes = by_ipsec.map(|(name, it)| (name, it.rx_bytes, it.tx_bytes));
        self.ipsec_meter.sample(bytes, SystemTime::now());
        let before = std::mem::take(&mut self.states);
        let tunnels = self.tunnels(planned);
        for tunnel in &tunnels {
            // Names and keys may repeat (and are then the reason shown);
            // instances, and the names of sites, do not.
            let id = match &tunnel.instance {
                Some(instance) => instance.to_string(),
                None => tunnel.name.clone(),
            };
            if before.get(&id) != Some(&tunnel.state) {
                info!(
                    tunnel = tunnel.name,
                    vpc = tunnel.vpc.as_ref().map(tracing::field::display),
                    region = tunnel.region.as_ref().map(tracing::field::display),
                    endpoint = tunnel.endpoint.map(tracing::field::display),
                    reason = tunnel.reason.as_ref().map(tracing::field::display),
                    "tunnel is {}",
                    tunnel.state
                );
            }
            self.states.insert(id, tunnel.state);
        }
        Ok(tunnels)
    }

    /// The tunnels as they are now.
    pub fn tunnels<'a>(&self, planned: impl IntoIterator<Item = &'a PlannedTunnel>) -> Vec<Tunnel> {
        let peers = self.peers();
        let peers: BTreeMap<&PublicKey, &PeerStatus> =
            peers.iter().map(|peer| (&peer.key, peer)).collect();
        let seen = self.keeper.seen();
        let unknown = Report::unknown();
        let now = SystemTime::now();
        planned
            .into_iter()
            .map(|planned| {
                if planned.transport == Transport::Ipsec {
                    let name = planned.ipsec.as_ref().map(|ipsec| &ipsec.tunnel.name);
                    let report = name.and_then(|name| seen.tunnels.get(name));
                    let link = Link::Ipsec(report.unwrap_or(&unknown));
                    return observe::tunnel(planned, link, self.ipsec_meter.rates(name), now);
                }
                let key = planned.public_key.as_ref();
                // A rejected tunnel may have the key of another's peer.
                let own = planned.has_peer().then_some(key).flatten();
                let peer = own.and_then(|key| peers.get(key).copied());
                observe::tunnel(planned, Link::Wireguard(peer), self.meter.rates(own), now)
            })
            .collect()
    }

    /// The tunnel interface, for the operator.
    pub fn interface_status(&self) -> Option<InterfaceStatus> {
        let tunnel = self.tunnel.as_ref()?;
        let counted = tunnel.device.counters();
        let named = |drops: bool| {
            let counters = counted.iter();
            let chosen = counters.filter(|(counter, _)| counter.is_drop() == drops);
            chosen
                .map(|(counter, count)| (counter.name().to_owned(), count))
                .collect()
        };
        Some(InterfaceStatus {
            name: tunnel.name.to_string(),
            public_key: tunnel.public_key,
            listen_port: tunnel.device.listen_port(),
            mtu: tunnel.mtu.into(),
            offloads: tunnel.device.offloads(),
            counters: named(false),
            drops: named(true),
        })
    }

    /// NAT, for the operator; `None` where none is wanted.
    pub fn nat_status(&self) -> Option<NatStatus> {
        let nat = self.nat.as_ref().filter(|nat| !nat.is_off())?;
        let sources = match nat.sources.as_slice() {
            [] => &self.identity.vpc_cidrs,
            sources => sources,
        };
        let masqueraded = sources
            .iter()
            .filter(|net| nat.egress && net.addr().is_ipv4());
        let flowtable = match &self.kernel.flowtable {
            _ if !nat.flowtable => FlowtableState::Configured,
            Ok(()) => FlowtableState::On,
            Err(error) => FlowtableState::Unsupported {
                error: error.clone(),
            },
        };
        Some(NatStatus {
            active: self.nat_active,
            interface: self.uplink.to_string(),
            sources: masqueraded.copied().collect(),
            forwards: nat.forwards.iter().map(ToString::to_string).collect(),
            redirects: nat.redirects.iter().map(ToString::to_string).collect(),
            flowtable,
            connections: self.connections.last(),
            destinations: self.connections.busiest().to_vec(),
        })
    }

    /// Takes the tunnel interface down. NAT rules and the other routes stay:
    /// egress goes on without the daemon.
    pub fn close(self) {
        if let Some(tunnel) = self.tunnel {
            tunnel.device.close();
        }
    }
}

impl OpenTunnel {
    fn open(tunnel: TunnelInterface, local: BTreeSet<IpNet>) -> Result<Self> {
        let public_key = tunnel.private_key.public();
        let device = Device::open(DeviceConfig {
            name: tunnel.name.clone(),
            mtu: tunnel.mtu,
            private_key: Some(tunnel.private_key),
            listen_port: tunnel.listen_port,
            fwmark: None,
            workers: tunnel.workers.unwrap_or_else(default_workers),
            relay: tunnel.relay,
            offloads: tunnel.offloads,
            local,
            uapi: Some(UapiAccess::ReadOnly),
        })?;
        for (offload, state) in device.offloads() {
            if let OffloadState::Off(why) = state {
                info!(%offload, %why, "an offload is not used");
            }
        }
        Ok(Self {
            name: InterfaceName::new(&tunnel.name)?,
            mtu: tunnel.mtu,
            addresses: tunnel.addresses,
            public_key,
            device: Arc::new(device),
        })
    }
}

/// What is to be done on the host.
struct HostPlanned {
    plan: HostPlan,
    /// Why the rules could not be read, if they could not.
    unseen: Option<String>,
    /// Whose ESP the host is ready for afterwards.
    esp: Option<EspStatus>,
    /// The XFRM interfaces that there are, if not as they should be.
    existing: BTreeSet<NonZeroU32>,
    /// Those that there will be.
    interfaces: BTreeSet<NonZeroU32>,
}

/// One worker per core, less one where that leaves at least two: on two cores
/// one thread carries more than two that wake each other.
fn default_workers() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores.saturating_sub(1)).unwrap_or(NonZeroUsize::MIN)
}

/// Whether NAT does nothing where this change is missing.
fn carries_nat(change: &HostChange) -> bool {
    match change {
        HostChange::LoadRuleset(_) => true,
        HostChange::SetSysctl { key, .. } => key.as_str() == "net/ipv4/ip_forward",
        HostChange::SetInterface(_)
        | HostChange::RemoveInterface(_)
        | HostChange::AddAddress { .. }
        | HostChange::AddRoute(_)
        | HostChange::ReplaceRoute { .. }
        | HostChange::RemoveRoute(_)
        | HostChange::RemoveAddress { .. }
        | HostChange::RemoveRuleset => false,
    }
}

/// The rules of this change without the short cut, if it loads rules with it.
fn without_short_cut(change: &HostChange) -> Option<Ruleset> {
    match change {
        HostChange::LoadRuleset(rules) if rules.flowtable.is_some() => Some(Ruleset {
            flowtable: None,
            ..Ruleset::clone(rules)
        }),
        HostChange::LoadRuleset(_)
        | HostChange::SetInterface(_)
        | HostChange::RemoveInterface(_)
        | HostChange::SetSysctl { .. }
        | HostChange::AddAddress { .. }
        | HostChange::AddRoute(_)
        | HostChange::ReplaceRoute { .. }
        | HostChange::RemoveRoute(_)
        | HostChange::RemoveAddress { .. }
        | HostChange::RemoveRuleset => None,
    }
}

fn told(change: &HostChange) -> Change {
    let action = match change {
        HostChange::SetInterface(_) | HostChange::AddAddress { .. } | HostChange::AddRoute(_) => {
            Action::Add
        }
        HostChange::LoadRuleset(_)
        | HostChange::SetSysctl { .. }
        | HostChange::ReplaceRoute { .. } => Action::Change,
        HostChange::RemoveRoute(_)
        | HostChange::RemoveAddress { .. }
        | HostChange::RemoveInterface(_)
        | HostChange::RemoveRuleset => Action::Remove,
    };
    Change {
        action,
        what: "host".to_owned(),
        why: change.to_string(),
    }
}
