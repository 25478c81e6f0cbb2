//! The hub: its state, and the loop that owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::Timestamp;
use privnet_ec2::{Discovery, Imds, ParameterStore, ProofCourier, SdkContext};
use privnet_model::admin::{Change, PolledPartition, RefreshReport, RefreshRequest};
use privnet_model::config::ConfigErrors;
use privnet_model::config::hub::{HubConfig, SiteConfig};
use privnet_model::enrol::{HUB, HUB_ADDRESS};
use privnet_model::inventory::{Identity, Inventory, Partition};
use privnet_model::key::PublicKey;
use privnet_model::status::{Role, Status};
use privnet_reconcile::explain;
use privnet_reconcile::fleet::{Carried, Fleet, FleetInput, Site};
use privnet_reconcile::health::HealthChange;
use privnet_reconcile::inventory::{Removed, Sweep, keep_configured};
use privnet_reconcile::memory::Memory;
use privnet_reconcile::{alive, pin};
use privnet_runtime::command::{ConfigFile, Daemon};
use privnet_runtime::events::{Answer, Event, Events};
use privnet_runtime::fleet_secret::{Preshared, TunnelKeys};
use privnet_runtime::key_file;
use privnet_runtime::poll_clock::PollClock;
use privnet_runtime::probe::Prober;
use privnet_runtime::router::{Desired, Router, TunnelInterface};
use privnet_runtime::service;
use privnet_runtime::signals::Signal;
use privnet_runtime::tunnel_port::{Call, TunnelPort};
use tracing::{error, info, warn};

use crate::cache::{Cache, Cached};
use crate::enrolment::{Enrolment, Judged};
use crate::gateways::Gateways;
use crate::journal::{Journal, View, Watch};
use crate::poll::{Ended, Poll, Waiting, known};
use crate::restart::needs_restart;
use crate::strangers::Strangers;
use crate::tally::Tally;

/// At most one early poll in this time, however many unknown spokes knock.
const KNOCK_PAUSE: Duration = Duration::from_secs(10);

/// How long the hub waits for its own metadata service at its first start.
const METADATA_PATIENCE: Duration = Duration::from_secs(60);

/// The hub daemon.
pub struct Hub {
    config: HubConfig,
    file: ConfigFile,
    started: Timestamp,
    public_key: PublicKey,
    sdk: SdkContext,
    imds: Imds,
    discovery: Discovery,
    sites: Vec<Site>,
    inventory: Inventory,
    fleet: Fleet,
    router: Router,
    clock: PollClock,
    poll: Poll,
    tally: Tally,
    journal: Journal,
    watch: Watch,
    last_poll: Option<Instant>,
    strangers: Strangers,
    enrolment: Enrolment,
    preshared: Preshared,
    cache: Cache,
    cache_problem: Option<String>,
    /// Who carried what, as decided last.
    carried: Carried,
    /// The keys that were alive when the hub last ran.
    alive_before: BTreeSet<PublicKey>,
    /// The keys that were alive at the last decision.
    alive: BTreeSet<PublicKey>,
    gateways: Gateways,
    /// Where sites without an endpoint were heard before the restart.
    remembered: BTreeMap<PublicKey, SocketAddr>,
}

impl Daemon for Hub {
    type Config = HubConfig;
    const PROGRAM: &'static str = "privnet-hub";
    const ABOUT: &'static str = "The hub of the private network: finds its spokes through EC2, \
         keeps a tunnel to each and routes between them";
    const CONFIG: &'static str = "/etc/privnet/hub.toml";

    fn parse(file: &str, text: &str) -> Result<HubConfig, ConfigErrors> {
        HubConfig::parse(file, text)
    }

    fn private_key(config: &HubConfig) -> &Path {
        &config.private_key
    }

    fn log(config: &HubConfig) -> &str {
        &config.log
    }

    fn doors(config: &HubConfig) -> (&Path, Option<SocketAddr>) {
        (&config.admin_socket, config.metrics)
    }

    /// Brings everything up that needs no API: with a state cache all tunnels
    /// are there before the first poll. `None` when told to stop meanwhile.
    async fn start(
        config: HubConfig,
        file: ConfigFile,
        events: &mut Events,
    ) -> Result<Option<Self>> {
        let private_key = key_file::load_or_create(&config.private_key)?;
        let public_key = private_key.public();
        let sites = load_sites(&config.sites)?;
        let cache = Cache::at(&config.state);
        let cached = cache.load();
        let imds = Imds::from_env()?;
        let identity = tokio::select! {
            identity = who_am_i(&imds, cached.as_ref()) => identity?,
            () = events.stop() => return Ok(None),
        };
        info!(
            version = env!("CARGO_PKG_VERSION"),
            instance = %identity.instance,
            vpc = %identity.vpc,
            region = %identity.region,
            %public_key,
            "privnet-hub starts"
        );
        let sdk = SdkContext::load(&identity.region).await;
        let discovery = Discovery::new(&sdk, &identity, &config.discovery);
        let gateways = Gateways::new(Prober::new(&config.interface, None));
        let courier = ProofCourier::new(&sdk, &identity.region);
        let router = Router::open(
            config.privnet.clone(),
            identity,
            None,
            Some(TunnelInterface {
                name: config.interface.clone(),
                mtu: config.mtu,
                listen_port: config.listen_port,
                private_key,
                workers: config.workers,
                offloads: config.offloads,
                relay: true,
                addresses: vec![HUB_ADDRESS.into()],
            }),
        )
        .await?;
        events.take_calls(TunnelPort::bind(&config.interface, HUB.into())?);
        let memory = cached.as_ref().map(|cached| cached.memory.clone());
        let memory = memory.unwrap_or_default();
        let inventory = memory.inventory();
        let remembered = cached.map(|cached| cached.endpoints()).unwrap_or_default();
        let mut preshared = Preshared::default();
        let store = ParameterStore::from_env(&router.identity().region);
        preshared.configure(config.trust.preshared_key.as_ref(), store.reader());
        let mut hub = Self {
            clock: PollClock::new(config.discovery.interval),
            config,
            file,
            started: Timestamp::now(),
            public_key,
            sdk,
            imds,
            discovery,
            sites,
            inventory: Inventory::default(),
            fleet: Fleet::default(),
            router,
            poll: Poll::default(),
            tally: Tally::default(),
            journal: Journal::default(),
            watch: Watch::default(),
            last_poll: None,
            strangers: Strangers::default(),
            enrolment: Enrolment::new(courier),
            preshared,
            cache,
            cache_problem: None,
            carried: memory.carried,
            alive_before: memory.alive,
            alive: BTreeSet::new(),
            gateways,
            remembered,
        };
        hub.take_inventory(inventory, &[]);
        hub.reconcile().await;
        service::ready(&hub.summary());
        Ok(Some(hub))
    }

    async fn main_loop(&mut self, events: &mut Events) -> Result<()> {
        loop {
            self.poll
                .start(&self.discovery, &self.imds, &self.inventory);
            tokio::select! {
                ended = self.poll.ended() => self.polled(ended).await,
                changes = self.gateways.changed() => self.gateways_changed(&changes).await,
                () = self.clock.due() => {
                    self.clock.started();
                    self.poll.request();
                }
                judged = self.enrolment.judged() => self.judged(judged).await,
                () = self.preshared.changed() => {
                    self.take_inventory(self.inventory.clone(), &[]);
                    self.reconcile().await;
                }
                event = events.next() => match event {
                    Event::Signal(Signal::Stop) => {
                        info!("told to stop");
                        return Ok(());
                    }
                    Event::Signal(Signal::Reload) => self.reload().await,
                    Event::Status(answer) => {
                        let _ = answer.send(self.status());
                    }
                    Event::Refresh(request, answer) => self.poll.wait(request, answer),
                    Event::Journal(answer) => {
                        let _ = answer.send(Ok(self.journal.events()));
                    }
                    Event::Why(_, answer) => refuse(answer, NO_EXPLANATION),
                    Event::RotateKey(_, answer) => refuse(answer, NO_ROTATION),
                    Event::Observe => self.observe().await?,
                    Event::Reconcile => {
                        self.router.reconcile().await;
                    }
                    Event::Call(call) => self.called(call).await,
                },
            }
        }
    }

    fn close(mut self) {
        self.save();
        self.router.close();
    }
}

impl Hub {
    async fn observe(&mut self) -> Result<()> {
        let tunnels = self.router.observe(self.fleet.tunnels.values())?;
        let happened = self.watch.look(View {
            tunnels: &tunnels,
            partitions: &self.tally.status(&self.inventory),
            held_removals: self.inventory.held_removals,
        });
        let now = Timestamp::now();
        for (what, text) in happened {
            self.journal.record(now, &what, &text);
        }
        let alive = self.alive();
        if !pin::settle_all(&mut self.inventory, &alive).is_empty() || alive != self.alive {
            self.settle().await;
        }
        let rested = self
            .last_poll
            .is_none_or(|last| last.elapsed() >= KNOCK_PAUSE);
        if rested {
            // A spoke that is known and has no tunnel knocks for ever; asking
            // EC2 again does not help it.
            let known: BTreeSet<PublicKey> = self
                .fleet
                .tunnels
                .values()
                .filter_map(|tunnel| tunnel.public_key)
                .collect();
            let knocks = self.router.knocks();
            let news: Vec<PublicKey> = knocks
                .into_iter()
                .filter(|key| !known.contains(key) && self.strangers.may_ask_for(*key))
                .collect();
            if !news.is_empty() {
                info!(keys = ?news, "unknown spokes knock: asking EC2 early");
                self.last_poll = Some(Instant::now());
                self.poll.request();
            }
        }
        Ok(())
    }

    /// A spoke calls through its tunnel.
    async fn called(&mut self, call: Call) {
        let Self {
            enrolment,
            fleet,
            inventory,
            public_key,
            config,
            ..
        } = self;
        if enrolment.called(call, fleet, inventory, public_key, config.trust.proof) {
            self.take_up().await;
        }
    }

    /// STS has said who signed a spoke's proof.
    async fn judged(&mut self, judged: Judged) {
        if judged.note(&mut self.inventory) {
            self.take_up().await;
        }
    }

    /// Brings about what follows from something that a spoke said.
    async fn take_up(&mut self) {
        self.take_inventory(self.inventory.clone(), &[]);
        self.reconcile().await;
        self.save();
    }

    async fn polled(&mut self, ended: Ended) {
        self.last_poll = Some(Instant::now());
        let polled = match ended.result {
            Ok(polled) => polled,
            Err(problem) => {
                error!(%problem, "no answer from EC2; every tunnel stays");
                self.clock.failed();
                self.tally.broke_off(self.configured(&self.inventory));
                for waiting in ended.waiting {
                    let _ = waiting.answer.send(Err(problem.clone()));
                }
                return;
            }
        };
        self.tally.answered(&polled.answers);
        let failed = polled.answers.iter().any(|answer| answer.answer.is_err());
        // Who only asks what would be, accepts nothing for others.
        let accept_removals = ended.waiting.iter().any(|waiting| {
            waiting.request.accept_removals && (!ended.apply || !waiting.request.dry_run)
        });
        let absorbed = Sweep::begin(&self.inventory, accept_removals).absorb(
            self.inventory.clone(),
            polled.answers,
            &self.alive(),
            Timestamp::now(),
        );
        let removed = absorbed.removed;
        // The config may have changed while the poll was under way.
        let configured = self.configured(&absorbed.inventory);
        let (inventory, _) = keep_configured(absorbed.inventory, &configured);
        if !ended.apply {
            let next = self.decide(&inventory, self.router.identity());
            let changes = explain::changes(&self.fleet, &next, &removed);
            let host = self.router.preview(self.desired(&next)).await;
            let report = |host: &[Change]| RefreshReport {
                dry_run: true,
                partitions: partitions(&inventory),
                changes: changes.iter().chain(host).cloned().collect(),
                failures: Vec::new(),
                held_removals: inventory.held_removals,
            };
            match host {
                Ok(host) => answer(ended.waiting, &report(&host)),
                Err(error) => answer(
                    ended.waiting,
                    &RefreshReport {
                        failures: vec![format!("{error:#}")],
                        ..report(&[])
                    },
                ),
            }
            return;
        }
        match polled.identity {
            Ok(identity) => self.router.set_identity(identity),
            Err(error) => self.router.metadata_failed(&error),
        }
        for (partition, view) in &inventory.partitions {
            if let Some(error) = &view.error {
                warn!(%partition, %error, spokes = view.spokes.len(), "poll failed; its tunnels stay");
            }
        }
        // A VPC without CIDRs is one that EC2 does not describe yet.
        let undescribed = inventory
            .spokes()
            .any(|(_, spoke)| spoke.vpc.is_some() && spoke.cidrs.is_empty());
        if failed || undescribed {
            self.clock.failed();
        } else {
            self.clock.succeeded();
        }
        let tunnels = self.take_inventory(inventory, &removed);
        let (host, failures) = self.reconcile().await;
        self.save();
        // Who knocked before this answer was asked for or is now known.
        self.router.knocks();
        service::status(&self.summary());
        let report = RefreshReport {
            dry_run: false,
            partitions: partitions(&self.inventory),
            changes: tunnels.into_iter().chain(host).collect(),
            failures,
            held_removals: self.inventory.held_removals,
        };
        answer(ended.waiting, &report);
    }

    /// Decides anew, and tells and logs what that changes.
    fn take_inventory(&mut self, inventory: Inventory, removed: &[Removed]) -> Vec<Change> {
        let configured = self.configured(&inventory);
        let (inventory, dropped) = keep_configured(inventory, &configured);
        for partition in dropped {
            warn!(%partition, "no longer in the config: its tunnels go");
        }
        let fleet = self.decide(&inventory, self.router.identity());
        let changes = explain::changes(&self.fleet, &fleet, removed);
        for change in &changes {
            info!(action = %change.action, what = change.what, why = change.why, "plan");
        }
        self.journal.record_changes(Timestamp::now(), &changes);
        self.inventory = inventory;
        self.carried = fleet.carried();
        self.fleet = fleet;
        self.alive = self.alive();
        self.gateways.watch(&self.fleet);
        changes
    }

    fn configured(&self, inventory: &Inventory) -> BTreeSet<Partition> {
        self.discovery.partitions(&known(inventory))
    }

    fn decide(&self, inventory: &Inventory, identity: &Identity) -> Fleet {
        Fleet::decide(FleetInput {
            privnet: &self.config.privnet,
            hub_keys: &[self.public_key],
            hub_vpc: &identity.vpc,
            hub_cidrs: &identity.vpc_cidrs,
            sites: &self.sites,
            inventory,
            trust: &self.config.trust,
            carried: &self.carried,
            alive: &self.alive(),
            health: self.gateways.health(),
            preshared: &|spoke| match self.preshared.keys(spoke, &self.public_key) {
                TunnelKeys::Known(keys) => Some(keys.current),
                TunnelKeys::None | TunnelKeys::Unknown => None,
            },
        })
    }

    /// The keys whose tunnels carry traffic.
    fn alive(&self) -> BTreeSet<PublicKey> {
        let peers = self.router.peers();
        alive::keys(
            &peers,
            &self.alive_before,
            self.started.into(),
            SystemTime::now(),
        )
    }

    async fn gateways_changed(&mut self, changes: &[HealthChange]) {
        for HealthChange { tunnel, from, to } in changes {
            if let Some(tunnel) = self.fleet.tunnels.get(tunnel) {
                info!(tunnel = tunnel.name, %from, "gateway is {to}");
            }
        }
        self.settle().await;
    }

    /// Decides anew by who is alive and well now, and has the packets follow at
    /// once: a spoke whose key is silent gets the one it published, a site that is
    /// silent loses what another wants, a gateway takes over from another.
    async fn settle(&mut self) {
        let destinations: BTreeSet<IpNet> = self.fleet.cidrs().collect();
        let inventory = std::mem::take(&mut self.inventory);
        self.take_inventory(inventory, &[]);
        if self.fleet.cidrs().collect::<BTreeSet<_>>() != destinations {
            self.reconcile().await;
            return;
        }
        // Routes stay as they are, and a failover does not wait for a look at them.
        self.router.want(self.desired(&self.fleet));
        if let Err(error) = self.router.apply_peers().await {
            warn!("{error:#}; trying again with the next look at the host");
        }
    }

    fn desired(&self, fleet: &Fleet) -> Desired {
        let mut peers = fleet.peers();
        let is_site = |key: &PublicKey| {
            let mut sites = self.sites.iter();
            sites.any(|site| site.config.public_key == *key)
        };
        for (key, peer) in &mut peers {
            if peer.endpoint.is_none() {
                peer.endpoint = self.remembered.get(key).copied();
            }
        }
        // While the secret is not known, no tunnel is better than one without it.
        peers.retain(|key, peer| {
            let keys = match is_site(key) {
                true => TunnelKeys::None,
                false => self.preshared.keys(key, &self.public_key),
            };
            match keys {
                TunnelKeys::None => true,
                TunnelKeys::Unknown => false,
                TunnelKeys::Known(keys) => {
                    peer.also_preshared_key = keys.previous;
                    true
                }
            }
        });
        Desired {
            peers,
            destinations: fleet.cidrs().collect(),
        }
    }

    async fn reconcile(&mut self) -> (Vec<Change>, Vec<String>) {
        self.router.want(self.desired(&self.fleet));
        self.router.reconcile().await
    }

    async fn reload(&mut self) {
        service::reloading();
        match self.read_config() {
            Ok((config, sites)) => {
                for key in needs_restart(&self.config, &config) {
                    warn!(
                        key,
                        "changed in the config file; it takes effect at a restart"
                    );
                }
                self.discovery =
                    Discovery::new(&self.sdk, self.router.identity(), &config.discovery);
                self.clock = PollClock::new(config.discovery.interval);
                self.router.set_config(config.privnet.clone(), None);
                let store = ParameterStore::from_env(&self.router.identity().region);
                let secret = config.trust.preshared_key.as_ref();
                self.preshared.configure(secret, store.reader());
                self.config = HubConfig {
                    privnet: config.privnet,
                    discovery: config.discovery,
                    trust: config.trust,
                    policy: config.policy,
                    sites: config.sites,
                    ..self.config.clone()
                };
                self.sites = sites;
                self.take_inventory(self.inventory.clone(), &[]);
                self.reconcile().await;
                info!("config read again");
            }
            Err(error) => {
                error!("the config file is not taken, the one before stays in force: {error:#}");
                self.poll.request();
            }
        }
        service::ready(&self.summary());
    }

    fn read_config(&self) -> Result<(HubConfig, Vec<Site>)> {
        let config = self.file.read::<Self>()?;
        let sites = load_sites(&config.sites)?;
        Ok((config, sites))
    }

    fn save(&mut self) {
        let heard = self
            .router
            .peers()
            .into_iter()
            .filter_map(|peer| Some((peer.key, peer.config.endpoint?)));
        let memory = Memory::new(&self.inventory, &self.fleet, &self.alive());
        let cached = Cached::new(self.router.identity().clone(), memory, heard);
        let problem = tokio::task::block_in_place(|| self.cache.save(&cached)).err();
        if let Some(problem) = &problem
            && self.cache_problem.as_ref() != Some(problem)
        {
            warn!(problem, "a restart would need the EC2 API");
        }
        self.cache_problem = problem;
    }

    fn status(&self) -> Status {
        let mut tunnels = self.router.tunnels(self.fleet.tunnels.values());
        self.watch.count_failovers(&mut tunnels);
        Status {
            role: Role::Hub,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            now: Timestamp::now(),
            instance: Some(self.router.identity().instance.clone()),
            privnet: self.config.privnet.clone(),
            interface: self.router.interface_status(),
            nat: None,
            tunnels,
            partitions: self.tally.status(&self.inventory),
            next_poll: Some(self.clock.due_at()),
            held_removals: self.inventory.held_removals,
            policy: Vec::new(),
            problems: self
                .router
                .problems()
                .chain(&self.cache_problem)
                .chain(self.gateways.problem())
                .cloned()
                .chain(self.inventory.held_removals.map(|held| held.to_string()))
                .chain(self.preshared.problem())
                .collect(),
        }
    }

    fn summary(&self) -> String {
        let tunnels = self.fleet.peers().len();
        format!("{tunnels} tunnels configured")
    }
}

const NO_EXPLANATION: &str = "this hub cannot explain yet: `tunnels show` has the facts";
const NO_ROTATION: &str = "this hub cannot change its key while it runs";

fn refuse<T>(answer: Answer<T>, why: &str) {
    let _ = answer.send(Err(why.to_owned()));
}

async fn who_am_i(imds: &Imds, cached: Option<&Cached>) -> Result<Identity> {
    let Some(cached) = cached else {
        return Ok(imds.identity_within(METADATA_PATIENCE).await?);
    };
    // The tunnels do not wait for it: the first poll asks again.
    let problem = match tokio::time::timeout(Duration::from_secs(2), imds.identity()).await {
        Ok(Ok(identity)) => return Ok(identity),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer within 2 s".to_owned(),
    };
    warn!(
        problem,
        "instance metadata does not answer; using what it said when the hub last ran"
    );
    Ok(cached.identity.clone())
}

fn load_sites(sites: &[SiteConfig]) -> Result<Vec<Site>> {
    sites
        .iter()
        .map(|config| {
            let preshared_key = config
                .preshared_key
                .as_deref()
                .map(key_file::read_preshared_key)
                .transpose()
                .with_context(|| format!("site {}: preshared_key", config.name))?;
            Ok(Site {
                config: config.clone(),
                preshared_key,
            })
        })
        .collect()
}

fn partitions(inventory: &Inventory) -> Vec<PolledPartition> {
    inventory
        .partitions
        .iter()
        .map(|(partition, view)| PolledPartition {
            partition: partition.to_string(),
            spokes: view.spokes.len(),
            error: view.error.clone(),
        })
        .collect()
}

fn answer(waiting: Vec<Waiting>, report: &RefreshReport) {
    for Waiting {
        request: RefreshRequest { dry_run, .. },
        answer,
    } in waiting
    {
        let _ = answer.send(Ok(RefreshReport {
            dry_run,
            ..report.clone()
        }));
    }
}
