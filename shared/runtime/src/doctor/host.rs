//! The host, looked at. Every question goes out at once, none may take long, and one
//! that fails costs no other.

use std::net::IpAddr;
use std::path::Path;

use privnet_host::{Host, HostError, MacAddress};
use privnet_ipsec::Keeper as IpsecKeeper;
use privnet_model::config::hub::SecretSource;
use privnet_model::doctor::{Area, Finding};
use privnet_model::inventory::Identity;
use privnet_model::status::TunnelState;
use privnet_reconcile::doctor::clock::Keeper;
use privnet_reconcile::doctor::daemon::{self, Daemon};
use privnet_reconcile::doctor::{Known, firewall, host, peer, sibling};
use privnet_reconcile::gateway::{self, GatewayInput, TunnelInput};
use privnet_reconcile::host::DesiredHost;
use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::kernel::Kernel;
use privnet_reconcile::ruleset::Ruleset;
use privnet_reconcile::sysctl;

use super::daemon::Asked;
use super::{AFTERWARDS, PATIENCE, Subject, told, within};
use tokio::time::timeout;

/// Looks at the host and at what the daemon says.
pub async fn look(
    subject: &Subject,
    socket: &Path,
    identity: &Known<Identity>,
    asked: &Asked,
) -> Vec<Finding> {
    let version = env!("CARGO_PKG_VERSION");
    let running = daemon::running(&asked.daemon, subject.role, socket, version);
    let mut findings = vec![running];
    if let Ok(status) = asked.daemon.status()
        && status.role == subject.role
    {
        findings.extend(daemon::said(status));
        findings.extend(peer::tunnels(status));
        findings.extend(peer::partitions(status));
        findings.extend(status.routes.iter().flat_map(sibling::siblings));
    }
    let (kernel, router, files) = tokio::join!(
        in_time("kernel", abilities(subject, asked)),
        in_time("nftables rules", router(subject, identity, asked)),
        in_time("disk", files(subject))
    );
    findings.extend(kernel);
    findings.extend(router);
    findings.extend(files);
    findings
}

/// What is found, or that it took too long: nft, or a file system, hangs.
async fn in_time(check: &str, found: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    timeout(AFTERWARDS, found).await.unwrap_or_else(|_| {
        let seconds = AFTERWARDS.as_secs_f32();
        let why = format!("this host did not tell within {seconds} s, nor what goes with it");
        vec![Finding::not_checked(Area::Host, check, why)]
    })
}

/// What kernel and processes are able to do.
async fn abilities(subject: &Subject, asked: &Asked) -> Vec<Finding> {
    let host = Host::new();
    let (release, tun, nat, own, of_daemon, charon) = tokio::join!(
        within(PATIENCE, async { told(host.release().await) }),
        within(PATIENCE, async { told(host.tun().await) }),
        within(PATIENCE, async { Ok(host.nat().await) }),
        within(PATIENCE, async { told(host.capabilities(None).await) }),
        async {
            let process = asked.process?;
            let capabilities = async { told(host.capabilities(Some(process)).await) };
            Some(within(PATIENCE, capabilities).await)
        },
        async {
            let socket = subject.charon.as_ref()?;
            let about = async { told(IpsecKeeper::about(socket).await) };
            let about = within(PATIENCE, about).await;
            let xfrm = within(PATIENCE, async { told(host.has_xfrm().await) }).await;
            Some(host::charon(&about, &xfrm))
        },
    );
    let tun = tun.map_err(|why| format!("/dev/net/tun: {why}"));
    let tun = subject.tunnel.is_some().then(|| host::tun(&tun));
    let nat = match nat {
        Ok(Err(HostError::NotPermitted { .. })) => {
            let why = "no permission to ask the kernel";
            Finding::not_checked(Area::Host, "nftables", why).mend("run this with sudo")
        }
        Ok(result) => host::nftables(&told(result)),
        Err(why) => host::nftables(&Err(why)),
    };
    let capabilities = host::capabilities(of_daemon.as_ref(), &own);
    [
        Some(host::kernel(&release)),
        tun,
        Some(nat),
        Some(capabilities),
        charon,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Settings and rules, against what the plan says; and who else forwards or drops.
async fn router(subject: &Subject, identity: &Known<Identity>, asked: &Asked) -> Vec<Finding> {
    let host = Host::new();
    let uplink = within(PATIENCE, async { uplink(subject, identity).await }).await;
    let tunnel = subject.tunnel.as_ref();
    let tunnel = tunnel.and_then(|(name, _)| InterfaceName::new(name.as_str()).ok());
    let ours: Vec<InterfaceName> = uplink.iter().cloned().chain(tunnel.clone()).collect();
    let (chains, legacy) = tokio::join!(
        within(PATIENCE, async { told(host.forward_chains().await) }),
        within(PATIENCE, async { told(host.legacy_firewall().await) }),
    );
    let legacy = legacy.unwrap_or(false);
    let mut findings = firewall::forward_chains(&chains, legacy, &ours);
    let nat = subject.nat.as_ref().filter(|nat| !nat.is_off());
    if nat.is_some() {
        let connections = async { told(host.connections().await) };
        findings.push(host::connections(&within(PATIENCE, connections).await));
    }
    let uplink = match uplink {
        Ok(uplink) => uplink,
        Err(why) => {
            let finding = Finding::wrong(Area::Host, "uplink", why);
            findings.push(finding.mend("interface = \"ens5\"   # in [nat] of a spoke's config file: what `ip route` calls the default route's"));
            return findings;
        }
    };
    let kernel = within(PATIENCE, async { told(host.kernel(&uplink).await) }).await;
    if let Some(nat) = nat {
        let status = asked.daemon.status().ok();
        let flowtable = status.and_then(|status| status.nat.as_ref());
        let flowtable = flowtable.map(|nat| &nat.flowtable);
        let probed = kernel.clone().and_then(|kernel| kernel.flowtable);
        if nat.flowtable {
            findings.push(host::flowtable(flowtable, &probed));
        }
    }
    let desired = match (identity, &kernel) {
        (Ok(identity), Ok(kernel)) => Ok(desired(subject, identity, &uplink, &tunnel, kernel)),
        (Err(why), _) | (_, Err(why)) => Err(why.clone()),
    };
    let settings = match &desired {
        Ok(desired) => desired.sysctls.clone(),
        // Without metadata the plan is not known, but that of any router is.
        Err(_) => sysctl::forwarding(&uplink, tunnel.as_ref()),
    };
    let keys = settings.keys().cloned().collect();
    let is = within(PATIENCE, async { told(host.sysctls(&keys).await) });
    let loaded = within(PATIENCE, async { told(host.ruleset().await) });
    let (is, loaded) = tokio::join!(is, loaded);
    findings.extend(host::sysctls(&settings, &is, subject.role));
    findings.push(match desired {
        Ok(desired) => host::ruleset(
            &wanted(desired),
            &loaded,
            subject.role,
            subject.charon.is_some(),
        ),
        Err(why) => {
            let why = format!("what they should be follows from the instance metadata: {why}");
            Finding::not_checked(Area::Host, "nftables rules", why)
        }
    });
    findings
}

/// As the daemon has it: with the short cut, or without where the kernel took it back.
fn wanted(desired: DesiredHost) -> Vec<Ruleset> {
    let rules = desired.ruleset.unwrap_or_default();
    let plain = Ruleset {
        flowtable: None,
        ..rules.clone()
    };
    vec![rules, plain]
}

fn desired(
    subject: &Subject,
    identity: &Identity,
    uplink: &InterfaceName,
    tunnel: &Option<InterfaceName>,
    kernel: &Kernel,
) -> DesiredHost {
    let mtu = subject.tunnel.as_ref().map(|(_, mtu)| *mtu);
    gateway::desired(GatewayInput {
        privnet: &subject.privnet,
        identity,
        uplink,
        router: None,
        tunnel: tunnel
            .as_ref()
            .zip(mtu)
            .map(|(interface, mtu)| TunnelInput {
                interface,
                mtu,
                addresses: &[],
                destinations: &[],
                endpoints: &[],
            }),
        ipsec: None,
        nat: subject.nat.as_ref(),
        kernel,
        self_test: subject.self_test,
    })
}

/// The interface towards the VPC: as configured, as the metadata names it, or, without
/// metadata, that of the default route.
async fn uplink(subject: &Subject, identity: &Known<Identity>) -> Known<InterfaceName> {
    let host = Host::new();
    if let Some(name) = subject.nat.as_ref().and_then(|nat| nat.interface.as_ref()) {
        let name = told(InterfaceName::new(name.as_str()))?;
        return told(host.interface(&name).await).map(|interface| interface.name);
    }
    match identity {
        Ok(identity) => {
            let mac: MacAddress = told(identity.mac.parse())?;
            told(host.primary_interface(mac).await).map(|interface| interface.name)
        }
        Err(_) => told(host.default_interface().await)?
            .ok_or_else(|| "there is no default route".to_owned()),
    }
}

/// The files with keys, and the room for the state.
async fn files(subject: &Subject) -> Vec<Finding> {
    let host = Host::new();
    let mut files = vec![("private key", subject.private_key.as_path(), true)];
    if let Some(SecretSource::File(path)) = &subject.preshared_key {
        files.push(("fleet secret", path, false));
    }
    let further = subject.keys.iter();
    files.extend(further.map(|(what, path)| (what.as_str(), path.as_path(), false)));
    let mut findings = Vec::new();
    for (what, path, made) in files {
        let found = within(PATIENCE, async { told(host.secret_file(path).await) }).await;
        findings.push(host::secret_file(what, path, &found, made));
    }
    let state = subject.state.clone();
    let free = tokio::task::spawn_blocking(move || Host::new().free(&state));
    let free = within(PATIENCE, async { told(told(free.await)?) }).await;
    findings.push(host::disk(&subject.state, &free));
    findings
}

/// Whether the name of EC2's endpoint (`HOST:PORT`) has an address.
pub async fn dns(endpoint: &str) -> Finding {
    let addresses = within(PATIENCE, async {
        let found = told(tokio::net::lookup_host(endpoint).await)?;
        Ok(found.map(|address| address.ip()).collect::<Vec<IpAddr>>())
    });
    let name = endpoint.rsplit_once(':').map_or(endpoint, |(name, _)| name);
    host::dns(name, &addresses.await)
}

/// What keeps the clock right.
pub async fn time_keeper() -> Keeper {
    Host::new().time_keeper().await
}

/// Whether a tunnel of the daemon is up.
pub fn has_session(daemon: &Daemon) -> bool {
    daemon.status().is_ok_and(|status| {
        let mut tunnels = status.tunnels.iter();
        tunnels.any(|tunnel| tunnel.state == TunnelState::Up)
    })
}
