//! charon's commands, typed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use privnet_model::ipsec::{ConnectionName, IkeId, IkeSa, IkeSecret, UniqueId};
use zeroize::Zeroizing;

use crate::association::ike_sa;
use crate::connection::Connection;
use crate::event::{ASSOCIATION_EVENTS, AssociationEvents, Log};
use crate::vici::{Client, Section, ViciError};

/// Events that wait to be fetched. A hub of 1,000 tunnels whose network comes back
/// gets 4,000 at once, some seconds of which its loop may be busy.
const EVENTS: usize = 16_384;

const NOTHING: &Section = &Section::new();

/// A connection to charon. Clones share it.
#[derive(Debug, Clone)]
pub struct Charon {
    client: Client,
}

/// Which program it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `charon-systemd`, say.
    pub daemon: String,
    /// strongSwan's version: `5.9.8`.
    pub version: String,
}

/// What it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// When it started, in its words, to the second.
    pub since: String,
    /// IKE SAs.
    pub ike_sas: u64,
    /// Those of them whose handshake goes on.
    pub half_open: u64,
    /// Plugins loaded: `kernel-libipsec` among them does ESP in userspace.
    pub plugins: BTreeSet<String>,
}

/// Which SAs to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// An IKE SA with its children.
    Ike(UniqueId),
    /// A child SA.
    Child(UniqueId),
    /// All IKE SAs of a connection.
    Connection(ConnectionName),
}

/// Whether the peer is asked when an SA ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It is told, and its answer waited for by charon.
    Polite,
    /// It is told, and the SA is gone at once.
    Forced,
}

/// Which keys to change now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rekey {
    /// Those of an IKE SA.
    Ike(UniqueId),
    /// Those of a child SA.
    Child(UniqueId),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ike(id) => write!(f, "IKE SA {id}"),
            Self::Child(id) => write!(f, "child SA {id}"),
            Self::Connection(name) => write!(f, "all IKE SAs of {name}"),
        }
    }
}

impl fmt::Display for Rekey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ike(id) => write!(f, "IKE SA {id}"),
            Self::Child(id) => write!(f, "child SA {id}"),
        }
    }
}

impl Charon {
    /// Connects to the socket of charon's `vici` plugin.
    pub async fn connect(socket: &Path) -> Result<Self, ViciError> {
        let client = Client::connect(socket).await?;
        Ok(Self { client })
    }

    /// Which program it is.
    pub async fn version(&self) -> Result<Version, ViciError> {
        let answer = self.client.command("version", NOTHING).await?;
        Ok(Version {
            daemon: expected(&answer, "version", "daemon")?.to_owned(),
            version: expected(&answer, "version", "version")?.to_owned(),
        })
    }

    /// What it tells of itself.
    pub async fn stats(&self) -> Result<Stats, ViciError> {
        let answer = self.client.command("stats", NOTHING).await?;
        let part = |name: &str| answer.section(name).cloned().unwrap_or_default();
        let number = |key: &'static str| {
            let sas = part("ikesas");
            let text = expected(&sas, "stats", key)?;
            text.parse().map_err(|_| ViciError::Unexpected {
                answer: "stats".to_owned(),
                key,
                found: text.to_owned(),
                expected: "a number",
            })
        };
        Ok(Stats {
            since: expected(&part("uptime"), "stats", "since")?.to_owned(),
            ike_sas: number("total")?,
            half_open: number("half-open")?,
            plugins: answer.list("plugins").map(str::to_owned).collect(),
        })
    }

    /// Has it read strongswan.conf again.
    pub async fn reload_settings(&self) -> Result<(), ViciError> {
        let operation = || "to reload its settings".to_owned();
        self.change("reload-settings", NOTHING, operation).await?;
        Ok(())
    }

    /// Loads a connection, or puts it in the place of the one of that name. SAs
    /// that there are go on as they are.
    ///
    /// Certificates that it names stay known to charon until that ends, also when
    /// the connection is unloaded; but each connection keeps to its own authority.
    pub async fn load_connection(&self, connection: &Connection) -> Result<(), ViciError> {
        let operation = || format!("to load connection {}", connection.name());
        self.change("load-conn", connection.message(), operation)
            .await?;
        Ok(())
    }

    /// Forgets a connection. SAs that there are go on until they are ended.
    pub async fn unload_connection(&self, name: &ConnectionName) -> Result<(), ViciError> {
        let message = Section::new().with("name", name.as_str());
        let operation = || format!("to unload connection {name}");
        self.change("unload-conn", &message, operation).await?;
        Ok(())
    }

    /// Our connections that are loaded, with the names of their children. Those
    /// that others loaded are left out.
    pub async fn connections(
        &self,
    ) -> Result<BTreeMap<ConnectionName, BTreeSet<String>>, ViciError> {
        let listed = self.client.list("list-conns", "list-conn", NOTHING);
        let mut connections = BTreeMap::new();
        for message in listed.await? {
            for (name, section) in message.sections() {
                let Some(name) = ConnectionName::ours(name) else {
                    continue;
                };
                let children = section.section("children").into_iter();
                let children = children.flat_map(Section::sections);
                let children = children.map(|(child, _)| child.to_owned());
                connections.insert(name, children.collect());
            }
        }
        Ok(connections)
    }

    /// Loads the preshared key between two identities, or puts it in the place of
    /// the one of that connection.
    pub async fn load_secret(
        &self,
        name: &ConnectionName,
        owners: [&IkeId; 2],
        secret: &IkeSecret,
    ) -> Result<(), ViciError> {
        let message = Section::new()
            .with("id", name.as_str())
            .with("type", "IKE")
            .with_secret("data", secret.as_bytes())
            .with_list("owners", owners.map(IkeId::as_str));
        let operation = || format!("to load the preshared key of {name}");
        self.change("load-shared", &message, operation).await?;
        Ok(())
    }

    /// Forgets the preshared key of a connection. That there is none is no error.
    pub async fn unload_secret(&self, name: &ConnectionName) -> Result<(), ViciError> {
        let message = Section::new().with("id", name.as_str());
        let operation = || format!("to unload the preshared key of {name}");
        self.change("unload-shared", &message, operation).await?;
        Ok(())
    }

    /// Of which of our connections preshared keys are loaded. Which keys, charon
    /// never tells.
    pub async fn secrets(&self) -> Result<BTreeSet<ConnectionName>, ViciError> {
        let answer = self.client.command("get-shared", NOTHING).await?;
        Ok(answer
            .list("keys")
            .filter_map(ConnectionName::ours)
            .collect())
    }

    /// Loads a private key, in PEM, for the certificates that have its public key.
    /// Returns charon's name for it.
    pub async fn load_private_key(&self, pem: &Zeroizing<String>) -> Result<String, ViciError> {
        let message = Section::new()
            .with("type", "any")
            .with_secret("data", pem.as_bytes());
        let operation = || "to load a private key".to_owned();
        let answer = self.change("load-key", &message, operation).await?;
        Ok(expected(&answer, "load-key", "id")?.to_owned())
    }

    /// Forgets a private key by charon's name for it.
    pub async fn unload_private_key(&self, id: &str) -> Result<(), ViciError> {
        let message = Section::new().with("id", id);
        let operation = || format!("to unload private key {id}");
        self.change("unload-key", &message, operation).await?;
        Ok(())
    }

    /// charon's names for the private keys that are loaded over VICI.
    pub async fn private_keys(&self) -> Result<BTreeSet<String>, ViciError> {
        let answer = self.client.command("get-keys", NOTHING).await?;
        Ok(answer.list("keys").map(str::to_owned).collect())
    }

    /// Loads the certificate of an intermediate authority, in PEM. Our own and the
    /// peer's authority come with the connection. charon forgets single ones only
    /// when it ends.
    pub async fn load_authority(&self, pem: &str) -> Result<(), ViciError> {
        let message = Section::new()
            .with("type", "X509")
            .with("flag", "CA")
            .with("data", pem);
        let operation = || "to load a certificate".to_owned();
        self.change("load-cert", &message, operation).await?;
        Ok(())
    }

    /// Begins to set a child up, or IKE alone, and does not wait: events tell how it goes, and
    /// the log why not. charon goes on trying by itself.
    pub async fn initiate(
        &self,
        connection: &ConnectionName,
        child: Option<&str>,
    ) -> Result<(), ViciError> {
        let message = initiation(connection, child).with("timeout", "-1");
        let operation = || format!("to initiate {connection}");
        self.change("initiate", &message, operation).await?;
        Ok(())
    }

    /// The same, and waits until it is up, has failed, or the time is over. No other
    /// command is carried out meanwhile.
    pub async fn initiate_and_wait(
        &self,
        connection: &ConnectionName,
        child: &str,
        time: Duration,
    ) -> Result<(), ViciError> {
        let message =
            initiation(connection, Some(child)).with("timeout", time.as_millis().to_string());
        // charon's own answer comes first where it comes at all.
        let deadline = time + Duration::from_secs(10);
        let answer = self
            .client
            .slow_command("initiate", &message, deadline)
            .await?;
        let operation = || format!("to initiate {connection}");
        succeeded(answer, operation).map(|_| ())
    }

    /// Ends SAs and gives how many: none is no error. Does not wait for the peer.
    pub async fn terminate(&self, which: &Which, farewell: Farewell) -> Result<u64, ViciError> {
        let mut message = match which {
            Which::Ike(id) => Section::new().with("ike-id", id.0.to_string()),
            Which::Child(id) => Section::new().with("child-id", id.0.to_string()),
            Which::Connection(name) => Section::new().with("ike", name.as_str()),
        };
        if farewell == Farewell::Forced {
            message = message.with("force", "yes");
        }
        let message = message.with("timeout", "-1");
        let answer = self.client.command("terminate", &message).await?;
        if answer.text("matches") == Some("0") {
            return Ok(0);
        }
        let matches = answer
            .text("matches")
            .and_then(|matches| matches.parse().ok());
        succeeded(answer, || format!("to terminate {which}"))?;
        Ok(matches.unwrap_or(1))
    }

    /// Changes keys now. Gives how many SAs that is begun for: none is no error.
    pub async fn rekey(&self, rekey: Rekey) -> Result<u64, ViciError> {
        let message = match rekey {
            Rekey::Ike(id) => Section::new().with("ike-id", id.0.to_string()),
            Rekey::Child(id) => Section::new().with("child-id", id.0.to_string()),
        };
        let answer = self.client.command("rekey", &message).await?;
        let matches = answer
            .text("matches")
            .and_then(|matches| matches.parse().ok());
        match matches {
            Some(matches) => Ok(matches),
            None => succeeded(answer, || format!("to rekey {rekey}")).map(|_| 1),
        }
    }

    /// All security associations, also those of others.
    pub async fn associations(&self) -> Result<Vec<IkeSa>, ViciError> {
        let listed = self.client.list("list-sas", "list-sa", NOTHING);
        listed.await?.iter().map(ike_sa).collect()
    }

    /// What happens to security associations from now on.
    pub async fn association_events(&self) -> Result<AssociationEvents, ViciError> {
        let events = self.client.subscribe(ASSOCIATION_EVENTS, EVENTS).await?;
        Ok(AssociationEvents(events))
    }

    /// charon's log from now on. It has a queue of its own: a flood of lines loses
    /// lines, and no event.
    pub async fn log(&self) -> Result<Log, ViciError> {
        Ok(Log(self.client.subscribe(&["log"], EVENTS).await?))
    }

    /// A command that changes something, and says whether it did.
    async fn change(
        &self,
        command: &str,
        message: &Section,
        operation: impl FnOnce() -> String,
    ) -> Result<Section, ViciError> {
        let answer = self.client.command(command, message).await?;
        succeeded(answer, operation)
    }
}

fn initiation(connection: &ConnectionName, child: Option<&str>) -> Section {
    let message = Section::new().with("ike", connection.as_str());
    match child {
        Some(child) => message.with("child", child),
        None => message,
    }
}

fn succeeded(answer: Section, operation: impl FnOnce() -> String) -> Result<Section, ViciError> {
    if answer.text("success") == Some("yes") {
        return Ok(answer);
    }
    let message = answer.text("errmsg").unwrap_or("it did not say why");
    Err(ViciError::Refused {
        operation: operation(),
        message: message.to_owned(),
    })
}

fn expected<'a>(
    section: &'a Section,
    answer: &str,
    key: &'static str,
) -> Result<&'a str, ViciError> {
    section.text(key).ok_or_else(|| ViciError::Unexpected {
        answer: format!("answer to `{answer}`"),
        key,
        found: String::new(),
        expected: "a value",
    })
}
