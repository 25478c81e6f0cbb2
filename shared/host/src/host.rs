//! The host as a whole: fetch, apply, and the questions asked before there is
//! anything to configure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use futures_util::{StreamExt, stream};
use privnet_model::connection::Connection;
use privnet_reconcile::connections::{Guard, MARK, guard};
use privnet_reconcile::conntrack::{ConnectionUse, Destinations};
use privnet_reconcile::doctor::clock::Keeper;
use privnet_reconcile::doctor::firewall::ForwardChain;
use privnet_reconcile::doctor::host::SecretFile;
use privnet_reconcile::host::{ActualHost, DesiredHost, HostChange, HostPlan, HostState};
use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::kernel::Kernel;
use privnet_reconcile::ruleset::LoadedRuleset;
use privnet_reconcile::sysctl::SysctlKey;
use privnet_reconcile::xfrm::XfrmInterface;

use crate::conntrack::connections::{ConnectionEvents, Entered, Timeouts};
use crate::error::HostError;
use crate::link::{Interface, Links, MacAddress};
use crate::netlink::Netlink;
use crate::{
    abilities, address, conntrack, counters, firewall, kernel, nftables, path, route, storage,
    sysctl, xfrm,
};

/// Route requests on their way to the kernel at once. It works on them one by
/// one; having some in the queue saves waiting for each answer.
const ROUTES_IN_FLIGHT: usize = 64;

/// The host this program runs on: the network namespace of the calling thread.
/// Holds nothing; every call opens what it needs. To be called within a tokio
/// runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host {
    _private: (),
}

/// What to fetch beyond routes and rules, which are told by their mark.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// The interface whose addresses are ours; it need not exist.
    pub tunnel: Option<InterfaceName>,
    /// The sysctls to read.
    pub sysctls: BTreeSet<SysctlKey>,
    /// Leaves the nftables table out, as if there were none: for a host where
    /// it cannot be read, and whose routes are wanted all the same.
    pub without_ruleset: bool,
}

impl Scope {
    /// What has to be known in order to plan for `desired`. Where it wants no
    /// address, no interface's addresses are ours: set `tunnel` to have those
    /// removed that an earlier configuration gave it.
    pub fn of(desired: &DesiredHost) -> Self {
        Self {
            tunnel: desired.addresses.first().map(|(name, _)| name.clone()),
            sysctls: desired.sysctls.keys().cloned().collect(),
            without_ruleset: false,
        }
    }
}

impl Host {
    /// This host.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is configured of ours. All of it or an error: from half a picture
    /// nothing could be planned.
    pub async fn fetch(&self, scope: &Scope) -> Result<ActualHost, HostError> {
        let (netlink, links) = open_netlink().await?;
        let addresses = match &scope.tunnel {
            Some(tunnel) => address::fetch(&netlink, &links, tunnel).await?,
            None => BTreeSet::new(),
        };
        Ok(HostState {
            xfrm: xfrm::of(&links),
            addresses,
            routes: route::fetch(&netlink, &links).await?,
            ruleset: if scope.without_ruleset {
                None
            } else {
                nftables::fetch().await?
            },
            sysctls: sysctl::fetch(&scope.sysctls).await?,
        })
    }

    /// Carries out a plan and tells of each change, in the plan's order, how it
    /// went. A change that fails does not keep the others from being tried.
    pub async fn apply(&self, plan: &HostPlan) -> Vec<(HostChange, Result<(), HostError>)> {
        let mut results = Vec::with_capacity(plan.changes().len());
        for batch in plan.changes().chunk_by(may_overlap) {
            let outcomes = apply_batch(batch).await;
            results.extend(batch.iter().cloned().zip(outcomes));
        }
        results
    }

    /// What its kernel and memory are like. `device` is where established
    /// connections would take the short cut.
    pub async fn kernel(&self, device: &InterfaceName) -> Result<Kernel, HostError> {
        kernel::look(device).await
    }

    /// Whether established connections can take the short cut on this device.
    pub async fn flowtable(&self, device: &InterfaceName) -> Result<(), String> {
        nftables::probe_flowtable(device).await
    }

    /// The kernel's connection table.
    pub async fn connections(&self) -> Result<ConnectionUse, HostError> {
        conntrack::fetch().await
    }

    /// Adds the masqueraded connections to what was counted by where they lead. Some
    /// milliseconds for ten thousand, on a thread of its own.
    pub async fn destinations(&self, counted: Destinations) -> Result<Destinations, HostError> {
        blocking(move || conntrack::destinations::count(counted)).await
    }

    /// Puts the guard of an address's connections in place; `own` is the private address
    /// that they are translated to.
    pub async fn guard(&self, guard: Guard, own: Ipv4Addr) -> Result<(), HostError> {
        nftables::load_guard(&guard.text(own)).await
    }

    /// Takes it away, if there is one.
    pub async fn remove_guard(&self) -> Result<(), HostError> {
        nftables::load_guard(&guard::removal()).await
    }

    /// Listens to what the kernel tells of the address's connections.
    pub fn connection_events(&self, own: Ipv4Addr) -> Result<ConnectionEvents, HostError> {
        ConnectionEvents::open(own, MARK).map_err(|source| HostError::Connections { source })
    }

    /// The address's connections. Four milliseconds for a thousand, on a thread of its own.
    pub async fn address_connections(
        &self,
        own: Ipv4Addr,
    ) -> Result<HashSet<Connection>, HostError> {
        blocking(move || conntrack::connections::dump(own, MARK)).await
    }

    /// Enters connections into the kernel's table, as the address's.
    pub async fn enter_connections(
        &self,
        connections: Vec<Connection>,
        own: Ipv4Addr,
        timeouts: Timeouts,
    ) -> Result<Entered, HostError> {
        blocking(move || conntrack::connections::enter(&connections, own, MARK, timeouts)).await
    }

    /// Makes the kernel forget the address's connections.
    pub async fn forget_connections(&self) -> Result<(), HostError> {
        blocking(|| conntrack::connections::forget(MARK)).await
    }

    /// The kernel's release.
    pub async fn release(&self) -> io::Result<String> {
        abilities::release().await
    }

    /// Whether this user can open the device by which tunnels are made.
    pub async fn tun(&self) -> io::Result<()> {
        abilities::tun().await
    }

    /// Whether NAT can be done here. Changes nothing.
    pub async fn nat(&self) -> Result<(), HostError> {
        nftables::probe_nat().await
    }

    /// The capabilities in force in a process; `None` is this one.
    pub async fn capabilities(&self, process: Option<u32>) -> io::Result<u64> {
        abilities::capabilities(process).await
    }

    /// What keeps the clock right.
    pub async fn time_keeper(&self) -> Keeper {
        abilities::time_keeper().await
    }

    /// The chains of others that drop what is forwarded.
    pub async fn forward_chains(&self) -> Result<Vec<ForwardChain>, HostError> {
        firewall::forward_chains().await
    }

    /// Whether there are filter rules of iptables of the old kind.
    pub async fn legacy_firewall(&self) -> io::Result<bool> {
        firewall::legacy().await
    }

    /// The mode of a file that holds a key; `None` where there is none.
    pub async fn secret_file(&self, path: &Path) -> io::Result<Option<SecretFile>> {
        storage::secret_file(path).await
    }

    /// The bytes that are free for a file of this name.
    pub fn free(&self, path: &Path) -> io::Result<u64> {
        storage::free(path)
    }

    /// How large a packet the way to the endpoint takes, when one of `size` bytes is
    /// tried.
    pub async fn path_mtu(&self, endpoint: SocketAddr, size: u32) -> io::Result<u32> {
        path::mtu(endpoint, size).await
    }

    /// The settings of those keys that exist.
    pub async fn sysctls(
        &self,
        keys: &BTreeSet<SysctlKey>,
    ) -> Result<BTreeMap<SysctlKey, String>, HostError> {
        sysctl::fetch(keys).await
    }

    /// What each rule of the policy denied in our table since that was loaded, by the
    /// number of the rule (from 0).
    pub async fn denied(&self) -> Result<BTreeMap<u16, u64>, HostError> {
        counters::denied().await
    }

    /// What the kernel holds of our table.
    pub async fn ruleset(&self) -> Result<Option<LoadedRuleset>, HostError> {
        nftables::fetch().await
    }

    /// The interface with the hardware address that the instance metadata gives
    /// for the primary one. The error names what exists instead.
    pub async fn primary_interface(&self, mac: MacAddress) -> Result<Interface, HostError> {
        open_netlink().await?.1.find_mac(mac)
    }

    /// An interface by name.
    pub async fn interface(&self, name: &InterfaceName) -> Result<Interface, HostError> {
        open_netlink().await?.1.find(name).cloned()
    }

    /// Whether the kernel has XFRM interfaces. Changes nothing.
    pub async fn has_xfrm(&self) -> Result<(), HostError> {
        xfrm::are_known(&open_netlink().await?.0).await
    }

    /// The XFRM interfaces of ours.
    pub async fn xfrm_interfaces(&self) -> Result<BTreeSet<XfrmInterface>, HostError> {
        Ok(xfrm::of(&open_netlink().await?.1))
    }

    /// The interface of the default route, IPv4's if there is one, else IPv6's; of
    /// several the one that is used.
    pub async fn default_interface(&self) -> Result<Option<InterfaceName>, HostError> {
        let (netlink, links) = open_netlink().await?;
        route::default_interface(&netlink, &links).await
    }

    /// The router behind the interface's default route in the main table:
    /// IPv4's if it has one, else IPv6's; of several the one that is used.
    pub async fn default_gateway(
        &self,
        interface: &InterfaceName,
    ) -> Result<Option<IpAddr>, HostError> {
        let (netlink, links) = open_netlink().await?;
        route::default_gateway(&netlink, &links, interface).await
    }
}

/// Does what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, HostError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| HostError::Connections { source })
}

/// Whether two neighbours in a plan may be on their way together: routes of one
/// direction, and interfaces. Everything else waits for what stands before it.
fn may_overlap(one: &HostChange, next: &HostChange) -> bool {
    let makes_route = |change: &HostChange| {
        matches!(
            change,
            HostChange::AddRoute(_) | HostChange::ReplaceRoute { .. }
        )
    };
    let removes_route = |change: &HostChange| matches!(change, HostChange::RemoveRoute(_));
    let makes_interface = |change: &HostChange| matches!(change, HostChange::SetInterface(_));
    let removes_interface = |change: &HostChange| matches!(change, HostChange::RemoveInterface(_));
    (makes_interface(one) && makes_interface(next))
        || (removes_interface(one) && removes_interface(next))
        || (makes_route(one) && makes_route(next))
        || (removes_route(one) && removes_route(next))
}

async fn apply_batch(batch: &[HostChange]) -> Vec<Result<(), HostError>> {
    let session = Session::new(batch).await;
    let changes = stream::iter(batch).map(|change| session.make(change));
    changes.buffered(ROUTES_IN_FLIGHT).collect().await
}

/// What the changes of one batch share: for those by netlink a socket and the
/// interfaces as they are now, or why there is none.
struct Session {
    netlink: Option<Result<(Netlink, Links), HostError>>,
}

impl Session {
    async fn new(batch: &[HostChange]) -> Self {
        let by_netlink = batch.iter().any(|change| match change {
            HostChange::SetInterface(_)
            | HostChange::RemoveInterface(_)
            | HostChange::AddAddress { .. }
            | HostChange::RemoveAddress { .. }
            | HostChange::AddRoute(_)
            | HostChange::ReplaceRoute { .. }
            | HostChange::RemoveRoute(_) => true,
            HostChange::LoadRuleset(_)
            | HostChange::RemoveRuleset
            | HostChange::SetSysctl { .. } => false,
        });
        let netlink = match by_netlink {
            true => Some(open_netlink().await),
            false => None,
        };
        Self { netlink }
    }

    async fn make(&self, change: &HostChange) -> Result<(), HostError> {
        match change {
            HostChange::LoadRuleset(ruleset) => nftables::load(ruleset).await,
            HostChange::RemoveRuleset => nftables::remove().await,
            HostChange::SetSysctl { key, value } => sysctl::set(key, value).await,
            HostChange::SetInterface(interface) => {
                xfrm::set(&self.netlink(change)?.0, *interface).await
            }
            HostChange::RemoveInterface(if_id) => {
                let (netlink, links) = self.netlink(change)?;
                xfrm::remove(netlink, links, *if_id).await
            }
            HostChange::AddAddress { interface, address } => {
                let (netlink, links) = self.netlink(change)?;
                address::add(netlink, links, interface, *address).await
            }
            HostChange::RemoveAddress { interface, address } => {
                let (netlink, links) = self.netlink(change)?;
                address::remove(netlink, links, interface, *address).await
            }
            HostChange::AddRoute(route) => {
                let (netlink, links) = self.netlink(change)?;
                route::add(netlink, links, route).await
            }
            HostChange::ReplaceRoute { to, .. } => {
                let (netlink, links) = self.netlink(change)?;
                route::replace(netlink, links, to).await
            }
            HostChange::RemoveRoute(route) => {
                let (netlink, links) = self.netlink(change)?;
                route::remove(netlink, links, route).await
            }
        }
    }

    fn netlink(&self, change: &HostChange) -> Result<&(Netlink, Links), HostError> {
        let not_tried = |reason: String| HostError::NotTried {
            operation: change.to_string(),
            reason,
        };
        match &self.netlink {
            Some(Ok(session)) => Ok(session),
            Some(Err(error)) => Err(not_tried(match error.source() {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            })),
            None => Err(not_tried("no netlink socket was opened".to_owned())),
        }
    }
}

async fn open_netlink() -> Result<(Netlink, Links), HostError> {
    let netlink = Netlink::open()?;
    let links = Links::fetch(&netlink).await?;
    Ok((netlink, links))
}
