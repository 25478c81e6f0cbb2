//! Accounts, regions and endpoints: what is read, and what is said of them.

use super::*;
use crate::config::hub::{AccountConfig, DiscoveryConfig, Regions};

const ROLE: &str = "arn:aws:iam::111122223333:role/net/privnet-discovery";

fn discovery(keys: &str) -> DiscoveryConfig {
    let text = format!("privnet = '10.0.0.0/8'\n[discovery]\ntags.service = 'nat'\n{keys}");
    HubConfig::parse("hub.toml", &text).unwrap().discovery
}

/// One wrong line of a `[discovery]` section, and what is said of it.
fn wrong(line: &str) -> String {
    let regions = match line.starts_with("regions") {
        true => "",
        false => "regions = 'all'\n",
    };
    let text =
        format!("privnet = '10.0.0.0/8'\n[discovery]\n{line}\n{regions}tags.service = 'nat'\n");
    let said = hub(&text);
    assert_eq!(said.len(), 1, "{said:?}");
    let (_, said) = said[0].split_once("hub.toml:3: discovery.").unwrap();
    said.to_owned()
}

#[test]
fn accounts_are_those_listed_and_the_own_when_none_is() {
    let role = AccountConfig {
        account: "111122223333".parse().unwrap(),
        role_arn: ROLE.to_owned(),
        external_id: None,
    };
    let with_id = AccountConfig {
        external_id: Some("a:b-1".to_owned()),
        ..role.clone()
    };
    for (accounts, own, others) in [
        ("", true, Vec::new()),
        ("accounts = ['own']", true, Vec::new()),
        (
            &format!("accounts = [{{ role_arn = '{ROLE}' }}]"),
            false,
            vec![role],
        ),
        (
            &format!("accounts = [{{ role_arn = '{ROLE}', external_id = 'a:b-1' }}, 'own']"),
            true,
            vec![with_id],
        ),
    ] {
        let discovery = discovery(&format!("regions = ['eu-west-1']\n{accounts}"));
        assert_eq!(discovery.own_account, own, "{accounts}");
        assert_eq!(discovery.accounts, others, "{accounts}");
    }
    // The same as sections.
    let sections = format!(
        "regions = 'all'\n[[discovery.accounts]]\nrole_arn = '{ROLE}'\n\
         [[discovery.accounts]]\nrole_arn = 'arn:aws-cn:iam::000000000001:role/r'"
    );
    let discovery = discovery(&sections);
    assert_eq!(
        (discovery.own_account, discovery.accounts.len()),
        (false, 2)
    );
}

#[test]
fn what_is_no_account_is_told() {
    let each = "\"own\" (the hub's) or { role_arn = \"arn:aws:iam::111122223333:role/NAME\" }";
    for (accounts, said) in [
        (
            "'own'",
            "accounts = 'own': not a list; expected a list, each",
        ),
        (
            "[]",
            "accounts = []: empty; expected a list of at least one, each",
        ),
        (
            "['111122223333']",
            "accounts[0] = '111122223333': an account without the role to assume there; expected",
        ),
        (
            "['arn:aws:iam::111122223333:role/x']",
            "accounts[0] = 'arn:aws:iam::111122223333:role/x': an ARN by itself; expected",
        ),
        ("['mine']", "accounts[0] = 'mine': not an account; expected"),
        (
            "[7]",
            "accounts[0] = 7: a number, not text in quotes; expected",
        ),
    ] {
        let told = wrong(&format!("accounts = {accounts}"));
        assert_eq!(told, format!("{said} {each}"));
    }
    let twice = format!(
        "accounts = ['own', {{ role_arn = '{ROLE}' }}, {{ role_arn = 'arn:aws:iam::111122223333:role/b' }}]"
    );
    assert_eq!(
        wrong(&twice),
        "accounts[2] = { role_arn = 'arn:aws:iam::111122223333:role/b' }: an account named twice; expected each account once"
    );
    assert_eq!(
        wrong("accounts = ['own', 'own']"),
        "accounts[1] = 'own': an account named twice; expected each account once"
    );
}

#[test]
fn a_role_is_told_by_its_arn() {
    let expected = "expected a role's ARN such as arn:aws:iam::111122223333:role/privnet-discovery";
    for (arn, problem) in [
        ("privnet-discovery", "not an ARN"),
        ("arn:aws:iam::role/x", "not an ARN"),
        ("arn:aws:iam::*:role/x", "an ARN that names no account"),
        (
            "arn:aws:iam::111122223333:user/x",
            "the ARN of something else than a role",
        ),
        (
            "arn:aws:sts::111122223333:assumed-role/x/y",
            "the ARN of something else than a role",
        ),
        ("arn:aws:iam::111122223333:role/", "not the ARN of a role"),
        (
            "arn:other:iam::111122223333:role/x",
            "not the ARN of a role",
        ),
        (
            "arn:aws:iam:eu-west-1:111122223333:role/x",
            "not the ARN of a role",
        ),
    ] {
        assert_eq!(
            wrong(&format!("accounts = [{{ role_arn = '{arn}' }}]")),
            format!("accounts[0].role_arn = '{arn}': {problem}; {expected}")
        );
    }
    assert_eq!(
        wrong("accounts = [{ external_id = 'xx' }]"),
        format!("accounts[0].role_arn: missing; {expected}")
    );
    assert_eq!(
        wrong(&format!(
            "accounts = [{{ role_arn = '{ROLE}', external = 'xx' }}]"
        )),
        "accounts[0].external: unknown key"
    );
    for id in ["x", "a b", "é12"] {
        let account = format!("accounts = [{{ role_arn = '{ROLE}', external_id = '{id}' }}]");
        assert_eq!(
            wrong(&account),
            format!(
                "accounts[0].external_id = '{id}': not an external id; expected 2 to 1224 letters, digits or characters of `_+=,.@:/-`"
            )
        );
    }
}

#[test]
fn regions_are_a_list_or_all() {
    let regions = |text: &str| discovery(&format!("regions = {text}")).regions;
    assert_eq!(regions("'all'"), Regions::All);
    let listed = Regions::Listed(vec!["eu-west-1".parse().unwrap()]);
    assert_eq!(regions("['eu-west-1']"), listed);
    assert_eq!(
        wrong("regions = 'eu-west-1'"),
        "regions = 'eu-west-1': one region, not a list; expected [\"eu-west-1\"]"
    );
    assert_eq!(
        wrong("regions = 'any'"),
        "regions = 'any': neither \"all\" nor a list; expected \"all\", or a list of regions such as [\"eu-west-1\"]"
    );
    assert_eq!(
        wrong("regions = ['all']"),
        "regions[0] = 'all': not a region; expected a region such as eu-west-1"
    );
}

#[test]
fn an_endpoint_is_a_url_and_excludes_fips() {
    let url = "https://vpce-0a1b2c3d.ec2.us-west-2.vpce.amazonaws.com";
    let with = |keys: &str| discovery(&format!("regions = 'all'\n{keys}"));
    assert_eq!(
        with(&format!("endpoint = '{url}'")).endpoint,
        Some(url.to_owned())
    );
    let local = with("endpoint = 'http://127.0.0.1:5000/'\nfips = false");
    assert!(local.endpoint.is_some() && !local.fips);
    assert!(with("fips = true").fips);
    assert_eq!(
        wrong(&format!("endpoint = '{url}'\nfips = true")),
        format!(
            "endpoint = '{url}': an endpoint of your own, though fips is true; expected one of the two: `fips` chooses among AWS's endpoints"
        )
    );
    for (url, problem) in [
        ("ec2.amazonaws.com", "not a URL"),
        ("ftp://x", "neither https nor http"),
        ("https://", "no host"),
        ("https://:443", "no host"),
        ("https://user@host/", "more than a host, a port and a path"),
        ("https://host/?x", "more than a host, a port and a path"),
        ("https://ho st", "more than a host, a port and a path"),
    ] {
        assert_eq!(
            wrong(&format!("endpoint = '{url}'")),
            format!(
                "endpoint = '{url}': {problem}; expected a URL such as https://vpce-0a1b2c3d.ec2.eu-west-1.vpce.amazonaws.com"
            )
        );
    }
}
