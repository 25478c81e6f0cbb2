//! The example files in `ami/` against the readers: they are the reference that
//! operators have, so they must parse, as shipped and with everything
//! commented in, and leave no key out. With them the IAM policies that name our tags and
//! the examples' parameters.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::collections::BTreeSet;

use super::document::{Section, parse_noting_keys};
use super::{hub, spoke};
use crate::inventory::{PORT_TAG, PUBLIC_KEY_TAG, TRANSPORT_TAG};

const HUB: &str = include_str!("../../../../ami/hub.toml");
const SPOKE: &str = include_str!("../../../../ami/spoke.toml");
const SPOKE_POLICY: &str = include_str!("../../../../ami/iam/spoke-policy.json");
const HUB_KEY_POLICY: &str = include_str!("../../../../ami/iam/hub-key-policy.json");
const SECRET_POLICY: &str = include_str!("../../../../ami/iam/secret-policy.json");
const SITE_SECRET_POLICY: &str = include_str!("../../../../ami/iam/site-secret-policy.json");
const CONFIG_POLICY: &str = include_str!("../../../../ami/iam/config-policy.json");
const INSTALLING: &str = include_str!("../../../../ami/README.md");

/// The file with its keys and headers commented in: they have no space after
/// the `#`, which explanations have.
fn commented_in(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|char: char| char == '[' || char.is_alphabetic()) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The keys written in a file, as `site[].cidrs`.
fn written(text: &str) -> BTreeSet<String> {
    fn visit(table: &toml::Table, path: &str, found: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            found.insert(path.clone());
            match value {
                toml::Value::Table(table) => visit(table, &path, found),
                toml::Value::Array(elements) => {
                    for table in elements.iter().filter_map(|element| element.as_table()) {
                        visit(table, &format!("{path}[]"), found);
                    }
                }
                _ => {}
            }
        }
    }
    let mut found = BTreeSet::new();
    visit(&text.parse().unwrap(), "", &mut found);
    let is_tag = |path: &str| {
        ["discovery.tags.", "routes.siblings.", "address.tag."]
            .iter()
            .any(|tags| path.starts_with(tags))
    };
    found.retain(|path| !is_tag(path));
    found
}

fn known<T>(text: &str, read: impl FnOnce(&mut Section<'_>) -> Option<T>) -> BTreeSet<String> {
    let (result, known) = parse_noting_keys("example.toml", text, read);
    assert!(result.is_ok(), "{}", result.err().unwrap());
    // A secret is in one of two places, so an example may show one of them alone.
    let written = written(text);
    let other = |path: &str| match path.strip_suffix(".file") {
        Some(secret) => Some(format!("{secret}.ssm")),
        None => Some(format!("{}.file", path.strip_suffix(".ssm")?)),
    };
    let instead = |path: &str| other(path).is_some_and(|other| written.contains(&other));
    let shown = |path: &&String| written.contains(*path) || !instead(path);
    // So are an address and the pool that it may be of.
    let mut shown: BTreeSet<String> = known.iter().filter(shown).cloned().collect();
    shown.remove("address.tag");
    shown
}

#[test]
fn the_examples_parse_as_shipped() {
    let hub = shipped_hub();
    assert_eq!((hub.sites, hub.policy), (Vec::new(), Vec::new()));
    let spoke = spoke::SpokeConfig::parse("ami/spoke.toml", SPOKE).unwrap();
    assert_eq!(spoke.hubs.len(), 1);
}

#[test]
fn the_hub_example_leaves_out_no_key_and_invents_none() {
    let text = commented_in(HUB);
    assert_eq!(written(&text), known(&text, hub::read));
}

/// A key has one value, so what else it may be stands in the words above it.
#[test]
fn the_other_values_that_the_hub_example_tells_of_are_read() {
    use hub::{Regions, SecretSource};

    let other = |shown: &str, key: &str, told: &str| {
        let (words, line) = HUB.split_once(shown).unwrap();
        let words = words.rsplit_once("\n\n").unwrap().1;
        let words = words.replace("\n#", "");
        assert!(words.contains(told), "{words}");
        let changed = HUB.replace(
            &format!("{shown}{}", line.lines().next().unwrap()),
            &format!("{key} = {told}"),
        );
        hub::HubConfig::parse("hub.toml", &commented_in(&changed)).unwrap()
    };
    let all = other("regions = ", "regions", "\"all\"");
    assert_eq!(all.discovery.regions, Regions::All);
    let told = "{ file = \"/etc/privnet/fleet.secret\" }";
    let file = other("#preshared_key = { ssm", "preshared_key", told);
    let named = SecretSource::File("/etc/privnet/fleet.secret".into());
    assert_eq!(file.trust.preshared_key, Some(named));
    let told = "{ ssm = \"/privnet/hub/private-key\" }";
    let fetched = other("#private_key = ", "private_key", told);
    let name = fetched.private_key_parameter.as_deref();
    assert_eq!(name, Some("/privnet/hub/private-key"));
    assert_eq!(fetched.private_key, shipped_hub().private_key);
}

fn shipped_hub() -> hub::HubConfig {
    hub::HubConfig::parse("hub.toml", HUB).unwrap()
}

#[test]
fn the_spoke_example_leaves_out_no_key_and_invents_none() {
    let text = commented_in(SPOKE);
    assert_eq!(written(&text), known(&text, spoke::read));
}

#[test]
fn what_the_examples_show_as_default_is_the_default() {
    let shipped = hub::HubConfig::parse("hub.toml", HUB).unwrap();
    let mut full = hub::HubConfig::parse("hub.toml", &commented_in(HUB)).unwrap();
    // Keys without a default show an example.
    full.workers = None;
    full.metrics = None;
    full.sites.clear();
    full.discovery.accounts.clear();
    full.ipsec.id = None;
    full.discovery.endpoint = None;
    full.policy.clear();
    full.trust = hub::TrustConfig {
        proof: full.trust.proof,
        ..hub::TrustConfig::default()
    };
    assert_eq!(full, shipped);

    let shipped = spoke::SpokeConfig::parse("spoke.toml", SPOKE).unwrap();
    let mut full = spoke::SpokeConfig::parse("spoke.toml", &commented_in(SPOKE)).unwrap();
    full.workers = None;
    full.metrics = None;
    full.preshared_key = None;
    full.hubs[0].next_public_key = None;
    full.routes = None;
    full.address = None;
    full.self_test.targets.clear();
    full.nat = spoke::NatConfig {
        egress: full.nat.egress,
        idle_timeout: full.nat.idle_timeout,
        flowtable: full.nat.flowtable,
        ..spoke::NatConfig::default()
    };
    assert_eq!(full, shipped);
}

#[test]
fn a_spoke_may_set_just_the_tags_that_it_publishes() {
    let policy: serde_json::Value = serde_json::from_str(SPOKE_POLICY).unwrap();
    let [statement] = policy["Statement"].as_array().unwrap().as_slice() else {
        panic!("one statement expected: {policy}");
    };
    assert_eq!(statement["Action"], "ec2:CreateTags");
    let keys = &statement["Condition"]["ForAllValues:StringEquals"]["aws:TagKeys"];
    let ours = serde_json::json!([PUBLIC_KEY_TAG, PORT_TAG, TRANSPORT_TAG]);
    assert_eq!(*keys, ours);
}

#[test]
fn who_reads_a_parameter_reads_the_examples_and_no_other() {
    let name = parameter_of(SECRET_POLICY);
    for example in [HUB, SPOKE] {
        let line = format!("#preshared_key = {{ ssm = \"{name}\" }}");
        assert!(example.contains(&line), "{line}");
    }
    let told = format!("{{ ssm = \"{}\" }}", parameter_of(HUB_KEY_POLICY));
    assert!(HUB.contains(&told), "{told}");
    let told = format!("config = {{ ssm = \"{}\" }}", parameter_of(CONFIG_POLICY));
    assert!(INSTALLING.contains(&told), "{told}");
    let sites = parameter_of(SITE_SECRET_POLICY);
    let sites = sites.strip_suffix('*').unwrap();
    assert!(!name.starts_with(sites) && !told.contains(sites));
    let full = hub::HubConfig::parse("hub.toml", &commented_in(HUB)).unwrap();
    let named = full.sites.iter().filter_map(|site| site.link.parameter());
    let named: Vec<&str> = named.collect();
    assert_eq!(named.len(), 1, "the example shows one in SSM: {named:?}");
    assert!(named[0].starts_with(sites), "{named:?}");
}

/// The one parameter that a policy lets be read and decrypted, or the pattern of several.
fn parameter_of(policy: &str) -> String {
    let policy: serde_json::Value = serde_json::from_str(policy).unwrap();
    let [read, decrypt] = policy["Statement"].as_array().unwrap().as_slice() else {
        panic!("two statements expected: {policy}");
    };
    assert_eq!(read["Action"], "ssm:GetParameter");
    assert_eq!(decrypt["Action"], "kms:Decrypt");
    let parameter = read["Resource"].as_str().unwrap();
    let context = &decrypt["Condition"]["StringLike"]["kms:EncryptionContext:PARAMETER_ARN"];
    assert_eq!(context, parameter);
    parameter.split_once(":parameter").unwrap().1.to_owned()
}
