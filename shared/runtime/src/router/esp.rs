//! What IPsec tunnels need of the host, by who does ESP.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use anyhow::Result;
use ipnet::IpNet;
use privnet_host::Host;
use privnet_ipsec::Wanted;
use privnet_model::policy::PolicyTable;
use privnet_model::status::EspStatus;
use privnet_reconcile::gateway::{Esp, IpsecInput};
use privnet_reconcile::host::{ActualHost, DesiredHost};
use privnet_reconcile::route::{Route, RouteKey, RouteTarget};
use privnet_reconcile::xfrm::{XfrmInterface, if_ids};

use super::Desired;

/// What the host's configuration follows from where there are IPsec tunnels.
pub(super) struct EspSide {
    esp: Esp,
    destinations: Vec<IpNet>,
    others: bool,
    endpoints: Vec<IpAddr>,
}

impl EspSide {
    pub(super) async fn of(
        desired: &Desired,
        host: &Host,
        said: Option<EspStatus>,
    ) -> Result<Option<Self>> {
        let others = desired.ipsec.keeps_any();
        if desired.behind_ipsec.is_empty() && !others {
            return Ok(None);
        }
        let by_kernel = match said {
            Some(esp) => esp == EspStatus::Kernel,
            // Until strongSwan says it: as it was before this program was started.
            None => !host.xfrm_interfaces().await?.is_empty(),
        };
        let present = host.interface(&Esp::userspace_interface()).await.is_ok();
        if desired.behind_ipsec.is_empty() && !by_kernel && !present {
            return Ok(None);
        }
        let tunnels = &desired.ipsec.tunnels;
        let esp = match by_kernel {
            true => into_interfaces(&desired.ipsec),
            false => Esp::Userspace { present },
        };
        let endpoints = tunnels.values();
        let endpoints = endpoints.filter_map(|planned| planned.tunnel.remote.address);
        Ok(Some(Self {
            esp,
            destinations: desired.behind_ipsec.iter().copied().collect(),
            others,
            endpoints: endpoints.collect(),
        }))
    }

    pub(super) fn status(&self) -> EspStatus {
        match &self.esp {
            Esp::Userspace { .. } => EspStatus::Userspace,
            Esp::Kernel(_) => EspStatus::Kernel,
        }
    }

    pub(super) fn input<'a>(&'a self, policy: &'a PolicyTable) -> IpsecInput<'a> {
        IpsecInput {
            esp: &self.esp,
            destinations: &self.destinations,
            others: self.others,
            endpoints: &self.endpoints,
            policy,
        }
    }
}

/// Each tunnel's interface, and what is routed into it.
fn into_interfaces(wanted: &Wanted) -> Esp {
    let numbers = if_ids(wanted.tunnels.keys()).into_iter();
    let routed = numbers.filter_map(|(name, if_id)| {
        let routed = &wanted.tunnels.get(&name)?.routed;
        Some((if_id, routed.iter().copied().collect()))
    });
    Esp::Kernel(routed.collect())
}

/// Lets the interfaces and routes be that belong to tunnels of which nothing can be said
/// for now, and the ends of what lies behind them.
pub(super) fn keep_others(desired: &mut DesiredHost, actual: &ActualHost, wanted: &Wanted) {
    if !wanted.keeps_any() {
        return;
    }
    let known: BTreeSet<NonZeroU32> = desired.xfrm.iter().map(|it| it.if_id).collect();
    let mut kept = if_ids(wanted.tunnels.keys().chain(&wanted.keeps));
    kept.retain(|name, _| wanted.keeps.contains(name));
    let kept: BTreeSet<NonZeroU32> = kept.into_values().collect();
    let stays = |if_id: &NonZeroU32| wanted.keeps_others || kept.contains(if_id);
    let others = actual.xfrm.iter().filter(|it| !known.contains(&it.if_id));
    let others = others.filter(|it| stays(&it.if_id));
    let others: Vec<XfrmInterface> = others.copied().collect();
    let into: BTreeSet<RouteTarget> = others
        .iter()
        .map(|other| RouteTarget::Interface(XfrmInterface::name(other.if_id)))
        .chain([RouteTarget::Unreachable])
        .collect();
    let taken: BTreeSet<RouteKey> = desired.routes.iter().map(Route::key).collect();
    let kept = actual
        .routes
        .iter()
        .filter(|route| into.contains(&route.target));
    let kept = kept.filter(|route| !taken.contains(&route.key()));
    desired.routes.extend(kept.cloned());
    desired.xfrm.extend(others);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::ipsec::ConnectionName;

    use super::*;

    fn into(destination: &str, if_id: u32) -> Route {
        let name = XfrmInterface::name(if_id.try_into().unwrap());
        Route::new(destination.parse().unwrap(), RouteTarget::Interface(name)).normal()
    }

    #[test]
    fn a_tunnel_of_which_nothing_can_be_said_keeps_its_interface_and_what_nobody_else_wants() {
        let interface = |if_id: u32| XfrmInterface::new(if_id.try_into().unwrap());
        let ends = "10.1.0.0/16".parse().unwrap();
        let ends = Route {
            metric: 0xffff_0000,
            ..Route::new(ends, RouteTarget::Unreachable)
        };
        let actual = ActualHost {
            xfrm: [interface(1), interface(2)].into(),
            routes: [
                into("10.1.0.0/16", 1),
                into("10.2.0.0/16", 1),
                into("10.3.0.0/16", 2),
                ends.clone(),
            ]
            .into(),
            ..ActualHost::new()
        };
        // The second is a site's, which is known, has another CIDR now, and one of the first's.
        let known = [into("10.2.0.0/16", 2), into("10.4.0.0/16", 2)];
        let mut desired = DesiredHost {
            xfrm: [interface(2)].into(),
            routes: known.clone().into(),
            ..DesiredHost::new()
        };
        let before = desired.clone();
        keep_others(&mut desired, &actual, &Wanted::default());
        assert_eq!(desired, before, "all is known");
        let all = Wanted {
            keeps_others: true,
            ..Wanted::default()
        };
        keep_others(&mut desired, &actual, &all);
        assert_eq!(desired.xfrm, actual.xfrm);
        let [a, b] = known;
        assert_eq!(desired.routes, [a, b, into("10.1.0.0/16", 1), ends].into());
    }

    #[test]
    fn of_those_that_are_not_wanted_only_the_one_is_kept_whose_key_is_awaited() {
        let names = ["dc-east", "dc-west"].map(|site| ConnectionName::of(site).unwrap());
        let [kept, gone] = names.each_ref().map(|name| if_ids([name])[name]);
        let actual = ActualHost {
            xfrm: [kept, gone].map(XfrmInterface::new).into(),
            routes: [
                into("10.1.0.0/16", kept.get()),
                into("10.2.0.0/16", gone.get()),
            ]
            .into(),
            ..ActualHost::new()
        };
        let wanted = Wanted {
            keeps: [names[0].clone()].into(),
            ..Wanted::default()
        };
        let mut desired = DesiredHost::new();
        keep_others(&mut desired, &actual, &wanted);
        assert_eq!(desired.xfrm, [XfrmInterface::new(kept)].into());
        assert_eq!(desired.routes, [into("10.1.0.0/16", kept.get())].into());
    }
}
