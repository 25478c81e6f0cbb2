//! What `[routes]` and `[self_test]` may hold, and what is said of the rest.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use super::*;
use crate::config::spoke::SpokeConfig;

const KEY: &str = "PUT+THE+HUBS+PUBLIC+KEY+HERE+AS+BASE64+0000=";
const TEST: &str = "[self_test]\ntargets = ['192.0.2.1:443']\n";
const TAGS: &str = "siblings = { service = 'nat' }\n";

/// A file with a fleet secret; line 6 is the first of `rest`.
fn file(rest: &str) -> String {
    format!(
        "privnet = '10.0.0.0/8'\npreshared_key = {{ ssm = '/privnet/psk' }}\n[[hub]]\n\
         endpoint = '198.51.100.100:51820'\npublic_key = '{KEY}'\n{rest}"
    )
}

fn good(rest: &str) -> SpokeConfig {
    SpokeConfig::parse("spoke.toml", &file(rest)).unwrap()
}

fn routes(keys: &str) -> RoutesConfig {
    good(&format!("{TEST}[routes]\n{keys}")).routes.unwrap()
}

fn said(text: &str) -> Vec<String> {
    let errors = SpokeConfig::parse("spoke.toml", text).unwrap_err();
    errors.to_string().lines().map(str::to_owned).collect()
}

/// What is said of a `[routes]` section, whose header is in line 8.
fn wrong(keys: &str) -> Vec<String> {
    said(&file(&format!("{TEST}[routes]\n{keys}")))
}

fn nets(nets: &[&str]) -> BTreeSet<IpNet> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

#[test]
fn a_file_without_routes_serves_none() {
    let spoke = good("");
    assert_eq!(spoke.routes, None);
    assert_eq!(spoke.self_test, SelfTestConfig::default());
}

#[test]
fn a_minimal_section_has_every_default() {
    let routes = routes(&format!("tables = 'zone'\n{TAGS}"));
    let privnet = Supernet::new(nets(&["10.0.0.0/8", "fd00::/8"])).unwrap();
    assert_eq!(routes.tables, TableSelection::Zone);
    assert_eq!(
        routes.destinations(&privnet),
        nets(&["0.0.0.0/0", "10.0.0.0/8", "fd00::/8"])
    );
    assert_eq!(routes.source_dest_check, SourceDestCheck::Leave);
    let takeover = routes.takeover.unwrap();
    assert_eq!(takeover.siblings["service"], "nat");
    assert_eq!(takeover.health_port, 51822);
}

#[test]
fn tables_are_those_of_the_zone_listed_or_tagged() {
    for (tables, selection) in [
        ("'zone'", TableSelection::Zone),
        (
            "['rtb-0000000b', 'rtb-0000000a']",
            TableSelection::Listed(
                ["rtb-0000000a", "rtb-0000000b"]
                    .map(|id| id.parse().unwrap())
                    .into(),
            ),
        ),
        (
            "{ tag = { 'privnet:az' = 'self', tier = 'private' } }",
            TableSelection::Tagged(
                [("privnet:az", OWN_ZONE), ("tier", "private")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
        ),
    ] {
        assert_eq!(
            routes(&format!("tables = {tables}\n{TAGS}")).tables,
            selection
        );
    }
    for (tables, problem) in [
        (
            "'rtb-0000000a'",
            "'rtb-0000000a': one table, not a list; expected [\"rtb-0000000a\"]",
        ),
        (
            "'zones'",
            "'zones': neither \"zone\" nor a list; expected \"zone\", a list of",
        ),
        (
            "[]",
            "[]: empty; expected a list of at least one, each a route table id",
        ),
        ("['rtb-1']", "[0] = 'rtb-1': not the id of a route table"),
        (
            "['rtb-0000000a', 'rtb-0000000a']",
            "[1] = 'rtb-0000000a': named twice",
        ),
        ("7", "7: not a list"),
        ("{}", ".tag: missing; expected a table of at least one tag"),
        (
            "{ tag = {} }",
            ".tag = {}: empty; expected at least one tag",
        ),
        (
            "{ tag = { 'aws:a' = 'b' } }",
            ".tag.\"aws:a\" = 'b': a tag key of AWS's own",
        ),
        (
            "{ tags = { a = 'b' } }",
            ".tags: unknown key; expected perhaps `tag`",
        ),
    ] {
        let told = wrong(&format!("tables = {tables}\n{TAGS}"));
        let told = told.iter().find(|line| line.contains(problem));
        let told = told.unwrap_or_else(|| {
            panic!(
                "{tables}: {:?}",
                wrong(&format!("tables = {tables}\n{TAGS}"))
            )
        });
        assert!(told.starts_with("spoke.toml:9: routes.tables"), "{told}");
    }
    assert!(wrong(TAGS)[0].starts_with("spoke.toml:8: routes.tables: missing; expected \"zone\""));
}

#[test]
fn the_default_route_follows_nat_and_the_privnet_the_tunnel() {
    let zone = "tables = 'zone'\ntakeover = false\n";
    let privnet = Supernet::new(nets(&["10.0.0.0/8"])).unwrap();
    let no_nat = good(&format!("[nat]\negress = false\n[routes]\n{zone}"));
    let destinations = no_nat.routes.unwrap().destinations(&privnet);
    assert_eq!(destinations, nets(&["10.0.0.0/8"]));

    let no_tunnel = |keys: &str| {
        format!("privnet = '10.0.0.0/8'\ntransport = 'none'\n{TEST}[routes]\n{zone}{keys}")
    };
    let parsed = SpokeConfig::parse("spoke.toml", &no_tunnel("extra = ['203.0.113.0/24']"));
    let destinations = parsed.unwrap().routes.unwrap().destinations(&privnet);
    assert_eq!(destinations, nets(&["0.0.0.0/0", "203.0.113.0/24"]));

    assert_eq!(
        said(&no_tunnel("privnet = true")),
        [
            "spoke.toml:8: routes.privnet = true: the privnet through a spoke without a tunnel; \
          expected false: with transport = \"none\" it is the hub that has the privnet"
        ]
    );
    let told = said(&file(&format!(
        "{TEST}[nat]\negress = false\n[routes]\n{zone}default = true"
    )));
    assert_eq!(
        told,
        [
            "spoke.toml:13: routes.default = true: a default route to a spoke without NAT egress; \
          expected false, or nat.egress = true"
        ]
    );
    let told = wrong(&format!("{zone}default = false\nprivnet = false"));
    assert!(told[0].contains("no destination to route; expected `default`, `privnet` or `extra`"));
}

#[test]
fn routes_to_the_internet_need_an_egress_test() {
    for keys in ["", "default = false\nextra = ['203.0.113.0/24']\n"] {
        let told = said(&file(&format!("[routes]\ntables = 'zone'\n{TAGS}{keys}")));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("spoke.toml:6: routes"), "{told:?}");
        assert!(told[0].contains("egress routes without an egress test; expected `targets`"));
    }
    // Those to the privnet are tested by the tunnel.
    good(&format!(
        "[routes]\ntables = 'zone'\ndefault = false\n{TAGS}"
    ));
}

#[test]
fn takeover_needs_a_secret_and_tags() {
    let without = |keys: &str| {
        format!(
            "privnet = '10.0.0.0/8'\ntransport = 'none'\n{TEST}[routes]\ntables = 'zone'\n{keys}"
        )
    };
    let told = said(&without(TAGS));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("spoke.toml:5: routes"), "{told:?}");
    assert!(told[0].contains("takeover without a fleet secret; expected `preshared_key`"));
    let alone = SpokeConfig::parse("spoke.toml", &without("takeover = false"));
    assert_eq!(alone.unwrap().routes.unwrap().takeover, None);

    let told = wrong("tables = 'zone'");
    assert!(told[0].starts_with("spoke.toml:8: routes.siblings: missing; expected a table"));
    let told = wrong("tables = 'zone'\nsiblings = {}");
    assert!(
        told[0].contains("every instance would be a sibling"),
        "{told:?}"
    );
    let told = wrong(&format!("tables = 'zone'\n{TAGS}health_port = 51820"));
    assert_eq!(
        told,
        [
            "spoke.toml:11: routes.health_port = 51820: the health port is the tunnel's \
          `listen_port`; expected a `health_port` of its own"
        ]
    );
}

#[test]
fn each_value_has_its_own_words() {
    for (line, problem) in [
        (
            "extra = ['0.0.0.0/0']",
            "the default route; expected `default = true`",
        ),
        (
            "extra = ['203.0.113.0/24', '203.0.113.0/24']",
            "named twice",
        ),
        ("extra = ['fd00::/8']", "IPv6, which is never masqueraded"),
        (
            "extra = ['203.0.113.1/24']",
            "bits are set beyond the prefix",
        ),
        (
            "source_dest_check = 'on'",
            "not \"off\"; expected \"off\", or nothing",
        ),
        ("takeover = 'yes'", "not true or false"),
        ("health_port = 0", "out of range"),
        ("defualt = true", "unknown key; expected perhaps `default`"),
    ] {
        let told = wrong(&format!("tables = 'zone'\n{TAGS}{line}"));
        assert!(
            told.iter().any(|told| told.contains(problem)),
            "{line}: {told:?}"
        );
        assert!(
            told.iter().all(|told| told.starts_with("spoke.toml:11: ")),
            "{told:?}"
        );
    }
    for (line, problem) in [
        ("targets = []", "empty"),
        ("targets = ['192.0.2.1']", "no port"),
        (
            "targets = ['example.com:443']",
            "a host name, where an address is needed",
        ),
        (
            "targets = ['[2001:db8::1]:443']",
            "IPv6, which is never masqueraded",
        ),
        (
            "targets = ['10.1.2.3:443']",
            "inside the privnet, which is not masqueraded",
        ),
        (
            "targets = ['192.168.7.1:443']",
            "inside 192.168.0.0/16 of nat.exclude, which is not masqueraded; expected an IPv4 \
             address of the internet",
        ),
        ("targets = ['127.0.0.1:443']", "this host itself"),
        ("targets = ['0.0.0.0:443']", "not the address of a host"),
        ("targets = ['169.254.169.254:80']", "link-local"),
        ("targets = ['224.0.0.1:80']", "not the address of a host"),
        ("targets = ['255.255.255.255:80']", "broadcast"),
        ("targets = ['192.0.2.1:1', '192.0.2.1:1']", "named twice"),
        ("interval = '100ms'", "less than 500ms"),
        ("interval = '1m'", "more than 10s"),
    ] {
        let routes = format!("[routes]\ntables = 'zone'\ndefault = false\n{TAGS}");
        let nat = "[nat]\nexclude = ['192.168.0.0/16']\n";
        let told = said(&file(&format!("[self_test]\n{line}\n{routes}{nat}")));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(problem), "{told:?}");
        assert!(told[0].starts_with("spoke.toml:7: self_test."), "{told:?}");
    }
}

#[test]
fn what_is_not_masqueraded_cannot_be_reached_by_the_spokes_address() {
    let extra = |net: &str| {
        let nat = "[nat]\nexclude = ['192.168.0.0/16']\n";
        file(&format!(
            "{TEST}{nat}[routes]\ntables = 'zone'\n{TAGS}extra = ['{net}']\n"
        ))
    };
    for (net, problem) in [
        (
            "10.200.0.0/16",
            "inside the privnet, which is not masqueraded; expected `privnet = true` for the \
             privnet; here what is outside of it",
        ),
        ("10.0.0.0/8", "inside the privnet"),
        (
            "192.168.7.0/24",
            "inside 192.168.0.0/16 of nat.exclude, which is not masqueraded; expected what this \
             spoke masquerades, or no such `exclude`",
        ),
    ] {
        let told = said(&extra(net));
        let start = format!("spoke.toml:13: routes.extra[0] = '{net}': {problem}");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&start), "{told:?}");
    }
    for net in ["203.0.113.0/24", "192.0.0.0/8"] {
        let spoke = SpokeConfig::parse("spoke.toml", &extra(net)).unwrap();
        assert_eq!(spoke.routes.unwrap().extra, [net.parse().unwrap()]);
    }
}

#[test]
fn the_readmes_example_for_public_subnets_is_a_whole_file() {
    let readme = include_str!("../../../../../../README.md");
    let (_, after) = readme.split_once("### Hosts in public subnets").unwrap();
    let (_, example) = after.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let spoke = SpokeConfig::parse("spoke.toml", example).unwrap();
    let destinations = spoke.routes.unwrap().destinations(&spoke.privnet);
    assert_eq!(destinations, nets(&["203.0.113.0/24"]));
    assert!(spoke.address.is_some());
}

#[test]
fn a_self_test_without_routes_is_for_nothing() {
    assert_eq!(
        said(&file(TEST)),
        [
            "spoke.toml:6: self_test: a self-test of which nothing follows; expected a [routes] \
             section, for which it is, or no [self_test]"
        ]
    );
}

#[test]
fn a_remedy_is_none_unless_it_is_asked_for() {
    let remedy = |keys: &str| {
        let routes = routes(&format!("tables = 'zone'\n{TAGS}{keys}"));
        routes.takeover.unwrap().remedy
    };
    assert_eq!(remedy(""), None);
    assert_eq!(remedy("remedy = 'none'"), None);
    assert_eq!(remedy("remedy = 'none'\nremedy_after = '2m'"), None);
    let restart = RemedyConfig {
        kind: RemedyKind::Restart,
        after: Duration::from_secs(600),
    };
    assert_eq!(remedy("remedy = 'restart'"), Some(restart));
    let unhealthy = RemedyConfig {
        kind: RemedyKind::Unhealthy,
        after: Duration::from_secs(300),
    };
    let keys = "remedy = 'unhealthy'\nremedy_after = '5m'";
    assert_eq!(remedy(keys), Some(unhealthy));
}

#[test]
fn a_remedy_that_is_unknown_too_hasty_or_of_nobody_is_told() {
    let said = |keys: &str| wrong(&format!("tables = 'zone'\n{TAGS}{keys}")).join("\n");
    for (keys, problem) in [
        (
            "remedy = 'reboot'",
            "expected \"none\", \"restart\" or \"unhealthy\"",
        ),
        ("remedy = 'restart'\nremedy_after = '29s'", "30s to 1day"),
        ("remedy_after = '60s'", "a time for no remedy"),
        (
            "takeover = false\nremedy = 'restart'",
            "a remedy without takeover",
        ),
    ] {
        let told = said(keys);
        assert!(told.contains(problem), "{keys}: {told}");
    }
}
