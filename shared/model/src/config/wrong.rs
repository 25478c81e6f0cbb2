//! What the readers say of wrong files: every kind of error, with its line,
//! its key, its value and what was expected.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod discovery;
mod nat;
mod policy;
mod trust;

use std::time::Duration;

use proptest::prelude::*;

use super::hub::{HubConfig, SecretSource, SiteLink, TrustConfig};
use super::spoke::SpokeConfig;
use crate::inventory::Transport;
use crate::offload::{Offload, Offloads};

const KEY: &str = "PUT+THE+HUBS+PUBLIC+KEY+HERE+AS+BASE64+0000=";
const OTHER_KEY: &str = "PUT+THE+SITES+PUBLIC+KEY+HERE+AS+BASE64+000=";

/// What is said of a hub file, one line each.
fn hub(text: &str) -> Vec<String> {
    match HubConfig::parse("hub.toml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

fn spoke(text: &str) -> Vec<String> {
    match SpokeConfig::parse("spoke.toml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

/// A hub file that is right, with `top` before its sections and `rest` after.
fn hub_with(top: &str, rest: &str) -> Vec<String> {
    hub(&format!(
        "{top}\nprivnet = \"10.0.0.0/8\"\n[discovery]\nregions = [\"eu-west-1\"]\n\
         tags = {{ service = \"nat\" }}\n{rest}"
    ))
}

fn spoke_with(top: &str, rest: &str) -> Vec<String> {
    spoke(&format!(
        "{top}\nprivnet = \"10.0.0.0/8\"\n[[hub]]\nendpoint = \"198.51.100.100:51820\"\n\
         public_key = \"{KEY}\"\n{rest}"
    ))
}

#[test]
fn a_minimal_hub_file_has_every_default() {
    let text = "privnet = '10.0.0.0/8'\n[discovery]\nregions = ['eu-west-1']\ntags.service = 'nat'";
    let hub = HubConfig::parse("hub.toml", text).unwrap();
    assert_eq!(hub.listen_port, 51820);
    assert_eq!(hub.private_key.to_str(), Some("/var/lib/privnet/hub.key"));
    assert_eq!(hub.state.to_str(), Some("/var/lib/privnet/hub.state.json"));
    assert_eq!(hub.admin_socket.to_str(), Some("/run/privnet/hub.sock"));
    assert_eq!((hub.interface.as_str(), hub.mtu), ("privnet0", 1440));
    assert_eq!((hub.log.as_str(), hub.workers), ("info", None));
    assert_eq!((hub.offloads, hub.metrics), (Offloads::ALL, None));
    assert_eq!(hub.discovery.interval, Duration::from_secs(3600));
    assert_eq!(hub.discovery.timeout, Duration::from_secs(60));
    assert_eq!(hub.discovery.tags["service"], "nat");
    assert!(hub.discovery.own_account && hub.discovery.accounts.is_empty());
    assert_eq!((hub.discovery.endpoint, hub.discovery.fips), (None, false));
    assert_eq!(hub.trust, TrustConfig::default());
    assert_eq!((hub.sites, hub.policy), (Vec::new(), Vec::new()));
}

#[test]
fn a_minimal_spoke_file_has_every_default() {
    let text = format!(
        "privnet = ['10.0.0.0/8', 'fd00::/8']\n[[hub]]\nendpoint = '[2001:db8::1]:51820'\n\
         public_key = '{KEY}'"
    );
    let spoke = SpokeConfig::parse("spoke.toml", &text).unwrap();
    assert_eq!(spoke.privnet.nets().len(), 2);
    assert_eq!(spoke.transport, Transport::Wireguard);
    assert_eq!(
        spoke.private_key.to_str(),
        Some("/var/lib/privnet/spoke.key")
    );
    assert_eq!(spoke.admin_socket.to_str(), Some("/run/privnet/spoke.sock"));
    assert_eq!(spoke.hubs[0].keepalive, Some(Duration::from_secs(25)));
    assert!(spoke.publish && spoke.nat.egress);
    assert_eq!(spoke.nat.interface, None);
    assert_eq!((spoke.offloads, spoke.metrics), (Offloads::ALL, None));
    assert_eq!((spoke.preshared_key, spoke.prove), (None, true));
}

#[test]
fn each_offload_is_switched_off_by_itself() {
    let text = "privnet = '10.0.0.0/8'\ntransport = 'none'\n[offload]\n";
    let wanted = |keys: &str| {
        let spoke = SpokeConfig::parse("spoke.toml", &format!("{text}{keys}"));
        spoke.unwrap().offloads
    };
    for offload in Offload::ALL {
        let off = wanted(&format!("{offload} = false"));
        assert_eq!(off, Offloads::ALL.without(offload));
        assert_eq!(wanted(&format!("{offload} = true")), Offloads::ALL);
    }
    let all_off = Offload::ALL.map(|offload| format!("{offload} = false\n"));
    assert_eq!(wanted(&all_off.concat()), Offloads::NONE);
    assert_eq!(wanted(""), Offloads::ALL);
}

#[test]
fn what_an_offload_section_cannot_hold_is_told() {
    let section = "[offload]\ntun_tso = 'off'\ntun_usi = false\nudp_gso = 0\n[offload.tun_gro]";
    let expected = |file: &str, line: usize| {
        [
            "offload.tun_tso = 'off': not true or false; expected true or false",
            "offload.tun_usi: unknown key; expected perhaps `tun_uso`",
            "offload.udp_gso = 0: not true or false; expected true or false",
            "offload.tun_gro: not true or false; expected true or false",
        ]
        .into_iter()
        .zip(line..)
        .map(|(said, line)| format!("{file}.toml:{line}: {said}"))
        .collect::<Vec<_>>()
    };
    assert_eq!(hub_with("", section), expected("hub", 7));
    assert_eq!(spoke_with("", section), expected("spoke", 7));
    assert_eq!(
        hub_with("offload = false", ""),
        ["hub.toml:1: offload = false: not a table; expected an [offload] section"]
    );
}

#[test]
fn a_fleet_secret_is_in_a_file_or_in_ssm() {
    let read = |line: &str| {
        let text = format!("privnet = '10.0.0.0/8'\ntransport = 'none'\n{line}");
        SpokeConfig::parse("spoke.toml", &text).map(|spoke| spoke.preshared_key)
    };
    let file = read("preshared_key.file = '/etc/privnet/fleet.secret'").unwrap();
    assert_eq!(
        file,
        Some(SecretSource::File("/etc/privnet/fleet.secret".into()))
    );
    let arn = "arn:aws:ssm:eu-west-1:111122223333:parameter/privnet/psk";
    for name in ["/privnet/psk", "psk", "/privnet/psk:3", arn] {
        let ssm = read(&format!("preshared_key = {{ ssm = '{name}' }}")).unwrap();
        assert_eq!(ssm, Some(SecretSource::Ssm(name.to_owned())));
    }
    for (line, said) in [
        ("preshared_key = 'c2VjcmV0'", "preshared_key: not a table"),
        ("preshared_key = {}", "preshared_key.file: missing"),
        (
            "preshared_key = { file = '/a', ssm = '/b' }",
            "preshared_key: both `file` and `ssm`",
        ),
        ("preshared_key.file = 'a'", "not an absolute path"),
        ("preshared_key.ssm = 'a b'", "not the name of a parameter"),
        ("preshared_key.ssm = 'a/b'", "does not start with `/`"),
        ("preshared_key.ssm = ''", "not the name of a parameter"),
        ("prove = 'yes'", "prove = 'yes': not true or false"),
    ] {
        let error = read(line).unwrap_err().to_string();
        assert!(error.contains(said), "{line}: {error}");
        assert!(!error.contains("c2Vj"), "{error}");
    }
}

#[test]
fn metrics_are_served_on_loopback_or_not_at_all() {
    let expected = "expected a loopback address and port such as 127.0.0.1:9587 or [::1]:9587";
    for (value, problem) in [
        ("0.0.0.0:9587", "not the address of a host"),
        ("10.0.0.5:9587", "not a loopback address"),
        ("[::ffff:127.0.0.1]:9587", "not a loopback address"),
        ("[2001:db8::1]:9587", "not a loopback address"),
        ("localhost:9587", "a host name, where an address is needed"),
        ("127.0.0.1", "no port"),
        ("127.0.0.1:0", "port 0"),
        (":9587", "not an address and port"),
    ] {
        let line = format!("metrics = {value:?}");
        for (file, said) in [
            ("hub", hub_with(&line, "")),
            ("spoke", spoke_with(&line, "")),
        ] {
            assert_eq!(
                said,
                [format!("{file}.toml:1: {line}: {problem}; {expected}")]
            );
        }
    }
    for good in ["127.0.0.1:9587", "127.9.9.9:1", "[::1]:9587"] {
        let line = format!("metrics = {good:?}");
        assert_eq!(hub_with(&line, ""), [""; 0]);
        assert_eq!(spoke_with(&line, ""), [""; 0]);
    }
}

#[test]
fn a_site_keeps_its_path_open_only_where_it_has_an_address_to_call() {
    let site = |rest: &str| {
        let text = format!(
            "privnet = '10.0.0.0/8'\n[[site]]\nname = 'a'\ncidrs = ['10.1.0.0/16']\n\
             public_key = '{KEY}'\n{rest}\n[discovery]\nregions = ['eu-west-1']\ntags = {{ a = 'b' }}"
        );
        let hub = HubConfig::parse("hub.toml", &text).unwrap();
        match &hub.sites[0].link {
            SiteLink::Wireguard(link) => link.keepalive,
            SiteLink::Ipsec(link) => panic!("{link:?}"),
        }
    };
    let default = Some(Duration::from_secs(25));
    assert_eq!(site(""), None);
    assert_eq!(site("endpoint = '192.0.2.1:51820'"), default);
    assert_eq!(
        site("endpoint = '192.0.2.1:51820'\nkeepalive = 'off'"),
        None
    );
    assert_eq!(site("keepalive = '1m'"), Some(Duration::from_secs(60)));
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_lines() {
    let text = r#"privnet = "10.0.0.1/8"
listen_prot = 51820
mtu = 900
workers = "2"
interface = "a-name-that-is-too-long"
private_key = "c2VjcmV0IG1hdGVyaWFs"
admin_socket = "hub.sock"
log = "inof"
[discovery]
interval = "1s"
regions = ["eu-west-1", "Ireland", "eu-west-1"]
tags = { "aws:name" = "x", env = 1 }
[[site]]
name = "dc east"
cidrs = ["10.1.2.3/16", "10.2.0.0"]
transport = "openvpn"
endpoint = "vpn.example.com:51820"
[[site]]
name = "b"
cidrs = []
log = "debug"
"#;
    let expected = [
        r#"hub.toml:1: privnet = "10.0.0.1/8": bits are set beyond the prefix of /8; expected 10.0.0.0/8"#,
        "hub.toml:2: listen_prot: unknown key; expected perhaps `listen_port`",
        "hub.toml:3: mtu = 900: out of range; expected bytes, 1280 to 34736",
        r#"hub.toml:4: workers = "2": text, not a number; leave the quotes out; expected a number of threads, 1 to 64"#,
        r#"hub.toml:5: interface = "a-name-that-is-too-long": 23 bytes long; expected an interface name: at most 15 bytes, no `/`, `:`, `%` or white space"#,
        r#"hub.toml:6: private_key: not a table; expected { file = "/an/absolute/path" } or { ssm = "/a/parameter" }; the key itself has no place in this file"#,
        r#"hub.toml:7: admin_socket = "hub.sock": not an absolute path; expected an absolute path of at most 107 bytes"#,
        r#"hub.toml:8: log = "inof": `inof` is not a log filter; expected a level (off, error, warn, info, debug, trace) or `target=level`, several with commas between"#,
        r#"hub.toml:10: discovery.interval = "1s": less than 5s; expected a time such as "1h", 5s to 7days"#,
        r#"hub.toml:11: discovery.regions[1] = "Ireland": not a region; expected a region such as eu-west-1"#,
        r#"hub.toml:11: discovery.regions[2] = "eu-west-1": named twice; expected each once"#,
        r#"hub.toml:12: discovery.tags."aws:name" = "x": a tag key of AWS's own; expected a tag that you set: none starts with `aws:`"#,
        "hub.toml:12: discovery.tags.env = 1: a number, not text in quotes; expected the tag's value in quotes, at most 256 characters",
        r#"hub.toml:14: site[0].name = "dc east": not a name; expected a name of 1 to 64 letters, digits, `.`, `_` or `-`"#,
        r#"hub.toml:15: site[0].cidrs[0] = "10.1.2.3/16": bits are set beyond the prefix of /16; expected 10.1.0.0/16"#,
        r#"hub.toml:15: site[0].cidrs[1] = "10.2.0.0": an address without a prefix length; expected a CIDR such as 10.2.0.0/32"#,
        r#"hub.toml:16: site[0].transport = "openvpn": not a transport; expected `wireguard` or `ipsec`"#,
        "hub.toml:18: site[1].public_key: missing; expected a WireGuard public key: 44 characters of base64, as `wg pubkey` prints",
        "hub.toml:20: site[1].cidrs = []: empty; expected a list of at least one, each a CIDR such as 10.1.0.0/16",
        "hub.toml:21: site[1].log: unknown key; expected `log` above the first [section] of the file",
    ];
    assert_eq!(hub(text), expected);
}

#[test]
fn an_error_has_its_parts_for_programs_as_well() {
    let errors = HubConfig::parse("/etc/hub.toml", "privnet = '10.0.0.0/33'").unwrap_err();
    let [missing, error] = errors.errors() else {
        panic!("{errors}");
    };
    assert_eq!(
        (error.file.as_str(), error.line, error.column),
        ("/etc/hub.toml", 1, 11)
    );
    assert_eq!(error.key, "privnet");
    assert_eq!(error.value.as_deref(), Some("'10.0.0.0/33'"));
    assert_eq!(error.problem, "not a CIDR");
    assert!(error.expected.as_deref().unwrap().contains("10.0.0.0/8"));
    assert_eq!(
        (missing.key.as_str(), missing.problem.as_str()),
        ("discovery", "missing")
    );
}

#[test]
fn an_empty_file_lacks_what_has_no_default() {
    assert_eq!(
        hub(""),
        [
            "hub.toml:1: discovery: missing; expected a [discovery] section that tells `regions` and `tags`",
            "hub.toml:1: privnet: missing; expected the private network's CIDR such as 10.0.0.0/8, or a list of them",
        ]
    );
    assert_eq!(
        spoke(""),
        [
            "spoke.toml:1: hub: missing; expected a [[hub]] with `endpoint` and `public_key`, or transport = \"none\"",
            "spoke.toml:1: privnet: missing; expected the private network's CIDR such as 10.0.0.0/8, or a list of them",
        ]
    );
}

#[test]
fn a_missing_key_of_a_section_is_told_at_the_section() {
    assert_eq!(
        hub("privnet = '10.0.0.0/8'\n\n[discovery]\n"),
        [
            "hub.toml:3: discovery.regions: missing; expected a list of at least one, each a region such as eu-west-1",
            "hub.toml:3: discovery.tags: missing; expected a table of at least one tag, such as { service = \"nat\" }",
        ]
    );
}

#[test]
fn sites_that_collide_are_told_with_the_line_of_the_other() {
    let site = |name: &str, cidrs: &str, key: &str| {
        format!("[[site]]\nname = '{name}'\ncidrs = {cidrs}\npublic_key = '{key}'\n")
    };
    let text = site("a", "['10.1.0.0/16', '10.1.2.0/24', '192.168.0.0/24']", KEY)
        + &site("a", "['10.0.0.0/9']", KEY)
        + &site("c", "['10.200.0.0/16']", OTHER_KEY);
    assert_eq!(
        hub_with("", &text),
        [
            "hub.toml:8: site[0].cidrs[1] = '10.1.2.0/24': overlaps 10.1.0.0/16 of this site (line 8); expected addresses that nothing else has",
            "hub.toml:8: site[0].cidrs[2] = '192.168.0.0/24': outside the privnet; expected a part of 10.0.0.0/8",
            "hub.toml:11: site[1].name = 'a': the name of the site in line 7; expected a name of its own",
            "hub.toml:12: site[1].cidrs[0] = '10.0.0.0/9': overlaps 10.1.0.0/16 of site `a` (line 8); expected addresses that nothing else has",
            &format!(
                "hub.toml:13: site[1].public_key = '{KEY}': the key of the site in line 9; expected a key of its own"
            ),
        ]
    );
}

#[test]
fn a_site_behind_its_own_tunnel_is_refused() {
    let text = format!(
        "[[site]]\nname = 'a'\ncidrs = ['10.1.0.0/16']\npublic_key = '{KEY}'\nendpoint = '10.1.0.1:51820'"
    );
    assert!(hub_with("", &text)[0].contains("inside the site's own `cidrs`"));
}

#[test]
fn a_site_without_a_tunnel_is_refused() {
    let text = "[[site]]\nname = 'a'\ncidrs = ['10.1.0.0/16']\ntransport = 'none'";
    assert_eq!(
        hub_with("", text),
        [
            "hub.toml:9: site[0].transport = 'none': a site is reached by a tunnel or not at all; expected `wireguard` or `ipsec`"
        ]
    );
}

#[test]
fn the_number_of_hubs_follows_the_transport() {
    let second = format!("[[hub]]\nendpoint = '198.51.100.101:51820'\npublic_key = '{OTHER_KEY}'");
    assert_eq!(
        spoke_with("", &second),
        ["spoke.toml:6: hub[1]: one hub too many; expected one hub in this version"]
    );
    assert_eq!(
        spoke_with("transport = 'none'", ""),
        [
            "spoke.toml:3: hub[0]: a hub, though transport is \"none\"; expected no [[hub]], or transport = \"wireguard\""
        ]
    );
    assert_eq!(spoke("privnet = '10.0.0.0/8'\ntransport = 'none'"), [""; 0]);
    assert_eq!(
        spoke("privnet = '10.0.0.0/8'\ntransport = 'ipsec'"),
        [
            "spoke.toml:1: hub: missing; expected a [[hub]] with `endpoint`, or transport = \"none\"",
            "spoke.toml:1: preshared_key: missing; expected the fleet's secret, as { file = \"/an/absolute/path\" } or { ssm = \"/a/parameter\" }: the tunnel's key is made of it",
        ]
    );
    assert_eq!(
        spoke("privnet = '10.0.0.0/8'\n[hub]\nendpoint = '198.51.100.101:51820'"),
        [
            "spoke.toml:2: hub: one table where there may be several; expected tables that start with [[hub]]"
        ]
    );
}

/// One wrong line at the top of a hub file, and the problem told of it.
#[test]
fn each_kind_of_value_has_its_own_words() {
    for (line, problem) in [
        ("listen_port = 0", "out of range"),
        ("listen_port = 65536", "out of range"),
        ("listen_port = 99999999999999999999", "out of range"),
        ("listen_port = 51820.5", "not a whole number"),
        ("workers = 65", "out of range"),
        ("interface = ''", "empty"),
        ("interface = 'all'", "a name with another meaning"),
        ("interface = 'a b'", "not an interface name"),
        ("interface = 'wg%d'", "not an interface name"),
        ("state = '/var/lib/'", "a directory, not a file"),
        ("state = ['/var/lib/x']", "a list, not text in quotes"),
        (
            "state = '/var/lib/privnet/hub.key'",
            "the file of the private key",
        ),
        (
            "log = 'info,privnet_hub'",
            "`privnet_hub` is not a log filter",
        ),
        ("log = 2026-11-21", "a date or time, not text in quotes"),
    ] {
        let said = hub_with(line, "");
        assert_eq!(said.len(), 1, "{line}: {said:?}");
        assert!(said[0].contains(problem), "{line}: {said:?}");
        assert!(said[0].starts_with("hub.toml:1: "), "{line}: {said:?}");
    }
    let long = format!("admin_socket = '/{}'", "s".repeat(107));
    assert!(hub_with(&long, "")[0].contains("…: a path of 108 bytes"));
    for line in [
        "log = 'warn,privnet_hub=DEBUG'",
        "log = 'info,[poll{a=1,b=2}]=trace'",
        "mtu = 0x578",
    ] {
        assert_eq!(hub_with(line, ""), [""; 0]);
    }
}

#[test]
fn each_kind_of_endpoint_has_its_own_words() {
    for (endpoint, problem) in [
        ("198.51.100.100", "no port"),
        ("[2001:db8::9]", "no port"),
        ("2001:db8::9", "IPv6 without brackets, or no port"),
        ("hub.example.com", "a host name, where an address is needed"),
        ("198.51.100.300:1", "not an address and port"),
        ("198.51.100.100:0", "port 0"),
        ("0.0.0.0:51820", "not the address of a host"),
        ("224.0.0.1:51820", "not the address of a host"),
    ] {
        let text = format!(
            "privnet = '10.0.0.0/8'\n[[hub]]\nendpoint = '{endpoint}'\npublic_key = '{KEY}'"
        );
        let said = spoke(&text);
        assert!(
            said.len() == 1 && said[0].contains(&format!("'{endpoint}': {problem};")),
            "{said:?}"
        );
    }
}

#[test]
fn each_kind_of_keepalive_and_key_has_its_own_words() {
    for (line, problem) in [
        ("keepalive = 25", "a number, not text in quotes"),
        ("keepalive = '25'", "not a time with its unit"),
        ("keepalive = '1500ms'", "not whole seconds"),
        ("keepalive = '19h'", "more than 18h 12m 15s"),
        ("keepalive = '0s'", "less than 1s"),
    ] {
        let said = spoke_with("", line);
        assert!(said.len() == 1 && said[0].contains(problem), "{said:?}");
    }
    for (key, problem) in [("AAAA", "3 bytes instead of 32"), ("%%%", "not base64")] {
        let text = format!(
            "privnet = '10.0.0.0/8'\n[[hub]]\nendpoint = '192.0.2.1:1'\npublic_key = '{key}'"
        );
        let said = spoke(&text);
        assert!(said.len() == 1 && said[0].contains(problem), "{said:?}");
    }
}

#[test]
fn the_whole_internet_is_no_privnet() {
    assert!(hub("privnet = '0.0.0.0/0'")[1].contains("the whole internet"));
    assert!(hub("privnet = []")[1].contains("empty"));
}

#[test]
fn without_tags_nothing_is_a_spoke() {
    let text = "privnet = '10.0.0.0/8'\n[discovery]\nregions = ['eu-west-1']\ntags = {}";
    assert_eq!(
        hub(text),
        [
            "hub.toml:4: discovery.tags = {}: empty; expected at least one tag: with none, every instance would be a spoke"
        ]
    );
}

#[test]
fn syntax_errors_are_told_each_and_with_what_else_is_wrong() {
    let text =
        "privnet = 10.0.0.0/8\nmtu = 900\nstate = \"/x\n[discovery\nregions = [\"eu-west-1\"]\n";
    assert_eq!(
        hub(text),
        [
            "hub.toml:1: privnet = 10.0.0.0/8: not valid TOML: invalid float; expected text in \"quotes\" or a plain number",
            "hub.toml:2: mtu = 900: out of range; expected bytes, 1280 to 34736",
            "hub.toml:3: state = \"/x: not valid TOML: invalid basic string; expected `\"`",
            "hub.toml:4: not valid TOML: unclosed table; expected `]`",
        ]
    );
}

#[test]
fn a_key_given_twice_is_told_with_the_line_of_the_first() {
    let text = "[[site]]\nname = 'a'\n[[site]]\nname = 'b'\nname = 'c'\n[discovery]\n";
    let said = hub_with("mtu = 1400\nmtu = 1500", text);
    assert!(
        said.contains(&"hub.toml:2: mtu: given already in line 1".to_owned()),
        "{said:?}"
    );
    assert!(
        said.contains(&"hub.toml:11: site[1].name: given already in line 10".to_owned()),
        "{said:?}"
    );
    assert!(
        said.iter()
            .any(|line| line.starts_with("hub.toml:12: discovery: given")),
        "{said:?}"
    );
}

#[test]
fn private_material_in_the_wrong_place_is_never_shown() {
    let secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTE=";
    for line in [
        "private_key = '{}'",
        "private_key = {}",
        "private_key = '{}",
        "privat_key = '{}'",
        "privatekey = {}",
        "private_key = { file = '{}' }",
        "private_key = { ssm = '{}' }",
        "private_key = { file = {} }",
        "private_key = ['{}']",
        "private_key = '''\n{}\n",
        "private_key = [\n{}\n]",
        "private_key = {\n{}\n}",
        "preshared_key = '{}'",
        "[trust]\npreshared_key = '{}'",
        "[trust]\npreshared_key = { ssm = '{}=' }",
        "[trust]\npreshared_key = { file = '{}' }",
        "[trust]\npreshared_key = { file = '/{}', ssm = '/{}' }",
        "[trust]\npreshared_key = {}",
        "preshared_key = { ssm = '{}' }",
        "[[site]]\npreshared_key = '{}'",
        "[[site]]\npreshared_key = { file = '{}' }",
        "[[site]]\npreshared_key = { ssm = '{}' }",
        "private_key.file = '{}'",
        "[private_key]\nfile = {}",
    ] {
        let text = line.replacen("{}", secret, 1);
        let said = hub(&text);
        assert!(!said.is_empty());
        assert!(!said.join("\n").contains("c2Vjcm"), "{said:?}");
    }
}

#[test]
fn hostile_texts_are_errors_and_nothing_worse() {
    for text in [
        "a.".repeat(50_000) + "a = 1\nb = 1\nb = 2",
        "[".repeat(50_000),
        "a = ".to_owned() + &"[".repeat(50_000),
        "a = ".to_owned() + &"{a=".repeat(50_000),
        format!("[{}a]", "a.".repeat(50_000)),
        "\u{feff}privnet = '\u{1b}[31m\n".to_owned(),
        "interface = \"\\u001b[31m\"\r\nlog = '\u{1b}[31m'".to_owned(),
    ] {
        let said = hub(&text);
        assert!(!said.is_empty());
        assert!(!said.join("\n").contains('\u{1b}'), "{said:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_readers_panic(text in "(?s).{0,200}") {
        hub(&text);
        spoke(&text);
    }

    #[test]
    fn no_mix_of_our_keys_and_odd_values_makes_the_readers_panic(
        lines in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "privnet", "listen_port", "private_key", "interface", "mtu", "workers",
                    "state", "admin_socket", "metrics", "log", "discovery", "regions", "tags", "site",
                    "trust", "accounts", "policy", "between", "[[policy]]", "[trust]", "preshared_key", "fips",
                    "name", "cidrs", "endpoint", "public_key", "keepalive", "hub", "nat",
                    "offload", "[offload]", "tun_tso", "udp_gso", "[discovery]", "[[site]]", "[site]", "[[hub]]", "[hub]", "[nat]", "[[nat.forward]]", "[[nat.redirect]]", "[[nat.source_ports]]", "proto", "port", "ports", "to", "from", "\"8000-8100\"", "\"10.0.1.10:80\"", "[tags]",
                ]),
                prop::sample::select(vec![
                    "", " = 1", " = -9223372036854775809", " = 'é\u{202e}'", " = ['any']", " = [{ role_arn = 'é' }, 'own']", " = \"\\u0000\"",
                    " = []", " = [[]]", " = {}", " = { file = 1 }", " = '10.0.0.0/8'", " = ['::/0']",
                    " = 1979-05-27", " = inf", " = true", " = [", " = '''", ".a = 1", " = '/'",
                ]),
            ),
            0..20,
        )
    ) {
        let text: String = lines.iter().map(|(key, value)| format!("{key}{value}\n")).collect();
        for said in [hub(&text), spoke(&text)] {
            for line in said {
                prop_assert!(line.contains(".toml:"));
            }
        }
    }
}

#[test]
fn an_ipsec_site_is_told_by_address_and_credentials() {
    let site = |rest: &str| {
        let text =
            format!("[[site]]\nname = 'a'\ncidrs = ['10.1.0.0/16']\ntransport = 'ipsec'\n{rest}");
        hub_with("", &text)
    };
    let key = "preshared_key = { file = '/etc/privnet/a.psk' }";
    assert_eq!(site(&format!("endpoint = '192.0.2.1'\n{key}")), [""; 0]);
    assert_eq!(
        site("endpoint = '192.0.2.1'\npreshared_key = { file = '/a', ssm = '/b' }"),
        ["hub.toml:11: site[0].preshared_key: both `file` and `ssm`; expected one of the two"]
    );
    assert_eq!(
        site(&format!("endpoint = '192.0.2.1:500'\n{key}")),
        [
            "hub.toml:10: site[0].endpoint = '192.0.2.1:500': an address with a port; expected an address without a port, such as 203.0.113.9: IKE uses UDP 500 and 4500"
        ]
    );
    assert_eq!(
        site("endpoint = '192.0.2.1'\npublic_key = 'x'"),
        [
            "hub.toml:6: site[0].preshared_key: missing; expected { file = \"/an/absolute/path\" } or { ssm = \"/a/parameter\" }, or `certificate`, `certificate_key` and `authority`",
            "hub.toml:11: site[0].public_key: unknown key",
        ]
    );
    assert_eq!(
        site(&format!("{key}\ninitiate = true")),
        [
            "hub.toml:6: site[0].remote_id: missing; expected an IKE identity: an address, a host name, an e-mail address or a distinguished name",
            "hub.toml:11: site[0].initiate = true: nobody is known to begin with; expected an `endpoint` to call, or no `initiate`",
        ]
    );
    assert_eq!(
        site("endpoint = '192.0.2.1'\ncertificate = '/etc/privnet/hub.crt'"),
        [
            "hub.toml:6: site[0].authority: missing; expected a file: a certificate needs all three",
            "hub.toml:6: site[0].certificate_key: missing; expected a file: a certificate needs all three",
        ]
    );
    assert_eq!(
        site(&format!("endpoint = '10.1.0.9'\nproposals = 'weak'\n{key}")),
        [
            "hub.toml:10: site[0].endpoint = '10.1.0.9': inside the site's own `cidrs`, which only its tunnel leads to; expected an address outside of them",
            "hub.toml:11: site[0].proposals = 'weak': not a set of proposals; expected `modern` or `legacy`",
        ]
    );
}
