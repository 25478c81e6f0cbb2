//! The hub: its state, and the loop that owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use privnet_ec2::{Discovery, Imds, ParameterStore, ProofCourier, SdkContext};
use privnet_model::config::ConfigErrors;
use privnet_model::config::hub::{HubConfig, ProofMode};
use privnet_model::enrol::{HUB, HUB_ADDRESS};
use privnet_model::inventory::{Identity, Inventory, Partition, Transport};
use privnet_model::ipsec::ConnectionName;
use privnet_model::key::{PrivateKey, PublicKey};
use privnet_model::status::Role;
use privnet_reconcile::fleet::{Carried, Fleet, Obstacle, PlannedTunnel, Site};
use privnet_reconcile::memory::Memory;
use privnet_reconcile::pin;
use privnet_reconcile::policy::Policy;
use privnet_runtime::command::{ConfigFile, Daemon, Unfetched};
use privnet_runtime::doctor::Examination;
use privnet_runtime::events::{Event, Events};
use privnet_runtime::fleet_secret::Preshared;
use privnet_runtime::key_file;
use privnet_runtime::poll_clock::PollClock;
use privnet_runtime::probe::Prober;
use privnet_runtime::router::{Router, TunnelInterface};
use privnet_runtime::service;
use privnet_runtime::signals::Signal;
use privnet_runtime::tunnel_port::{Call, TunnelPort};
use tracing::{debug, info, warn};

use self::own_key::OwnKey;
use self::reload::load_readable_sites;
use self::site_keys::SiteKeys;
use crate::cache::{Cache, Cached};
use crate::doctor;
use crate::enrolment::{self, Enrolment, Judged};
use crate::gateways::Gateways;
use crate::journal::{Journal, View, Watch};
use crate::poll::Poll;
use crate::strangers::{Ask, Stranger, Strangers};
use crate::tally::Tally;

mod answers;
mod decision;
mod own_key;
mod reload;
mod report;
mod rotation;
mod site_keys;

/// The state file is not written more often than this because of who is alive.
const SAVE_PAUSE: Duration = Duration::from_secs(10);

/// How long the hub waits for its own metadata service at its first start.
const METADATA_PATIENCE: Duration = Duration::from_secs(60);

/// The hub daemon.
pub struct Hub {
    config: HubConfig,
    file: ConfigFile,
    started: Timestamp,
    private_key: PrivateKey,
    public_key: PublicKey,
    /// The key that comes after it, once it was made.
    next_key: Option<PublicKey>,
    sdk: SdkContext,
    imds: Imds,
    discovery: Discovery,
    sites: Vec<Site>,
    site_keys: SiteKeys,
    inventory: Inventory,
    fleet: Fleet,
    router: Router,
    clock: PollClock,
    poll: Poll,
    tally: Tally,
    journal: Journal,
    watch: Watch,
    strangers: Strangers,
    enrolment: Enrolment,
    preshared: Preshared,
    cache: Cache,
    cache_problem: Option<String>,
    /// Who carried what, as decided last.
    carried: Carried,
    /// The keys that were alive when the hub last ran.
    alive_before: BTreeSet<PublicKey>,
    /// The IPsec tunnels that were up then.
    connected_before: BTreeSet<ConnectionName>,
    /// The keys that were alive at the last decision.
    alive: BTreeSet<PublicKey>,
    /// The IPsec tunnels that were up at the last decision.
    connected: BTreeSet<ConnectionName>,
    gateways: Gateways,
    policy: Policy,
    policy_problem: Option<String>,
    /// Whether a policy was ever put in force.
    policy_known: bool,
    /// The keys that the state file says are alive, and since when it does.
    saved_alive: BTreeSet<PublicKey>,
    saved_connected: BTreeSet<ConnectionName>,
    saved_at: Instant,
    /// Where sites without an endpoint were heard before the restart.
    remembered: BTreeMap<PublicKey, SocketAddr>,
}

impl Daemon for Hub {
    type Config = HubConfig;
    const PROGRAM: &'static str = "privnet-hub";
    const ABOUT: &'static str = "The hub of the private network: finds its spokes through EC2, \
         keeps a tunnel to each and routes between them";
    const CONFIG: &'static str = "/etc/privnet/hub.toml";
    const ROLE: Role = Role::Hub;

    fn parse(file: &str, text: &str) -> Result<HubConfig, ConfigErrors> {
        HubConfig::parse(file, text)
    }

    fn private_key(config: &HubConfig) -> &Path {
        &config.private_key
    }

    fn makes_key(config: &HubConfig) -> bool {
        config.private_key_parameter.is_none()
    }

    fn log(config: &HubConfig) -> &str {
        &config.log
    }

    fn doors(config: &HubConfig) -> (&Path, Option<SocketAddr>) {
        (&config.admin_socket, config.metrics)
    }

    async fn examine(config: HubConfig) -> Examination {
        doctor::examine(config).await
    }

    async fn fetch(parameter: &str) -> Result<String, Unfetched> {
        let text = privnet_ec2::parameter_text(parameter).await;
        text.map_err(|error| Unfetched {
            said: error.to_string(),
            is_temporary: error.is_temporary(),
        })
    }

    /// Brings everything up that needs no API: with a state cache all tunnels
    /// are there before the first poll. `None` when told to stop meanwhile.
    async fn start(
        config: HubConfig,
        file: ConfigFile,
        events: &mut Events,
    ) -> Result<Option<Self>> {
        let own_key = own_key::in_file(&config)?;
        let mut sites = load_readable_sites(&config.sites);
        let cache = Cache::at(&config.state);
        let cached = cache.load();
        let imds = Imds::from_env()?;
        let identity = tokio::select! {
            identity = who_am_i(&imds, cached.as_ref()) => identity?,
            () = events.stop() => return Ok(None),
        };
        let private_key = match own_key {
            OwnKey::Here(key) => key,
            OwnKey::InSsm(name) => tokio::select! {
                key = own_key::fetch(&config, &name, &identity.region) => key?,
                () = events.stop() => return Ok(None),
            },
        };
        let public_key = private_key.public();
        let next_key = key_file::read_next(&config.private_key)?.map(|key| key.public());
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
        let gateways = Gateways::new(Prober::new(&config.interface, Some(HUB_ADDRESS)));
        let courier = ProofCourier::new(&sdk, &identity.region);
        let router = Router::open(
            config.privnet.clone(),
            identity,
            None,
            Some(TunnelInterface {
                name: config.interface.clone(),
                mtu: config.mtu,
                listen_port: config.listen_port,
                private_key: private_key.clone(),
                workers: config.workers,
                offloads: config.offloads,
                relay: true,
                addresses: vec![HUB_ADDRESS.into()],
            }),
            &config.ipsec.socket,
        )
        .await?;
        events.take_calls(TunnelPort::bind(&config.interface, HUB.into())?);
        let memory = cached.as_ref().map(|cached| cached.memory.clone());
        let memory = memory.unwrap_or_default();
        let inventory = memory.inventory();
        let remembered = cached.map(|cached| cached.endpoints()).unwrap_or_default();
        let store = ParameterStore::from_env(&router.identity().region);
        let copy = key_file::site_keys_copy(&config.private_key);
        let mut site_keys = SiteKeys::new(store.clone(), copy);
        site_keys.configure(&mut sites, &[]);
        let mut preshared = Preshared::default();
        let copy = key_file::fleet_secret_copy(&config.private_key);
        preshared.configure(config.trust.preshared_key.as_ref(), &copy, store.reader());
        let mut hub = Self {
            clock: PollClock::new(config.discovery.interval),
            config,
            file,
            started: Timestamp::now(),
            private_key,
            public_key,
            next_key,
            sdk,
            imds,
            discovery,
            sites,
            site_keys,
            inventory: Inventory::default(),
            fleet: Fleet::default(),
            router,
            poll: Poll::default(),
            tally: Tally::default(),
            journal: Journal::default(),
            watch: Watch::default(),
            strangers: Strangers::default(),
            enrolment: Enrolment::new(courier),
            preshared,
            cache,
            cache_problem: None,
            carried: memory.carried,
            alive_before: memory.alive,
            connected_before: memory
                .connected
                .iter()
                .filter_map(|name| ConnectionName::ours(name))
                .collect(),
            alive: BTreeSet::new(),
            connected: BTreeSet::new(),
            gateways,
            policy: Policy::default(),
            policy_problem: None,
            policy_known: false,
            saved_alive: BTreeSet::new(),
            saved_connected: BTreeSet::new(),
            saved_at: Instant::now(),
            remembered,
        };
        hub.inventory = inventory;
        hub.decide_anew();
        hub.reconcile().await;
        service::ready(&hub.summary());
        Ok(Some(hub))
    }

    async fn main_loop(&mut self, events: &mut Events) -> Result<()> {
        loop {
            self.poll
                .start(&self.discovery, &self.imds, &self.inventory);
            tokio::select! {
                brought = self.poll.brought() => self.polled(brought).await,
                () = self.router.ipsec_changed() => {
                    self.router.follow_charon().await;
                    self.observe().await?;
                }
                changes = self.gateways.changed() => self.gateways_changed(&changes).await,
                () = self.clock.due() => {
                    self.clock.started();
                    self.poll.request();
                }
                judged = self.enrolment.judged() => self.judged(judged).await,
                () = self.preshared.changed() => {
                    self.decide_anew();
                    self.reconcile().await;
                }
                () = self.site_keys.changed() => {
                    self.site_keys.put_into(&mut self.sites);
                    self.decide_anew();
                    self.reconcile().await;
                }
                event = events.next() => match event {
                    Event::Signal(Signal::Stop(_)) => {
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
                    Event::Why(request, answer) => {
                        let _ = answer.send(Ok(self.why(&request)));
                    }
                    Event::RotateKey(request, answer) => {
                        let _ = answer.send(self.rotate_key(request).await);
                    }
                    Event::Observe => {
                        self.router.count_denied().await;
                        self.observe().await?;
                    }
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
        let connected = self.router.connected();
        let refused = self.router.strangers().into_iter();
        let refused: Vec<Stranger> = refused.filter_map(Stranger::refused).collect();
        let keys = pin::settle_all(&mut self.inventory, &alive);
        if !keys.is_empty() || alive != self.alive || connected != self.connected {
            self.connected = connected;
            let carried = self.carried.clone();
            self.settle().await;
            // A hub that is killed must not go back to what was before.
            if !keys.is_empty() || carried != self.carried {
                self.save();
            }
        }
        // Nor forget who carried traffic.
        let unsaved =
            !alive.is_subset(&self.saved_alive) || !self.connected.is_subset(&self.saved_connected);
        if unsaved && self.saved_at.elapsed() >= SAVE_PAUSE {
            self.save();
        }
        self.hear_knocks(refused);
        Ok(())
    }

    /// Unknown ones call: spokes, perhaps, that EC2 would name by now.
    fn hear_knocks(&mut self, refused: Vec<Stranger>) {
        let now = Instant::now();
        let tunnels = self.fleet.tunnels.values();
        let lack_key: Vec<&PlannedTunnel> = tunnels.filter(|it| it.lacks_key()).collect();
        let keyless: BTreeSet<Partition> = lack_key
            .iter()
            .filter_map(|tunnel| tunnel.partition.clone())
            .collect();
        if !self.strangers.may_ask(!keyless.is_empty(), now) {
            return;
        }
        // A spoke that is rejected knocks for ever; asking EC2 again does not
        // help it. One that lacks something may have it by now; but a static site's key
        // does not come from EC2.
        let waits = |tunnel: &&PlannedTunnel| {
            tunnel.instance.is_some() && matches!(tunnel.obstacle, Some(Obstacle::Pending(_)))
        };
        let settled = self.fleet.tunnels.values().filter(|tunnel| !waits(tunnel));
        let known: BTreeSet<Stranger> = settled
            .flat_map(|tunnel| {
                let instance = tunnel.instance.clone().map(Stranger::Instance);
                [tunnel.public_key.map(Stranger::Key), instance]
            })
            .flatten()
            .collect();
        let keys = self.router.knocks().into_iter().map(Stranger::Key);
        // By IPsec a spoke proves that it has the fleet's secret, and no more.
        let may_be_ours =
            self.preshared.secret().is_some() && self.config.trust.proof != ProofMode::Require;
        // Where strongSwan has one that may call from anywhere, others come as far as to say
        // who they are; and one that is rejected is the one who calls.
        let mut settled = self.fleet.tunnels.values().filter(|tunnel| !waits(tunnel));
        let has_spoke_by_ipsec =
            settled.any(|tunnel| tunnel.instance.is_some() && tunnel.transport == Transport::Ipsec);
        let refused = refused
            .into_iter()
            .filter(|_| may_be_ours)
            .filter(|who| !(has_spoke_by_ipsec && *who == Stranger::Nameless));
        let knocks: BTreeSet<Stranger> = keys
            .chain(refused)
            .filter(|who| !known.contains(who))
            .collect();
        let knocks: Vec<Stranger> = knocks.into_iter().collect();
        let may_lack_key = knocks.iter().any(|who| match who {
            Stranger::Key(_) => !keyless.is_empty(),
            Stranger::Instance(instance) => {
                let mut lack_key = lack_key.iter();
                lack_key.any(|tunnel| tunnel.instance.as_ref() == Some(instance))
            }
            Stranger::Nameless => false,
        });
        match self.strangers.knocked(&knocks, may_lack_key, now) {
            Ask::Everywhere(who) => {
                let who: Vec<String> = who.iter().map(ToString::to_string).collect();
                let who = who.join(", ");
                info!(who, "unknown spokes knock: asking EC2 early");
                self.poll.request();
            }
            Ask::Keyless => {
                debug!(partitions = ?keyless, "an unknown spoke knocks: asking where one lacks its key");
                self.poll.request_only(keyless);
            }
            Ask::Nothing => {}
        }
    }

    /// A spoke calls through its tunnel.
    async fn called(&mut self, call: Call) {
        let Self {
            enrolment,
            fleet,
            inventory,
            private_key,
            config,
            ..
        } = self;
        let hub = enrolment::Hub {
            key: private_key,
            trust: &config.trust,
        };
        if let Some(promise) = enrolment.called(call, fleet, inventory, &hub) {
            self.take_up().await;
            promise.keep();
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
        self.decide_anew();
        self.reconcile().await;
        self.save();
    }

    fn save(&mut self) {
        let heard = self
            .router
            .peers()
            .into_iter()
            .filter_map(|peer| Some((peer.key, peer.config.endpoint?)));
        self.saved_alive = self.alive();
        self.saved_at = Instant::now();
        self.saved_connected = self.connected.clone();
        let mut memory = Memory::new(&self.inventory, &self.fleet, &self.saved_alive);
        memory.connected = self.connected.iter().map(ToString::to_string).collect();
        let cached = Cached::new(self.router.identity().clone(), memory, heard);
        let problem = tokio::task::block_in_place(|| self.cache.save(&cached)).err();
        if let Some(problem) = &problem
            && self.cache_problem.as_ref() != Some(problem)
        {
            warn!(problem, "a restart would need the EC2 API");
        }
        self.cache_problem = problem;
    }
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
