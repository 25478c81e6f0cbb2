//! IPsec connections: what charon should have loaded and what should run, against
//! what has and does.
//!
//! Only what changed is touched: a connection that is loaded again as it was
//! would lose its SAs' counters, and reloading everything closes children
//! that nobody meant. What changed is set up anew beside the old, which ends
//! once the new one carries traffic.

pub mod diagnosis;
pub mod ledger;
pub mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use privnet_model::ipsec::{ConnectionName, IkeRole, IkeSa, IkeState, UniqueId};

/// A connection as it should be, as far as the plan has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedConnection {
    /// The name of its child: it ends in a fingerprint of the whole connection, so
    /// that what is loaded, and what each SA was made by, can be told from names.
    pub child: String,
    /// Whether it has a preshared key, which charon is given by itself.
    pub has_secret: bool,
    /// Who begins.
    pub role: IkeRole,
    /// Whether it stands by: IKE alone shows that the peer is there and lets us in.
    pub stands_by: bool,
}

/// What charon has of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActualIpsec {
    /// Connections loaded, with the names of their children.
    pub connections: BTreeMap<ConnectionName, BTreeSet<String>>,
    /// Preshared keys loaded, by the connection they are for.
    pub secrets: BTreeSet<ConnectionName>,
    /// Those of which we know that they are the wanted ones: charon never tells a
    /// key, so after a restart of either daemon none is.
    pub current_secrets: BTreeSet<ConnectionName>,
    /// Security associations, also those of others.
    pub associations: Vec<IkeSa>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpsecChange {
    /// Forget a connection. Its SAs run on until they are ended.
    UnloadConnection(ConnectionName),
    /// End an IKE SA with its children.
    TerminateIke {
        /// Its connection.
        name: ConnectionName,
        /// Which.
        id: UniqueId,
        /// Why.
        because: Because,
    },
    /// End a child SA.
    TerminateChild {
        /// Its connection.
        name: ConnectionName,
        /// Which.
        id: UniqueId,
    },
    /// Forget a preshared key.
    UnloadSecret(ConnectionName),
    /// Load a preshared key, or another one in its place.
    LoadSecret(ConnectionName),
    /// Load a connection, or another one in its place.
    LoadConnection(ConnectionName),
    /// Begin.
    Initiate {
        /// The connection.
        name: ConnectionName,
        /// Its child; `None` where it stands by.
        child: Option<String>,
    },
}

/// Why an SA ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Because {
    /// Its connection is not wanted any more.
    NotWanted,
    /// Its connection is another one now.
    Changed,
}

impl fmt::Display for IpsecChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnloadConnection(name) => write!(f, "unload connection {name}"),
            Self::TerminateIke { name, id, because } => {
                write!(f, "terminate IKE SA {id} of {name}: the connection ")?;
                f.write_str(match because {
                    Because::NotWanted => "is not wanted any more",
                    Because::Changed => "has changed",
                })
            }
            Self::TerminateChild { name, id } => {
                write!(
                    f,
                    "terminate child SA {id} of {name}: the connection has changed"
                )
            }
            Self::UnloadSecret(name) => write!(f, "unload preshared key of {name}"),
            Self::LoadSecret(name) => write!(f, "load preshared key of {name}"),
            Self::LoadConnection(name) => write!(f, "load connection {name}"),
            Self::Initiate { name, .. } => write!(f, "initiate {name}"),
        }
    }
}

/// The changes that make charon's connections those that are wanted, in the order
/// in which they are made.
///
/// `Initiate` is in the plan as long as the wanted child, or IKE for what stands by, does
/// not run and nothing is under way for it: how often that is tried, the caller decides.
pub fn plan(
    wanted: &BTreeMap<ConnectionName, WantedConnection>,
    actual: &ActualIpsec,
) -> Vec<IpsecChange> {
    let mut changes = Vec::new();
    let mut associations: BTreeMap<ConnectionName, Vec<&IkeSa>> = BTreeMap::new();
    for sa in &actual.associations {
        if let Some(name) = ConnectionName::ours(&sa.connection)
            && sa.state.is_alive()
        {
            associations.entry(name).or_default().push(sa);
        }
    }
    // Unloaded before its SAs end, or charon would begin again at once.
    let unwanted = |name: &&ConnectionName| !wanted.contains_key(*name);
    for name in actual.connections.keys().filter(unwanted) {
        changes.push(IpsecChange::UnloadConnection(name.clone()));
    }
    for (name, sas) in associations.iter().filter(|(name, _)| unwanted(name)) {
        let because = Because::NotWanted;
        changes.extend(sas.iter().map(|sa| terminate(name, sa, because)));
    }
    let has_secret = |name: &ConnectionName| wanted.get(name).is_some_and(|it| it.has_secret);
    for name in actual.secrets.iter().filter(|name| !has_secret(name)) {
        changes.push(IpsecChange::UnloadSecret(name.clone()));
    }
    for (name, connection) in wanted {
        let known = actual.secrets.contains(name) && actual.current_secrets.contains(name);
        if connection.has_secret && !known {
            changes.push(IpsecChange::LoadSecret(name.clone()));
        }
        let sas = associations.get(name).map(Vec::as_slice);
        // What it shows is whether the peer lets us in with the key of now.
        let is_proof = known || !connection.has_secret;
        let sas = sas.unwrap_or_default();
        changes.extend(of_one(name, connection, actual, sas, is_proof));
    }
    changes
}

/// The changes of one connection that is wanted.
fn of_one(
    name: &ConnectionName,
    wanted: &WantedConnection,
    actual: &ActualIpsec,
    sas: &[&IkeSa],
    is_proof: bool,
) -> Vec<IpsecChange> {
    let children = BTreeSet::from([wanted.child.clone()]);
    let is_loaded = actual.connections.get(name) == Some(&children);
    let runs = |sa: &IkeSa| sa.live_children().any(|child| child.name == wanted.child);
    let is_up = !wanted.stands_by && sas.iter().any(|sa| runs(sa));
    let mut changes = Vec::new();
    if !is_loaded {
        changes.push(IpsecChange::LoadConnection(name.clone()));
    }
    let mut is_under_way = false;
    for sa in sas.iter().filter(|sa| wanted.stands_by || !runs(sa)) {
        let carries_traffic = sa.live_children().next().is_some();
        let replaced = match wanted.role {
            _ if wanted.stands_by => !is_loaded || !is_proof || carries_traffic,
            // What is old carries traffic until what is new does. What never did
            // may be the successor of one that does, in the middle of a rekey.
            IkeRole::Initiator if is_up => carries_traffic,
            IkeRole::Initiator => !is_loaded && !carries_traffic,
            // The peer must begin again, and will only when it sees the end.
            IkeRole::Responder => carries_traffic,
        };
        if replaced {
            changes.push(terminate(name, sa, Because::Changed));
        } else if !carries_traffic {
            // Of an IKE SA that is up without a child, only charon's tasks tell
            // whether one is being made.
            is_under_way |= wanted.stands_by
                || sa.state != IkeState::Established
                || sa.tasks.iter().any(|task| task.starts_with("CHILD_"));
        }
    }
    for sa in sas.iter().filter(|sa| is_up && runs(sa)) {
        let outdated = sa
            .live_children()
            .filter(|child| child.name != wanted.child);
        changes.extend(outdated.map(|child| IpsecChange::TerminateChild {
            name: name.clone(),
            id: child.id,
        }));
    }
    if wanted.role == IkeRole::Initiator && !is_up && !is_under_way {
        changes.push(IpsecChange::Initiate {
            name: name.clone(),
            child: (!wanted.stands_by).then(|| wanted.child.clone()),
        });
    }
    changes
}

fn terminate(name: &ConnectionName, sa: &IkeSa, because: Because) -> IpsecChange {
    IpsecChange::TerminateIke {
        name: name.clone(),
        id: sa.id,
        because,
    }
}

#[cfg(test)]
mod tests;
