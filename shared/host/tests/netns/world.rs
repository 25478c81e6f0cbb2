//! What every case needs: shell commands, interfaces, one reconciliation.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;

use privnet_host::{Host, HostError, Scope};
use privnet_reconcile::host::{ActualHost, DesiredHost, HostChange, HostPlan};
use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::route::{Route, RouteTarget};

/// Runs a shell script and gives what it printed; panics when it fails.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A figure for whoever reads the test's output.
pub(crate) fn note(figure: &str) {
    let _ = writeln!(std::io::stderr(), "{figure}");
}

pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(work)
}

/// `lan` with an address and a router behind it, and `tunnel`. A veth's far end
/// stands in for the network; this kernel has no dummy interfaces.
pub(crate) fn interfaces() {
    sh(
        "ip link add lan address 02:00:00:00:00:01 type veth peer name lan-far
        ip link add tunnel mtu 1420 type veth peer name tunnel-far
        ip address add 10.1.0.10/16 dev lan
        ip address add fd01::10/64 dev lan nodad
        for link in lan lan-far tunnel tunnel-far; do ip link set $link up; done",
    );
}

pub(crate) fn name(text: &str) -> InterfaceName {
    InterfaceName::new(text).unwrap()
}

pub(crate) fn through(interface: &str) -> RouteTarget {
    RouteTarget::Interface(name(interface))
}

pub(crate) fn via(address: &str, interface: &str) -> RouteTarget {
    RouteTarget::Gateway {
        address: address.parse().unwrap(),
        interface: name(interface),
    }
}

pub(crate) fn route(destination: &str, target: RouteTarget) -> Route {
    Route::new(destination.parse().unwrap(), target)
}

pub(crate) fn desired_routes(routes: impl IntoIterator<Item = Route>) -> DesiredHost {
    DesiredHost {
        routes: routes.into_iter().collect(),
        ..DesiredHost::new()
    }
}

pub(crate) fn fetch(desired: &DesiredHost) -> ActualHost {
    let scope = Scope {
        tunnel: Some(name("tunnel")),
        ..Scope::of(desired)
    };
    wait(Host::new().fetch(&scope)).unwrap()
}

pub(crate) fn plan(desired: &DesiredHost) -> HostPlan {
    HostPlan::new(desired, &fetch(desired))
}

pub(crate) fn words(plan: &HostPlan) -> Vec<String> {
    plan.changes().iter().map(ToString::to_string).collect()
}

pub(crate) fn apply(plan: &HostPlan) -> Vec<(HostChange, Result<(), HostError>)> {
    wait(Host::new().apply(plan))
}

/// One reconciliation in which all changes succeed and after which none is
/// left. Gives the changes made.
pub(crate) fn reconcile(desired: &DesiredHost) -> Vec<String> {
    let plan = plan(desired);
    for (change, result) in apply(&plan) {
        if let Err(error) = result {
            panic!("{change}: {error:?}");
        }
    }
    let left = words(&self::plan(desired));
    assert!(left.is_empty(), "left to do: {left:?}");
    words(&plan)
}

/// Everybody else's routes, in all tables, as `ip` shows them.
pub(crate) fn foreign_routes() -> BTreeSet<String> {
    let all = sh("ip -4 route show table all; ip -6 route show table all");
    let foreign = all.lines().filter(|line| !line.contains("proto 80"));
    foreign.map(str::to_owned).collect()
}
