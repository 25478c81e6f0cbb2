//! How the gateways of sites that have several answer through their own tunnels:
//! the probes of `privnet_reconcile::health`, sent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use privnet_model::status::EspStatus;
use privnet_reconcile::fleet::{Fleet, TunnelId};
use privnet_reconcile::health::{Health, HealthChange, Probe, Probes};
use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::xfrm::{XfrmInterface, if_ids};
use privnet_runtime::probe::Prober;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

/// How often they are judged; `health` asks for at least four times a second.
const BEAT: Duration = Duration::from_millis(125);

/// The gateways that are probed.
pub(crate) struct Gateways {
    probes: Probes,
    prober: Prober,
    /// The interfaces of those by IPsec.
    by_ipsec: BTreeMap<TunnelId, InterfaceName>,
    beat: Interval,
    problem: Option<String>,
}

impl Gateways {
    pub(crate) fn new(prober: Prober) -> Self {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            probes: Probes::default(),
            prober,
            by_ipsec: BTreeMap::new(),
            beat,
            problem: None,
        }
    }

    /// Takes over who is to be probed, where this does ESP.
    pub(crate) fn watch(&mut self, fleet: &Fleet, esp: Option<EspStatus>) {
        self.probes.watch(fleet, esp, Instant::now());
        let names = fleet.ipsec().filter_map(|tunnel| tunnel.ipsec.as_ref());
        let numbers = if_ids(names.map(|planned| &planned.tunnel.name));
        let tunnels = fleet.tunnels.iter();
        let interfaces = tunnels.filter_map(|(id, tunnel)| {
            let number = numbers.get(&tunnel.ipsec.as_ref()?.tunnel.name)?;
            Some((id.clone(), XfrmInterface::name(*number)))
        });
        self.by_ipsec = interfaces.collect();
    }

    /// How each is.
    pub(crate) fn health(&self) -> &BTreeMap<TunnelId, Health> {
        self.probes.health()
    }

    /// Why none can be probed.
    pub(crate) fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// Probes until the health of some is another. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Vec<HealthChange> {
        loop {
            // With nobody to probe there is no beat, and no answer comes.
            let watching = self.probes.next().is_some();
            tokio::select! {
                answer = self.prober.next() => {
                    self.probes.answered(answer.address, answer.sequence, Instant::now());
                }
                _ = self.beat.tick(), if watching => {
                    let now = Instant::now();
                    self.send(now);
                    let changes = self.probes.judge(now);
                    if !changes.is_empty() {
                        return changes;
                    }
                }
            }
        }
    }

    fn send(&mut self, now: Instant) {
        let due = self.probes.due(now);
        if due.is_empty() {
            return;
        }
        let sent = due.iter().map(|probe| {
            let Probe {
                tunnel,
                address,
                sequence,
            } = probe;
            match self.by_ipsec.get(tunnel) {
                Some(interface) => {
                    let interface = interface.as_str();
                    self.prober.ask_through(interface, *address, *sequence)
                }
                None => self.prober.ask(*address, *sequence),
            }
        });
        let failed = sent.filter_map(Result::err).last();
        let problem = failed.map(|error| {
            format!(
                "gateways cannot be probed, so none takes over from another: {error} \
                 (CAP_NET_RAW is needed)"
            )
        });
        if problem != self.problem
            && let Some(problem) = &problem
        {
            warn!("{problem}");
        }
        self.problem = problem;
    }
}
