//! The routes of VPC route tables: whose each is, which tables are a spoke's home,
//! and the plan from what is wanted to the changes that bring it about.
//!
//! EC2's routes carry no mark. One is ours when its destination is one that we were
//! told to serve and it leads to a spoke of this VPC; only here is that decided, and
//! no plan made here touches any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use privnet_model::config::spoke::{OWN_ZONE, TableSelection};
use privnet_model::id::{InstanceId, InterfaceId, RouteTableId, Zone};
use privnet_model::vpc::{
    Route, RouteAction, RouteChange, RouteOrigin, RouteState, RouteTable, RouteTarget,
};

/// A destination in a table: where one route can be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The table.
    pub table: RouteTableId,
    /// The destination.
    pub destination: IpNet,
}

/// `0.0.0.0/0 in rtb-…`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.destination, self.table)
    }
}

/// All spokes of the VPC, also those that are only remembered, and their interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spokes {
    interfaces: BTreeMap<InstanceId, InterfaceId>,
    instances: BTreeMap<InterfaceId, InstanceId>,
}

impl Spokes {
    /// These.
    pub fn new(spokes: impl IntoIterator<Item = (InstanceId, InterfaceId)>) -> Self {
        let interfaces: BTreeMap<_, _> = spokes.into_iter().collect();
        let turned = interfaces.iter();
        let instances = turned
            .map(|(instance, interface)| (interface.clone(), instance.clone()))
            .collect();
        Self {
            interfaces,
            instances,
        }
    }

    /// The spoke that has this interface.
    pub fn with_interface(&self, interface: &InterfaceId) -> Option<&InstanceId> {
        self.instances.get(interface)
    }

    /// The spoke that a route with this target leads to.
    fn at(&self, target: &RouteTarget) -> Option<&InstanceId> {
        let by_interface = target.interface().and_then(|id| self.with_interface(id));
        by_interface.or_else(|| {
            let (instance, _) = self.interfaces.get_key_value(target.instance()?)?;
            Some(instance)
        })
    }
}

/// What is in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// No route.
    Nobody,
    /// A route to this spoke: ours.
    Spoke {
        /// It.
        instance: InstanceId,
        /// Whether EC2 says that nothing is there any more.
        blackhole: bool,
    },
    /// Somebody else's route.
    Foreign {
        /// Where it leads.
        target: RouteTarget,
        /// Why it is not ours.
        why: Foreign,
    },
}

/// Why a route is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// A virtual private gateway made it, and would make it again.
    Propagated,
    /// It is the VPC's own.
    Local,
    /// It leads to an interface or instance that is no spoke of this VPC.
    NoSpoke,
    /// It leads to something that is no instance at all.
    Gateway,
}

/// What is in the place. The table is the one that it names.
pub fn holder(table: &RouteTable, destination: &IpNet, spokes: &Spokes) -> Holder {
    let Some(route) = table.route(destination) else {
        return Holder::Nobody;
    };
    let foreign = |why| Holder::Foreign {
        target: route.target.clone(),
        why,
    };
    match (&route.target, route.origin, spokes.at(&route.target)) {
        (_, RouteOrigin::Propagated, _) => foreign(Foreign::Propagated),
        (RouteTarget::Local, _, _) | (_, RouteOrigin::CreateRouteTable, _) => {
            foreign(Foreign::Local)
        }
        (_, RouteOrigin::CreateRoute | RouteOrigin::Unclear, Some(instance)) => Holder::Spoke {
            instance: instance.clone(),
            blackhole: is_blackhole(route),
        },
        (RouteTarget::Interface { .. } | RouteTarget::Instance(_), _, None) => {
            foreign(Foreign::NoSpoke)
        }
        (
            RouteTarget::InternetGateway(_)
            | RouteTarget::NatGateway(_)
            | RouteTarget::TransitGateway(_)
            | RouteTarget::Peering(_)
            | RouteTarget::Other(_),
            _,
            None,
        ) => foreign(Foreign::Gateway),
    }
}

fn is_blackhole(route: &Route) -> bool {
    match route.state {
        RouteState::Blackhole => true,
        RouteState::Active | RouteState::Unclear => false,
    }
}

/// What should be in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The spoke that the route should lead to.
    pub to: InstanceId,
    /// The spokes that it may be taken from.
    pub from: BTreeSet<InstanceId>,
    /// Whether it may be made where there is none.
    pub create: bool,
}

/// The way from what is to what should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// What is to be changed, in the order of the places.
    pub changes: Vec<RouteChange>,
    /// What somebody else's routes prevent.
    pub conflicts: Vec<Conflict>,
    /// Where it is as wanted already.
    pub in_order: BTreeSet<Place>,
}

/// A place that is somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where.
    pub place: Place,
    /// What is there.
    pub what: ConflictKind,
}

/// Why a route cannot be as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConflictKind {
    /// The table does not exist, or is another VPC's.
    NoTable,
    /// Somebody else's route is there.
    Route {
        /// Where it leads.
        target: RouteTarget,
        /// Why it is not ours.
        why: Foreign,
    },
}

/// The place, what is there, and what the operator can do.
impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { table, destination } = &self.place;
        let (target, why) = match &self.what {
            ConflictKind::NoTable => {
                return write!(
                    f,
                    "{table} is no route table of this VPC; check routes.tables"
                );
            }
            ConflictKind::Route { target, why } => (target, why),
        };
        write!(f, "{table}: the route to {destination} ")?;
        match why {
            Foreign::Propagated => write!(
                f,
                "is propagated by a virtual private gateway ({target}) and left alone; switch \
                 route propagation off for this table, or take the table out of routes.tables"
            ),
            Foreign::Local => write!(
                f,
                "is the VPC's own and left alone; take {destination} out of [routes]"
            ),
            Foreign::NoSpoke => write!(
                f,
                "leads to {target}, which is no running spoke with the tags of routes.siblings, \
                 and is left alone; delete the route (and take it out of the code that makes it) \
                 to have it lead here"
            ),
            Foreign::Gateway => write!(
                f,
                "leads to {target} and is left alone; delete the route (and take it out of the \
                 code that makes it) to have it lead here, or take the table or the destination \
                 out of [routes]"
            ),
        }
    }
}

/// The changes that bring about what is wanted, from the tables as EC2 just described
/// them. It touches nothing that does not lead to a spoke that `from` names.
pub fn plan(wanted: &BTreeMap<Place, Wanted>, tables: &[RouteTable], spokes: &Spokes) -> RoutePlan {
    let mut plan = RoutePlan::default();
    for (place, wanted) in wanted {
        let Some(table) = tables.iter().find(|table| table.id == place.table) else {
            plan.conflict(place, ConflictKind::NoTable);
            continue;
        };
        let Some(to) = spokes.interfaces.get(&wanted.to) else {
            continue;
        };
        match holder(table, &place.destination, spokes) {
            Holder::Nobody if wanted.create => {
                plan.change(place, RouteAction::Create { to: to.clone() });
            }
            Holder::Nobody => {}
            Holder::Spoke { instance, .. } if instance == wanted.to => {
                plan.in_order.insert(place.clone());
            }
            Holder::Spoke { instance, .. } if wanted.from.contains(&instance) => {
                if let Some(route) = table.route(&place.destination) {
                    let seen = route.target.clone();
                    let to = to.clone();
                    plan.change(place, RouteAction::Replace { seen, to });
                }
            }
            Holder::Spoke { .. } => {}
            Holder::Foreign { target, why } => {
                plan.conflict(place, ConflictKind::Route { target, why });
            }
        }
    }
    plan
}

impl RoutePlan {
    fn change(&mut self, place: &Place, action: RouteAction) {
        self.changes.push(RouteChange {
            table: place.table.clone(),
            destination: place.destination,
            action,
        });
    }

    fn conflict(&mut self, place: &Place, what: ConflictKind) {
        let place = place.clone();
        self.conflicts.push(Conflict { place, what });
    }
}

/// The home tables of a spoke in this zone, by what its config says. One that is listed
/// is among them even when it does not exist: the plan tells.
pub fn home_tables(
    selection: &TableSelection,
    tables: &[RouteTable],
    zone: &Zone,
) -> BTreeSet<RouteTableId> {
    let matches = |table: &RouteTable| match selection {
        TableSelection::Zone => table.serves(zone) && !table.leads_to_internet_gateway(),
        TableSelection::Listed(_) => false,
        TableSelection::Tagged(tags) => tags.iter().all(|(key, value)| {
            let value = match value.as_str() {
                OWN_ZONE => zone.as_str(),
                value => value,
            };
            table.tags.get(key).is_some_and(|tag| tag == value)
        }),
    };
    let listed = match selection {
        TableSelection::Listed(listed) => listed.clone(),
        TableSelection::Zone | TableSelection::Tagged(_) => BTreeSet::new(),
    };
    let matching = tables.iter().filter(|table| matches(table));
    let matching = matching.map(|table| table.id.clone());
    matching.chain(listed).collect()
}

#[cfg(test)]
mod tests;
