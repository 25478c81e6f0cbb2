//! `[[site]]`: static sites, and what they must not share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use toml::de::DeValue;

use super::{IkeCredentials, IpsecSite, SiteConfig, SiteLink, WireguardSite};
use crate::config::document::{Located, Section};
use crate::config::ipsec;
use crate::config::value::{self, Kind, Rejection, text};
use crate::inventory::Transport;
use crate::ipsec::{IkeId, IkeRole, Proposals, Times};
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
    expected: "`wireguard` or `ipsec`",
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
    endpoint: Option<Located<IpAddr>>,
    public_key: Option<Located<PublicKey>>,
    link: Option<SiteLink>,
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
    let mut draft = SiteDraft {
        name,
        cidrs,
        endpoint: None,
        public_key: None,
        link: None,
    };
    // Which keys there are follows from the transport: of one that is wrong, none is
    // wrong as well.
    match transport.map(|transport| transport.value) {
        Some(Transport::Ipsec) => read_ipsec(site, &mut draft),
        None if site.has("transport") => site.take_any(),
        Some(Transport::Wireguard | Transport::None) | None => read_wireguard(site, &mut draft),
    }
    draft
}

fn read_wireguard(site: &mut Section<'_>, draft: &mut SiteDraft) {
    let endpoint = site.optional("endpoint", &value::ENDPOINT);
    let public_key = site.required("public_key", &value::PUBLIC_KEY);
    let preshared_key = value::secret_source(site, "preshared_key");
    let keepalive = site.optional("keepalive", &value::KEEPALIVE);
    // Who waits to be called has no address to keep a path open to.
    let default = endpoint.is_some().then_some(value::DEFAULT_KEEPALIVE);
    draft.link = public_key.as_ref().map(|public_key| {
        SiteLink::Wireguard(WireguardSite {
            endpoint: endpoint.as_ref().map(|endpoint| endpoint.value),
            public_key: public_key.value,
            preshared_key,
            keepalive: keepalive.map_or(default, |found| found.value),
        })
    });
    draft.public_key = public_key;
    draft.endpoint = endpoint.map(|endpoint| Located {
        value: endpoint.value.ip(),
        place: endpoint.place,
    });
}

fn read_ipsec(site: &mut Section<'_>, draft: &mut SiteDraft) {
    let endpoint = site.optional("endpoint", &ipsec::ADDRESS);
    let remote_id = site.optional("remote_id", &ipsec::IKE_ID);
    let local_id = site.optional("local_id", &ipsec::IKE_ID);
    let local_cidrs = site.nonempty_list("local_cidrs", &value::CIDR);
    let credentials = read_credentials(site);
    let proposals = site.with_default("proposals", &ipsec::PROPOSALS, Proposals::default());
    let initiate = site.optional("initiate", &value::FLAG);
    let times = Times::default();
    let times = Times {
        ike_lifetime: site.with_default("ike_lifetime", &ipsec::IKE_LIFETIME, times.ike_lifetime),
        child_lifetime: site.with_default(
            "child_lifetime",
            &ipsec::CHILD_LIFETIME,
            times.child_lifetime,
        ),
        dead_peer_delay: site.with_default(
            "dead_peer_delay",
            &ipsec::DEAD_PEER_DELAY,
            times.dead_peer_delay,
        ),
    };
    if let Some(initiate) = initiate
        .as_ref()
        .filter(|it| it.value && !site.has("endpoint"))
    {
        let expected = "an `endpoint` to call, or no `initiate`".to_owned();
        site.reject(
            &initiate.place,
            "nobody is known to begin with",
            Some(expected),
        );
    }
    // A peer says its address unless told otherwise; one that calls from anywhere has none.
    let address = endpoint.as_ref().map(|endpoint| endpoint.value);
    let own_address = || address.map(IkeId::from);
    if endpoint.is_none() && !site.has("endpoint") && !site.has("remote_id") {
        site.missing("remote_id", IkeId::EXPECTED);
    }
    let remote_id = remote_id.map(|id| id.value).or_else(own_address);
    let begins = initiate.map_or(address.is_some(), |initiate| initiate.value);
    if let (Some(remote_id), Some(credentials)) = (remote_id, credentials) {
        draft.link = Some(SiteLink::Ipsec(IpsecSite {
            endpoint: address,
            remote_id,
            local_id: local_id.map(|id| id.value),
            local_cidrs: local_cidrs
                .into_iter()
                .flatten()
                .map(|net| net.value)
                .collect(),
            credentials,
            proposals,
            role: match begins {
                true => IkeRole::Initiator,
                false => IkeRole::Responder,
            },
            times,
        }));
    }
    draft.endpoint = endpoint;
}

fn read_credentials(site: &mut Section<'_>) -> Option<IkeCredentials> {
    let preshared_key = value::secret_source(site, "preshared_key");
    let certificate = site.optional("certificate", &value::PATH);
    let private_key = value::key_file(site, "certificate_key");
    let authority = site.optional("authority", &value::PATH);
    let parts = ["certificate", "certificate_key", "authority"];
    let given = parts.iter().any(|key| site.has(key));
    match (site.has("preshared_key"), given) {
        (true, true) => {
            let expected = "one of the two".to_owned();
            site.reject(
                site.place(),
                "both `preshared_key` and certificates",
                Some(expected),
            );
        }
        (false, false) => {
            let expected = "{ file = \"/an/absolute/path\" } or { ssm = \"/a/parameter\" }, or \
                            `certificate`, `certificate_key` and `authority`";
            site.missing("preshared_key", expected);
        }
        (false, true) => {
            for part in parts.iter().filter(|part| !site.has(part)) {
                site.missing(part, "a file: a certificate needs all three");
            }
        }
        (true, false) => {}
    }
    match preshared_key {
        Some(source) => Some(IkeCredentials::PresharedKey(source)),
        None => Some(IkeCredentials::Certificate {
            certificate: certificate?.value,
            private_key: private_key?.value,
            authority: authority?.value,
        }),
    }
}

impl SiteDraft {
    fn finish(self) -> Option<SiteConfig> {
        Some(SiteConfig {
            name: self.name?.value,
            cidrs: self.cidrs?.into_iter().map(|net| net.value).collect(),
            link: self.link?,
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
            if own.any(|net| net.value.contains(&endpoint.value)) {
                let problem = "inside the site's own `cidrs`, which only its tunnel leads to";
                let expected = "an address outside of them".to_owned();
                top.reject(&endpoint.place, problem, Some(expected));
            }
        }
    }
}
