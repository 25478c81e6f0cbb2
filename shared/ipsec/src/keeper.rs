//! Keeps charon's connections as they are wanted, beside the daemon's main loop: a
//! charon that hangs or is not there must keep nothing else from being done.
//!
//! What is wanted comes in and what is seen goes out over watch channels. Ours to
//! remember is only what charon never tells: which keys it was given, and why a tunnel
//! failed. Everything else is asked anew, so both ends may be started again at will;
//! when this ends, charon's tunnels go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use privnet_model::ipsec::{
    ConnectionName, EspBackEnd, IkeCredential, IkeFailure, IkeId, IkeSa, IkeSecret, IkeState,
    IpsecTunnel, Proposals,
};
use privnet_model::status::{CharonStatus, EspStatus, Reason, TunnelState};
use privnet_reconcile::fleet::PlannedIpsec;
use privnet_reconcile::ipsec::diagnosis::{Diagnosis, LogLine, LogReader};
use privnet_reconcile::ipsec::ledger::{Ledger, Report};
use privnet_reconcile::ipsec::pace::{LONGEST_PAUSE, Pace};
use privnet_reconcile::ipsec::{IpsecChange, plan};
use privnet_reconcile::xfrm::if_ids;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use crate::charon::Charon;
use crate::connection::Connection;
use crate::event::{AssociationEvent, AssociationEvents, Log};
use crate::reconcile::Configured;
use crate::vici::ViciError;

/// How often charon is asked what it has, beside its events.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is tried to reach one that is needed and not there.
const RECONNECT: Duration = Duration::from_secs(1);
/// The same, when none is needed: what an earlier config left there is taken away.
const RECONNECT_IDLE: Duration = Duration::from_secs(30);
/// How long the kernel's tunnels are taken to go on without charon. It is back within
/// seconds, as a rule; a peer that finds nobody who answers gives up after some 20.
const KERNEL_GOES_ON: Duration = Duration::from_secs(20);
/// Events come in bursts; one look is enough for each.
const BURST: Duration = Duration::from_millis(50);
/// How long a hub that stands by may wait to be tried again: all spokes should see about
/// the same time that it is back.
const LONGEST_PAUSE_STANDING_BY: Duration = Duration::from_secs(10);
/// How long who was refused is not warned of again for the same reason: it may try for
/// ever.
const WARNED: Duration = Duration::from_secs(600);
/// Of how many that is remembered. More of them are only in the debug log.
const MOST_WARNED: usize = 1024;
/// Peers that were refused, kept until somebody asks for them: the first ones of a flood.
const STRANGERS: usize = 64;

/// The connections that are wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Each by its name.
    pub tunnels: BTreeMap<ConnectionName, PlannedIpsec>,
    /// Those of them that stand by: with IKE alone, which carries nothing.
    pub standing_by: BTreeSet<ConnectionName>,
    /// Whether all others of ours stay as they are for now: what they are to be like
    /// follows from a secret that is not known yet.
    pub keeps_others: bool,
    /// Those of the others that do in any case: each has a key of its own, which is not
    /// known yet.
    pub keeps: BTreeSet<ConnectionName>,
    /// The XFRM interfaces that are there: where the kernel does ESP, a tunnel whose own
    /// is not carries nothing and is not set up.
    pub interfaces: BTreeSet<NonZeroU32>,
    /// Whose ESP the host is ready for, with its rules and routes: while it is another's,
    /// or not known, nothing is changed.
    pub esp: Option<EspStatus>,
}

impl Wanted {
    /// Whether there may be connections that are not wanted and stay.
    pub fn keeps_any(&self) -> bool {
        self.keeps_others || !self.keeps.is_empty()
    }

    /// Whether this one is not wanted and stays.
    fn stays(&self, name: &ConnectionName) -> bool {
        !self.tunnels.contains_key(name) && (self.keeps_others || self.keeps.contains(name))
    }
}

/// What is known of charon and its tunnels.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// charon itself.
    pub charon: CharonStatus,
    /// The tunnels that are wanted.
    pub tunnels: BTreeMap<ConnectionName, Report>,
    /// Those that stand by and whose peers let us in.
    pub ready: BTreeSet<ConnectionName>,
    /// Changes that charon refused.
    pub problems: Vec<String>,
}

impl Seen {
    /// Whether charon has told how its tunnels are, or could not be asked.
    pub fn is_known(&self) -> bool {
        self.charon.version.is_some() || self.charon.problem.is_some()
    }

    fn nothing() -> Self {
        Self {
            charon: CharonStatus {
                version: None,
                esp: None,
                problem: None,
            },
            tunnels: BTreeMap::new(),
            ready: BTreeSet::new(),
            problems: Vec::new(),
        }
    }
}

/// The task that keeps them. It ends when this is dropped.
#[derive(Debug)]
pub struct Keeper {
    wanted: watch::Sender<Option<Wanted>>,
    seen: watch::Receiver<Seen>,
    strangers: mpsc::Receiver<IkeFailure>,
}

impl Keeper {
    /// Starts to keep what charon, on this socket, has of ours; changes nothing before
    /// it is told for the first time what is wanted. Within a Tokio runtime only.
    pub fn start(socket: PathBuf) -> Self {
        let (want, wanted) = watch::channel(None);
        let (tell, seen) = watch::channel(Seen::nothing());
        let (heard, strangers) = mpsc::channel(STRANGERS);
        tokio::spawn(keep(socket, wanted, tell, heard));
        Self {
            wanted: want,
            seen,
            strangers,
        }
    }

    /// Which charon it is that listens there, and who does ESP.
    ///
    /// # Errors
    /// Nobody listens, or it is no charon.
    pub async fn about(socket: &Path) -> Result<(String, EspStatus), ViciError> {
        about(&Charon::connect(socket).await?).await
    }

    /// Wants these from now on.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let differs = before.as_ref() != Some(&wanted);
            *before = Some(wanted);
            differs
        });
    }

    /// What is known now.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Why peers that no tunnel of ours is with were refused, since this was asked last.
    pub fn strangers(&mut self) -> Vec<IkeFailure> {
        std::iter::from_fn(|| self.strangers.try_recv().ok()).collect()
    }

    /// Done when a tunnel is in another state than at the last call, or charon is.
    /// Cancel-safe.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // The task ends with this only.
            std::future::pending().await
        }
    }
}

/// What is remembered whatever becomes of charon.
struct Memory {
    ledger: Ledger,
    pace: Pace,
    /// Until when tunnels count as up that were when charon was lost: where the kernel
    /// does ESP they go on without it.
    trusted_until: Option<Instant>,
    strangers: mpsc::Sender<IkeFailure>,
    /// What was said of strangers, and when.
    warned: BTreeMap<String, Instant>,
    /// The tunnels that are wanted.
    peers: Vec<Peer>,
}

/// What of a tunnel helps to understand why it failed.
struct Peer {
    name: ConnectionName,
    address: Option<IpAddr>,
    id: IkeId,
    proposals: Proposals,
}

impl Peer {
    fn of(name: &ConnectionName, planned: &PlannedIpsec) -> Self {
        let tunnel = &planned.tunnel;
        Self {
            name: name.clone(),
            address: tunnel.remote.address,
            id: tunnel.remote.id.clone(),
            proposals: tunnel.proposals,
        }
    }

    /// The failure with what we offered, which charon does not repeat.
    fn explain(&self, failure: IkeFailure) -> IkeFailure {
        let offered = match failure {
            IkeFailure::NoCommonChildProposal { .. } => self.proposals.esp(),
            _ => self.proposals.ike(),
        };
        failure.with_ours(&offered.join(", "))
    }
}

/// The tunnel that is meant by one who was refused before charon knew which: by who it
/// says it is, else by where it is, if that is where only one of them is.
fn meant<'a>(peers: &'a [Peer], remote: Option<&str>, failure: &IkeFailure) -> Option<&'a Peer> {
    if let IkeFailure::UnknownIdentity { peer: id, .. } = failure
        && let Some(peer) = peers.iter().find(|peer| peer.id.as_str() == id)
    {
        return Some(peer);
    }
    let from = match failure {
        IkeFailure::NoConnection { from } => Some(from.as_str()),
        _ => remote,
    };
    let from: IpAddr = from?.parse().ok()?;
    let mut there = peers.iter().filter(|peer| peer.address == Some(from));
    let peer = there.next();
    peer.filter(|_| there.next().is_none())
}

impl Memory {
    /// Whether this was not said of a stranger lately.
    fn is_news(&mut self, words: &str, now: Instant) -> bool {
        if self.warned.len() >= MOST_WARNED {
            self.warned.retain(|_, at| now - *at < WARNED);
        }
        let known = self.warned.get(words);
        let is_news = known.is_none_or(|at| now - *at >= WARNED);
        let has_room = known.is_some() || self.warned.len() < MOST_WARNED;
        if is_news && has_room {
            self.warned.insert(words.to_owned(), now);
        }
        is_news && has_room
    }
}

async fn keep(
    socket: PathBuf,
    mut wanted: watch::Receiver<Option<Wanted>>,
    seen: watch::Sender<Seen>,
    strangers: mpsc::Sender<IkeFailure>,
) {
    let mut memory = Memory {
        ledger: Ledger::default(),
        pace: Pace::default(),
        trusted_until: None,
        strangers,
        warned: BTreeMap::new(),
        peers: Vec::new(),
    };
    let mut known_problem = None;
    loop {
        let error = match Session::open(&socket).await {
            Ok(mut session) => {
                known_problem = None;
                let error = session.run(&mut wanted, &seen, &mut memory).await;
                let goes_on = session.esp == EspStatus::Kernel;
                memory.trusted_until = goes_on.then(|| Instant::now() + KERNEL_GOES_ON);
                error
            }
            Err(error) => Some(error),
        };
        let Some(error) = error else { return };
        let problem = chain(&error);
        let now_wanted = wanted.borrow_and_update().clone().unwrap_or_default();
        let is_wanted = !now_wanted.tunnels.is_empty();
        if is_wanted && known_problem.as_ref() != Some(&problem) {
            warn!(problem, "IPsec tunnels wait for strongSwan");
        }
        tell_lost(&seen, &now_wanted, &memory, &problem);
        known_problem = Some(problem);
        memory.ledger.begin();
        memory.pace.forget_all();
        let pause = match is_wanted {
            true => RECONNECT,
            false => RECONNECT_IDLE,
        };
        tokio::select! {
            () = sleep(pause) => {}
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Without charon nothing is known to be up; with userspace ESP nothing is.
fn tell_lost(seen: &watch::Sender<Seen>, wanted: &Wanted, memory: &Memory, problem: &str) {
    let now = SystemTime::now();
    let trusted = memory.trusted_until.is_some_and(|end| Instant::now() < end);
    let before = seen.borrow().tunnels.clone();
    let lost = |name: &ConnectionName| {
        if let Some(before) = before.get(name)
            && before.state == TunnelState::Up
            && trusted
        {
            return before.clone();
        }
        let report = memory.ledger.report(name, &[], now);
        Report {
            reason: Some(Reason::NoCharon {
                problem: problem.to_owned(),
            }),
            ..report
        }
    };
    let told = Seen {
        charon: CharonStatus {
            version: None,
            esp: None,
            problem: (!wanted.tunnels.is_empty()).then(|| problem.to_owned()),
        },
        tunnels: wanted
            .tunnels
            .keys()
            .map(|name| (name.clone(), lost(name)))
            .collect(),
        ready: BTreeSet::new(),
        problems: Vec::new(),
    };
    tell(seen, told);
}

/// Tells, and wakes whoever waits only when a state is another.
fn tell(seen: &watch::Sender<Seen>, told: Seen) {
    seen.send_if_modified(|before| {
        let states = |seen: &Seen| -> Vec<(ConnectionName, TunnelState)> {
            let states = seen.tunnels.iter();
            states.map(|(name, it)| (name.clone(), it.state)).collect()
        };
        let differs = states(before) != states(&told) || before.charon != told.charon;
        *before = told;
        differs
    });
}

/// The error and its causes in one line.
fn chain(error: &ViciError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}

/// A preshared key, and the two that it is between.
#[derive(Debug, PartialEq, Eq)]
struct GivenSecret {
    secret: IkeSecret,
    identities: [IkeId; 2],
}

/// One connection to one charon.
struct Session {
    charon: Charon,
    version: String,
    esp: EspStatus,
    events: AssociationEvents,
    log: Log,
    reader: LogReader,
    /// The preshared keys that it was given.
    secrets: BTreeMap<ConnectionName, GivenSecret>,
    /// The private keys that it was given, by its own names for them.
    private_keys: BTreeMap<ConnectionName, (IkeCredential, String)>,
    associations: Vec<IkeSa>,
    /// The tunnels that are not set up because their XFRM interfaces are missing.
    without_interface: BTreeSet<ConnectionName>,
    problems: Vec<String>,
}

impl Session {
    async fn open(socket: &Path) -> Result<Self, ViciError> {
        let charon = Charon::connect(socket).await?;
        let (version, esp) = about(&charon).await?;
        // Before anything is asked of it: what it leads to must not be missed.
        let events = charon.association_events().await?;
        let log = charon.log().await?;
        Ok(Self {
            version,
            charon,
            esp,
            events,
            log,
            reader: LogReader::default(),
            secrets: BTreeMap::new(),
            private_keys: BTreeMap::new(),
            associations: Vec::new(),
            without_interface: BTreeSet::new(),
            problems: Vec::new(),
        })
    }

    /// Keeps the connections until charon is gone. `None` when nobody wants anything
    /// any more.
    async fn run(
        &mut self,
        wanted: &mut watch::Receiver<Option<Wanted>>,
        seen: &watch::Sender<Seen>,
        memory: &mut Memory,
    ) -> Option<ViciError> {
        info!(charon = self.version, esp = %self.esp, "strongSwan is there");
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let turn = {
                let mut event = pin!(self.events.next());
                tokio::select! {
                    changed = wanted.changed() => {
                        if changed.is_err() {
                            return None;
                        }
                        Turn::Reconcile
                    }
                    event = &mut event => match event {
                        Ok(event) => Turn::Happened(event),
                        Err(error) => Turn::Failed(error),
                    },
                    line = self.log.next() => match line {
                        Ok(line) => Turn::Logged(line),
                        Err(error) => Turn::Failed(error),
                    },
                    _ = look.tick() => Turn::Reconcile,
                }
            };
            let done = match turn {
                Turn::Logged(line) => {
                    let diagnosis = line.and_then(|line| self.reader.read(&line));
                    if let Some(diagnosis) = diagnosis {
                        note(diagnosis, memory);
                    }
                    continue;
                }
                Turn::Happened(event) => {
                    self.settle(&event, memory).await;
                    Ok(())
                }
                Turn::Reconcile => Ok(()),
                Turn::Failed(error) => Err(error),
            };
            let wished = wanted.borrow_and_update().clone();
            let done = match (done, &wished) {
                (Ok(()), Some(wished)) if wished.esp == Some(self.esp) => {
                    self.reconcile(wished, memory).await
                }
                (done, _) => done,
            };
            match done {
                Err(error) if is_over(&error) => return Some(error),
                Err(error) => {
                    let problem = chain(&error);
                    if !self.problems.contains(&problem) {
                        warn!(problem, "strongSwan; trying again");
                        self.problems.push(problem);
                    }
                }
                Ok(()) => {}
            }
            self.tell(&wished.unwrap_or_default(), seen, memory);
        }
    }

    /// The rest of a burst, and what is logged of it: a failure is told before the SA
    /// is gone, so that who is told of the one knows of the other.
    async fn settle(&mut self, event: &AssociationEvent, memory: &mut Memory) {
        debug!(?event, "strongSwan");
        came_up(event, memory);
        let _ = timeout(BURST, async {
            loop {
                tokio::select! {
                    line = self.log.next() => match line {
                        Ok(line) => {
                            let diagnosis = line.and_then(|line| self.reader.read(&line));
                            diagnosis.into_iter().for_each(|it| note(it, memory));
                        }
                        Err(_) => return,
                    },
                    event = self.events.next() => match event {
                        Ok(event) => came_up(&event, memory),
                        Err(_) => return,
                    },
                }
            }
        })
        .await;
    }

    async fn reconcile(&mut self, wanted: &Wanted, memory: &mut Memory) -> Result<(), ViciError> {
        let mut problems = Vec::new();
        let peers = wanted.tunnels.iter();
        memory.peers = peers.map(|(name, it)| Peer::of(name, it)).collect();
        memory
            .ledger
            .retain(|name| wanted.tunnels.contains_key(name));
        self.without_interface.clear();
        let configured = self.configured(wanted, &mut problems);
        self.give_private_keys(wanted, &mut problems).await;
        let of_now = |name: &ConnectionName| {
            let planned = wanted.tunnels.get(name)?;
            let ends = [&planned.tunnel.local, &planned.tunnel.remote];
            match &planned.credential {
                IkeCredential::PresharedKey(secret) => Some(GivenSecret {
                    secret: secret.clone(),
                    identities: ends.map(|end| end.id.clone()),
                }),
                IkeCredential::PrivateKey(_) => None,
            }
        };
        let given = &self.secrets;
        let current = given
            .iter()
            .filter(|(name, it)| of_now(name).as_ref() == Some(*it));
        let mut current: BTreeSet<ConnectionName> = current.map(|(name, _)| name.clone()).collect();
        let actual = self.charon.fetch(&current).await?;
        let connections = configured.iter();
        let connections = connections
            .map(|(name, it)| (name.clone(), it.connection.wanted()))
            .collect();
        let mut changes = plan(&connections, &actual);
        let now = Instant::now();
        changes.retain(|change| match change {
            IpsecChange::UnloadConnection(name)
            | IpsecChange::UnloadSecret(name)
            | IpsecChange::TerminateIke { name, .. } => !wanted.stays(name),
            IpsecChange::Initiate { name, child } => {
                let longest = match child {
                    Some(_) => LONGEST_PAUSE,
                    None => LONGEST_PAUSE_STANDING_BY,
                };
                memory.pace.may_begin(name, longest, now)
            }
            IpsecChange::LoadConnection(name) => {
                // Another one: what became of the one before says nothing of it.
                memory.pace.forget(name);
                true
            }
            _ => true,
        });
        self.associations = actual.associations;
        memory.ledger.look(&self.associations, SystemTime::now());
        if !changes.is_empty() {
            let results = self.charon.apply(&changes, &configured, &mut current).await;
            for (change, result) in results {
                match result {
                    Ok(()) if matches!(change, IpsecChange::Initiate { child: None, .. }) => {
                        debug!("IPsec: {change}");
                    }
                    Ok(()) => info!("IPsec: {change}"),
                    Err(error) if is_over(&error) => return Err(error),
                    Err(error) => problems.push(format!("IPsec: {}", chain(&error))),
                }
            }
            self.associations = self.charon.associations().await?;
            memory.ledger.look(&self.associations, SystemTime::now());
        }
        self.secrets = current
            .into_iter()
            .filter_map(|name| Some((name.clone(), of_now(&name)?)))
            .collect();
        for problem in problems.iter().filter(|it| !self.problems.contains(it)) {
            warn!(problem, "not as it should be; trying again");
        }
        self.problems = problems;
        Ok(())
    }

    fn configured(
        &mut self,
        wanted: &Wanted,
        problems: &mut Vec<String>,
    ) -> BTreeMap<ConnectionName, Configured> {
        let mut configured = BTreeMap::new();
        for (name, if_id) in if_ids(wanted.tunnels.keys()) {
            let Some(planned) = wanted.tunnels.get(&name) else {
                continue;
            };
            let esp = match self.esp {
                EspStatus::Userspace => EspBackEnd::Userspace,
                EspStatus::Kernel if wanted.interfaces.contains(&if_id) => {
                    EspBackEnd::Kernel { if_id }
                }
                EspStatus::Kernel => {
                    self.without_interface.insert(name);
                    continue;
                }
            };
            let tunnel = IpsecTunnel {
                esp,
                ..planned.tunnel.clone()
            };
            let connection = match wanted.standing_by.contains(&name) {
                true => Connection::standing_by(&tunnel),
                false => Connection::new(&tunnel),
            };
            match connection {
                Ok(connection) => {
                    let secret = match &planned.credential {
                        IkeCredential::PresharedKey(secret) => Some(secret.clone()),
                        IkeCredential::PrivateKey(_) => None,
                    };
                    configured.insert(name, Configured { connection, secret });
                }
                Err(error) => problems.push(format!("IPsec: {name}: {error}")),
            }
        }
        configured
    }

    /// charon is given the private keys of certificates, and forgets those that no
    /// tunnel needs any more.
    async fn give_private_keys(&mut self, wanted: &Wanted, problems: &mut Vec<String>) {
        let needed = |name: &ConnectionName, key: &IkeCredential| {
            let planned = wanted.tunnels.get(name);
            planned.is_some_and(|it| it.credential == *key)
        };
        let unneeded: Vec<ConnectionName> = self
            .private_keys
            .iter()
            .filter(|(name, (key, _))| !needed(name, key))
            .map(|(name, _)| name.clone())
            .collect();
        for name in unneeded {
            let Some((_, id)) = self.private_keys.remove(&name) else {
                continue;
            };
            let mut others = self.private_keys.values();
            if !others.any(|(_, other)| *other == id)
                && let Err(error) = self.charon.unload_private_key(&id).await
            {
                problems.push(format!("IPsec: {name}: {}", chain(&error)));
            }
        }
        for (name, planned) in &wanted.tunnels {
            let IkeCredential::PrivateKey(key) = &planned.credential else {
                continue;
            };
            if self.private_keys.contains_key(name) {
                continue;
            }
            let pem = Zeroizing::new(key.as_pem().to_owned());
            match self.charon.load_private_key(&pem).await {
                Ok(id) => {
                    let given = (planned.credential.clone(), id);
                    self.private_keys.insert(name.clone(), given);
                }
                Err(error) => problems.push(format!("IPsec: {name}: {}", chain(&error))),
            }
        }
    }

    fn tell(&self, wanted: &Wanted, seen: &watch::Sender<Seen>, memory: &Memory) {
        let now = SystemTime::now();
        let report = |name: &ConnectionName| {
            let report = memory.ledger.report(name, &self.associations, now);
            match self.without_interface.contains(name) {
                true => Report {
                    reason: Some(Reason::NoXfrmInterface),
                    ..report
                },
                false => report,
            }
        };
        let established = |name: &ConnectionName| {
            let mut sas = self.associations.iter();
            sas.any(|sa| sa.connection == name.as_str() && sa.state == IkeState::Established)
        };
        let told = Seen {
            charon: CharonStatus {
                version: Some(self.version.clone()),
                esp: Some(self.esp),
                problem: None,
            },
            tunnels: wanted
                .tunnels
                .keys()
                .map(|name| (name.clone(), report(name)))
                .collect(),
            ready: wanted
                .standing_by
                .iter()
                .filter(|name| established(name))
                .cloned()
                .collect(),
            problems: self.problems.clone(),
        };
        tell(seen, told);
    }
}

async fn about(charon: &Charon) -> Result<(String, EspStatus), ViciError> {
    let version = charon.version().await?;
    let plugins = charon.stats().await?.plugins;
    // Where it has both, it prefers the former.
    let esp = match (
        plugins.contains("kernel-libipsec"),
        plugins.contains("kernel-netlink"),
    ) {
        (true, _) => EspStatus::Userspace,
        (false, true) => EspStatus::Kernel,
        (false, false) => return Err(ViciError::NoEsp),
    };
    let version = format!("{} {}", version.daemon, version.version);
    Ok((version, esp))
}

/// What is to be done next.
enum Turn {
    Reconcile,
    Happened(AssociationEvent),
    Logged(Option<LogLine>),
    Failed(ViciError),
}

/// Nothing more is to be had of this connection. One that does not answer in time
/// counts: a charon that hangs carries nothing either, in userspace.
fn is_over(error: &ViciError) -> bool {
    error.ends_the_connection() || matches!(error, ViciError::Timeout { .. })
}

fn came_up(event: &AssociationEvent, memory: &mut Memory) {
    if let AssociationEvent::ChildUp(sa) = event
        && let Some(name) = ConnectionName::ours(&sa.connection)
    {
        memory.pace.forget(&name);
    }
}

fn note(diagnosis: Diagnosis, memory: &mut Memory) {
    let Diagnosis {
        connection,
        remote,
        failure,
    } = diagnosis;
    let named = connection.as_deref().and_then(ConnectionName::ours);
    if named.is_none() {
        let _ = memory.strangers.try_send(failure.clone());
    }
    let peer = match &named {
        Some(name) => memory.peers.iter().find(|peer| peer.name == *name),
        None => meant(&memory.peers, remote.as_deref(), &failure),
    };
    let name = named.or_else(|| Some(peer?.name.clone()));
    let failure = match peer {
        Some(peer) => peer.explain(failure),
        None => failure,
    };
    let words = failure.to_string();
    let tunnel = name.as_ref().map(ConnectionName::site);
    let is_news = match name.clone() {
        Some(name) => memory.ledger.failed(name, failure),
        None => {
            let words = format!("{} {words}", remote.as_deref().unwrap_or_default());
            memory.is_news(&words, Instant::now())
        }
    };
    // charon tries for ever, and says so each time.
    match is_news {
        true => warn!(tunnel, remote, "IPsec: {words}"),
        false => debug!(tunnel, remote, "IPsec: {words}"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::ipsec::{IkeRole, Side, TunnelEnd};
    use privnet_reconcile::fleet::own_tunnel;

    use super::*;

    fn peer(site: &str, address: &str) -> Peer {
        Peer {
            name: ConnectionName::of(site).unwrap(),
            address: address.parse().ok(),
            id: format!("{site}.example").parse().unwrap(),
            proposals: Proposals::Modern,
        }
    }

    #[test]
    fn a_charon_that_is_lost_is_something_known_and_what_was_up_before_is_not_believed() {
        let name = ConnectionName::of("dc").unwrap();
        let end = |address: &str, id: &str, selector: &str| TunnelEnd {
            address: address.parse().ok(),
            id: id.parse().unwrap(),
            selectors: [selector.parse().unwrap()].into(),
        };
        let local = end("10.0.0.10", "hub.example", "10.0.0.0/8");
        let remote = end("203.0.113.1", "dc.example", "10.200.0.0/16");
        let planned = PlannedIpsec {
            routed: BTreeSet::new(),
            tunnel: own_tunnel(name.clone(), local, remote, IkeRole::Initiator),
            credential: IkeCredential::PresharedKey(IkeSecret::new("correct horse").unwrap()),
        };
        let wanted = Wanted {
            tunnels: [(name, planned)].into(),
            ..Wanted::default()
        };
        let (strangers, _heard) = mpsc::channel(1);
        let memory = Memory {
            ledger: Ledger::default(),
            pace: Pace::default(),
            trusted_until: None,
            strangers,
            warned: BTreeMap::new(),
            peers: Vec::new(),
        };
        let (told, seen) = watch::channel(Seen::nothing());
        assert!(!seen.borrow().is_known());
        tell_lost(&told, &wanted, &memory, "it is gone");
        assert!(seen.borrow().is_known());
        let tunnels = seen.borrow().tunnels.clone();
        assert!(tunnels.values().all(|it| it.state != TunnelState::Up));
    }

    #[test]
    fn what_is_not_wanted_stays_where_its_key_is_awaited_or_everybodys() {
        let names = ["wanted", "awaited", "gone"].map(|site| ConnectionName::of(site).unwrap());
        let end = |address: &str, id: &str, selector: &str| TunnelEnd {
            address: address.parse().ok(),
            id: id.parse().unwrap(),
            selectors: [selector.parse().unwrap()].into(),
        };
        let local = end("10.0.0.10", "hub.example", "10.0.0.0/8");
        let remote = end("203.0.113.1", "dc.example", "10.200.0.0/16");
        let planned = PlannedIpsec {
            routed: BTreeSet::new(),
            tunnel: own_tunnel(names[0].clone(), local, remote, IkeRole::Initiator),
            credential: IkeCredential::PresharedKey(IkeSecret::new("correct horse").unwrap()),
        };
        let kept = |wanted: &Wanted| names.each_ref().map(|name| wanted.stays(name));
        let mut wanted = Wanted {
            tunnels: [(names[0].clone(), planned)].into(),
            ..Wanted::default()
        };
        assert!(!wanted.keeps_any());
        assert_eq!(kept(&wanted), [false, false, false]);
        wanted.keeps = names[..2].iter().cloned().collect();
        assert!(wanted.keeps_any());
        assert_eq!(kept(&wanted), [false, true, false]);
        wanted.keeps_others = true;
        assert_eq!(kept(&wanted), [false, true, true]);
    }

    #[test]
    fn who_was_refused_is_known_by_its_identity_or_by_where_it_alone_is() {
        let peers = [
            peer("one", "203.0.113.1"),
            peer("two", "203.0.113.2"),
            peer("three", "203.0.113.2"),
            peer("four", "anywhere"),
        ];
        let meant = |remote, failure| Some(meant(&peers, remote, &failure)?.name.site().to_owned());
        let refused = || IkeFailure::NoCommonIkeProposal {
            by: Side::Ours,
            ours: None,
            theirs: None,
        };
        assert_eq!(
            meant(Some("203.0.113.1"), refused()).as_deref(),
            Some("one")
        );
        for unknown in [Some("203.0.113.2"), Some("203.0.113.3"), Some("?"), None] {
            assert_eq!(meant(unknown, refused()), None);
        }
        let from = "203.0.113.1".to_owned();
        let called = IkeFailure::NoConnection { from };
        assert_eq!(meant(None, called).as_deref(), Some("one"));
        for (id, expected) in [("four.example", Some("four")), ("x.example", None)] {
            let (ours, id) = ("hub.example".to_owned(), id.to_owned());
            let failure = IkeFailure::UnknownIdentity { ours, peer: id };
            assert_eq!(meant(Some("203.0.113.9"), failure).as_deref(), expected);
        }
    }
}
