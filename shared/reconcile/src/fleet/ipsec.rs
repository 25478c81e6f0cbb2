//! The tunnels that go by IPsec, in charon's terms.
//!
//! A static site's is what its section says. A discovered spoke's follows from its
//! instance id, which is its identity and names its preshared key: it calls, from
//! wherever it is.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use privnet_model::config::hub::SiteLink;
use privnet_model::id::InstanceId;
use privnet_model::inventory::Transport;
use privnet_model::ipsec::{
    Authentication, ConnectionName, Encapsulation, EspBackEnd, IkeCredential, IkeRole, IpsecTunnel,
    Proposals, Times, TunnelEnd, with_families_of,
};
use privnet_model::status::Reason;

use super::{FleetInput, Obstacle, PlannedIpsec, PlannedTunnel, Site, SiteSecret};

/// The connection of a spoke.
pub(super) fn connection(instance: &InstanceId) -> Option<ConnectionName> {
    ConnectionName::of(instance.as_str()).ok()
}

/// Whether the key of a spoke's connection is known.
pub(super) fn has_key(instance: &InstanceId, input: FleetInput<'_>) -> bool {
    let id = instance.as_str().parse();
    id.is_ok_and(|id| (input.ipsec.secret)(&id).is_some())
}

/// Gives a static site its tunnel, once its CIDRs are settled.
pub(super) fn settle_site(tunnel: &mut PlannedTunnel, site: &Site, input: FleetInput<'_>) {
    let (
        SiteLink::Ipsec(link),
        SiteSecret::Ipsec {
            authentication,
            credential,
        },
    ) = (&site.config.link, &site.secret)
    else {
        return;
    };
    let Ok(name) = ConnectionName::of(&site.config.name) else {
        return;
    };
    let remote: BTreeSet<IpNet> = tunnel.cidrs.iter().copied().collect();
    let local = match link.local_cidrs.as_slice() {
        [] => with_families_of(input.privnet.nets(), &remote),
        cidrs => cidrs.iter().copied().collect(),
    };
    set(
        tunnel,
        PlannedIpsec {
            tunnel: IpsecTunnel {
                name,
                local: TunnelEnd {
                    address: Some(input.ipsec.address),
                    id: link
                        .local_id
                        .clone()
                        .unwrap_or_else(|| input.ipsec.id.clone()),
                    selectors: local,
                },
                remote: TunnelEnd {
                    address: link.endpoint,
                    id: link.remote_id.clone(),
                    selectors: remote.clone(),
                },
                authentication: authentication.clone(),
                proposals: link.proposals,
                role: link.role,
                esp: EspBackEnd::Userspace,
                encapsulation: Encapsulation::Always,
                times: link.times,
            },
            credential: credential.clone(),
            routed: remote,
        },
    );
}

/// Gives a discovered spoke its tunnel, once its CIDRs and its address are settled. What
/// its site has is `shared`, where it may pass through each of its gateways.
pub(super) fn settle_spoke(
    tunnel: &mut PlannedTunnel,
    shared: Option<&BTreeSet<IpNet>>,
    input: FleetInput<'_>,
) {
    if tunnel.transport != Transport::Ipsec || tunnel.obstacle.is_some() {
        return;
    }
    let Some(instance) = &tunnel.instance else {
        return;
    };
    let (Some(name), Ok(id)) = (connection(instance), instance.as_str().parse()) else {
        return;
    };
    let Some(secret) = (input.ipsec.secret)(&id) else {
        return;
    };
    let own = tunnel.address.map(IpNet::from);
    let routed: BTreeSet<IpNet> = tunnel.cidrs.iter().copied().chain(own).collect();
    let all: BTreeSet<IpNet> = shared.into_iter().flatten().copied().collect();
    // strongSwan leaves out what lies in another one.
    let is_within = |net: &IpNet, around: &IpNet| around != net && around.contains(net);
    let all: BTreeSet<IpNet> = all.union(&routed).copied().collect();
    let remote = all.iter().copied();
    let remote = remote.filter(|net| !all.iter().any(|around| is_within(net, around)));
    let remote: BTreeSet<IpNet> = remote.collect();
    let local = TunnelEnd {
        address: Some(input.ipsec.address),
        id: input.ipsec.id.clone(),
        selectors: with_families_of(input.privnet.nets(), &remote),
    };
    let remote = TunnelEnd {
        address: None,
        id,
        selectors: remote,
    };
    set(
        tunnel,
        PlannedIpsec {
            tunnel: own_tunnel(name, local, remote, IkeRole::Responder),
            credential: IkeCredential::PresharedKey(secret),
            routed,
        },
    );
}

/// The tunnel between a spoke and a hub, both of which are ours, as either has it.
pub fn own_tunnel(
    name: ConnectionName,
    local: TunnelEnd,
    remote: TunnelEnd,
    role: IkeRole,
) -> IpsecTunnel {
    IpsecTunnel {
        name,
        local,
        remote,
        authentication: Authentication::PresharedKey,
        proposals: Proposals::Modern,
        role,
        esp: EspBackEnd::Userspace,
        encapsulation: Encapsulation::Always,
        times: Times {
            dead_peer_delay: DEAD_PEER_DELAY,
            ..Times::default()
        },
    }
}

/// With charon's retransmissions as
/// `ami/` sets them a lost end is known after some 10 s.
const DEAD_PEER_DELAY: Duration = Duration::from_secs(3);

fn set(tunnel: &mut PlannedTunnel, planned: PlannedIpsec) {
    if tunnel.obstacle.is_some() {
        return;
    }
    match planned.tunnel.errors().first() {
        None => tunnel.ipsec = Some(planned),
        Some(error) => {
            tunnel.obstacle = Some(Obstacle::Rejected(Reason::Misconfigured {
                problem: error.to_string(),
            }));
        }
    }
}
