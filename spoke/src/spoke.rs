//! The spoke: its state, and the loop that owns it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use privnet_ec2::{Imds, ImdsError, ParameterStore};
use privnet_model::admin::RefreshReport;
use privnet_model::config::ConfigErrors;
use privnet_model::config::spoke::{HubPeerConfig, NatConfig, SpokeConfig};
use privnet_model::inventory::{Identity, Transport};
use privnet_model::key::PublicKey;
use privnet_model::status::{Role, Status};
use privnet_reconcile::fleet::PlannedTunnel;
use privnet_reconcile::self_test;
use privnet_runtime::command::{ConfigFile, Daemon, Unfetched};
use privnet_runtime::doctor::Examination;
use privnet_runtime::events::{Answer, Event, Events};
use privnet_runtime::fleet_secret::Preshared;
use privnet_runtime::key_file;
use privnet_runtime::router::{Router, TunnelInterface};
use privnet_runtime::service;
use privnet_runtime::signals::{Signal, Stop};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{error, info, warn};

use self::hubs::Hearing;
use self::ipsec_hubs::Choice;
use self::rotation::Rotation;
use crate::doctor;
use crate::enrol::Enrolment;
use crate::publish::{Published, Publisher};
use crate::serving::{Local, Serving};

mod hubs;
mod ipsec_hubs;
mod rotation;

/// How long a spoke waits for its metadata service before it gives up and is
/// started anew.
const METADATA_PATIENCE: Duration = Duration::from_secs(60);
/// How often it asks whether its VPC has gained or lost a CIDR.
const METADATA_INTERVAL: Duration = Duration::from_secs(60);
/// How often it looks whether the first session with the hub is there, which siblings
/// wait for after a restart, and the hub for its proof.
const FIRST_SESSION: Duration = Duration::from_millis(100);

/// The spoke daemon.
pub struct Spoke {
    config: SpokeConfig,
    file: ConfigFile,
    started: Timestamp,
    imds: Imds,
    router: Router,
    hubs: Vec<PlannedTunnel>,
    hearing: Hearing,
    ipsec_hub: Choice,
    public_key: Option<PublicKey>,
    publisher: Option<Publisher>,
    preshared: Preshared,
    enrolment: Option<Enrolment>,
    /// Whether there was a session with the hub at the last look.
    was_up: bool,
    /// Whether there ever was one.
    tunnel_proved: bool,
    /// Whether the hub was seen to use its next key.
    hub_moved_on: bool,
    rotation: Option<Rotation>,
    serving: Option<Serving>,
    asking: Option<JoinHandle<Result<Identity, ImdsError>>>,
    ask: Interval,
    first_session: Interval,
    waiting: Vec<(bool, Answer)>,
}

impl Daemon for Spoke {
    type Config = SpokeConfig;
    const PROGRAM: &'static str = "privnet-spoke";
    const ABOUT: &'static str = "A spoke of the private network: NAT egress for its VPC, and the \
         tunnel to the hub";
    const CONFIG: &'static str = "/etc/privnet/spoke.toml";
    const ROLE: Role = Role::Spoke;

    fn parse(file: &str, text: &str) -> Result<SpokeConfig, ConfigErrors> {
        SpokeConfig::parse(file, text)
    }

    fn private_key(config: &SpokeConfig) -> &Path {
        &config.private_key
    }

    fn log(config: &SpokeConfig) -> &str {
        &config.log
    }

    fn doors(config: &SpokeConfig) -> (&Path, Option<SocketAddr>) {
        (&config.admin_socket, config.metrics)
    }

    async fn examine(config: SpokeConfig) -> Examination {
        doctor::examine(config).await
    }

    async fn fetch(parameter: &str) -> Result<String, Unfetched> {
        let text = privnet_ec2::parameter_text(parameter).await;
        text.map_err(|error| Unfetched {
            said: error.to_string(),
            is_temporary: error.is_temporary(),
        })
    }

    async fn start(
        config: SpokeConfig,
        file: ConfigFile,
        events: &mut Events,
    ) -> Result<Option<Self>> {
        let tunnel = match config.transport {
            Transport::None | Transport::Ipsec => None,
            Transport::Wireguard => Some(TunnelInterface {
                name: config.interface.clone(),
                mtu: config.mtu,
                listen_port: config.listen_port,
                private_key: key_file::load_or_create(&config.private_key)?,
                workers: config.workers,
                offloads: config.offloads,
                relay: false,
                addresses: Vec::new(),
            }),
        };
        let public_key = tunnel.as_ref().map(|tunnel| tunnel.private_key.public());
        if config
            .hubs
            .iter()
            .any(|hub| Some(hub.public_key) == public_key)
        {
            bail!(
                "{}: hub.public_key is this spoke's own key; `privnet-hub public-key` prints the hub's",
                file.path().display()
            );
        }
        let imds = Imds::from_env()?;
        let identity = tokio::select! {
            identity = imds.identity_within(METADATA_PATIENCE) => identity?,
            () = events.stop() => return Ok(None),
        };
        info!(
            version = env!("CARGO_PKG_VERSION"),
            instance = %identity.instance,
            vpc = %identity.vpc,
            region = %identity.region,
            public_key = public_key.map(tracing::field::display),
            "privnet-spoke starts"
        );
        let mut router = Router::open(
            config.privnet.clone(),
            identity,
            Some(config.nat.clone()),
            tunnel,
            &config.ipsec.socket,
        )
        .await?;
        let serving = Serving::start(&config, router.identity(), &imds);
        router.set_self_test(serving.is_some() && !config.self_test.targets.is_empty());
        // Only now: the hub is not told of a tunnel that cannot be opened.
        let publisher = publisher(&config, router.identity(), public_key);
        let mut ask =
            tokio::time::interval_at(Instant::now() + METADATA_INTERVAL, METADATA_INTERVAL);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first_session = tokio::time::interval(FIRST_SESSION);
        first_session.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut spoke = Self {
            hubs: Vec::new(),
            hearing: Hearing::default(),
            ipsec_hub: Choice::beginning_with(0),
            started: Timestamp::now(),
            imds,
            preshared: Preshared::default(),
            enrolment: None,
            was_up: false,
            tunnel_proved: false,
            hub_moved_on: false,
            rotation: None,
            serving,
            router,
            public_key,
            publisher,
            asking: None,
            ask,
            first_session,
            waiting: Vec::new(),
            config,
            file,
        };
        spoke.look_after_secret();
        spoke.follow_hub();
        spoke.router.want(spoke.desired());
        spoke.router.reconcile().await;
        spoke.enrol();
        spoke.tell_serving();
        service::ready(&spoke.summary());
        Ok(Some(spoke))
    }

    async fn main_loop(&mut self, events: &mut Events) -> Result<()> {
        loop {
            tokio::select! {
                identity = answered(&mut self.asking) => self.told(identity).await,
                _ = self.ask.tick() => self.ask_metadata(),
                announced = rotation::announced(&mut self.rotation) => {
                    self.announced(announced).await;
                }
                () = self.router.ipsec_changed() => {
                    self.router.follow_charon().await;
                    self.look_at_tunnels().await?;
                }
                () = self.preshared.changed() => {
                    self.follow_hub();
                    self.router.want(self.desired());
                    self.router.reconcile().await;
                }
                _ = self.first_session.tick(), if self.lacks_first_session() => {
                    self.greet().await;
                    if self.tunnel_proved {
                        self.tell_serving();
                    }
                }
                () = has_roamed(&self.serving) => {
                    // What goes through the tunnel tells the hub where it ends now.
                    self.enrolment.iter().for_each(Enrolment::again);
                    self.ask_metadata();
                }
                () = needs_mending(&self.serving) => {
                    self.router.reconcile().await;
                    self.tell_serving();
                }
                event = events.next() => match event {
                    Event::Signal(Signal::Stop(stop)) => {
                        info!("told to stop");
                        let serving = self.serving.take().filter(|_| stop == Stop::Leave);
                        if let Some(serving) = serving {
                            serving.leave().await;
                        }
                        return Ok(());
                    }
                    Event::Signal(Signal::Reload) => self.reload().await,
                    Event::Status(answer) => {
                        let _ = answer.send(self.status());
                    }
                    Event::Refresh(request, answer) => {
                        self.waiting.push((request.dry_run, answer));
                        self.ask_metadata();
                    }
                    Event::Journal(answer) => refuse(answer, NO_JOURNAL),
                    Event::Why(_, answer) => refuse(answer, NO_EXPLANATION),
                    Event::RotateKey(_, answer) => self.rotate_key(answer),
                    Event::Observe => {
                        self.router.watch_connections().await;
                        self.look_at_tunnels().await?;
                    }
                    Event::Reconcile => {
                        self.router.reconcile().await;
                        self.tell_serving();
                    }
                    // A spoke has no port inside its tunnel.
                    Event::Call(call) => drop(call),
                },
            }
        }
    }

    fn close(self) {
        self.router.close();
    }
}

impl Spoke {
    async fn look_at_tunnels(&mut self) -> Result<()> {
        self.router.observe(&self.hubs)?;
        self.greet().await;
        self.change_hub().await;
        self.tell_serving();
        Ok(())
    }

    fn ask_metadata(&mut self) {
        if self.asking.is_none() {
            let imds = self.imds.clone();
            self.asking = Some(tokio::spawn(async move { imds.identity().await }));
        }
    }

    /// Takes what the metadata service says, and puts everything right.
    async fn told(&mut self, identity: Result<Identity, String>) {
        let mut failures = Vec::new();
        match identity {
            Ok(identity) => {
                self.router.set_identity(identity);
                // A VPC may have gained a CIDR.
                self.follow_hub();
                self.router.want(self.desired());
            }
            Err(error) => {
                self.router.metadata_failed(&error);
                failures.push(error);
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() && waiting.iter().all(|(dry_run, _)| *dry_run) {
            let changes = match self.router.preview(self.desired()).await {
                Ok(changes) => changes,
                Err(error) => {
                    failures.push(format!("{error:#}"));
                    Vec::new()
                }
            };
            return answer(waiting, &changes, &failures);
        }
        let (changes, failed) = self.router.reconcile().await;
        failures.extend(failed);
        if !waiting.is_empty() {
            self.publisher.iter().for_each(Publisher::again);
            self.enrolment.iter().for_each(Enrolment::again);
            self.preshared.again();
        }
        answer(waiting, &changes, &failures);
    }

    async fn reload(&mut self) {
        service::reloading();
        match self.file.read::<Self>() {
            Ok(config) => {
                for key in needs_restart(&self.config, &config) {
                    warn!(
                        key,
                        "changed in the config file; it takes effect at a restart"
                    );
                }
                self.router
                    .set_config(config.privnet.clone(), Some(config.nat.clone()));
                let same_transport = self.config.transport == config.transport;
                let interface = self.config.nat.interface.take();
                self.config.privnet = config.privnet;
                self.config.nat = NatConfig {
                    interface,
                    ..config.nat
                };
                let next =
                    |hubs: &[HubPeerConfig]| hubs.first().and_then(|hub| hub.next_public_key);
                let same_next = next(&self.config.hubs) == next(&config.hubs);
                if same_transport {
                    self.config.hubs = config.hubs;
                    self.take_ipsec_hubs(config.ipsec_hubs);
                }
                self.config.preshared_key = config.preshared_key;
                self.look_after_secret();
                self.config.prove = config.prove;
                self.hub_moved_on &= same_next;
                self.follow_hub();
                self.enrol();
                self.router.want(self.desired());
                self.router.reconcile().await;
                info!("config read again");
            }
            Err(error) => {
                error!("the config file is not taken, the one before stays in force: {error:#}");
            }
        }
        if let Some(publisher) = &self.publisher {
            publisher.again();
        }
        self.ask_metadata();
        service::ready(&self.summary());
    }

    fn lacks_first_session(&self) -> bool {
        self.config.transport != Transport::None && !self.tunnel_proved
    }

    /// Tells the serving of routes what there is to know here.
    fn tell_serving(&self) {
        let Some(serving) = &self.serving else {
            return;
        };
        let nat = self.router.nat_status();
        let problem = if nat.is_some_and(|nat| !nat.active) {
            Some("the NAT rules are not in place")
        } else if self.lacks_first_session() {
            // Once is enough: a hub that is down later is no reason to leave the VPC
            // without a way to the internet. Who serves the privnet then is another matter.
            Some("there has been no session with the hub yet")
        } else {
            None
        };
        serving.tell(Local {
            problem: problem.map(str::to_owned),
            tunnel: self.hearing.last(),
            secret: self.preshared.secret(),
        });
    }

    fn look_after_secret(&mut self) {
        let store = ParameterStore::from_env(&self.router.identity().region);
        let source = self.config.preshared_key.as_ref();
        let copy = key_file::fleet_secret_copy(&self.config.private_key);
        self.preshared.configure(source, &copy, store.reader());
    }

    fn status(&self) -> Status {
        Status {
            role: Role::Spoke,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            now: Timestamp::now(),
            instance: Some(self.router.identity().instance.clone()),
            privnet: self.config.privnet.clone(),
            interface: self.router.interface_status(),
            charon: self.router.charon_status(),
            nat: self.router.nat_status(),
            tunnels: self.router.tunnels(&self.hubs),
            partitions: Vec::new(),
            next_poll: None,
            held_removals: None,
            policy: Vec::new(),
            routes: self.serving.as_ref().map(Serving::status),
            problems: self
                .router
                .problems()
                .chain(self.publisher.as_ref().and_then(Publisher::problem))
                .chain(self.preshared.problem())
                .chain(self.enrolment.as_ref().and_then(Enrolment::problem))
                .chain(self.serving.iter().flat_map(Serving::problems))
                .chain(self_test::inside_vpc(
                    &self.config.self_test.targets,
                    &self.router.identity().vpc_cidrs,
                ))
                .collect(),
        }
    }

    fn summary(&self) -> String {
        match self.router.nat_status() {
            Some(nat) if nat.active => format!("NAT on {}", nat.interface),
            Some(nat) => format!("NAT on {} is NOT in place", nat.interface),
            None => "no NAT".to_owned(),
        }
    }
}

/// What tells EC2 of the key, if that is wanted.
fn publisher(
    config: &SpokeConfig,
    identity: &Identity,
    public_key: Option<PublicKey>,
) -> Option<Publisher> {
    config.publish.then(|| {
        let what = Published {
            transport: config.transport,
            tunnel: public_key.map(|key| (key, config.listen_port)),
        };
        Publisher::start(identity, what)
    })
}

/// The answer of the metadata service that was asked; never, while none was.
async fn answered(
    asking: &mut Option<JoinHandle<Result<Identity, ImdsError>>>,
) -> Result<Identity, String> {
    let Some(task) = asking else {
        return std::future::pending().await;
    };
    let result = task.await;
    *asking = None;
    match result {
        Ok(Ok(identity)) => Ok(identity),
        Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
        Err(error) => Err(format!("asking the metadata service broke off: {error}")),
    }
}

async fn needs_mending(serving: &Option<Serving>) {
    match serving {
        Some(serving) => serving.needs_mending().await,
        None => std::future::pending().await,
    }
}

async fn has_roamed(serving: &Option<Serving>) {
    match serving {
        Some(serving) => serving.has_roamed().await,
        None => std::future::pending().await,
    }
}

/// The keys whose change the running spoke cannot take.
fn needs_restart(old: &SpokeConfig, new: &SpokeConfig) -> Vec<&'static str> {
    [
        ("transport", old.transport != new.transport),
        ("listen_port", old.listen_port != new.listen_port),
        ("private_key", old.private_key != new.private_key),
        ("interface", old.interface != new.interface),
        ("mtu", old.mtu != new.mtu),
        ("workers", old.workers != new.workers),
        ("offload", old.offloads != new.offloads),
        ("admin_socket", old.admin_socket != new.admin_socket),
        ("metrics", old.metrics != new.metrics),
        ("log", old.log != new.log),
        ("ipsec.socket", old.ipsec.socket != new.ipsec.socket),
        ("publish", old.publish != new.publish),
        ("nat.interface", old.nat.interface != new.nat.interface),
        ("routes", old.routes != new.routes),
        (
            "address",
            old.address != new.address || old.keeps_connections != new.keeps_connections,
        ),
        ("self_test", old.self_test != new.self_test),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

const NO_JOURNAL: &str = "a spoke keeps no list of events: `journalctl -u privnet-spoke` has \
     them, and `tunnels events` on the hub those of its tunnels";
const NO_EXPLANATION: &str = "only a hub knows who is connected, and why: ask it there";

fn refuse<T>(answer: Answer<T>, why: &str) {
    let _ = answer.send(Err(why.to_owned()));
}

fn answer(
    waiting: Vec<(bool, Answer)>,
    changes: &[privnet_model::admin::Change],
    failures: &[String],
) {
    for (dry_run, answer) in waiting {
        let _ = answer.send(Ok(RefreshReport {
            dry_run,
            partitions: Vec::new(),
            changes: changes.to_vec(),
            failures: failures.to_vec(),
            held_removals: None,
        }));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn what_only_a_restart_can_take_is_named() {
        let config = |more: &str| {
            let text = format!("privnet = '10.0.0.0/8'\ntransport = 'none'\n{more}");
            SpokeConfig::parse("spoke.toml", &text).unwrap()
        };
        let old = config("");
        let changed = |more| needs_restart(&old, &config(more));
        assert_eq!(changed("[nat]\negress = false"), [""; 0]);
        assert_eq!(changed("[offload]\ntun_uso = false"), ["offload"]);
        assert_eq!(changed("metrics = '[::1]:9587'"), ["metrics"]);
        assert_eq!(
            changed("workers = 2\npublish = false"),
            ["workers", "publish"]
        );
    }
}
