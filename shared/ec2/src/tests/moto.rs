//! Discovery and tags against moto, as far as it behaves like EC2.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use privnet_model::config::hub::{AccountConfig, DiscoveryConfig, Regions};
use privnet_model::id::{InstanceId, Region};
use privnet_model::inventory::{Fate, PORT_TAG, PUBLIC_KEY_TAG, Partition, SpokeRecord, Transport};
use tokio::process::{Child, Command};

use super::answers::{config, discovery, hub, region};
use crate::role::AssumedRole;
use crate::{Discovery, Known, Published, SdkContext, TagPublisher};

const LONG: Duration = Duration::from_secs(60);
const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

/// moto on a port of its own, until it is dropped.
pub(super) struct Moto {
    pub(super) url: String,
    pub(super) context: SdkContext,
    _process: Child,
}

impl Moto {
    pub(super) async fn start() -> Self {
        let program = program();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut process = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{} does not start ({error}): make setup installs moto; one that is elsewhere \
                     is named in PRIVNET_MOTO_SERVER or is on the PATH",
                    program.display()
                )
            });
        let url = format!("http://127.0.0.1:{port}");
        let started = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("{} ended: {status}", program.display());
            }
            assert!(
                started.elapsed() < Duration::from_secs(90),
                "moto does not answer"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let context = SdkContext::for_test(&url, 3).await;
        Self {
            url,
            context,
            _process: process,
        }
    }

    pub(super) fn client(&self, name: &str) -> Client {
        self.context.ec2(&region(name), LONG)
    }
}

/// As in the namespace tests: what the environment names, else what the Makefile
/// installs; and what is on the `PATH`.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("PRIVNET_MOTO_SERVER") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let installed = cache.join("privnet/venv/bin/moto_server");
    if installed.is_file() {
        installed
    } else {
        "moto_server".into()
    }
}

/// A VPC with a subnet, and what is launched in it.
struct Vpc {
    client: Client,
    id: String,
    subnet: String,
}

impl Vpc {
    async fn create(client: Client, cidr: &str) -> Self {
        let vpc = client.create_vpc().cidr_block(cidr).send().await.unwrap();
        let id = vpc.vpc().unwrap().vpc_id().unwrap().to_owned();
        let subnet = client
            .create_subnet()
            .vpc_id(&id)
            .cidr_block(cidr.replace("/16", "/24"))
            .send()
            .await
            .unwrap();
        let subnet = subnet.subnet().unwrap().subnet_id().unwrap().to_owned();
        Self { client, id, subnet }
    }

    async fn launch(&self, tags: &[(&str, &str)]) -> InstanceId {
        let tags = tags
            .iter()
            .map(|(key, value)| Tag::builder().key(*key).value(*value).build())
            .collect();
        let launched = self
            .client
            .run_instances()
            .image_id("ami-12345678")
            .min_count(1)
            .max_count(1)
            .subnet_id(&self.subnet)
            .tag_specifications(
                TagSpecification::builder()
                    .resource_type(ResourceType::Instance)
                    .set_tags(Some(tags))
                    .build(),
            )
            .send()
            .await
            .unwrap();
        launched.instances()[0]
            .instance_id()
            .unwrap()
            .parse()
            .unwrap()
    }
}

/// What discovery says of these regions, each of which must answer.
async fn spokes(discovery: &Discovery) -> BTreeMap<(Region, InstanceId), SpokeRecord> {
    discovery
        .poll(&Known::new())
        .await
        .into_iter()
        .flat_map(|answer| {
            let region = answer.partition.region;
            answer
                .answer
                .unwrap()
                .spokes
                .into_iter()
                .map(move |spoke| ((region.clone(), spoke.instance.clone()), spoke))
        })
        .collect()
}

#[tokio::test]
async fn spokes_of_several_regions_come_with_all_their_vpcs_cidrs() {
    let moto = Moto::start().await;
    let (west, east) = (region("eu-west-1"), region("us-east-1"));
    let vpc = Vpc::create(moto.client("eu-west-1"), "10.1.0.0/16").await;
    vpc.client
        .associate_vpc_cidr_block()
        .vpc_id(&vpc.id)
        .cidr_block("10.9.0.0/16")
        .send()
        .await
        .unwrap();
    let whole = vpc
        .launch(&[
            ("service", "nat"),
            ("Name", "spoke a"),
            (PUBLIC_KEY_TAG, KEY),
            (PORT_TAG, "51821"),
        ])
        .await;
    let holes = vpc
        .launch(&[("service", "nat"), (PUBLIC_KEY_TAG, "nonsense")])
        .await;
    let other = vpc.launch(&[("service", "web")]).await;
    let far = Vpc::create(moto.client("us-east-1"), "10.2.0.0/16").await;
    let far_spoke = far.launch(&[("service", "nat")]).await;
    let gone = far.launch(&[("service", "nat")]).await;
    far.client
        .terminate_instances()
        .instance_ids(gone.as_str())
        .send()
        .await
        .unwrap();
    // Of its own choice moto gives loopback addresses, which no host has.
    let address = vpc.client.allocate_address().address("198.51.100.9");
    let address = address.send().await.unwrap();
    vpc.client
        .associate_address()
        .allocation_id(address.allocation_id().unwrap())
        .instance_id(whole.as_str())
        .send()
        .await
        .unwrap();

    let found = spokes(&discovery(&moto.context, &["us-east-1", "eu-west-1"], LONG)).await;

    let ids: Vec<_> = found.keys().map(|(_, id)| id).collect();
    assert_eq!(found.len(), 3, "{ids:?}");
    assert!(!ids.contains(&&other));
    let record = &found[&(west.clone(), whole)];
    assert_eq!(record.name.as_deref(), Some("spoke a"));
    assert_eq!(record.vpc.as_ref().unwrap().as_str(), vpc.id);
    let cidrs: Vec<_> = record.cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.1.0.0/16", "10.9.0.0/16"]);
    assert_eq!(
        record.public_address.unwrap().to_string(),
        address.public_ip().unwrap()
    );
    assert!(
        record
            .private_address
            .unwrap()
            .to_string()
            .starts_with("10.1.0.")
    );
    assert_eq!(record.public_key.unwrap().to_string(), KEY);
    assert_eq!(record.port, Some(51821));
    assert_eq!(record.transport, Transport::Wireguard);
    assert!(record.launched.is_some() && record.zone.is_some());
    assert_eq!(record.tag_problems, []);
    let record = &found[&(west, holes)];
    assert_eq!(record.public_key, None);
    assert_eq!(record.tag_problems[0].tag, PUBLIC_KEY_TAG);
    assert_eq!(
        found[&(east, far_spoke)].cidrs,
        ["10.2.0.0/16".parse().unwrap()]
    );
}

#[tokio::test]
async fn a_tag_value_with_wildcards_means_itself() {
    let moto = Moto::start().await;
    let vpc = Vpc::create(moto.client("eu-west-1"), "10.1.0.0/16").await;
    let literal = vpc.launch(&[("service", "n*t?")]).await;
    vpc.launch(&[("service", "nat1")]).await;
    let config = DiscoveryConfig {
        tags: [("service".to_owned(), "n*t?".to_owned())].into(),
        ..config(&["eu-west-1"], LONG)
    };
    let discovery = Discovery::new(&moto.context, &hub(), &config);
    let found = spokes(&discovery).await;
    assert_eq!(
        found.into_keys().map(|(_, id)| id).collect::<Vec<_>>(),
        [literal]
    );
}

#[tokio::test]
async fn published_tags_are_discovered() {
    let moto = Moto::start().await;
    let vpc = Vpc::create(moto.client("eu-west-1"), "10.1.0.0/16").await;
    let instance = vpc.launch(&[("service", "nat")]).await;
    let mut publisher = TagPublisher::new(&moto.context, &region("eu-west-1"), &instance, LONG);
    let tags = [(PUBLIC_KEY_TAG, KEY), (PORT_TAG, "51820")];
    assert_eq!(publisher.publish(&tags).await, Ok(Published::Changed));
    assert_eq!(publisher.publish(&tags).await, Ok(Published::Unchanged));

    let found = spokes(&discovery(&moto.context, &["eu-west-1"], LONG)).await;
    let record = found.values().next().unwrap();
    assert_eq!(record.instance, instance);
    assert_eq!(record.public_key.unwrap().to_string(), KEY);
    assert_eq!(record.port, Some(51820));
    assert_eq!(record.tag_problems, []);
    assert!(moto.url.starts_with("http://127.0.0.1:"));
}

#[tokio::test]
async fn what_became_of_spokes_that_are_missing_is_told() {
    let moto = Moto::start().await;
    let vpc = Vpc::create(moto.client("eu-west-1"), "10.1.0.0/16").await;
    let both = [("service", "nat"), ("owner", "me")];
    let runs = vpc.launch(&both).await;
    let terminated = vpc.launch(&both).await;
    let stopped = vpc.launch(&both).await;
    let untagged = vpc.launch(&both).await;
    let tagless = vpc.launch(&both[..1]).await;
    let unknown: InstanceId = "i-0123456789abcdef0".parse().unwrap();
    let client = &vpc.client;
    let terminate = client
        .terminate_instances()
        .instance_ids(terminated.as_str());
    terminate.send().await.unwrap();
    let stop = client.stop_instances().instance_ids(stopped.as_str());
    stop.send().await.unwrap();
    let untag = client
        .delete_tags()
        .tags(Tag::builder().key("service").build());
    let untag = untag
        .resources(untagged.as_str())
        .resources(tagless.as_str());
    untag.send().await.unwrap();

    let partition = Partition {
        account: hub().account,
        region: region("eu-west-1"),
    };
    let ids = [&runs, &terminated, &stopped, &untagged, &tagless, &unknown];
    let known = Known::from([(partition, ids.into_iter().cloned().collect())]);
    let answers = discovery(&moto.context, &["eu-west-1"], LONG)
        .poll(&known)
        .await;

    assert_eq!(answers[0].calls, 3);
    let answer = answers[0].answer.as_ref().unwrap();
    assert_eq!(answer.spokes.len(), 1);
    assert_eq!(answer.spokes[0].instance, runs);
    assert_eq!(
        answer.absent,
        BTreeMap::from([
            (terminated, Fate::Terminated),
            (stopped, Fate::Stopped),
            (untagged, Fate::Untagged),
            (tagless, Fate::Tagless),
            (unknown, Fate::NotFound),
        ])
    );
}

#[tokio::test]
async fn spokes_of_one_vpc_know_what_is_in_their_zones() {
    let moto = Moto::start().await;
    let first = Vpc::create(moto.client("eu-west-1"), "10.1.0.0/16").await;
    let subnet = |zone: &'static str, cidr: &'static str| {
        let request = first.client.create_subnet().vpc_id(&first.id);
        let request = request.availability_zone(zone).cidr_block(cidr);
        async move {
            let subnet = request.send().await.unwrap();
            subnet.subnet().unwrap().subnet_id().unwrap().to_owned()
        }
    };
    let (a, b) = ("eu-west-1a", "eu-west-1b");
    let in_zone = |subnet| Vpc {
        client: first.client.clone(),
        id: first.id.clone(),
        subnet,
    };
    let in_a = in_zone(subnet(a, "10.1.10.0/24").await);
    let in_b = in_zone(subnet(b, "10.1.20.0/24").await);
    subnet(b, "10.1.21.0/24").await;
    in_a.launch(&[("service", "nat")]).await;
    let spoke_b = in_b.launch(&[("service", "nat")]).await;

    let found = spokes(&discovery(&moto.context, &["eu-west-1"], LONG)).await;

    let record = &found[&(region("eu-west-1"), spoke_b)];
    assert_eq!(record.zone.as_ref().unwrap().as_str(), b);
    let cidrs: Vec<_> = record.zone_cidrs.iter().map(ToString::to_string).collect();
    // The subnet that comes with the VPC is in a zone of moto's choice.
    let cidrs: Vec<_> = cidrs.iter().filter(|cidr| *cidr != "10.1.0.0/24").collect();
    assert_eq!(cidrs, ["10.1.20.0/24", "10.1.21.0/24"]);
}

#[tokio::test]
async fn spokes_of_another_account_are_found_through_its_role() {
    let moto = Moto::start().await;
    let role = "arn:aws:iam::210987654321:role/privnet-discovery";
    let account = AccountConfig {
        account: "210987654321".parse().unwrap(),
        role_arn: role.to_owned(),
        external_id: Some("a-word".to_owned()),
    };
    // The tests' VPC there is made with the role, too.
    let sts = moto.context.sdk(false, LONG);
    let assumed = AssumedRole::new(role, Some("a-word"), &hub().instance, sts);
    let there = moto.context.with_credentials(assumed, LONG);
    let vpc = Vpc::create(there.ec2(&region("eu-west-1"), LONG), "10.7.0.0/16").await;
    let spoke = vpc.launch(&[("service", "nat")]).await;
    let config = DiscoveryConfig {
        own_account: true,
        accounts: vec![account],
        ..config(&["eu-west-1"], LONG)
    };
    let discovery = Discovery::new(&moto.context, &hub(), &config);
    let answers = discovery.poll(&Known::new()).await;
    let [own, other] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(own.answer.as_ref().unwrap().spokes, []);
    assert_eq!(other.partition.account.as_str(), "210987654321");
    let spokes = &other.answer.as_ref().unwrap().spokes;
    assert_eq!(spokes.len(), 1);
    assert_eq!(spokes[0].instance, spoke);
    assert_eq!(spokes[0].cidrs, ["10.7.0.0/16".parse().unwrap()]);
}

#[tokio::test]
async fn all_regions_are_polled_but_those_not_opted_into() {
    let moto = Moto::start().await;
    let far = Vpc::create(moto.client("sa-east-1"), "10.9.0.0/16").await;
    let spoke = far.launch(&[("service", "nat")]).await;
    let config = DiscoveryConfig {
        regions: Regions::All,
        ..config(&[], LONG)
    };
    let discovery = Discovery::new(&moto.context, &hub(), &config);
    let found = spokes(&discovery).await;
    let ids: Vec<_> = found.into_keys().collect();
    assert_eq!(ids, [(region("sa-east-1"), spoke)]);
    let polled: Vec<_> = discovery.partitions(&Known::new()).into_iter().collect();
    let names: Vec<_> = polled.iter().map(|of| of.region.as_str()).collect();
    assert!(
        names.contains(&"eu-west-1") && names.contains(&"us-east-1"),
        "{names:?}"
    );
    // moto says that the account has not opted into it.
    assert!(!names.contains(&"me-south-1"), "{names:?}");
}
