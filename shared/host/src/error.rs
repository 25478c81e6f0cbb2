//! What can go wrong on the host, in words an operator can act on.

use std::io;
use std::time::Duration;

use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::route::Route;
use privnet_reconcile::sysctl::SysctlKey;

use crate::link::{Interface, MacAddress};

/// Why the host could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused for want of a privilege.
    #[error("not permitted to {operation}: it needs the capability CAP_NET_ADMIN")]
    NotPermitted {
        /// What was tried.
        operation: String,
    },
    /// No netlink socket could be opened.
    #[error("cannot open a netlink socket")]
    NetlinkSocket(#[source] io::Error),
    /// The kernel refused a netlink request.
    #[error("cannot {operation}")]
    Netlink {
        /// What was tried.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The netlink socket broke or its answer ended early. Nothing is concluded
    /// from such an answer.
    #[error("the kernel's answer was incomplete when trying to {operation}")]
    Incomplete {
        /// What was tried.
        operation: String,
    },
    /// The kernel's tables changed during every attempt to list them.
    #[error("could not {operation}: it changed during each of {attempts} attempts")]
    Interrupted {
        /// What was tried.
        operation: String,
        /// How often.
        attempts: u32,
    },
    /// No answer in time.
    #[error("no answer within {deadline:?} when trying to {operation}")]
    Timeout {
        /// What was tried.
        operation: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The kernel knows no XFRM interfaces.
    #[error(
        "this kernel has no XFRM interfaces, which tunnels by its ESP need: have strongSwan do ESP \
         itself (`load = yes` for kernel-libipsec in /etc/strongswan.d/privnet.conf)"
    )]
    NoXfrmInterfaces,
    /// An interface that a change or a question names is not there.
    #[error("there is no interface {name}")]
    NoInterface {
        /// The interface.
        name: InterfaceName,
    },
    /// No interface has the hardware address.
    #[error("no interface has the address {mac}; there are: {}", names(present))]
    NoSuchMac {
        /// The hardware address looked for.
        mac: MacAddress,
        /// What exists.
        present: Vec<Interface>,
    },
    /// Somebody else's route has the place of one of ours. It is left alone.
    #[error(
        "cannot add {route}: a route that is not ours has the same destination and metric {}",
        route.metric
    )]
    RouteTaken {
        /// Our route.
        route: Box<Route>,
    },
    /// A plan asked for a route of a kind that only ever comes from the kernel.
    #[error("{route} is not a route that can be made")]
    UnusableRoute {
        /// The route.
        route: Box<Route>,
    },
    /// A change was not tried, because what it needs could not be had.
    #[error("did not {operation}: {reason}")]
    NotTried {
        /// The change.
        operation: String,
        /// Why.
        reason: String,
    },
    /// There is no `nft` program.
    #[error("the program nft was not found: install the package nftables")]
    NftMissing,
    /// `nft` could not be started.
    #[error("cannot run nft")]
    NftSpawn(#[source] io::Error),
    /// The kernel lacks what our rules need.
    #[error(
        "the kernel lacks a part of nftables that is needed to {operation} \
         (nf_tables, nft_nat, nft_masq, nft_counter, nft_objref): {stderr}"
    )]
    KernelLacksNftables {
        /// What was tried.
        operation: &'static str,
        /// What nft said.
        stderr: String,
    },
    /// `nft` failed.
    #[error("nft could not {operation}: {stderr}")]
    Nft {
        /// What was tried.
        operation: &'static str,
        /// What nft said.
        stderr: String,
    },
    /// A file below `/proc` could not be read.
    #[error("cannot read {path}")]
    Proc {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file below `/proc` does not say what it should.
    #[error("cannot make sense of {path}: {problem}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// What it lacks.
        problem: &'static str,
    },
    /// The kernel does not list its connections, or does not change them.
    #[error("cannot read or change the kernel's connections")]
    Connections {
        /// Why.
        source: io::Error,
    },
    /// A sysctl does not exist: the module or the interface it belongs to is absent.
    #[error("there is no sysctl {key}")]
    NoSysctl {
        /// The sysctl.
        key: SysctlKey,
    },
    /// A sysctl could not be read or written.
    #[error("cannot {operation} sysctl {key}")]
    Sysctl {
        /// "read" or "write".
        operation: &'static str,
        /// The sysctl.
        key: SysctlKey,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

fn names(interfaces: &[Interface]) -> String {
    let named: Vec<String> = interfaces
        .iter()
        .map(|interface| match interface.mac {
            Some(mac) => format!("{} ({mac})", interface.name),
            None => interface.name.to_string(),
        })
        .collect();
    match named.as_slice() {
        [] => "none".to_owned(),
        named => named.join(", "),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_missing_interface_error_lists_what_exists() {
        let error = HostError::NoSuchMac {
            mac: "02:00:00:00:00:09".parse().unwrap(),
            present: vec![
                Interface {
                    index: 1,
                    name: InterfaceName::new("lo").unwrap(),
                    mac: None,
                    mtu: 65536,
                    up: true,
                    xfrm: None,
                },
                Interface {
                    index: 2,
                    name: InterfaceName::new("ens5").unwrap(),
                    mac: Some("02:00:00:00:00:01".parse().unwrap()),
                    mtu: 9001,
                    up: true,
                    xfrm: None,
                },
            ],
        };
        assert_eq!(
            error.to_string(),
            "no interface has the address 02:00:00:00:00:09; \
             there are: lo, ens5 (02:00:00:00:00:01)"
        );
    }
}
