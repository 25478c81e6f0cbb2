//! `[discovery]`: where and how spokes are looked for.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use super::{AccountConfig, DiscoveryConfig, Regions};
use crate::config::document::{Located, Section};
use crate::config::value::{self, Kind, Rejection, duration, text};
use crate::id::{AccountId, Region};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(60 * 60);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// EC2 refills 20 Describe calls per second for an account and region, which
/// everything else there shares; a poll needs two or more. Longer than a week
/// is a slip.
const INTERVAL: Kind<Duration> = Kind {
    expected: "a time such as \"1h\", 5s to 7days",
    parse: |value| {
        duration(
            value,
            Duration::from_secs(5),
            Duration::from_secs(7 * 24 * 60 * 60),
        )
    },
};

const TIMEOUT: Kind<Duration> = Kind {
    expected: "a time such as \"60s\", 1s to 10m",
    parse: |value| duration(value, Duration::from_secs(1), Duration::from_secs(600)),
};

const ALL_REGIONS: Kind<Regions> = Kind {
    expected: "\"all\", or a list of regions such as [\"eu-west-1\"]",
    parse: |value| match text(value)? {
        "all" => Ok(Regions::All),
        word => Err(match Region::from_str(word) {
            Ok(region) => Rejection {
                problem: "one region, not a list".to_owned(),
                expected: Some(format!("[\"{region}\"]")),
            },
            Err(_) => "neither \"all\" nor a list".into(),
        }),
    },
};

/// An account of the list, as it is written.
enum Account {
    Own,
    By(AccountConfig),
}

const OWN_ACCOUNT: Kind<Account> = Kind {
    expected: "\"own\" (the hub's) or { role_arn = \"arn:aws:iam::111122223333:role/NAME\" }",
    parse: |value| match text(value)? {
        "own" => Ok(Account::Own),
        word => Err(match word.starts_with("arn:") {
            true => "an ARN by itself".into(),
            false => match AccountId::from_str(word) {
                Ok(_) => "an account without the role to assume there".into(),
                Err(_) => "not an account".into(),
            },
        }),
    },
};

struct RoleArn {
    account: AccountId,
    arn: String,
}

const ROLE_ARN: Kind<RoleArn> = Kind {
    expected: "a role's ARN such as arn:aws:iam::111122223333:role/privnet-discovery",
    parse: |value| {
        let arn = text(value)?;
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let &["arn", partition, service, region, account, resource] = parts.as_slice() else {
            return Err("not an ARN".into());
        };
        let account = AccountId::from_str(account)
            .map_err(|_| Rejection::from("an ARN that names no account"))?;
        if service != "iam" || !resource.starts_with("role/") {
            return Err("the ARN of something else than a role".into());
        }
        let printable = arn.bytes().all(|byte| byte.is_ascii_graphic());
        let whole = resource.len() > "role/".len() && !resource.ends_with('/');
        // A role's ARN has at most 64 characters of name, 512 of path.
        if !partition.starts_with("aws") || !region.is_empty() || !whole || !printable {
            return Err("not the ARN of a role".into());
        }
        let arn = arn.to_owned();
        Ok(RoleArn { account, arn })
    },
};

/// What STS takes (AssumeRole, `ExternalId`).
const EXTERNAL_ID: Kind<String> = Kind {
    expected: "2 to 1224 letters, digits or characters of `_+=,.@:/-`",
    parse: |value| {
        let id = text(value)?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&byte);
        match (2..=1224).contains(&id.len()) && id.bytes().all(known) {
            true => Ok(id.to_owned()),
            false => Err("not an external id".into()),
        }
    },
};

const URL: Kind<String> = Kind {
    expected: "a URL such as https://vpce-0a1b2c3d.ec2.eu-west-1.vpce.amazonaws.com",
    parse: |value| {
        let url = text(value)?;
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err("not a URL".into());
        };
        if !["https", "http"].contains(&scheme) {
            return Err("neither https nor http".into());
        }
        let host = rest.split('/').next().unwrap_or("");
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"@?#\\".contains(&byte);
        if host.is_empty() || host.starts_with(':') {
            return Err("no host".into());
        }
        if !rest.bytes().all(plain) {
            return Err("more than a host, a port and a path".into());
        }
        Ok(url.to_owned())
    },
};

pub(super) fn read(section: &mut Section<'_>) -> Option<DiscoveryConfig> {
    let interval = section.with_default("interval", &INTERVAL, DEFAULT_INTERVAL);
    let regions = read_regions(section);
    let accounts = section.words_or_tables("accounts", &OWN_ACCOUNT, read_account);
    let endpoint = section.optional("endpoint", &URL);
    let fips = section.optional("fips", &value::FLAG);
    let expected = "a table of at least one tag, such as { service = \"nat\" }";
    let tags = section.required_table("tags", expected, |tags| {
        value::tags(tags, "with none, every instance would be a spoke")
    });
    let timeout = section.with_default("timeout", &TIMEOUT, DEFAULT_TIMEOUT);

    if let (Some(endpoint), Some(true)) = (&endpoint, fips.as_ref().map(|fips| fips.value)) {
        let problem = "an endpoint of your own, though fips is true";
        let expected = "one of the two: `fips` chooses among AWS's endpoints".to_owned();
        section.reject(&endpoint.place, problem, Some(expected));
    }
    let (own_account, accounts) = distinct_accounts(section, accounts);
    Some(DiscoveryConfig {
        interval,
        regions: regions?,
        own_account,
        accounts,
        endpoint: endpoint.map(|endpoint| endpoint.value),
        fips: fips.is_some_and(|fips| fips.value),
        tags: tags?,
        timeout,
    })
}

fn read_regions(section: &mut Section<'_>) -> Option<Regions> {
    if section.has_text("regions") {
        let word = section.required("regions", &ALL_REGIONS)?;
        return Some(word.value);
    }
    let regions = section.required_list("regions", &value::REGION)?;
    let mut seen = BTreeSet::new();
    let mut distinct = Vec::new();
    for region in regions {
        match seen.insert(region.value.clone()) {
            true => distinct.push(region.value),
            false => section.reject(&region.place, "named twice", Some("each once".to_owned())),
        }
    }
    Some(Regions::Listed(distinct))
}

fn read_account(section: &mut Section<'_>) -> Option<Account> {
    let role = section.required("role_arn", &ROLE_ARN);
    let external_id = section.optional("external_id", &EXTERNAL_ID);
    let role = role?.value;
    Some(Account::By(AccountConfig {
        account: role.account,
        role_arn: role.arn,
        external_id: external_id.map(|id| id.value),
    }))
}

/// Whether the hub's own account is among them, and the others.
fn distinct_accounts(
    section: &Section<'_>,
    listed: Vec<Located<Account>>,
) -> (bool, Vec<AccountConfig>) {
    let mut own = !section.has("accounts");
    let mut others: Vec<AccountConfig> = Vec::new();
    for account in listed {
        let twice = match account.value {
            Account::Own => std::mem::replace(&mut own, true),
            Account::By(other) => {
                let known = others.iter().any(|known| known.account == other.account);
                if !known {
                    others.push(other);
                }
                known
            }
        };
        if twice {
            let expected = Some("each account once".to_owned());
            section.reject(&account.place, "an account named twice", expected);
        }
    }
    (own, others)
}
