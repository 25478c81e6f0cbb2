//! The route tables of a hub's own VPC: whether the VPC's hosts are led to the hub.
//!
//! The hub makes no routes, and one that only relays between spokes needs none: whether
//! some are missing is for the operator to say, so that is a warning. Only a route that is
//! there and leads nowhere is wrong.

use std::collections::BTreeMap;

use ipnet::IpNet;
use privnet_model::doctor::{Area, Finding};
use privnet_model::id::{InterfaceId, RouteTableId, SubnetId};
use privnet_model::net::{Supernet, overlap};
use privnet_model::vpc::{Destination, Route, RouteOrigin, RouteState, RouteTable, RouteTarget};

const AREA: Area = Area::Aws;
const CHECK: &str = "route tables";

/// Of a thousand spokes to whom nothing leads the first tell enough.
const MOST_TOLD: usize = 5;

/// What is known of the VPC.
#[derive(Debug, Clone, Copy)]
pub struct HubTables<'a> {
    /// All its route tables.
    pub tables: &'a BTreeMap<RouteTableId, RouteTable>,
    /// The hub's interface.
    pub own: &'a InterfaceId,
    /// Its subnet.
    pub subnet: &'a SubnetId,
    /// The private network.
    pub privnet: &'a Supernet,
    /// What goes through the hub's tunnels; empty when that is not known.
    pub behind: &'a [IpNet],
}

impl HubTables<'_> {
    /// What ought to lead to the hub: what is behind it, which may be only a part of the
    /// private network.
    fn wanted(&self) -> &[IpNet] {
        match self.behind {
            [] => self.privnet.nets(),
            behind => behind,
        }
    }

    fn is_own(&self, route: &Route) -> bool {
        route.target.interface() == Some(self.own)
    }

    /// Whether a table leads this to the hub, all of it or, where routes are more
    /// specific, some.
    fn leads(&self, table: &RouteTable, wanted: &IpNet) -> bool {
        let inside = |route: &Route| match &route.destination {
            Destination::Cidr(cidr) => wanted.contains(cidr),
            Destination::PrefixList(_) => false,
        };
        let mut own = table.routes.iter().filter(|route| self.is_own(route));
        own.any(inside)
            || followed(table, wanted).is_some_and(|route| {
                // The VPC's own CIDRs lie in the private network, and need no hub.
                self.is_own(route) || route.target == RouteTarget::Local
            })
    }

    /// What leads this to the hub, where it does not go there.
    fn mend(&self, table: &RouteTable, wanted: &IpNet) -> String {
        let (id, own) = (&table.id, self.own);
        if let Some(other) = followed(table, wanted)
            && let Destination::Cidr(cidr) = &other.destination
            && self.privnet.contains(cidr)
        {
            return format!(
                "have what made the route to {cidr} in {id} (it leads to {}) lead it to {own}",
                other.target
            );
        }
        let mut nets = self.privnet.nets().iter();
        let net = nets.find(|net| net.contains(wanted)).unwrap_or(wanted);
        let family = if net.addr().is_ipv4() {
            "--destination-cidr-block"
        } else {
            "--destination-ipv6-cidr-block"
        };
        format!(
            "aws ec2 create-route --region $REGION --route-table-id {id} {family} {net} \
             --network-interface-id {own}"
        )
    }

    fn mended(&self, finding: Finding, table: &RouteTable, missing: &[IpNet]) -> Finding {
        let mut lines: Vec<String> = Vec::new();
        for wanted in missing {
            let line = self.mend(table, wanted);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.truncate(MOST_TOLD);
        lines.into_iter().fold(finding, Finding::mend)
    }
}

/// The route that EC2 follows to a CIDR: the most specific, and of two to the same
/// destination the one that is not propagated (VPC user guide, "Route priority").
fn followed<'t>(table: &'t RouteTable, to: &IpNet) -> Option<&'t Route> {
    let matching = table.routes.iter().filter_map(|route| {
        let Destination::Cidr(cidr) = &route.destination else {
            return None;
        };
        let rank = (cidr.prefix_len(), route.origin != RouteOrigin::Propagated);
        cidr.contains(to).then_some((rank, route))
    });
    let best = matching.max_by_key(|(rank, _)| *rank);
    best.map(|(_, route)| route)
}

/// Whether the hosts of the hub's VPC are led to the hub, and to all that is behind it.
pub fn led_to_hub(vpc: HubTables<'_>) -> Finding {
    let mut here = Vec::new();
    let mut leading = Vec::new();
    for table in vpc.tables.values() {
        let id = &table.id;
        let before = here.len();
        for route in table.routes.iter().filter(|route| vpc.is_own(route)) {
            let destination = &route.destination;
            if route.state == RouteState::Blackhole {
                let found =
                    format!("{destination} in {id} leads here, and EC2 calls it a black hole");
                return Finding::wrong(AREA, CHECK, found).mend(
                    "aws ec2 describe-instance-status --region $REGION --instance-ids $INSTANCE",
                );
            }
            // What else somebody leads to this instance is no matter of the hub's.
            if let Destination::Cidr(cidr) = destination
                && vpc.wanted().iter().any(|wanted| overlap(cidr, wanted))
            {
                here.push(format!("{destination} in {id}"));
            }
        }
        if here.len() > before {
            leading.push(table);
        }
    }
    for table in leading {
        let missing = missing(vpc, table);
        if !missing.is_empty() {
            let found = format!(
                "{} leads part of the private network to this hub, and not {}",
                table.id,
                listed(&missing)
            );
            return vpc.mended(Finding::warning(AREA, CHECK, found), table, &missing);
        }
    }
    if !here.is_empty() {
        return Finding::ok(AREA, CHECK, format!("here lead {}", here.join(", ")));
    }
    // Whoever shares the hub's subnet follows the hub's own table.
    let elsewhere = |table: &&RouteTable| table.subnets.keys().any(|one| one != vpc.subnet);
    let Some(table) = vpc.tables.values().find(elsewhere) else {
        let found = "this VPC has no subnet but the hub's own, so there is nobody to lead here";
        return Finding::ok(AREA, CHECK, found);
    };
    let found = "none of this VPC leads the private network to this hub: its hosts do not reach \
                 the spokes (a hub that only relays between spokes needs none)";
    let missing = missing(vpc, table);
    vpc.mended(Finding::warning(AREA, CHECK, found), table, &missing)
}

fn missing(vpc: HubTables<'_>, table: &RouteTable) -> Vec<IpNet> {
    let wanted = vpc.wanted().iter();
    let wanted = wanted.filter(|wanted| !vpc.leads(table, wanted));
    wanted.copied().collect()
}

fn listed(nets: &[IpNet]) -> String {
    let told: Vec<String> = nets.iter().take(MOST_TOLD).map(IpNet::to_string).collect();
    let told = told.join(", ");
    match nets.len().saturating_sub(MOST_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::doctor::Verdict;

    use super::*;

    const OWN: &str = "eni-00000001";
    /// What is behind the tunnels of a daemon that does not answer.
    const UNKNOWN: &[&str] = &[];

    fn to(interface: &str) -> RouteTarget {
        RouteTarget::Interface {
            interface: interface.parse().unwrap(),
            instance: None,
        }
    }

    fn route(destination: &str, target: RouteTarget) -> Route {
        Route {
            destination: Destination::Cidr(destination.parse().unwrap()),
            target,
            state: RouteState::Active,
            origin: RouteOrigin::CreateRoute,
        }
    }

    /// A table of one subnet, with the route that each table of this VPC begins with.
    fn table(number: u8, routes: Vec<Route>) -> RouteTable {
        let local = route("10.0.0.0/16", RouteTarget::Local);
        RouteTable {
            id: format!("rtb-0000000{number}").parse().unwrap(),
            vpc: "vpc-00000001".parse().unwrap(),
            main: false,
            tags: BTreeMap::new(),
            subnets: [(
                format!("subnet-0000000{number}").parse().unwrap(),
                "eu-west-1a".parse().unwrap(),
            )]
            .into(),
            routes: [local].into_iter().chain(routes).collect(),
        }
    }

    /// The hub is in the subnet of table 1.
    fn judged(tables: Vec<RouteTable>, behind: &[&str]) -> Finding {
        let tables = tables.into_iter().map(|table| (table.id.clone(), table));
        let behind: Vec<IpNet> = behind.iter().map(|net| net.parse().unwrap()).collect();
        led_to_hub(HubTables {
            tables: &tables.collect(),
            own: &OWN.parse().unwrap(),
            subnet: &"subnet-00000001".parse().unwrap(),
            privnet: &Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            behind: &behind,
        })
    }

    fn public() -> RouteTable {
        let internet = RouteTarget::InternetGateway("igw-1".to_owned());
        table(1, vec![route("0.0.0.0/0", internet)])
    }

    const CREATE: &str = "aws ec2 create-route --region $REGION --route-table-id rtb-00000002 \
                          --destination-cidr-block 10.0.0.0/8 --network-interface-id eni-00000001";

    #[test]
    fn a_vpc_whose_hosts_are_led_to_the_hub_is_well() {
        let whole = route("10.0.0.0/8", to(OWN));
        let spokes = ["10.1.0.0/16", "10.2.0.0/16"];
        for behind in [UNKNOWN, &spokes] {
            let tables = vec![public(), table(2, vec![whole.clone()])];
            let finding = judged(tables, behind);
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
            assert!(finding.found.contains("10.0.0.0/8 in rtb-00000002"));
        }
        let each = spokes.map(|cidr| route(cidr, to(OWN))).to_vec();
        for behind in [UNKNOWN, &spokes] {
            let finding = judged(vec![public(), table(2, each.clone())], behind);
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        }
        // Subnets that are kept from the private network on purpose.
        let finding = judged(vec![public(), table(2, vec![whole]), table(3, vec![])], &[]);
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    }

    #[test]
    fn one_in_which_nothing_leads_there_is_a_warning_with_the_command() {
        let nat = route("0.0.0.0/0", RouteTarget::NatGateway("nat-1".to_owned()));
        for behind in [UNKNOWN, &["10.1.0.0/16", "10.2.0.0/16"]] {
            let finding = judged(vec![public(), table(2, vec![nat.clone()])], behind);
            assert_eq!(finding.verdict, Verdict::Warning, "{finding:?}");
            assert_eq!(finding.remedy, [CREATE]);
        }
        // Where the hub is the NAT gateway as well, one route leads it everything.
        let default = route("0.0.0.0/0", to(OWN));
        let finding = judged(vec![public(), table(2, vec![default])], &[]);
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    }

    #[test]
    fn a_hub_that_is_alone_in_its_vpc_needs_no_route() {
        let finding = judged(vec![public()], &["10.1.0.0/16"]);
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        assert_eq!(judged(vec![], &[]).verdict, Verdict::Ok);
    }

    #[test]
    fn what_is_led_elsewhere_is_named_with_who_has_it() {
        let whole = route("10.0.0.0/8", to(OWN));
        let peering = route("10.2.0.0/16", RouteTarget::Peering("pcx-1".to_owned()));
        let tables = vec![public(), table(2, vec![whole, peering])];
        let finding = judged(tables, &["10.1.0.0/16", "10.2.0.0/16"]);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.found.ends_with("and not 10.2.0.0/16"));
        assert_eq!(finding.remedy.len(), 1);
        assert!(finding.remedy[0].contains("10.2.0.0/16 in rtb-00000002"));
        assert!(finding.remedy[0].contains("pcx-1"), "{finding:?}");
        // And a spoke that came later, where each has a route of its own.
        let first = route("10.1.0.0/16", to(OWN));
        let tables = vec![public(), table(2, vec![first])];
        let finding = judged(tables, &["10.1.0.0/16", "10.2.0.0/16"]);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert_eq!(finding.remedy, [CREATE]);
    }

    #[test]
    fn a_route_that_is_not_propagated_is_followed_first() {
        let propagated = Route {
            origin: RouteOrigin::Propagated,
            ..route("10.0.0.0/8", RouteTarget::Other("vgw-1".to_owned()))
        };
        let own = route("10.0.0.0/8", to(OWN));
        for routes in [
            vec![propagated.clone(), own.clone()],
            vec![own.clone(), propagated.clone()],
        ] {
            let finding = judged(vec![public(), table(2, routes)], &["10.1.0.0/16"]);
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        }
        let finding = judged(vec![public(), table(2, vec![propagated])], &[]);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.remedy[0].contains("vgw-1"), "{finding:?}");
    }

    #[test]
    fn a_black_hole_is_wrong() {
        let gone = Route {
            state: RouteState::Blackhole,
            ..route("10.0.0.0/8", to(OWN))
        };
        let finding = judged(vec![public(), table(2, vec![gone])], &[]);
        assert_eq!(finding.verdict, Verdict::Wrong);
        assert_eq!(finding.remedy.len(), 1);
    }

    #[test]
    fn of_many_that_are_missing_some_are_told() {
        let behind: Vec<String> = (1..=20).map(|n| format!("10.{n}.0.0/16")).collect();
        let behind: Vec<&str> = behind.iter().map(String::as_str).collect();
        let other = route("10.99.0.0/16", to(OWN));
        let behind = [&behind[..], &["10.99.0.0/16"]].concat();
        let finding = judged(vec![public(), table(2, vec![other])], &behind);
        assert!(finding.found.ends_with("and 15 more"), "{finding:?}");
        assert_eq!(finding.remedy, [CREATE]);
    }
}
