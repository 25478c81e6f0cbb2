//! Probes through the tunnels: ICMP echo to the gateways' own addresses, so that
//! a gateway that has a session and forwards nothing is found out.
//!
//! Each gateway has its own pace: a probe each second, and after one that was not
//! answered the next at once, so that three in a row are known within 3 s of the
//! first thing lost. What follows from an outcome is decided elsewhere
//! (`privnet_reconcile::health`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use socket2::Type;
use surge_ping::{Client, Config, ICMP, PingIdentifier, PingSequence};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// From one probe to the next while they are answered.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take. Regions on opposite sides of the world are 0.3 s
/// apart; with three losses in a row the last is known 2.8 s after the first
/// packet was lost: one interval and three times this.
const PATIENCE: Duration = Duration::from_millis(600);

/// Outcomes that wait to be taken. The loop that takes them is late when it is
/// full; the probes then wait, too.
const OUTCOMES: usize = 256;

/// What became of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Who was asked.
    pub address: IpAddr,
    /// How long the answer took; `None` when none came in time.
    pub answered: Option<Duration>,
}

/// Asks gateways, as long as it is told to.
pub struct Prober {
    interface: String,
    /// For IPv4 and IPv6.
    clients: [Option<Client>; 2],
    targets: BTreeMap<IpAddr, Task>,
    sender: mpsc::Sender<Outcome>,
    outcomes: mpsc::Receiver<Outcome>,
}

/// Ends with its handle.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Prober {
    /// Asks through `interface`. Nothing is opened while there is nobody to ask.
    pub fn new(interface: &str) -> Self {
        let (sender, outcomes) = mpsc::channel(OUTCOMES);
        Self {
            interface: interface.to_owned(),
            clients: [None, None],
            targets: BTreeMap::new(),
            sender,
            outcomes,
        }
    }

    /// Asks exactly these from now on. Those asked already are not disturbed.
    ///
    /// # Errors
    /// The socket cannot be opened: the program lacks `CAP_NET_RAW`. Nobody new is
    /// asked; to be tried again with the next call.
    pub fn watch(&mut self, addresses: &BTreeSet<IpAddr>) -> std::io::Result<()> {
        self.targets
            .retain(|address, _| addresses.contains(address));
        for address in addresses {
            if !self.targets.contains_key(address) {
                let client = self.client(address.is_ipv6())?;
                let task = tokio::spawn(ask(client, *address, self.sender.clone()));
                self.targets.insert(*address, Task(task.abort_handle()));
            }
        }
        Ok(())
    }

    /// The next outcome; never, while nobody is asked. Cancel-safe.
    pub async fn next(&mut self) -> Outcome {
        match self.outcomes.recv().await {
            Some(outcome) => outcome,
            // Cannot be: a sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// The socket of a family, opened when it is needed first: each hears every
    /// ICMP message that comes through the tunnels, so there is one.
    fn client(&mut self, ipv6: bool) -> std::io::Result<Client> {
        let slot = &mut self.clients[usize::from(ipv6)];
        if let Some(client) = slot {
            return Ok(client.clone());
        }
        let kind = if ipv6 { ICMP::V6 } else { ICMP::V4 };
        let config = Config::builder()
            .kind(kind)
            // The other type depends on a sysctl, `ping_group_range`.
            .sock_type_hint(Type::RAW)
            .interface(&self.interface)
            .build();
        Ok(slot.insert(Client::new(&config)?).clone())
    }
}

/// Asks one gateway for ever.
async fn ask(client: Client, address: IpAddr, outcomes: mpsc::Sender<Outcome>) {
    let mut pinger = client.pinger(address, PingIdentifier(rand::random())).await;
    pinger.timeout(PATIENCE);
    // Not all at the same moment.
    sleep(INTERVAL.mul_f64(rand::random())).await;
    for sequence in (0..=u16::MAX).cycle() {
        let asked = Instant::now();
        let answer = pinger.ping(PingSequence(sequence), b"privnet").await;
        let answered = answer.ok().map(|(_, after)| after);
        if outcomes.send(Outcome { address, answered }).await.is_err() {
            return;
        }
        let pause = if answered.is_some() {
            INTERVAL
        } else {
            PATIENCE
        };
        // What cannot be sent at all fails at once: no faster than unanswered ones.
        sleep_until(asked + pause).await;
    }
}
