#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use privnet_model::vpc::Destination;
use proptest::prelude::*;

use super::*;

const DESTINATIONS: [&str; 3] = ["0.0.0.0/0", "10.0.0.0/8", "203.0.113.0/24"];

fn instance(n: u8) -> InstanceId {
    format!("i-{n:08x}").parse().unwrap()
}

fn interface(n: u8) -> InterfaceId {
    format!("eni-{n:08x}").parse().unwrap()
}

fn table_id(n: u8) -> RouteTableId {
    format!("rtb-{n:08x}").parse().unwrap()
}

fn zone(letter: char) -> Zone {
    format!("eu-west-1{letter}").parse().unwrap()
}

/// Spokes 0 to 3; 4 and above are strangers.
fn spokes() -> Spokes {
    Spokes::new((0..4).map(|n| (instance(n), interface(n))))
}

fn to_interface(n: u8) -> RouteTarget {
    RouteTarget::Interface {
        interface: interface(n),
        instance: Some(instance(n)),
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

fn table(n: u8, zones: &str, routes: Vec<Route>) -> RouteTable {
    RouteTable {
        id: table_id(n),
        vpc: "vpc-00000001".parse().unwrap(),
        main: false,
        tags: BTreeMap::new(),
        subnets: zones
            .chars()
            .enumerate()
            .map(|(n, letter)| (format!("subnet-{n:08x}").parse().unwrap(), zone(letter)))
            .collect(),
        routes,
    }
}

fn place(n: u8, destination: &str) -> Place {
    Place {
        table: table_id(n),
        destination: destination.parse().unwrap(),
    }
}

fn wanted(from: &[u8], create: bool) -> Wanted {
    Wanted {
        to: instance(0),
        from: from.iter().map(|n| instance(*n)).collect(),
        create,
    }
}

fn plan_one(route: Option<Route>, wanted: Wanted) -> RoutePlan {
    let tables = [table(1, "a", route.into_iter().collect())];
    plan(
        &[(place(1, "0.0.0.0/0"), wanted)].into(),
        &tables,
        &spokes(),
    )
}

#[test]
fn a_route_is_made_where_there_is_none_if_it_may_be() {
    let plan = plan_one(None, wanted(&[], true));
    let [change] = plan.changes.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!(change.action, RouteAction::Create { to: interface(0) });
    assert_eq!(plan_one(None, wanted(&[1], false)), RoutePlan::default());
}

#[test]
fn a_route_is_taken_from_those_that_are_named_alone() {
    let at = |n| Some(route("0.0.0.0/0", to_interface(n)));
    let taken = plan_one(at(1), wanted(&[1], false));
    let seen = to_interface(1);
    let to = interface(0);
    assert_eq!(taken.changes[0].action, RouteAction::Replace { seen, to });
    assert_eq!(plan_one(at(2), wanted(&[1], true)), RoutePlan::default());
    let own = plan_one(at(0), wanted(&[1], true));
    assert!(own.changes.is_empty() && own.in_order.contains(&place(1, "0.0.0.0/0")));
}

#[test]
fn a_black_hole_left_by_a_spoke_is_ours() {
    let mut left = route(
        "0.0.0.0/0",
        RouteTarget::Interface {
            interface: interface(1),
            instance: None,
        },
    );
    left.state = RouteState::Blackhole;
    let tables = table(1, "a", vec![left.clone()]);
    let holder = holder(&tables, &"0.0.0.0/0".parse().unwrap(), &spokes());
    let instance = instance(1);
    assert_eq!(
        holder,
        Holder::Spoke {
            instance,
            blackhole: true
        }
    );
    assert_eq!(plan_one(Some(left), wanted(&[1], false)).changes.len(), 1);
}

#[test]
fn somebody_elses_routes_are_told_in_words_that_help() {
    let everybody = || wanted(&[0, 1, 2, 3], true);
    let mut propagated = route("0.0.0.0/0", to_interface(1));
    propagated.origin = RouteOrigin::Propagated;
    let local = Route {
        origin: RouteOrigin::CreateRouteTable,
        ..route("0.0.0.0/0", RouteTarget::Local)
    };
    for (route, words) in [
        (
            route("0.0.0.0/0", RouteTarget::NatGateway("nat-1".to_owned())),
            "rtb-00000001: the route to 0.0.0.0/0 leads to NAT gateway nat-1 and is left alone; \
             delete the route (and take it out of the code that makes it) to have it lead here, \
             or take the table or the destination out of [routes]",
        ),
        (
            route("0.0.0.0/0", to_interface(9)),
            "rtb-00000001: the route to 0.0.0.0/0 leads to interface eni-00000009 of i-00000009, \
             which is no running spoke with the tags of routes.siblings, and is left alone; \
             delete the route (and take it out of the code that makes it) to have it lead here",
        ),
        (
            propagated,
            "is propagated by a virtual private gateway (interface eni-00000001 of",
        ),
        (
            local,
            "is the VPC's own and left alone; take 0.0.0.0/0 out of [routes]",
        ),
    ] {
        let plan = plan_one(Some(route), everybody());
        assert_eq!(plan.changes, []);
        let [conflict] = plan.conflicts.as_slice() else {
            panic!("{plan:?}");
        };
        assert!(conflict.to_string().contains(words), "{conflict}");
    }
    let missing = plan(
        &[(place(7, "0.0.0.0/0"), everybody())].into(),
        &[],
        &spokes(),
    );
    assert_eq!(
        missing.conflicts[0].to_string(),
        "rtb-00000007 is no route table of this VPC; check routes.tables"
    );
}

#[test]
fn home_tables_are_those_of_the_zone_listed_or_tagged() {
    let internet = RouteTarget::InternetGateway("igw-1".to_owned());
    let mut tables = [
        table(1, "a", vec![]),
        table(2, "ab", vec![route("0.0.0.0/0", to_interface(9))]),
        table(3, "b", vec![]),
        table(4, "a", vec![route("0.0.0.0/0", internet)]),
        table(5, "", vec![]),
    ];
    tables[2]
        .tags
        .insert("az".to_owned(), "eu-west-1b".to_owned());
    tables[4].tags.insert("az".to_owned(), "self".to_owned());
    let tagged = |value: &str| {
        let tags = [("az".to_owned(), value.to_owned())].into();
        TableSelection::Tagged(tags)
    };
    for (selection, letter, expected) in [
        (TableSelection::Zone, 'a', &[1, 2][..]),
        (TableSelection::Zone, 'b', &[2, 3]),
        (TableSelection::Zone, 'c', &[]),
        (tagged("self"), 'b', &[3]),
        (tagged("self"), 'a', &[]),
        (tagged("eu-west-1b"), 'a', &[3]),
        (TableSelection::Listed([table_id(9)].into()), 'a', &[9]),
    ] {
        let home = home_tables(&selection, &tables, &zone(letter));
        let expected = expected.iter().map(|n| table_id(*n)).collect();
        assert_eq!(home, expected, "{selection:?} {letter}");
    }
}

fn target() -> impl Strategy<Value = RouteTarget> {
    prop_oneof![
        6 => (0_u8..6).prop_map(to_interface),
        2 => (0_u8..6).prop_map(|n| RouteTarget::Interface {
            interface: interface(n),
            instance: None,
        }),
        1 => (0_u8..6).prop_map(|n| RouteTarget::Instance(instance(n))),
        1 => Just(RouteTarget::InternetGateway("igw-1".to_owned())),
        1 => Just(RouteTarget::NatGateway("nat-1".to_owned())),
        1 => Just(RouteTarget::TransitGateway("tgw-1".to_owned())),
        1 => Just(RouteTarget::Peering("pcx-1".to_owned())),
        1 => Just(RouteTarget::Local),
        1 => Just(RouteTarget::Other("vgw-1".to_owned())),
    ]
}

fn any_route() -> impl Strategy<Value = Option<(RouteTarget, RouteState, RouteOrigin)>> {
    let state = prop_oneof![Just(RouteState::Active), Just(RouteState::Blackhole)];
    let origin = prop_oneof![
        6 => Just(RouteOrigin::CreateRoute),
        1 => Just(RouteOrigin::CreateRouteTable),
        1 => Just(RouteOrigin::Propagated),
        1 => Just(RouteOrigin::Unclear),
    ];
    proptest::option::of((target(), state, origin))
}

fn any_tables() -> impl Strategy<Value = Vec<RouteTable>> {
    let routes = prop::array::uniform3(any_route());
    prop::collection::vec(routes, 1..4).prop_map(|tables| {
        let numbered = (0..).zip(tables);
        let built = numbered.map(|(n, routes)| {
            let routes = DESTINATIONS.into_iter().zip(routes);
            let routes = routes.filter_map(|(destination, route)| {
                let (target, state, origin) = route?;
                Some(Route {
                    state,
                    origin,
                    ..self::route(destination, target)
                })
            });
            table(n, "a", routes.collect())
        });
        built.collect()
    })
}

/// Which spokes each place may be taken from, and whether it may be made.
fn any_wanted() -> impl Strategy<Value = BTreeMap<Place, Wanted>> {
    let one = (
        0_u8..5,
        0_usize..3,
        prop::collection::btree_set(0_u8..6, 0..6),
        any::<bool>(),
    );
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let each = all.into_iter().map(|(n, destination, from, create)| {
            let from: Vec<u8> = from.into_iter().collect();
            (place(n, DESTINATIONS[destination]), wanted(&from, create))
        });
        each.collect()
    })
}

/// What EC2 does of a change.
fn apply(tables: &mut [RouteTable], change: &RouteChange) {
    let table = tables
        .iter_mut()
        .find(|table| table.id == change.table)
        .unwrap();
    let (RouteAction::Create { to } | RouteAction::Replace { to, .. }) = &change.action;
    let wanted = Destination::Cidr(change.destination);
    table.routes.retain(|route| route.destination != wanted);
    let target = RouteTarget::Interface {
        interface: to.clone(),
        instance: None,
    };
    table
        .routes
        .push(route(&change.destination.to_string(), target));
}

/// A spoke's, by nothing but the numbers of this file.
fn is_a_spokes(route: &Route) -> bool {
    let named = |n: u8| {
        route.target.interface() == Some(&interface(n))
            || route.target.instance() == Some(&instance(n))
    };
    (0..4).any(named)
        && !matches!(
            route.origin,
            RouteOrigin::Propagated | RouteOrigin::CreateRouteTable
        )
}

proptest! {
    #[test]
    fn no_plan_touches_what_is_not_ours(tables in any_tables(), wanted in any_wanted()) {
        let plan = plan(&wanted, &tables, &spokes());
        for change in &plan.changes {
            let place = Place { table: change.table.clone(), destination: change.destination };
            let wanted = &wanted[&place];
            let table = tables.iter().find(|table| table.id == change.table).unwrap();
            match (table.route(&change.destination), &change.action) {
                (None, RouteAction::Create { to }) => {
                    prop_assert!(wanted.create && *to == interface(0));
                }
                (Some(route), RouteAction::Replace { seen, to }) => {
                    prop_assert!(is_a_spokes(route), "{:?}", route);
                    prop_assert!(route.target == *seen && *to == interface(0));
                    let mut from = wanted.from.iter();
                    prop_assert!(from.any(|id| Some(id) == spokes().at(seen)));
                }
                (route, action) => prop_assert!(false, "{:?} for {:?}", action, route),
            }
        }
    }

    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(tables in any_tables(), wanted in any_wanted()) {
        let mut after = tables;
        let first = plan(&wanted, &after, &spokes());
        for change in &first.changes {
            apply(&mut after, change);
        }
        let second = plan(&wanted, &after, &spokes());
        prop_assert_eq!(&second.changes, &[]);
        prop_assert_eq!(second.conflicts, first.conflicts);
        prop_assert_eq!(second.in_order.len(), first.in_order.len() + first.changes.len());
    }
}
