#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use privnet_model::config::spoke::SpokeConfig;
use privnet_model::doctor::Verdict;
use privnet_model::vpc::{Destination, Route};

use super::*;

const OWN: u8 = 0;
const SIBLING: u8 = 1;
const STRANGER: u8 = 9;

fn interface(n: u8) -> InterfaceId {
    format!("eni-{n:08x}").parse().unwrap()
}

fn to(n: u8) -> RouteTarget {
    RouteTarget::Interface {
        interface: interface(n),
        instance: Some(format!("i-{n:08x}").parse().unwrap()),
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

fn default(target: RouteTarget) -> Route {
    route("0.0.0.0/0", target)
}

fn table(routes: Vec<Route>) -> RouteTable {
    RouteTable {
        id: "rtb-00000001".parse().unwrap(),
        vpc: "vpc-00000001".parse().unwrap(),
        main: false,
        tags: BTreeMap::new(),
        subnets: [(
            "subnet-00000001".parse().unwrap(),
            "eu-west-1a".parse().unwrap(),
        )]
        .into(),
        routes,
    }
}

/// What is made of one table, for a spoke in zone a with this in its `[routes]`.
fn judged<T>(
    table: RouteTable,
    routes: &str,
    ask: impl Fn(Tables<'_>, &RoutesConfig, &Supernet) -> T,
) -> T {
    let text = format!(
        "privnet = '10.0.0.0/8'\ntransport = 'none'\n[self_test]\ntargets = ['203.0.113.80:80']\n\
         [routes]\nprivnet = false\ntakeover = false\n{routes}"
    );
    judged_by(&text, table, ask)
}

/// The same for a spoke with this config.
fn judged_by<T>(
    config: &str,
    table: RouteTable,
    ask: impl Fn(Tables<'_>, &RoutesConfig, &Supernet) -> T,
) -> T {
    let config = SpokeConfig::parse("spoke.toml", config).unwrap();
    let tables = [(table.id.clone(), table)].into();
    let spokes = [OWN, SIBLING].map(|n| (format!("i-{n:08x}").parse().unwrap(), interface(n)));
    let vpc = Tables {
        tables: &tables,
        spokes: &Spokes::new(spokes),
        own: &interface(OWN),
        subnet: &"subnet-00000009".parse().unwrap(),
        zone: Some(&"eu-west-1a".parse().unwrap()),
        unknown: None,
        sick: Some("no target answers"),
    };
    ask(vpc, config.routes.as_ref().unwrap(), &config.privnet)
}

/// Check and verdict of each finding; what is not well is mended by something.
fn verdicts(table: RouteTable, routes: &str) -> Vec<(String, Verdict)> {
    let findings = judged(table, routes, served);
    let findings = findings.into_iter().map(|finding| {
        let well = finding.verdict == Verdict::Ok;
        assert_eq!(finding.remedy.is_empty(), well, "{finding:?}");
        (finding.check, finding.verdict)
    });
    findings.collect()
}

const ZONE: &str = "tables = 'zone'\n";

fn one_route(target: Option<RouteTarget>) -> Verdict {
    let table = table(target.into_iter().map(default).collect());
    let found = verdicts(table, ZONE);
    assert_eq!(found[0], ("route tables".to_owned(), Verdict::Ok));
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1].0, "route");
    found[1].1
}

#[test]
fn a_route_to_any_spoke_is_well_and_every_other_is_wrong() {
    assert_eq!(one_route(Some(to(OWN))), Verdict::Ok);
    assert_eq!(one_route(Some(to(SIBLING))), Verdict::Ok);
    assert_eq!(one_route(Some(to(STRANGER))), Verdict::Wrong);
    let nat = RouteTarget::NatGateway("nat-1".to_owned());
    assert_eq!(one_route(Some(nat)), Verdict::Wrong);
    assert_eq!(one_route(None), Verdict::Wrong);
    let propagated = Route {
        origin: RouteOrigin::Propagated,
        ..default(RouteTarget::Other("vgw-1".to_owned()))
    };
    let found = verdicts(table(vec![propagated]), ZONE);
    assert_eq!(found[1].1, Verdict::Wrong);
    let gone = Route {
        state: RouteState::Blackhole,
        ..default(to(SIBLING))
    };
    let found = judged(table(vec![gone]), ZONE, served);
    assert_eq!(found[1].verdict, Verdict::Wrong);
    assert!(
        found[1]
            .found
            .ends_with("self-test passes: no target answers")
    );
    let internet = RouteTarget::InternetGateway("igw-1".to_owned());
    for target in [Some(internet), Some(to(STRANGER)), None] {
        let table = table(target.into_iter().map(default).collect());
        let mended = judged(table, "tables = ['rtb-00000001']\n", served)
            .remove(1)
            .remedy;
        assert!(
            !mended.iter().any(|line| line.contains("aws ")),
            "{mended:?}"
        );
    }
}

#[test]
fn who_does_not_know_its_siblings_judges_no_route_to_another_interface() {
    let judge = |target| {
        let found = judged(
            table(vec![default(target)]),
            ZONE,
            |vpc, config, privnet| {
                let unknown = Some("takeover = false");
                served(Tables { unknown, ..vpc }, config, privnet)
            },
        );
        found[1].verdict
    };
    assert_eq!(judge(to(OWN)), Verdict::Ok);
    assert_eq!(judge(to(STRANGER)), Verdict::NotChecked);
    let nat = RouteTarget::NatGateway("nat-1".to_owned());
    assert_eq!(judge(nat), Verdict::Wrong);
}

#[test]
fn a_table_of_the_spokes_own_subnet_leads_back_to_it() {
    let own = RouteTable {
        subnets: [(
            "subnet-00000009".parse().unwrap(),
            "eu-west-1a".parse().unwrap(),
        )]
        .into(),
        ..table(vec![default(to(OWN))])
    };
    let found = verdicts(own, ZONE);
    assert_eq!(found[2], ("route table".to_owned(), Verdict::Wrong));
}

#[test]
fn a_spoke_that_has_the_privnet_alone_may_be_in_the_subnet_that_it_serves() {
    let told = |config: &str, routes| {
        let own = RouteTable {
            subnets: [(
                "subnet-00000009".parse().unwrap(),
                "eu-west-1a".parse().unwrap(),
            )]
            .into(),
            ..table(routes)
        };
        let key = "PUT+THE+HUBS+PUBLIC+KEY+HERE+AS+BASE64+0000=";
        let text = format!(
            "privnet = '10.0.0.0/8'\n[[hub]]\nendpoint = '203.0.113.5:51820'\n\
             public_key = '{key}'\n[self_test]\ntargets = ['203.0.113.80:80']\n\
             [routes]\ntables = ['rtb-00000001']\ntakeover = false\n{config}"
        );
        let found = judged_by(&text, own, served);
        found.iter().any(|one| one.found.contains("own subnet"))
    };
    let privnet = || route("10.0.0.0/8", to(OWN));
    let alone = "default = false\nprivnet = true\n";
    assert!(!told(alone, vec![privnet()]));
    let partner = route("198.51.100.0/24", to(OWN));
    let extra = format!("{alone}extra = ['198.51.100.0/24']\n");
    assert!(told(&extra, vec![privnet(), partner]));
    assert!(told("", vec![privnet(), default(to(OWN))]));
}

#[test]
fn tables_that_are_not_there_or_that_nobody_follows_are_told() {
    let elsewhere = RouteTable {
        subnets: BTreeMap::new(),
        ..table(vec![default(to(OWN))])
    };
    let nobody = vec![("route tables".to_owned(), Verdict::Wrong)];
    assert_eq!(verdicts(elsewhere.clone(), ZONE), nobody);
    let tagged = "tables = { tag = { 'privnet:az' = 'self' } }\n";
    assert_eq!(verdicts(elsewhere.clone(), tagged), nobody);
    let listed = "tables = ['rtb-00000001', 'rtb-00000002']\n";
    let found = verdicts(elsewhere, listed);
    let told: Vec<(&str, Verdict)> = found.iter().map(|(it, how)| (it.as_str(), *how)).collect();
    assert_eq!(
        told,
        [
            ("route tables", Verdict::Ok),
            ("route", Verdict::Ok),
            ("route table", Verdict::Warning),
            ("route table", Verdict::Wrong),
        ]
    );
}

#[test]
fn a_table_is_nearly_full_before_it_is_full() {
    let others = (0..44).map(|n| route(&format!("192.0.2.{n}/32"), to(STRANGER)));
    let mut routes: Vec<Route> = others.collect();
    routes.push(default(to(OWN)));
    let found = verdicts(table(routes.clone()), ZONE);
    assert_eq!(found[2], ("route table".to_owned(), Verdict::Warning));
    routes.remove(0);
    assert_eq!(verdicts(table(routes), ZONE).len(), 2);
}

#[test]
fn without_a_config_of_routes_somebody_must_have_made_one() {
    let judge = |routes| judged(table(routes), ZONE, |vpc, _, _| led_here(vpc));
    assert_eq!(judge(vec![default(to(OWN))]).verdict, Verdict::Ok);
    let nobody = judge(vec![default(to(SIBLING))]);
    assert_eq!(nobody.verdict, Verdict::Warning);
    assert!(nobody.remedy[1].contains("eni-00000000"));
    let gone = Route {
        state: RouteState::Blackhole,
        ..default(to(OWN))
    };
    assert_eq!(judge(vec![gone]).verdict, Verdict::Wrong);
}

#[test]
fn only_what_would_change_nothing_that_is_there_is_tried() {
    let tried = |routes| judged(table(routes), ZONE, to_try);
    let [change] = &tried(vec![default(to(SIBLING))])[..] else {
        panic!("not one change");
    };
    let seen = to(SIBLING);
    let to_it = interface(SIBLING);
    assert_eq!(change.action, RouteAction::Replace { seen, to: to_it });
    let [change] = &tried(vec![])[..] else {
        panic!("not one change");
    };
    let own = interface(OWN);
    assert_eq!(change.action, RouteAction::Create { to: own });
    let nat = RouteTarget::NatGateway("nat-1".to_owned());
    assert_eq!(tried(vec![default(nat)]), []);
}
