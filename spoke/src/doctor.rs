//! `privnet-spoke doctor`: gathers what AWS, the metadata service, the host and the
//! daemon say, and has it judged.

mod filters;
mod surroundings;

use futures_util::future::join_all;
use privnet_ec2::doctor::Nearby;
use privnet_ec2::{AwsClock, SdkContext, Vpc};
use privnet_model::config::spoke::SpokeConfig;
use privnet_model::doctor::{Area, Finding};
use privnet_model::enrol::HUB_ADDRESS;
use privnet_model::inventory::{Identity, Transport};
use privnet_model::status::{Role, Status};
use privnet_reconcile::doctor::Known;
use privnet_runtime::doctor::{self, AFTERWARDS, Examination, PATIENCE, Subject};
use tokio::time::Instant;

use self::surroundings::Surroundings;
use crate::serving::memory_path;

/// Looks at everything.
pub(crate) async fn examine(config: SpokeConfig) -> Examination {
    let (asked, nearby) = tokio::join!(
        doctor::ask(&config.admin_socket),
        Nearby::ask(doctor::NEARBY)
    );
    let status = asked.daemon.status().ok();
    let clock = AwsClock::default();
    let subject = subject(&config);
    let (host, aws, peers, keeper) = tokio::join!(
        doctor::look(&subject, &config.admin_socket, &nearby.identity, &asked),
        aws(&config, &nearby.identity, status, &clock),
        peers(&config, doctor::has_session(&asked.daemon)),
        doctor::time_keeper(),
    );
    let mut findings = host;
    let needs_role = config.publish || config.routes.is_some() || config.prove;
    findings.extend(nearby.findings(needs_role.then_some("spoke-policy.json")));
    findings.push(nearby.clock(&clock, &keeper));
    findings.extend(aws);
    findings.extend(peers);
    nearby.names().fill(&mut findings);
    let identity = nearby.identity.ok();
    Examination {
        instance: identity.map(|identity| identity.instance),
        findings,
    }
}

/// The hub and the way there, and the targets of the self-test.
async fn peers(config: &SpokeConfig, session: bool) -> Vec<Finding> {
    let paths = config
        .hubs
        .iter()
        .map(|hub| doctor::path_mtu(hub.endpoint, config.mtu));
    let inside = async {
        if config.hubs.is_empty() {
            return None;
        }
        if !session {
            let why = "there is no session with the hub";
            return Some(Finding::not_checked(Area::Peers, "tunnel MTU", why));
        }
        Some(doctor::full_size(&config.interface, HUB_ADDRESS, config.mtu).await)
    };
    let targets = config.self_test.targets.iter();
    let targets = targets.map(|target| doctor::target(*target));
    let (paths, inside, targets) = tokio::join!(join_all(paths), inside, join_all(targets));
    paths.into_iter().chain(inside).chain(targets).collect()
}

fn subject(config: &SpokeConfig) -> Subject {
    let by_ipsec = config.transport == Transport::Ipsec;
    Subject {
        role: Role::Spoke,
        privnet: config.privnet.clone(),
        nat: Some(config.nat.clone()),
        tunnel: (config.transport == Transport::Wireguard)
            .then(|| (config.interface.clone(), config.mtu)),
        charon: by_ipsec.then(|| config.ipsec.socket.clone()),
        self_test: config.routes.is_some() && !config.self_test.targets.is_empty(),
        private_key: config.private_key.clone(),
        preshared_key: config.preshared_key.clone(),
        keys: Vec::new(),
        state: memory_path(&config.private_key),
    }
}

/// What EC2 says, and what the role may ask it.
async fn aws(
    config: &SpokeConfig,
    identity: &Known<Identity>,
    status: Option<&Status>,
    clock: &AwsClock,
) -> Vec<Finding> {
    let Ok(identity) = identity else {
        let why = "the metadata service does not say which instance this is";
        return vec![Finding::not_checked(Area::Aws, "EC2", why)];
    };
    let context = SdkContext::load(&identity.region).await.telling(clock);
    let vpc = Vpc::new(&context, &identity.region, &identity.vpc, PATIENCE);
    let interface = status.and_then(|status| status.interface.as_ref());
    let key = interface.map(|interface| interface.public_key);
    let key = key.as_ref();
    let sick = match status {
        None => Some("the daemon does not answer"),
        Some(status) => {
            let routes = status.routes.as_ref();
            routes.and_then(|routes| routes.sick.as_deref())
        }
    };
    let around = Surroundings {
        config,
        identity,
        vpc: &vpc,
        end: Instant::now() + AFTERWARDS,
        sick,
    };
    let endpoint = context.ec2_host(&identity.region, None);
    let (dns, outside, tags, secret) = tokio::join!(
        doctor::dns(&endpoint),
        around.outside(key),
        around.may_tag(key),
        around.secret(&context),
    );
    let mut findings = vec![dns];
    findings.extend(outside);
    findings.extend(tags);
    findings.extend(secret);
    findings
}
