//! `[[site]]`: static sites, and what they must not share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::SiteConfig;
use crate::config::document::{Located, Section};
use crate::config::value::{self, Kind, Rejection, text};
use crate::inventory::Transport;
use crate::key::PublicKey;
use crate::net::{Supernet, overlap};

const SITE_NAME: Kind<String> = Kind {
    expected: "a name of 1 to 64 letters, digits, `.`, `_` or `-`",
    parse: |value| {
        let name = text(value)?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match (1..=64).contains(&name.len()) && name.bytes().all(known) {
            true => Ok(name.to_owned()),
            false => Err("not a name".into()),
        }
    },
};

const SITE_TRANSPORT: Kind<Transport> = Kind {
    expected: "`wireguard`",
    parse: site_transport,
};

fn site_transport(value: &DeValue<'_>) -> Result<Transport, Rejection> {
    match (value::TRANSPORT.parse)(value)? {
        Transport::None => Err("a site is reached by a tunnel or not at all".into()),
        transport => Ok(transport),
    }
}

/// A site as far as it could be read, so that the checks between sites see
/// also those of which something is wrong.
struct SiteDraft {
    name: Option<Located<String>>,
    cidrs: Option<Vec<Located<IpNet>>>,
    transport: Transport,
    endpoint: Option<Located<SocketAddr>>,
    public_key: Option<Located<PublicKey>>,
    preshared_key: Option<PathBuf>,
    keepalive: Option<Option<Duration>>,
}

pub(super) fn read(top: &mut Section<'_>, privnet: Option<&Supernet>) -> Vec<SiteConfig> {
    let drafts = top.tables("site", |site| Some(read_site(site)));
    let drafts: Vec<SiteDraft> = drafts.into_iter().filter_map(|site| site.value).collect();
    reject_twins(top, drafts.iter().map(|site| site.name.as_ref()), "name");
    reject_twins(
        top,
        drafts.iter().map(|site| site.public_key.as_ref()),
        "key",
    );
    reject_misplaced(top, &drafts, privnet);
    drafts.into_iter().filter_map(SiteDraft::finish).collect()
}

fn read_site(site: &mut Section<'_>) -> SiteDraft {
    let name = site.required("name", &SITE_NAME);
    let cidrs = site.required_list("cidrs", &value::CIDR);
    let transport = site.optional("transport", &SITE_TRANSPORT);
    let endpoint = site.optional("endpoint", &value::ENDPOINT);
    let public_key = site.optional("public_key", &value::PUBLIC_KEY);
    // A transport that is wrong may be one that has no such key.
    let wireguard = transport.is_some() || !site.has("transport");
    if wireguard && !site.has("public_key") {
        site.missing("public_key", value::PUBLIC_KEY.expected);
    }
    let preshared_key = value::key_file(site, "preshared_key");
    let keepalive = site.optional("keepalive", &value::KEEPALIVE);
    SiteDraft {
        name,
        cidrs,
        transport: transport.map(|found| found.value).unwrap_or_default(),
        endpoint,
        public_key,
        preshared_key: preshared_key.map(|path| path.value),
        keepalive: keepalive.map(|found| found.value),
    }
}

impl SiteDraft {
    fn finish(self) -> Option<SiteConfig> {
        // Who waits to be called has no address to keep a path open to.
        let default = self.endpoint.is_some().then_some(value::DEFAULT_KEEPALIVE);
        Some(SiteConfig {
            name: self.name?.value,
            cidrs: self.cidrs?.into_iter().map(|net| net.value).collect(),
            transport: self.transport,
            endpoint: self.endpoint.map(|endpoint| endpoint.value),
            public_key: self.public_key?.value,
            preshared_key: self.preshared_key,
            keepalive: self.keepalive.unwrap_or(default),
        })
    }
}

/// Notes every value that an earlier site has already.
fn reject_twins<'d, T: Ord + 'd>(
    top: &Section<'_>,
    values: impl Iterator<Item = Option<&'d Located<T>>>,
    what: &str,
) {
    let mut first = BTreeMap::new();
    for found in values.flatten() {
        if let Some(place) = first.get(&found.value) {
            let line = top.line_of(place);
            let problem = format!("the {what} of the site in line {line}");
            let expected = format!("a {what} of its own");
            top.reject(&found.place, &problem, Some(expected));
        } else {
            first.insert(&found.value, found.place.clone());
        }
    }
}

/// Notes CIDRs outside the privnet, CIDRs that share addresses, and endpoints
/// whose packets would have to go through their own tunnel.
fn reject_misplaced(top: &Section<'_>, drafts: &[SiteDraft], privnet: Option<&Supernet>) {
    let mut before: Vec<(&Located<IpNet>, &SiteDraft)> = Vec::new();
    for site in drafts {
        for net in site.cidrs.iter().flatten() {
            if let Some(privnet) = privnet.filter(|privnet| !privnet.contains(&net.value)) {
                let expected = format!("a part of {privnet}");
                top.reject(&net.place, "outside the privnet", Some(expected));
            }
            let taken = before
                .iter()
                .find(|(other, _)| overlap(&other.value, &net.value));
            if let Some((other, owner)) = taken {
                let name = match &owner.name {
                    _ if std::ptr::eq(*owner, site) => "this site".to_owned(),
                    Some(name) => format!("site `{}`", name.value),
                    None => "another site".to_owned(),
                };
                let line = top.line_of(&other.place);
                let problem = format!("overlaps {} of {name} (line {line})", other.value);
                let expected = "addresses that nothing else has".to_owned();
                top.reject(&net.place, &problem, Some(expected));
            }
            before.push((net, site));
        }
        if let Some(endpoint) = &site.endpoint {
            let mut own = site.cidrs.iter().flatten();
            if own.any(|net| net.value.contains(&endpoint.value.ip())) {
                let problem = "inside the site's own `cidrs`, which only its tunnel leads to";
                let expected = "an address outside of them".to_owned();
                top.reject(&endpoint.place, problem, Some(expected));
            }
        }
    }
}
