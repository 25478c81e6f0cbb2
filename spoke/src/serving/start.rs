//! The beginning: until EC2 has told who this spoke is nothing can be served.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_ec2::{DepartureWatch, SdkContext, Vpc};
use privnet_model::config::spoke::{AddressConfig, RoutesConfig};
use privnet_model::inventory::Identity;
use privnet_model::status::RoutesStatus;
use privnet_reconcile::takeover::{Memory, Setup, Takeover};
use privnet_runtime::connections::Connections;
use privnet_runtime::health_port::HealthPort;
use privnet_runtime::self_test::SelfTester;
use privnet_runtime::state_file::{Loaded, StateFile};
use tokio::sync::{Notify, watch};
use tracing::warn;

use super::address::Addresses;
use super::asked::AGAIN;
use super::remedy::Remedies;
use super::server::Server;
use super::{Local, View};

/// Whatever one question or change may take at EC2: below what a takeover waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// Raised when a field of the memory changes its meaning.
const FORMAT: u32 = 1;
/// The same for the journal of remedies. One that is not read is told, and makes this spoke
/// wait: its fields had better have defaults.
const JOURNAL_FORMAT: u32 = 1;

/// Where it remembers what it must not forget over a restart.
pub(crate) fn memory_path(private_key: &Path) -> PathBuf {
    private_key.with_extension("routes.json")
}

pub(super) fn memory_file(private_key: &Path) -> StateFile {
    let path = memory_path(private_key);
    StateFile::new(&path, FORMAT, env!("CARGO_PKG_VERSION"))
}

/// Where it remembers what it did about siblings that stay lost.
pub(super) fn journal_file(private_key: &Path) -> StateFile {
    let path = private_key.with_extension("remedies.json");
    StateFile::new(&path, JOURNAL_FORMAT, env!("CARGO_PKG_VERSION"))
}

/// That connections go along when the address moves.
pub(super) struct Keeps {
    /// How long one on which nothing is sent is remembered.
    pub(super) idle_timeout: Duration,
    /// How many of each sibling's are kept in mind.
    pub(super) most: usize,
}

/// All that the task begins with.
pub(super) struct Start {
    pub(super) state: StateFile,
    pub(super) journal: StateFile,
    pub(super) config: RoutesConfig,
    pub(super) address: Option<AddressConfig>,
    pub(super) keeps: Option<Keeps>,
    pub(super) destinations: BTreeSet<IpNet>,
    /// Those of them to which the way is the tunnel.
    pub(super) tunnelled: BTreeSet<IpNet>,
    pub(super) test_interval: Duration,
    pub(super) identity: Identity,
    pub(super) departure: DepartureWatch,
    pub(super) tester: Option<SelfTester>,
    pub(super) told: watch::Receiver<(Local, Instant)>,
    pub(super) show: watch::Sender<View>,
    pub(super) mend: Arc<Notify>,
    pub(super) leave: Arc<Notify>,
    pub(super) roamed: Arc<Notify>,
}

impl Start {
    /// Until EC2 has told who this spoke is nothing can be done but to say so.
    pub(super) async fn run(self) {
        let context = SdkContext::load(&self.identity.region).await;
        let vpc = self.vpc(&context);
        let mut problem = None;
        let me = loop {
            let me = tokio::select! {
                me = vpc.itself(&self.identity.instance) => me,
                () = self.leave.notified() => return,
            };
            let missing = match me {
                Ok(found) => match found.spokes.into_values().next() {
                    Some(me) => break me,
                    None => "EC2 does not describe this instance completely yet".to_owned(),
                },
                Err(error) => error.to_string(),
            };
            let missing = format!("no route can be served: {missing}");
            if problem.as_ref() != Some(&missing) {
                warn!("{missing}");
            }
            problem = Some(missing.clone());
            self.show.send_replace(View {
                status: RoutesStatus {
                    sick: Some(missing.clone()),
                    ..RoutesStatus::default()
                },
                problems: vec![missing],
            });
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = self.leave.notified() => return,
            }
        };
        let memory = match self.state.load(Timestamp::now()) {
            Loaded::Found { data, .. } => data,
            Loaded::Missing | Loaded::Ignored { .. } => Memory::default(),
        };
        let setup = Setup {
            me,
            tables: self.config.tables.clone(),
            destinations: self.destinations.clone(),
            tunnelled: self.tunnelled.clone(),
            takeover: self.config.takeover.is_some(),
            test_interval: self.test_interval,
        };
        let takeover = Takeover::new(setup, &memory, Instant::now(), Timestamp::now());
        let addresses = self.address.clone().map(Addresses::new);
        let remedies = Remedies::new(&self);
        Server::new(self, context, takeover, addresses, remedies)
            .run()
            .await;
    }

    /// EC2, asked by connections of its own.
    pub(super) fn vpc(&self, context: &SdkContext) -> Vpc {
        let Identity { region, vpc, .. } = &self.identity;
        Vpc::new(context, region, vpc, PATIENCE)
    }

    pub(super) fn open_port(&self, port: u16) -> Result<HealthPort, String> {
        let address = SocketAddr::new(self.identity.private_address, port);
        HealthPort::open(address, self.identity.instance.clone()).map_err(|error| {
            format!(
                "siblings cannot ask how this spoke is: {:#}",
                anyhow::Error::from(error)
            )
        })
    }

    /// At the port of the health questions, but TCP's.
    pub(super) fn open_connections(&self, keeps: &Keeps, port: u16) -> Result<Connections, String> {
        let me = self.identity.instance.clone();
        let IpAddr::V4(address) = self.identity.private_address else {
            return Err(
                "connections end when the address moves: they are IPv4's, and this \
                        instance's primary address is not"
                    .to_owned(),
            );
        };
        let at = SocketAddrV4::new(address, port);
        Connections::open(at, me, keeps.idle_timeout, keeps.most).map_err(|error| {
            format!(
                "connections end when the address moves: {:#}",
                anyhow::Error::from(error)
            )
        })
    }
}
