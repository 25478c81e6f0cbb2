//! A VPC as a spoke sees it: its siblings, the route tables with their routes, the
//! Elastic IPs, and the changes of routes that may be asked for.
//!
//! All as EC2 described it at one moment, which may have passed: whoever changes a
//! route says what he saw, and the change is made only if it is still so.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::id::{
    AllocationId, AssociationId, InstanceId, InterfaceId, PrefixListId, RouteTableId, SubnetId,
    VpcId, Zone,
};

/// A running spoke of a VPC, in as much as it can serve routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// The instance.
    pub instance: InstanceId,
    /// When it was launched last.
    pub launched: Timestamp,
    /// Its availability zone.
    pub zone: Zone,
    /// Its primary private address.
    pub address: IpAddr,
    /// Its primary network interface, to which routes point.
    pub interface: InterfaceId,
    /// The ARN of its instance profile.
    pub instance_profile: Option<String>,
    /// All its tags.
    pub tags: BTreeMap<String, String>,
}

/// The running spokes of a VPC: a complete answer of EC2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Siblings {
    /// In the order of their ids; whoever asks is among them if it has the tags.
    pub spokes: BTreeMap<InstanceId, Sibling>,
    /// Those that EC2 describes with something missing, without which they cannot
    /// serve: what that is. They are not gone.
    pub incomplete: BTreeMap<InstanceId, &'static str>,
}

/// An instance of the VPC, in whatever state: what must be known before something is
/// done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What it does.
    pub state: MachineState,
    /// When it was told to stop or to end, if it was and EC2 says when.
    pub told: Option<Timestamp>,
    /// When it was launched or started last.
    pub launched: Option<Timestamp>,
    /// The Auto Scaling group that has it.
    pub group: Option<String>,
    /// Whether its root is an instance store: it cannot be stopped.
    pub instance_store: bool,
}

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineState {
    /// It starts.
    Pending,
    /// It runs.
    Running,
    /// It stops.
    Stopping,
    /// It is stopped.
    Stopped,
    /// It is gone, or about to be.
    Terminated,
    /// EC2 does not say, or in a word that we do not know.
    Unclear,
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Terminated => "terminated",
            Self::Unclear => "in a state that EC2 does not tell",
        })
    }
}

/// What came of telling an instance to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// It ran, and stops because of this.
    Done,
    /// It did not run any more: somebody else was faster. This is what it did.
    WasNot(MachineState),
}

/// A route table of a VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable {
    /// The table.
    pub id: RouteTableId,
    /// Its VPC.
    pub vpc: VpcId,
    /// Whether it serves the subnets that have no table of their own.
    pub main: bool,
    /// All its tags.
    pub tags: BTreeMap<String, String>,
    /// The subnets that it serves; those of the main table are among them that are
    /// associated with no table.
    pub subnets: BTreeMap<SubnetId, Zone>,
    /// Its routes.
    pub routes: Vec<Route>,
}

impl RouteTable {
    /// The route to exactly this destination. One that is propagated is it only where
    /// there is no other: EC2 follows the other then (VPC user guide, "Route priority").
    pub fn route(&self, destination: &IpNet) -> Option<&Route> {
        let wanted = Destination::Cidr(*destination);
        let routes = self.routes.iter();
        let routes = routes.filter(|route| route.destination == wanted);
        routes.min_by_key(|route| route.origin == RouteOrigin::Propagated)
    }

    /// Whether its subnets are public: they reach an internet gateway without us.
    pub fn leads_to_internet_gateway(&self) -> bool {
        let mut targets = self.routes.iter().map(|route| &route.target);
        targets.any(|target| matches!(target, RouteTarget::InternetGateway(_)))
    }

    /// Whether it serves a subnet of this zone.
    pub fn serves(&self, zone: &Zone) -> bool {
        self.subnets.values().any(|other| other == zone)
    }
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What is sent there.
    pub destination: Destination,
    /// Where to.
    pub target: RouteTarget,
    /// Whether anything gets there.
    pub state: RouteState,
    /// Where it comes from.
    pub origin: RouteOrigin,
}

/// What a route is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// A CIDR of either family, its host bits cleared.
    Cidr(IpNet),
    /// All CIDRs of a managed prefix list.
    PrefixList(PrefixListId),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(cidr) => write!(f, "{cidr}"),
            Self::PrefixList(list) => write!(f, "{list}"),
        }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// A network interface, and the instance that it is attached to if EC2 tells:
    /// it does not of one that is gone, which leaves a black hole.
    Interface {
        /// The interface.
        interface: InterfaceId,
        /// The instance that it is attached to.
        instance: Option<InstanceId>,
    },
    /// An instance of which EC2 tells no interface.
    Instance(InstanceId),
    /// An internet gateway. (One for outgoing IPv6 only is among the others: private
    /// subnets have it.)
    InternetGateway(String),
    /// A managed NAT gateway.
    NatGateway(String),
    /// A transit gateway.
    TransitGateway(String),
    /// A peering connection to another VPC.
    Peering(String),
    /// The VPC itself.
    Local,
    /// Anything else, as EC2 names it: a virtual private gateway, a gateway endpoint,
    /// an egress-only internet gateway, or what did not exist when this was written.
    Other(String),
}

impl RouteTarget {
    /// Whether both lead to the same: an interface is the same whatever is told of
    /// the instance that it is attached to.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self.interface(), other.interface()) {
            (Some(one), Some(other)) => one == other,
            (Some(_), None) | (None, Some(_)) => false,
            (None, None) => self == other,
        }
    }

    /// The interface that it is.
    pub fn interface(&self) -> Option<&InterfaceId> {
        match self {
            Self::Interface { interface, .. } => Some(interface),
            Self::Instance(_)
            | Self::InternetGateway(_)
            | Self::NatGateway(_)
            | Self::TransitGateway(_)
            | Self::Peering(_)
            | Self::Local
            | Self::Other(_) => None,
        }
    }

    /// The instance that it is, or is said to be attached to.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Interface { instance, .. } => instance.as_ref(),
            Self::Instance(instance) => Some(instance),
            Self::InternetGateway(_)
            | Self::NatGateway(_)
            | Self::TransitGateway(_)
            | Self::Peering(_)
            | Self::Local
            | Self::Other(_) => None,
        }
    }
}

/// "internet gateway igw-…", as it fits behind "leads to".
impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface {
                interface,
                instance: Some(instance),
            } => write!(f, "interface {interface} of {instance}"),
            Self::Interface {
                interface,
                instance: None,
            } => write!(f, "interface {interface}"),
            Self::Instance(instance) => write!(f, "instance {instance}"),
            Self::InternetGateway(id) => write!(f, "internet gateway {id}"),
            Self::NatGateway(id) => write!(f, "NAT gateway {id}"),
            Self::TransitGateway(id) => write!(f, "transit gateway {id}"),
            Self::Peering(id) => write!(f, "peering connection {id}"),
            Self::Local => f.write_str("the VPC itself"),
            Self::Other(id) => f.write_str(id),
        }
    }
}

/// Whether a route leads anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// The target exists and is attached. That it forwards is not said.
    Active,
    /// The target is gone, detached, or its instance is stopped.
    Blackhole,
    /// EC2 does not say, or in a word that we do not know.
    Unclear,
}

/// Who made a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteOrigin {
    /// It came with the table.
    CreateRouteTable,
    /// Somebody asked for it.
    CreateRoute,
    /// A virtual private gateway propagates it.
    Propagated,
    /// EC2 does not say, or in a word that we do not know.
    Unclear,
}

/// One change of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// In which table.
    pub table: RouteTableId,
    /// The destination that it is about.
    pub destination: IpNet,
    /// What is to be done.
    pub action: RouteAction,
}

/// What is to be done to a route. Nothing takes one away: what its subnets sent there
/// would be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteAction {
    /// Makes a route to the interface where none was.
    Create {
        /// The interface.
        to: InterfaceId,
    },
    /// Lets the route lead to the interface.
    Replace {
        /// Where it led when it was looked at.
        seen: RouteTarget,
        /// The interface.
        to: InterfaceId,
    },
}

/// What came of a change of a route that EC2 had nothing against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteOutcome {
    /// It is as asked, perhaps since before.
    Done,
    /// Nothing was changed: the route is not as it was seen. This is where it leads
    /// now, `None` when there is none.
    Conflict {
        /// Where it leads now.
        now: Option<RouteTarget>,
    },
    /// Nothing was changed: EC2 knows no such table.
    NoTable,
    /// Nothing was changed: when its turn came it was not wanted any more.
    Withdrawn,
}

/// An Elastic IP address of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElasticAddress {
    /// The account's claim to it.
    pub allocation: AllocationId,
    /// The address.
    pub address: IpAddr,
    /// All its tags.
    pub tags: BTreeMap<String, String>,
    /// Where it is now, `None` when nowhere.
    pub holder: Option<AddressHolder>,
}

/// Where an Elastic IP address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressHolder {
    /// This being so. It changes whenever the address moves.
    pub association: AssociationId,
    /// The instance, if it is one's.
    pub instance: Option<InstanceId>,
    /// The network interface.
    pub interface: Option<InterfaceId>,
    /// The private address that it stands for.
    pub private_address: Option<IpAddr>,
}

/// The instance, if it is one's, as it fits behind "is at".
impl fmt::Display for AddressHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.instance, &self.interface) {
            (Some(instance), _) => write!(f, "{instance}"),
            (None, Some(interface)) => write!(f, "{interface}"),
            (None, None) => write!(f, "{}", self.association),
        }
    }
}

/// What came of asking for an Elastic IP address, where EC2 had nothing against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressOutcome {
    /// The address is at the interface, perhaps since before.
    Done,
    /// Nothing was changed: the address is not where it was expected. This is who has
    /// it now; `None` when nobody has, but the interface has another one.
    Conflict {
        /// Who has it now.
        now: Option<AddressHolder>,
    },
    /// Nothing was changed: the account has no such address in this region.
    NoAddress,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn interface(instance: Option<&str>) -> RouteTarget {
        RouteTarget::Interface {
            interface: "eni-00000001".parse().unwrap(),
            instance: instance.map(|id| id.parse().unwrap()),
        }
    }

    #[test]
    fn an_interface_is_the_same_with_and_without_its_instance() {
        let (attached, gone) = (interface(Some("i-00000001")), interface(None));
        assert!(attached.is_same(&gone) && gone.is_same(&attached));
        let instance = RouteTarget::Instance("i-00000001".parse().unwrap());
        assert!(!instance.is_same(&attached));
        assert!(!RouteTarget::Local.is_same(&RouteTarget::Other("vgw-1".to_owned())));
        assert!(RouteTarget::Local.is_same(&RouteTarget::Local));
    }

    #[test]
    fn a_table_finds_its_route_by_the_exact_destination() {
        let route = |destination: &str, target| Route {
            destination: Destination::Cidr(destination.parse().unwrap()),
            target,
            state: RouteState::Active,
            origin: RouteOrigin::CreateRoute,
        };
        let gateway = RouteTarget::InternetGateway("igw-1".to_owned());
        let mut table = RouteTable {
            id: "rtb-00000001".parse().unwrap(),
            vpc: "vpc-00000001".parse().unwrap(),
            main: false,
            tags: BTreeMap::new(),
            subnets: [(
                "subnet-00000001".parse().unwrap(),
                "eu-west-1a".parse().unwrap(),
            )]
            .into(),
            routes: vec![
                route("10.0.0.0/16", RouteTarget::Local),
                route("10.0.0.0/8", interface(None)),
            ],
        };
        let found = table.route(&"10.0.0.0/8".parse().unwrap()).unwrap();
        assert_eq!(found.target, interface(None));
        assert_eq!(table.route(&"10.0.0.0/9".parse().unwrap()), None);
        let propagated = Route {
            origin: RouteOrigin::Propagated,
            ..route("10.0.0.0/8", RouteTarget::Other("vgw-1".to_owned()))
        };
        table.routes.insert(0, propagated.clone());
        assert_eq!(
            table.route(&"10.0.0.0/8".parse().unwrap()).unwrap().target,
            interface(None)
        );
        table.routes.retain(|route| route.target != interface(None));
        assert_eq!(
            table.route(&"10.0.0.0/8".parse().unwrap()),
            Some(&propagated)
        );
        assert!(!table.leads_to_internet_gateway());
        table.routes.push(route("0.0.0.0/0", gateway));
        assert!(table.leads_to_internet_gateway());
        assert!(table.serves(&"eu-west-1a".parse().unwrap()));
        assert!(!table.serves(&"eu-west-1b".parse().unwrap()));
    }
}
