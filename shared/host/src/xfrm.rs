//! XFRM interfaces: those of ours are known by their kind, and by a name that says their
//! number.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU32;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoXfrm, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::xfrm::XfrmInterface;
use rtnetlink::packet_core::NLM_F_CREATE;

use crate::error::HostError;
use crate::link::Links;
use crate::netlink::{Netlink, RequestError};

/// Those of ours.
pub(crate) fn of(links: &Links) -> BTreeSet<XfrmInterface> {
    let ours = links.all().filter_map(|link| {
        let if_id = link.xfrm?;
        (link.name == XfrmInterface::name(if_id)).then_some(XfrmInterface {
            if_id,
            mtu: link.mtu,
            up: link.up,
        })
    });
    ours.collect()
}

/// The number of an XFRM interface; `None` for one of another kind.
pub(crate) fn number(info: &[LinkInfo]) -> Option<NonZeroU32> {
    let parts = info.iter().find_map(|part| match part {
        LinkInfo::Data(InfoData::Xfrm(parts)) => Some(parts),
        _ => None,
    });
    parts?.iter().find_map(|part| match part {
        InfoXfrm::IfId(number) => NonZeroU32::new(*number),
        _ => None,
    })
}

/// Makes it, or changes the one that is there.
pub(crate) async fn set(netlink: &Netlink, interface: XfrmInterface) -> Result<(), HostError> {
    let mut message = LinkMessage::default();
    if interface.up {
        message.header.flags = LinkFlags::Up;
    }
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(XfrmInterface::name(interface.if_id).to_string()),
        LinkAttribute::Mtu(interface.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Xfrm),
            LinkInfo::Data(InfoData::Xfrm(vec![InfoXfrm::IfId(interface.if_id.get())])),
        ]),
    ];
    let operation = format!("set interface {interface}");
    let request = RouteNetlinkMessage::NewLink(message);
    let done = netlink.request(request, NLM_F_CREATE, &operation).await;
    done.map_err(|error| match error {
        RequestError::Refused(error) if error.kind() == io::ErrorKind::Unsupported => {
            HostError::NoXfrmInterfaces
        }
        error => error.into_host(operation),
    })
}

/// Whether the kernel knows such interfaces. One without a number it refuses, so nothing
/// is made; old kernels make it, and it is removed.
pub(crate) async fn are_known(netlink: &Netlink) -> Result<(), HostError> {
    let name = XfrmInterface::probe();
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Xfrm),
            LinkInfo::Data(InfoData::Xfrm(vec![InfoXfrm::IfId(0)])),
        ]),
    ];
    let operation = "ask for XFRM interfaces".to_owned();
    let request = RouteNetlinkMessage::NewLink(message);
    match netlink.request(request, NLM_F_CREATE, &operation).await {
        Err(RequestError::Refused(error)) if error.kind() == io::ErrorKind::Unsupported => {
            Err(HostError::NoXfrmInterfaces)
        }
        Ok(()) => remove_named(netlink, &Links::fetch(netlink).await?, &name).await,
        Err(RequestError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into_host(operation)),
    }
}

/// Removes it, and the routes into it.
pub(crate) async fn remove(
    netlink: &Netlink,
    links: &Links,
    if_id: NonZeroU32,
) -> Result<(), HostError> {
    remove_named(netlink, links, &XfrmInterface::name(if_id)).await
}

async fn remove_named(
    netlink: &Netlink,
    links: &Links,
    name: &InterfaceName,
) -> Result<(), HostError> {
    let mut message = LinkMessage::default();
    message.header.index = links.find(name)?.index;
    let operation = format!("remove interface {name}");
    let request = RouteNetlinkMessage::DelLink(message);
    match netlink.request(request, 0, &operation).await {
        Ok(()) => Ok(()),
        Err(RequestError::Refused(error))
            if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
        {
            Ok(())
        }
        Err(error) => Err(error.into_host(operation)),
    }
}
