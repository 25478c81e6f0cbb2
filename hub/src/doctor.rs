//! `privnet-hub doctor`: gathers what AWS, the metadata service, the host and the daemon
//! say, and has it judged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::future::join_all;
use ipnet::{IpNet, Ipv4Net};
use privnet_ec2::doctor::{Nearby, asked, fleet_secret, hub_key, permitted, site_key};
use privnet_ec2::{AwsClock, Discovery, Ec2Error, PartitionExamination, Reason, SdkContext, Vpc};
use privnet_model::config::hub::{
    DiscoveryConfig, HubConfig, IkeCredentials, SecretSource, SiteConfig, SiteLink,
};
use privnet_model::doctor::{Area, Finding, Verdict, quoted_tag};
use privnet_model::id::RouteTableId;
use privnet_model::instance::{InstanceDescription, Traffic, UDP};
use privnet_model::inventory::{Identity, Transport};
use privnet_model::ipsec::IKE_PORTS;
use privnet_model::status::{Role, Status, Tunnel, TunnelState};
use privnet_model::vpc::RouteTable;
use privnet_reconcile::doctor::hub_route::{self, HubTables};
use privnet_reconcile::doctor::instance::{self, AddressNeed};
use privnet_reconcile::doctor::network_acl::{self, Opening, Sample};
use privnet_reconcile::doctor::permission::{self, Asked, Need};
use privnet_reconcile::doctor::security_group::{self, Direction, Passage};
use privnet_reconcile::doctor::{Known, metadata};
use privnet_runtime::doctor::{self, AFTERWARDS, Examination, PATIENCE, Subject};

const EVERYWHERE: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
/// Somewhere on the internet, for samples of what a network ACL lets through
/// (RFC 5737: it is nobody's).
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80));

/// Rules that a security group may have unless the quota was raised (VPC user guide,
/// "Amazon VPC quotas": 60), less some for others.
const MOST_RULES: usize = 50;
/// Of a thousand spokes the ways to the first tell enough.
const MOST_PATHS: usize = 10;

/// Looks at everything.
pub(crate) async fn examine(config: HubConfig) -> Examination {
    let (asked, nearby) = tokio::join!(
        doctor::ask(&config.admin_socket),
        Nearby::ask(doctor::NEARBY)
    );
    let status = asked.daemon.status().ok();
    let clock = AwsClock::default();
    let subject = subject(&config, status);
    let paths = endpoints(&config, status)
        .into_iter()
        .map(|endpoint| doctor::path_mtu(endpoint, config.mtu));
    let (host, aws, paths, keeper) = tokio::join!(
        doctor::look(&subject, &config.admin_socket, &nearby.identity, &asked),
        aws(&config, &nearby.identity, status, &clock),
        join_all(paths),
        doctor::time_keeper(),
    );
    let mut findings = host;
    findings.extend(nearby.findings(Some("hub-policy.json")));
    findings.push(nearby.clock(&clock, &keeper));
    findings.extend(aws);
    findings.extend(paths);
    nearby.names().fill(&mut findings);
    let identity = nearby.identity.ok();
    Examination {
        instance: identity.map(|identity| identity.instance),
        findings,
    }
}

/// The far ends of WireGuard tunnels: all that the config names, and the first that the
/// daemon has found, those that are up before the others.
fn endpoints(config: &HubConfig, status: Option<&Status>) -> Vec<SocketAddr> {
    let sites = config.sites.iter().filter_map(|site| match &site.link {
        SiteLink::Wireguard(link) => link.endpoint,
        SiteLink::Ipsec(_) => None,
    });
    let tunnels = status.into_iter().flat_map(|status| &status.tunnels);
    let (up, rest): (Vec<&Tunnel>, Vec<&Tunnel>) = tunnels
        .filter(|tunnel| tunnel.transport == Transport::Wireguard)
        .partition(|tunnel| tunnel.state == TunnelState::Up);
    let found = up.into_iter().chain(rest);
    let found = found.filter_map(|tunnel| tunnel.endpoint).take(MOST_PATHS);
    let mut seen = BTreeSet::new();
    let each = sites.chain(found);
    each.filter(|endpoint| seen.insert(*endpoint)).collect()
}

fn subject(config: &HubConfig, status: Option<&Status>) -> Subject {
    let sites = config.sites.iter();
    let keys = sites.filter_map(|site| {
        let source = match &site.link {
            SiteLink::Wireguard(link) => link.preshared_key.as_ref()?,
            SiteLink::Ipsec(link) => match &link.credentials {
                IkeCredentials::PresharedKey(source) => source,
                IkeCredentials::Certificate { private_key, .. } => {
                    let what = format!("certificate's private key of {}", site.name);
                    return Some((what, private_key.clone()));
                }
            },
        };
        match source {
            SecretSource::File(path) => {
                Some((format!("preshared key of {}", site.name), path.clone()))
            }
            SecretSource::Ssm(_) => None,
        }
    });
    let by_ipsec = |site: &SiteConfig| matches!(site.link, SiteLink::Ipsec(_));
    let uses_charon =
        config.sites.iter().any(by_ipsec) || status.is_some_and(|status| status.charon.is_some());
    Subject {
        charon: uses_charon.then(|| config.ipsec.socket.clone()),
        role: Role::Hub,
        privnet: config.privnet.clone(),
        nat: None,
        tunnel: Some((config.interface.clone(), config.mtu)),
        self_test: false,
        private_key: config.private_key.clone(),
        preshared_key: config.trust.preshared_key.clone(),
        keys: keys.collect(),
        state: config.state.clone(),
    }
}

/// What EC2 says, and what the role may ask it.
async fn aws(
    config: &HubConfig,
    identity: &Known<Identity>,
    status: Option<&Status>,
    clock: &AwsClock,
) -> Vec<Finding> {
    let Ok(identity) = identity else {
        let why = "the metadata service does not say which instance this is";
        return vec![Finding::not_checked(Area::Aws, "EC2", why)];
    };
    let context = SdkContext::load(&identity.region).await.telling(clock);
    let endpoint = context.ec2_host(&identity.region, config.discovery.endpoint.as_deref());
    let discovery = Discovery::new(&context, identity, &config.discovery);
    let secret = async {
        match &config.trust.preshared_key {
            Some(SecretSource::Ssm(name)) => {
                Some(fleet_secret(&context, &identity.region, name, PATIENCE).await)
            }
            Some(SecretSource::File(_)) | None => None,
        }
    };
    let key = async {
        let name = config.private_key_parameter.as_ref()?;
        let interface = status.and_then(|status| status.interface.as_ref());
        let in_use = interface.map(|interface| interface.public_key);
        Some(hub_key(&context, &identity.region, name, in_use, PATIENCE).await)
    };
    let in_ssm = config
        .sites
        .iter()
        .filter_map(|site| Some((site, site.link.parameter()?)));
    let site_keys =
        in_ssm.map(|(site, name)| site_key(&context, &identity.region, site, name, PATIENCE));
    let (dns, examined, outside, secret, key, site_keys) = tokio::join!(
        doctor::dns(&endpoint),
        discovery.examine(AFTERWARDS),
        outside(config, identity, &context, status),
        secret,
        key,
        join_all(site_keys),
    );
    let mut findings = vec![dns];
    let partition = |examined| partition(examined, &config.discovery);
    findings.extend(examined.iter().flat_map(partition));
    findings.extend(secret);
    findings.extend(key);
    findings.extend(site_keys);
    // One that did not answer may have some.
    if examined.iter().all(|it| it.spokes.is_ok()) {
        let found = examined.iter().flat_map(|it| &it.spokes).sum();
        findings.push(spokes(found, config));
    }
    findings.extend(outside);
    findings
}

/// What a poll may ask in a partition.
fn partition(examined: &PartitionExamination, discovery: &DiscoveryConfig) -> Vec<Finding> {
    let PartitionExamination {
        partition,
        permissions,
        spokes,
    } = examined;
    let object = partition.to_string();
    let mut accounts = discovery.accounts.iter();
    let other = accounts.find(|account| account.account == partition.account);
    let policy = match other {
        Some(_) => "discovery-policy.json",
        None => "hub-policy.json",
    };
    let mut findings: Vec<Finding> = permissions
        .iter()
        .map(|(operation, permission)| {
            let need = Need {
                action: &format!("ec2:{operation}"),
                object: &object,
                policy,
                role: other.map(|account| account.role_arn.as_str()),
            };
            permission::permission(need, &permitted(permission))
        })
        .collect();
    match spokes {
        Ok(count) => {
            let found = format!("{partition}: {count} running instances have the tags");
            findings.push(Finding::ok(Area::Aws, "discovery", found));
        }
        // What is not allowed the dry run has told.
        Err(error) if error.is_not_allowed() => {}
        Err(error) => {
            let found = format!("{partition}: {error}");
            findings.push(Finding::wrong(Area::Aws, "discovery", found).mend(mend(error)));
        }
    }
    findings
}

/// What helps when EC2 does not answer.
fn mend(error: &Ec2Error) -> String {
    match &error.reason {
        Reason::RoleRefused { role, .. } => format!(
            "let the role $ROLE assume {role}: see ami/iam/discovery-trust-policy.json for what \
             that role's trust policy must say, and hub-policy.json for sts:AssumeRole"
        ),
        Reason::NoCredentials { .. } | Reason::CredentialsRejected { .. } => {
            "aws sts get-caller-identity   # on this host: is there a role, and does it count?"
                .to_owned()
        }
        Reason::OtherAwsPartition { .. } => {
            "regions = [\"$REGION\"]   # in [discovery]: those of one AWS partition".to_owned()
        }
        _ => format!(
            "curl -sI https://ec2.{}.amazonaws.com   # from this host: is EC2 reached?",
            error.region
        ),
    }
}

/// Whether discovery finds anybody.
fn spokes(found: usize, config: &HubConfig) -> Finding {
    let check = "spokes";
    if found > 0 {
        return Finding::ok(Area::Aws, check, format!("{found} found"));
    }
    let tags = config.discovery.tags.iter();
    let told: Vec<String> = tags
        .clone()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    let found = format!("no running instance has the tags {}", told.join(", "));
    let tags: Vec<String> = tags.map(|(key, value)| quoted_tag(key, value)).collect();
    Finding::warning(Area::Aws, check, found).mend(format!(
        "aws ec2 create-tags --resources SPOKE --tags {}   # in the spoke's region",
        tags.join(" ")
    ))
}

/// The hub's instance and what surrounds it. The hub itself needs none of it.
async fn outside(
    config: &HubConfig,
    identity: &Identity,
    context: &SdkContext,
    status: Option<&Status>,
) -> Vec<Finding> {
    let vpc = Vpc::new(context, &identity.region, &identity.vpc, PATIENCE);
    let (instance, tables) = tokio::join!(
        asked(PATIENCE, vpc.instance(&identity.instance)),
        asked(PATIENCE, vpc.route_tables()),
    );
    let described = match &instance {
        Ok(described) => described,
        Err(_) => {
            let finding = permission::extra("EC2", "ec2:DescribeInstances", &instance);
            return finding.into_iter().collect();
        }
    };
    let mut findings = vec![
        instance::source_dest_check(described),
        instance::public_address(described.public, AddressNeed::Stable),
        metadata::hop_limit(
            &described
                .metadata
                .ok_or_else(|| "EC2 does not tell it".to_owned()),
        ),
    ];
    let (groups, acl) = tokio::join!(
        groups(config, identity, &vpc, described, status),
        acl(config, &vpc, described)
    );
    findings.extend(groups);
    findings.extend(acl);
    findings.extend(routes(config, described, &tables, status));
    findings
}

/// Whether the hosts of the hub's own VPC are led to the hub.
fn routes(
    config: &HubConfig,
    described: &InstanceDescription,
    tables: &Asked<BTreeMap<RouteTableId, RouteTable>>,
    status: Option<&Status>,
) -> Option<Finding> {
    let Ok(tables) = tables else {
        let action = "ec2:DescribeRouteTables, ec2:DescribeSubnets";
        return permission::extra("route tables", action, tables);
    };
    let tunnels = status.into_iter().flat_map(|status| &status.tunnels);
    // Nothing goes through those, whatever they say is theirs.
    let tunnels = tunnels.filter(|tunnel| tunnel.state != TunnelState::Rejected);
    let behind = tunnels.flat_map(|tunnel| tunnel.cidrs.iter().copied());
    let behind: Vec<IpNet> = behind.collect();
    Some(hub_route::led_to_hub(HubTables {
        tables,
        own: &described.interface,
        subnet: &described.subnet,
        privnet: &config.privnet,
        behind: &behind,
    }))
}

/// What the tunnels of these spokes need.
fn tunnels_from(port: u16, with: &[IpNet]) -> Passage<'_> {
    Passage {
        check: "security group, tunnels",
        consequence: "no spoke reaches this hub",
        direction: Direction::In,
        traffic: Traffic::port(UDP, port),
        with,
        siblings: false,
        vital: true,
    }
}

async fn groups(
    config: &HubConfig,
    identity: &Identity,
    vpc: &Vpc,
    described: &InstanceDescription,
    status: Option<&Status>,
) -> Vec<Finding> {
    let groups = asked(
        AFTERWARDS - PATIENCE,
        vpc.security_groups(&described.groups),
    )
    .await;
    let groups = match groups {
        Ok(groups) => groups,
        Err(_) => {
            let action = "ec2:DescribeSecurityGroups";
            let finding = permission::extra("security group", action, &groups);
            return finding.into_iter().collect();
        }
    };
    let port = config.listen_port;
    let tunnels = status.into_iter().flat_map(|status| &status.tunnels);
    let (by_ipsec, tunnels): (Vec<&Tunnel>, Vec<&Tunnel>) =
        tunnels.partition(|tunnel| tunnel.transport == Transport::Ipsec);
    let address = |tunnel: &&Tunnel| Some(IpNet::from(tunnel.endpoint?.ip()));
    let ike_peers: Vec<IpNet> = by_ipsec.iter().filter_map(address).collect();
    let peers = tunnels.iter().filter_map(address);
    let peers: Vec<IpNet> = peers.filter(|peer| peer.addr().is_ipv4()).collect();
    // Who lets in the spokes that there are, and nobody else, has chosen to.
    let anybody = security_group::passes(&groups, &tunnels_from(port, &[EVERYWHERE]));
    let tunnels = if peers.is_empty() {
        anybody
    } else {
        let known = security_group::passes(&groups, &tunnels_from(port, &peers));
        match known.verdict {
            Verdict::Ok => known,
            Verdict::NotChecked | Verdict::Warning | Verdict::Wrong => {
                let mut missing = peers.clone();
                missing.retain(|peer| {
                    let passes = security_group::passes(&groups, &tunnels_from(port, &[*peer]));
                    passes.verdict != Verdict::Ok
                });
                let remedy = if missing.len() == peers.len() {
                    // The next spoke would be kept out as well.
                    anybody.remedy
                } else {
                    // Each that is let in was let in on purpose.
                    missing.truncate(MOST_RULES);
                    security_group::passes(&groups, &tunnels_from(port, &missing)).remedy
                };
                Finding { remedy, ..known }
            }
        }
    };
    let ike = IKE_PORTS.map(|port| {
        let passage = Passage {
            check: "security group, IPsec",
            consequence: "no IPsec tunnel comes up",
            ..tunnels_from(port, &ike_peers)
        };
        (!ike_peers.is_empty()).then(|| security_group::passes(&groups, &passage))
    });
    let rest = vec![
        tunnels,
        security_group::passes(
            &groups,
            &Passage {
                check: "security group, from the VPC",
                consequence: "the hub's own VPC does not reach the privnet",
                direction: Direction::In,
                traffic: Traffic::ALL,
                with: &identity.vpc_cidrs,
                siblings: false,
                vital: false,
            },
        ),
        security_group::passes(
            &groups,
            &Passage {
                check: "security group, out",
                consequence: "neither EC2 nor a spoke is reached",
                direction: Direction::Out,
                traffic: Traffic::ALL,
                with: &[EVERYWHERE],
                siblings: false,
                vital: true,
            },
        ),
    ];
    rest.into_iter().chain(ike.into_iter().flatten()).collect()
}

async fn acl(config: &HubConfig, vpc: &Vpc, described: &InstanceDescription) -> Vec<Finding> {
    let acl = asked(AFTERWARDS - PATIENCE, vpc.network_acl(&described.subnet)).await;
    let acl = match acl {
        Ok(acl) => acl,
        Err(_) => {
            let finding = permission::extra("network ACL", "ec2:DescribeNetworkAcls", &acl);
            return finding.into_iter().collect();
        }
    };
    let port = Traffic::port(UDP, config.listen_port);
    let sample = |what, egress| Sample {
        what,
        egress,
        traffic: port,
        peer: SOMEWHERE,
        // Where spokes will be is not known here.
        opening: Opening::Unknown,
    };
    let samples = [
        sample("what comes from spokes", false),
        sample("what goes to spokes", true),
    ];
    network_acl::network_acl(&acl, &samples)
}
