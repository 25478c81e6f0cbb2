//! Probes through the tunnels: ICMP echo to the gateways' own addresses, so that
//! a gateway that has a session and forwards nothing is found out.
//!
//! This sends what it is told to send and tells what was answered. When to ask,
//! and what follows from an answer that does not come, is decided elsewhere
//! (`privnet_reconcile::health`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use socket2::Type;
use surge_ping::{Client, Config, ConfigBuilder, ICMP, PingIdentifier, PingSequence};
use tokio::sync::mpsc;

/// How long an answer is waited for. Later ones mean nothing to anybody.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers that wait to be taken; more are lost, as on the way.
const ANSWERS: usize = 1024;

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub address: IpAddr,
    /// The request that it answers.
    pub sequence: u16,
}

/// Asks gateways.
pub struct Prober {
    interface: String,
    source: Option<Ipv4Addr>,
    identifier: PingIdentifier,
    /// For IPv4 and IPv6.
    clients: [Option<Client>; 2],
    sender: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
}

impl Prober {
    /// Asks through `interface`, with `source` as IPv4 address if given, which is
    /// this host's. Nothing is opened while there is nobody to ask.
    pub fn new(interface: &str, source: Option<Ipv4Addr>) -> Self {
        let (sender, answers) = mpsc::channel(ANSWERS);
        Self {
            interface: interface.to_owned(),
            source,
            identifier: PingIdentifier(rand::random()),
            clients: [None, None],
            sender,
            answers,
        }
    }

    /// Sends a request. One that cannot be sent is one that is not answered.
    ///
    /// # Errors
    /// The socket cannot be opened: the program lacks `CAP_NET_RAW`, or the source
    /// address is not there yet.
    pub fn ask(&mut self, address: IpAddr, sequence: u16) -> std::io::Result<()> {
        let client = self.client(address.is_ipv6())?;
        self.ping(client, address, sequence);
        Ok(())
    }

    /// The same through an interface that may come and go: with a socket of its own, as
    /// one stays bound to an interface that is gone.
    ///
    /// # Errors
    /// As above.
    pub fn ask_through(
        &self,
        interface: &str,
        address: IpAddr,
        sequence: u16,
    ) -> std::io::Result<()> {
        let config = config(interface, address.is_ipv6());
        match Client::new(&config.build()) {
            Ok(client) => self.ping(client, address, sequence),
            // It is not there: nobody answers.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn ping(&self, client: Client, address: IpAddr, sequence: u16) {
        let identifier = self.identifier;
        let answers = self.sender.clone();
        tokio::spawn(async move {
            let mut pinger = client.pinger(address, identifier).await;
            pinger.timeout(PATIENCE);
            if pinger
                .ping(PingSequence(sequence), b"privnet")
                .await
                .is_ok()
            {
                let _ = answers.try_send(Answer { address, sequence });
            }
        });
    }

    /// The next answer; never, while nobody answers. Cancel-safe.
    pub async fn next(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
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
        let config = config(&self.interface, ipv6);
        let config = match self.source.filter(|_| !ipv6) {
            Some(source) => config.bind(SocketAddr::from((source, 0))),
            None => config,
        };
        Ok(slot.insert(Client::new(&config.build())?).clone())
    }
}

fn config(interface: &str, ipv6: bool) -> ConfigBuilder {
    let config = Config::builder()
        // The other type depends on a sysctl, `ping_group_range`.
        .sock_type_hint(Type::RAW)
        .interface(interface);
    match ipv6 {
        true => config.kind(ICMP::V6),
        false => config,
    }
}
