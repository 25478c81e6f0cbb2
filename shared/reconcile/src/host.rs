//! The host's network configuration: what there should be against what is, and
//! the ordered changes between them.
//!
//! Pure. It never names anything that is not marked as ours: routes without our
//! protocol number, other nftables tables, addresses of other interfaces and
//! sysctls nobody asked for are in no state and so in no plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;

use ipnet::IpNet;

use crate::interface::InterfaceName;
use crate::route::{Route, RouteKey, RouteTarget};
use crate::ruleset::{LoadedRuleset, Ruleset, TABLE};
use crate::sysctl::{self, SysctlKey};
use crate::xfrm::XfrmInterface;

/// The part of the host's configuration that is ours. `R` is how the nftables
/// table is known: by what it should do, or by what the kernel tells about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostState<R> {
    /// XFRM interfaces of tunnels by the kernel's ESP.
    pub xfrm: BTreeSet<XfrmInterface>,
    /// Addresses of our tunnel interface.
    pub addresses: BTreeSet<(InterfaceName, IpNet)>,
    /// Routes with our protocol number in the main table.
    pub routes: BTreeSet<Route>,
    /// Our nftables table.
    pub ruleset: Option<R>,
    /// Sysctls and their values.
    pub sysctls: BTreeMap<SysctlKey, String>,
}

/// What should be.
pub type DesiredHost = HostState<Ruleset>;

/// What is. Of the sysctls it holds those that were asked for and exist.
pub type ActualHost = HostState<LoadedRuleset>;

/// One step on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostChange {
    /// Replace our nftables table as one transaction.
    LoadRuleset(Box<Ruleset>),
    /// Make an XFRM interface, or set right what is not as it should be of it.
    SetInterface(XfrmInterface),
    /// Write a sysctl.
    SetSysctl {
        /// Which.
        key: SysctlKey,
        /// The new value.
        value: String,
    },
    /// Give our tunnel interface an address.
    AddAddress {
        /// The tunnel interface.
        interface: InterfaceName,
        /// The address with its prefix length.
        address: IpNet,
    },
    /// Make a route; fails if somebody else's has its place.
    AddRoute(Route),
    /// Put a route in the place of ours with the same destination and metric.
    ReplaceRoute {
        /// The route that is there.
        from: Route,
        /// The route that takes its place.
        to: Route,
    },
    /// Remove a route of ours.
    RemoveRoute(Route),
    /// Take an address from our tunnel interface.
    RemoveAddress {
        /// The tunnel interface.
        interface: InterfaceName,
        /// The address with its prefix length.
        address: IpNet,
    },
    /// Remove the XFRM interface of this number.
    RemoveInterface(NonZeroU32),
    /// Remove our nftables table.
    RemoveRuleset,
}

/// The changes that turn what is into what should be, in the order in which
/// they have to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostPlan {
    changes: Vec<HostChange>,
}

impl HostPlan {
    /// The plan. Empty when `actual` is as `desired`.
    ///
    /// The order leaves no gap: first the rules, because a flow that is
    /// forwarded before masquerading exists keeps its private address for life
    /// (conntrack decides at the first packet), and because conntrack's own
    /// sysctls come with them; then the ends of what must not follow the default route, or
    /// it would from the moment in which forwarding is on; then interfaces, sysctls,
    /// addresses (routes may prefer them as source) and the other routes; removals last, so
    /// that a packet always has a way.
    pub fn new(desired: &DesiredHost, actual: &ActualHost) -> Self {
        let wanted_ruleset = desired.ruleset.as_ref().filter(|rules| !rules.is_empty());
        let routes = RouteChanges::new(&desired.routes, &actual.routes);
        let is_end = |change: &HostChange| matches!(change, HostChange::AddRoute(route) if route.target == RouteTarget::Unreachable);
        let (ends, ways): (Vec<_>, Vec<_>) = routes.make.into_iter().partition(is_end);
        let mut changes = Vec::new();
        changes.extend(load_ruleset(wanted_ruleset, actual.ruleset));
        changes.extend(ends);
        let not_right = desired.xfrm.difference(&actual.xfrm);
        changes.extend(not_right.copied().map(HostChange::SetInterface));
        changes.extend(set_sysctls(&desired.sysctls, &actual.sysctls));
        for (interface, address) in desired.addresses.difference(&actual.addresses) {
            changes.push(HostChange::AddAddress {
                interface: interface.clone(),
                address: *address,
            });
        }
        changes.extend(ways);
        changes.extend(routes.remove);
        for (interface, address) in actual.addresses.difference(&desired.addresses) {
            changes.push(HostChange::RemoveAddress {
                interface: interface.clone(),
                address: *address,
            });
        }
        let numbers = |interfaces: &BTreeSet<XfrmInterface>| -> BTreeSet<NonZeroU32> {
            interfaces.iter().map(|it| it.if_id).collect()
        };
        let wanted = numbers(&desired.xfrm);
        let stale = numbers(&actual.xfrm).into_iter();
        let stale = stale.filter(|if_id| !wanted.contains(if_id));
        changes.extend(stale.map(HostChange::RemoveInterface));
        if wanted_ruleset.is_none() && actual.ruleset.is_some() {
            changes.push(HostChange::RemoveRuleset);
        }
        Self { changes }
    }

    /// A plan of one change.
    pub fn of(change: HostChange) -> Self {
        Self {
            changes: vec![change],
        }
    }

    /// The changes in order.
    pub fn changes(&self) -> &[HostChange] {
        &self.changes
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

fn load_ruleset(desired: Option<&Ruleset>, actual: Option<LoadedRuleset>) -> Option<HostChange> {
    let desired = desired?;
    let loaded = Some(LoadedRuleset::Intact(desired.fingerprint()));
    (actual != loaded).then(|| HostChange::LoadRuleset(Box::new(desired.clone())))
}

fn set_sysctls(
    desired: &BTreeMap<SysctlKey, String>,
    actual: &BTreeMap<SysctlKey, String>,
) -> Vec<HostChange> {
    let mut changed: Vec<(&SysctlKey, String)> = desired
        .iter()
        .map(|(key, value)| (key, sysctl::normal_value(value)))
        .filter(|(key, value)| {
            actual.get(*key).map(|is| sysctl::normal_value(is)).as_ref() != Some(value)
        })
        .collect();
    changed.sort_by_key(|(key, _)| !key.resets_others());
    changed
        .into_iter()
        .map(|(key, value)| HostChange::SetSysctl {
            key: key.clone(),
            value,
        })
        .collect()
}

struct RouteChanges {
    make: Vec<HostChange>,
    remove: Vec<HostChange>,
}

impl RouteChanges {
    fn new(desired: &BTreeSet<Route>, actual: &BTreeSet<Route>) -> Self {
        let desired = one_per_key(desired);
        let wanted = |route: &Route| desired.get(&route.key()) == Some(route);
        let mut stale: BTreeMap<RouteKey, Vec<&Route>> = BTreeMap::new();
        for route in actual.iter().filter(|route| !wanted(route)) {
            stale.entry(route.key()).or_default().push(route);
        }
        let mut make = Vec::new();
        for route in desired.values().filter(|route| !actual.contains(route)) {
            let replaced = stale.get_mut(&route.key()).and_then(Vec::pop);
            make.push(match replaced {
                Some(from) => HostChange::ReplaceRoute {
                    from: from.clone(),
                    to: route.clone(),
                },
                None => HostChange::AddRoute(route.clone()),
            });
        }
        make.sort_by_key(|change| match change {
            HostChange::AddRoute(route) | HostChange::ReplaceRoute { to: route, .. } => {
                matches!(route.target, RouteTarget::Gateway { .. })
            }
            HostChange::LoadRuleset(_)
            | HostChange::SetInterface(_)
            | HostChange::SetSysctl { .. }
            | HostChange::AddAddress { .. }
            | HostChange::RemoveRoute(_)
            | HostChange::RemoveAddress { .. }
            | HostChange::RemoveInterface(_)
            | HostChange::RemoveRuleset => false,
        });
        let remove = stale.into_values().flatten();
        Self {
            make,
            remove: remove.cloned().map(HostChange::RemoveRoute).collect(),
        }
    }
}

/// The wanted routes in the kernel's form. The table has one place per
/// destination and metric: of several routes for it the first in order stands.
fn one_per_key(desired: &BTreeSet<Route>) -> BTreeMap<RouteKey, Route> {
    let mut routes = BTreeMap::new();
    let possible = desired
        .iter()
        .filter(|route| route.target != RouteTarget::Unrecognised);
    for route in possible.cloned().map(Route::normal) {
        routes.entry(route.key()).or_insert(route);
    }
    routes
}

impl<R> HostState<R> {
    /// Nothing of ours.
    pub fn new() -> Self {
        Self {
            xfrm: BTreeSet::new(),
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            ruleset: None,
            sysctls: BTreeMap::new(),
        }
    }
}

impl<R> Default for HostState<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// In the operator's words.
impl fmt::Display for HostChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadRuleset(_) => write!(f, "load nftables table {TABLE}"),
            Self::SetInterface(interface) => write!(f, "set interface {interface}"),
            Self::SetSysctl { key, value } => write!(f, "set sysctl {key} to {value}"),
            Self::AddAddress { interface, address } => {
                write!(f, "add address {address} dev {interface}")
            }
            Self::AddRoute(route) => write!(f, "add {route}"),
            Self::ReplaceRoute { from, to } => write!(f, "replace {from} by {to}"),
            Self::RemoveRoute(route) => write!(f, "remove {route}"),
            Self::RemoveAddress { interface, address } => {
                write!(f, "remove address {address} dev {interface}")
            }
            Self::RemoveInterface(if_id) => {
                write!(f, "remove interface {}", XfrmInterface::name(*if_id))
            }
            Self::RemoveRuleset => write!(f, "remove nftables table {TABLE}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use proptest::prelude::*;

    use super::*;
    use crate::ruleset::TunnelClamp;

    fn interface(name: &str) -> InterfaceName {
        InterfaceName::new(name).unwrap()
    }

    fn tunnel_route(destination: &str) -> Route {
        Route::new(
            destination.parse().unwrap(),
            RouteTarget::Interface(interface("privnet0")),
        )
    }

    fn clamp(mtu: u16) -> Ruleset {
        Ruleset {
            tunnels: vec![TunnelClamp {
                interface: interface("privnet0").into(),
                mtu,
            }],
            ..Ruleset::default()
        }
    }

    /// What the kernel holds after the plan.
    fn carry_out(plan: &HostPlan, mut host: ActualHost) -> ActualHost {
        for change in plan.changes() {
            match change.clone() {
                HostChange::LoadRuleset(rules) => {
                    host.ruleset = Some(LoadedRuleset::Intact(rules.fingerprint()));
                }
                HostChange::SetInterface(interface) => {
                    host.xfrm.retain(|it| it.if_id != interface.if_id);
                    host.xfrm.insert(interface);
                }
                HostChange::RemoveInterface(if_id) => {
                    let before = host.xfrm.len();
                    host.xfrm.retain(|it| it.if_id != if_id);
                    assert_eq!(host.xfrm.len() + 1, before);
                }
                HostChange::SetSysctl { key, value } => {
                    host.sysctls.insert(key, value);
                }
                HostChange::AddAddress { interface, address } => {
                    assert!(host.addresses.insert((interface, address)));
                }
                HostChange::AddRoute(route) => {
                    let taken = host.routes.iter().any(|other| other.key() == route.key());
                    assert!(!taken, "{route} has no free place");
                    host.routes.insert(route);
                }
                HostChange::ReplaceRoute { from, to } => {
                    assert_eq!(from.key(), to.key());
                    assert!(host.routes.remove(&from));
                    assert!(host.routes.insert(to));
                }
                HostChange::RemoveRoute(route) => assert!(host.routes.remove(&route)),
                HostChange::RemoveAddress { interface, address } => {
                    assert!(host.addresses.remove(&(interface, address)));
                }
                HostChange::RemoveRuleset => assert!(host.ruleset.take().is_some()),
            }
        }
        host
    }

    fn words(plan: &HostPlan) -> Vec<String> {
        plan.changes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bare_host_gets_rules_then_forwarding_then_addresses_then_routes() {
        let gateway = RouteTarget::Gateway {
            address: "10.1.0.1".parse().unwrap(),
            interface: interface("ens5"),
        };
        let desired = DesiredHost {
            xfrm: BTreeSet::new(),
            addresses: [(interface("privnet0"), "10.255.0.1/32".parse().unwrap())].into(),
            routes: [
                Route::new("10.1.0.0/16".parse().unwrap(), gateway),
                tunnel_route("10.0.0.0/8"),
                tunnel_route("10.3.0.0/16"),
                Route::new("10.0.0.0/7".parse().unwrap(), RouteTarget::Unreachable),
            ]
            .into(),
            ruleset: Some(clamp(1420)),
            sysctls: [
                ("net/ipv4/conf/all/send_redirects", "0"),
                ("net/ipv4/ip_forward", "1"),
            ]
            .map(|(key, value)| (SysctlKey::new(key).unwrap(), value.to_owned()))
            .into(),
        };
        assert_eq!(
            words(&HostPlan::new(&desired, &ActualHost::new())),
            [
                "load nftables table inet privnet",
                "add route unreachable 10.0.0.0/7",
                "set sysctl net/ipv4/ip_forward to 1",
                "set sysctl net/ipv4/conf/all/send_redirects to 0",
                "add address 10.255.0.1/32 dev privnet0",
                "add route 10.0.0.0/8 dev privnet0",
                "add route 10.3.0.0/16 dev privnet0",
                "add route 10.1.0.0/16 via 10.1.0.1 dev ens5",
            ]
        );
    }

    #[test]
    fn a_changed_route_is_replaced_and_never_missing() {
        let desired = DesiredHost {
            routes: [tunnel_route("10.0.0.0/8")].into(),
            ..DesiredHost::new()
        };
        let unreachable = Route::new("10.0.0.0/8".parse().unwrap(), RouteTarget::Unreachable);
        let actual = ActualHost {
            routes: [unreachable].into(),
            ..ActualHost::new()
        };
        assert_eq!(
            words(&HostPlan::new(&desired, &actual)),
            ["replace route unreachable 10.0.0.0/8 by route 10.0.0.0/8 dev privnet0"]
        );
    }

    #[test]
    fn an_xfrm_interface_comes_before_its_settings_and_routes_and_goes_after_them() {
        let xfrm = XfrmInterface::new(7.try_into().unwrap());
        let name = XfrmInterface::name(xfrm.if_id);
        let key = SysctlKey::new(format!("net/ipv4/conf/{name}/rp_filter")).unwrap();
        let into = Route::new(
            "10.200.0.0/16".parse().unwrap(),
            RouteTarget::Interface(name),
        );
        let with = DesiredHost {
            xfrm: [xfrm].into(),
            routes: [into.clone()].into(),
            sysctls: [(key, "2".to_owned())].into(),
            ..DesiredHost::new()
        };
        assert_eq!(
            words(&HostPlan::new(&with, &ActualHost::new())),
            [
                "set interface pnesp-00000007 type xfrm if_id 7 mtu 1400",
                "set sysctl net/ipv4/conf/pnesp-00000007/rp_filter to 2",
                "add route 10.200.0.0/16 dev pnesp-00000007",
            ]
        );
        let actual = ActualHost {
            xfrm: [XfrmInterface { up: false, ..xfrm }].into(),
            routes: [into.normal()].into(),
            ..ActualHost::new()
        };
        assert_eq!(
            words(&HostPlan::new(&DesiredHost::new(), &actual)),
            [
                "remove route 10.200.0.0/16 dev pnesp-00000007",
                "remove interface pnesp-00000007",
            ]
        );
    }

    #[test]
    fn another_metric_is_another_route_added_before_the_old_one_goes() {
        let old = tunnel_route("10.0.0.0/8");
        let new = Route {
            metric: 5,
            ..old.clone()
        };
        let desired = DesiredHost {
            routes: [new].into(),
            ..DesiredHost::new()
        };
        let actual = ActualHost {
            routes: [old].into(),
            ..ActualHost::new()
        };
        assert_eq!(
            words(&HostPlan::new(&desired, &actual)),
            [
                "add route 10.0.0.0/8 dev privnet0 metric 5",
                "remove route 10.0.0.0/8 dev privnet0",
            ]
        );
    }

    #[test]
    fn a_table_is_loaded_when_absent_different_or_altered_and_left_alone_when_intact() {
        let desired = DesiredHost {
            ruleset: Some(clamp(1420)),
            ..DesiredHost::new()
        };
        let plan = |ruleset| {
            let actual = ActualHost {
                ruleset,
                ..ActualHost::new()
            };
            HostPlan::new(&desired, &actual)
        };
        let load = [HostChange::LoadRuleset(Box::new(clamp(1420)))];
        let other = LoadedRuleset::Intact(clamp(1400).fingerprint());
        assert_eq!(plan(None).changes(), load);
        assert_eq!(plan(Some(other)).changes(), load);
        assert_eq!(plan(Some(LoadedRuleset::Altered)).changes(), load);
        let same = LoadedRuleset::Intact(clamp(1420).fingerprint());
        assert!(plan(Some(same)).is_empty());
    }

    #[test]
    fn rules_that_ask_for_nothing_mean_no_table() {
        let desired = DesiredHost {
            ruleset: Some(Ruleset::default()),
            ..DesiredHost::new()
        };
        assert!(HostPlan::new(&desired, &ActualHost::new()).is_empty());
        let actual = ActualHost {
            ruleset: Some(LoadedRuleset::Altered),
            ..ActualHost::new()
        };
        let plan = HostPlan::new(&desired, &actual);
        assert_eq!(plan.changes(), [HostChange::RemoveRuleset]);
    }

    #[test]
    fn sysctls_nobody_asked_for_stay_as_they_are() {
        let key = |path: &str| SysctlKey::new(path).unwrap();
        let desired = DesiredHost {
            sysctls: [(key("net/ipv4/tcp_rmem"), "1 2 3".to_owned())].into(),
            ..DesiredHost::new()
        };
        let actual = ActualHost {
            sysctls: [
                (key("net/ipv4/tcp_rmem"), "1\t2\t3".to_owned()),
                (key("net/ipv4/ip_forward"), "0".to_owned()),
            ]
            .into(),
            ..ActualHost::new()
        };
        assert!(HostPlan::new(&desired, &actual).is_empty());
    }

    fn any_route() -> impl Strategy<Value = Route> {
        let destination = prop_oneof![
            Just("10.0.0.0/8"),
            Just("10.1.2.3/16"),
            Just("10.2.0.0/16"),
            Just("fd00::/8"),
            Just("fd00:1::5/32"),
        ];
        let gateway = || RouteTarget::Gateway {
            address: "10.1.0.1".parse().unwrap(),
            interface: interface("ens5"),
        };
        let target = prop_oneof![
            Just(RouteTarget::Interface(interface("privnet0"))),
            Just(RouteTarget::Unreachable),
            Just(RouteTarget::Unrecognised),
            Just(()).prop_map(move |()| gateway()),
        ];
        let metric = prop_oneof![Just(0_u32), Just(80), Just(1024)];
        (destination, target, metric).prop_map(|(destination, target, metric)| Route {
            metric,
            ..Route::new(destination.parse().unwrap(), target)
        })
    }

    fn any_state<R: std::fmt::Debug + Clone>(
        ruleset: impl Strategy<Value = Option<R>>,
    ) -> impl Strategy<Value = HostState<R>> {
        let address = (0_u8..4).prop_map(|last| {
            let address = format!("10.255.0.{last}/32").parse().unwrap();
            (interface("privnet0"), address)
        });
        let setting = (0_u8..4, 0_u8..2).prop_map(|(name, value)| {
            let key = SysctlKey::new(format!("net/s{name}")).unwrap();
            (key, value.to_string())
        });
        let xfrm = proptest::collection::btree_map(1_u32..4, any::<bool>(), 0..3);
        let routes = proptest::collection::btree_set(any_route(), 0..8);
        let addresses = proptest::collection::btree_set(address, 0..4);
        let sysctls = proptest::collection::vec(setting, 0..4);
        let parts = (xfrm, addresses, routes, ruleset, sysctls);
        parts.prop_map(|(xfrm, addresses, routes, ruleset, sysctls)| {
            let interface = |(if_id, up): (u32, bool)| XfrmInterface {
                up,
                ..XfrmInterface::new(if_id.try_into().unwrap())
            };
            HostState {
                xfrm: xfrm.into_iter().map(interface).collect(),
                addresses,
                routes,
                ruleset,
                sysctls: sysctls.into_iter().collect(),
            }
        })
    }

    fn any_desired() -> impl Strategy<Value = DesiredHost> {
        any_state(prop_oneof![
            Just(None),
            Just(Some(Ruleset::default())),
            (1400_u16..1403).prop_map(|mtu| Some(clamp(mtu))),
        ])
    }

    fn any_actual() -> impl Strategy<Value = ActualHost> {
        let state = any_state(prop_oneof![
            Just(None),
            Just(Some(LoadedRuleset::Altered)),
            (1400_u16..1403).prop_map(|mtu| Some(LoadedRuleset::Intact(clamp(mtu).fingerprint()))),
        ]);
        state.prop_map(|state| ActualHost {
            routes: state.routes.into_iter().map(Route::normal).collect(),
            ..state
        })
    }

    proptest! {
        #[test]
        fn a_plan_carried_out_gives_the_desired_state_and_then_nothing_is_left_to_do(
            desired in any_desired(),
            actual in any_actual(),
        ) {
            let after = carry_out(&HostPlan::new(&desired, &actual), actual.clone());
            prop_assert_eq!(&after.xfrm, &desired.xfrm);
            prop_assert_eq!(&after.addresses, &desired.addresses);
            let routes: BTreeSet<Route> = one_per_key(&desired.routes).into_values().collect();
            prop_assert_eq!(&after.routes, &routes);
            let ruleset = desired.ruleset.as_ref().filter(|rules| !rules.is_empty());
            let loaded = ruleset.map(|rules| LoadedRuleset::Intact(rules.fingerprint()));
            prop_assert_eq!(after.ruleset, loaded);
            for (key, value) in &desired.sysctls {
                prop_assert_eq!(after.sysctls.get(key), Some(value));
            }
            prop_assert!(HostPlan::new(&desired, &after).is_empty());
        }

        #[test]
        fn what_is_wanted_and_there_is_not_touched(
            desired in any_desired(),
            actual in any_actual(),
        ) {
            let wanted = one_per_key(&desired.routes);
            for change in HostPlan::new(&desired, &actual).changes() {
                if let HostChange::RemoveRoute(route)
                | HostChange::ReplaceRoute { from: route, .. } = change
                {
                    prop_assert!(actual.routes.contains(route));
                    prop_assert_ne!(wanted.get(&route.key()), Some(route));
                }
            }
        }
    }
}
