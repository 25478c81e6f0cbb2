//! What `doctor` asks: of moto as far as it behaves like EC2, of servers of our own what
//! it does not.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{IpPermission, IpRange};
use privnet_model::id::InstanceId;
use privnet_model::instance::{TCP, Traffic, UDP};
use privnet_model::inventory::PUBLIC_KEY_TAG;
use privnet_reconcile::doctor::permission::Answer;

use super::answers::{config, hub, instances, refusal, region, whole};
use super::memory::Memory;
use super::moto::Moto;
use super::server::{Reply, Request, Server};
use crate::doctor::{Nearby, asked, permitted};
use crate::{AwsClock, Discovery, Imds, Mutation, Operation, Permission, SdkContext, Vpc};

const REGION: &str = "eu-west-1";
const LONG: Duration = Duration::from_secs(60);

/// A VPC in moto with one instance.
struct World {
    _moto: Moto,
    client: Client,
    vpc: Vpc,
    instance: InstanceId,
    interface: String,
    group: String,
}

impl World {
    async fn build() -> Self {
        let moto = Moto::start().await;
        let client = moto.client(REGION);
        let made = client.create_vpc().cidr_block("10.1.0.0/16").send().await;
        let made = made.unwrap();
        let id = made.vpc().unwrap().vpc_id().unwrap();
        let subnet = client.create_subnet().vpc_id(id).cidr_block("10.1.0.0/24");
        let subnet = subnet.send().await.unwrap();
        let subnet = subnet.subnet().unwrap().subnet_id().unwrap().to_owned();
        let request = client.run_instances().image_id("ami-12345678");
        let request = request.min_count(1).max_count(1).subnet_id(subnet);
        let launched = request.send().await.unwrap();
        let launched = &launched.instances()[0];
        let interface = &launched.network_interfaces()[0];
        Self {
            vpc: Vpc::new(&moto.context, &region(REGION), &id.parse().unwrap(), LONG),
            instance: launched.instance_id().unwrap().parse().unwrap(),
            interface: interface.network_interface_id().unwrap().to_owned(),
            group: interface.groups()[0].group_id().unwrap().to_owned(),
            client,
            _moto: moto,
        }
    }
}

#[tokio::test]
async fn an_instance_is_described_with_what_surrounds_it() {
    let world = World::build().await;
    let found = world.vpc.instance(&world.instance).await.unwrap();
    assert_eq!(found.interface.as_str(), world.interface);
    assert_eq!(found.source_dest_check, Some(true));
    assert_eq!(found.public, None);
    assert_eq!(found.metadata.unwrap().hop_limit, Some(1));
    let groups: Vec<&str> = found.groups.iter().map(|id| id.as_str()).collect();
    assert_eq!(groups, [world.group.as_str()]);

    let address = world.client.allocate_address().address("198.51.100.7");
    let address = address.send().await.unwrap();
    let give = world.client.associate_address();
    let give = give.allocation_id(address.allocation_id().unwrap());
    let give = give.instance_id(world.instance.as_str());
    give.send().await.unwrap();
    let interface = world.interface.parse().unwrap();
    let off = world.vpc.switch_source_dest_check_off(&interface).await;
    off.unwrap();
    let found = world.vpc.instance(&world.instance).await.unwrap();
    let public = found.public.unwrap();
    assert_eq!(public.address.to_string(), "198.51.100.7");
    assert!(public.elastic);
    assert_eq!(found.source_dest_check, Some(false));

    let stranger = "i-0123456789abcdef0".parse().unwrap();
    let unknown = world.vpc.instance(&stranger).await.unwrap_err();
    assert!(
        unknown
            .to_string()
            .contains("no word of i-0123456789abcdef0")
    );
}

#[tokio::test]
async fn security_groups_and_the_network_acl_come_with_their_rules() {
    let world = World::build().await;
    let web = IpPermission::builder()
        .ip_protocol("tcp")
        .from_port(443)
        .to_port(444)
        .ip_ranges(IpRange::builder().cidr_ip("10.1.0.0/16").build())
        .build();
    let everything = IpPermission::builder()
        .ip_protocol("-1")
        .ip_ranges(IpRange::builder().cidr_ip("10.2.0.0/16").build())
        .build();
    let open = world.client.authorize_security_group_ingress();
    let open = open.group_id(&world.group);
    open.ip_permissions(web)
        .ip_permissions(everything)
        .send()
        .await
        .unwrap();
    let found = world.vpc.instance(&world.instance).await.unwrap();
    let groups = world.vpc.security_groups(&found.groups).await.unwrap();
    let [group] = &groups[..] else {
        panic!("{groups:?}");
    };
    let rules: BTreeMap<String, Traffic> = group
        .ingress
        .iter()
        .map(|rule| (rule.cidrs[0].to_string(), rule.traffic))
        .collect();
    let web = Traffic {
        protocol: Some(TCP),
        ports: Some((443, 444)),
    };
    let expected = [("10.1.0.0/16", web), ("10.2.0.0/16", Traffic::ALL)];
    let expected = expected.map(|(cidr, traffic)| (cidr.to_owned(), traffic));
    assert_eq!(rules, BTreeMap::from(expected));
    assert_eq!(group.egress[0].traffic, Traffic::ALL);

    let acl = world.vpc.network_acl(&found.subnet).await.unwrap();
    let mut allowed = acl.entries.iter();
    let allowed = allowed.find(|entry| entry.allow && !entry.egress).unwrap();
    assert!(allowed.traffic.covers(Traffic::port(UDP, 51820)));
    let unknown = "sg-0123456789abcdef0".parse().unwrap();
    assert!(world.vpc.security_groups(&[unknown]).await.is_err());
    let elsewhere = "subnet-0123456789abcdef0".parse().unwrap();
    assert!(world.vpc.network_acl(&elsewhere).await.is_err());
}

#[tokio::test]
async fn whether_it_may_tag_itself_is_learned_without_a_tag() {
    let world = World::build().await;
    let tags = BTreeMap::from([(PUBLIC_KEY_TAG.to_owned(), "x".to_owned())]);
    let instance = world.instance.clone();
    let answer = world
        .vpc
        .permission(&Mutation::Tag { instance, tags })
        .await;
    assert_eq!(answer, Permission::Permitted);
    assert_eq!(permitted(&answer), Answer::Permitted);
    let found = world.vpc.instance(&world.instance).await.unwrap();
    assert_eq!(found.tags, BTreeMap::new());
}

#[tokio::test]
async fn an_address_that_amazon_lends_is_no_elastic_one() {
    let memory = Memory::new(|_| {
        Reply::ok(whole(
            "DescribeInstances",
            "<reservationSet><item><instancesSet><item><instanceId>i-00000001</instanceId>\
             <networkInterfaceSet><item><networkInterfaceId>eni-00000001</networkInterfaceId>\
             <subnetId>subnet-00000001</subnetId><attachment><deviceIndex>0</deviceIndex>\
             </attachment><association><publicIp>198.51.100.7</publicIp><ipOwnerId>amazon\
             </ipOwnerId></association></item></networkInterfaceSet></item></instancesSet></item>\
             </reservationSet>",
            None,
        ))
    });
    let context = SdkContext::for_test_through(memory).await;
    let vpc = "vpc-00000001".parse().unwrap();
    let vpc = Vpc::new(&context, &region(REGION), &vpc, LONG);
    let found = vpc.instance(&"i-00000001".parse().unwrap()).await.unwrap();
    assert!(!found.public.unwrap().elastic);
    assert_eq!((found.source_dest_check, found.metadata), (None, None));
}

#[tokio::test]
async fn what_only_doctor_asks_for_names_its_own_policy() {
    let memory = Memory::new(|_| Reply::status(403, refusal("UnauthorizedOperation", "Why.")));
    let context = SdkContext::for_test_through(memory).await;
    let vpc = "vpc-00000001".parse().unwrap();
    let vpc = Vpc::new(&context, &region(REGION), &vpc, LONG);
    let group = "sg-00000001".parse().unwrap();
    let subnet = "subnet-00000001".parse().unwrap();
    let instance: InstanceId = "i-00000001".parse().unwrap();
    let groups = vpc.security_groups(&[group]).await.unwrap_err();
    let acl = vpc.network_acl(&subnet).await.unwrap_err();
    for (error, action) in [
        (
            vpc.instance(&instance).await.unwrap_err(),
            "ec2:DescribeInstances on i-00000001",
        ),
        (groups, "ec2:DescribeSecurityGroups on vpc-00000001"),
        (acl, "ec2:DescribeNetworkAcls on subnet-00000001"),
    ] {
        assert!(error.is_not_allowed());
        let text = error.to_string();
        assert!(text.contains(&format!("the role needs {action}")), "{text}");
        assert!(text.contains("ami/iam/doctor-policy.json"), "{text}");
    }
    let tags = BTreeMap::new();
    let mutation = Mutation::Tag { instance, tags };
    let denied = vpc.permission(&mutation).await;
    let Permission::Denied(error) = denied else {
        panic!("{denied:?}");
    };
    assert!(error.to_string().contains("ami/iam/spoke-policy.json"));
    let never = std::future::pending::<Result<(), crate::Ec2Error>>();
    let silent = asked(Duration::from_millis(50), never).await.unwrap_err();
    assert!(!silent.not_allowed && silent.text.contains("did not answer"));
}

#[tokio::test]
async fn each_partition_tells_what_may_be_asked_there() {
    let memory = Memory::new(|request: &Request| {
        if request.body.contains("DryRun=true") {
            let code = match (request.region(), request.is("DescribeSubnets")) {
                ("us-west-2", true) => "UnauthorizedOperation",
                _ => "DryRunOperation",
            };
            return Reply::status(412, refusal(code, "Because."));
        }
        Reply::ok(instances([super::answers::instance(1)], None))
    });
    let context = SdkContext::for_test_through(memory.clone()).await;
    let discovery = Discovery::new(&context, &hub(), &config(&["eu-west-1", "us-west-2"], LONG));
    let found = discovery.examine(LONG).await;
    let told: Vec<_> = found
        .iter()
        .map(|one| {
            let denied = one.permissions.iter();
            let denied = denied.filter(|(_, how)| *how != Permission::Permitted);
            let denied: Vec<Operation> = denied.map(|(operation, _)| *operation).collect();
            let spokes = one.spokes.as_ref().unwrap();
            (one.partition.region.to_string(), denied, *spokes)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("eu-west-1".to_owned(), vec![], 1),
            ("us-west-2".to_owned(), vec![Operation::DescribeSubnets], 1),
        ]
    );
    assert_eq!(memory.count("DescribeRegions"), 0, "nobody wants them all");
}

#[tokio::test]
async fn a_partition_that_is_silent_is_not_waited_for() {
    let memory = Memory::new(|_| Reply::Silence);
    let context = SdkContext::for_test_through(memory).await;
    let discovery = Discovery::new(&context, &hub(), &config(&["eu-west-1"], LONG));
    let found = discovery.examine(Duration::from_millis(200)).await;
    let [one] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(one.spokes.is_err());
    for (_, permission) in &one.permissions {
        assert!(
            matches!(permission, Permission::Unclear(_)),
            "{permission:?}"
        );
    }
}

#[tokio::test]
async fn every_answer_also_a_refusal_tells_the_time() {
    let server = Server::start(|_| Reply::Answer {
        status: 403,
        header: "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        body: refusal("RequestExpired", "Why."),
    })
    .await;
    let clock = AwsClock::default();
    let context = SdkContext::for_test(&server.url, 1).await.telling(&clock);
    assert_eq!(clock.last(), None);
    let vpc = "vpc-00000001".parse().unwrap();
    let vpc = Vpc::new(&context, &region(REGION), &vpc, LONG);
    let instance: InstanceId = "i-00000001".parse().unwrap();
    vpc.instance(&instance).await.unwrap_err();
    let told = clock.last().unwrap().told;
    let since = told.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 784_111_777);
}

#[tokio::test]
async fn metadata_without_a_token_is_asked_for_as_well() {
    let open = Server::start(|request| match request.path.as_str() {
        "/latest/meta-data/" => Reply::ok("ami-id"),
        _ => Reply::status(404, "Not Found"),
    })
    .await;
    let found = Imds::at(&open.url).unwrap().without_token().await.unwrap();
    assert!(found.answered);
    let closed = Server::start(|_| Reply::status(401, "Unauthorized")).await;
    let found = Imds::at(&closed.url).unwrap().without_token().await;
    assert!(!found.unwrap().answered);
    let silent = Server::start(|_| Reply::Silence).await;
    assert!(
        Imds::at(&silent.url)
            .unwrap()
            .without_token()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_role_is_named_by_the_metadata() {
    let role = |listed: &'static str| {
        Server::start(move |request| match request.path.as_str() {
            "/latest/api/token" => Reply::Answer {
                status: 200,
                header: "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n",
                body: "TOKEN".to_owned(),
            },
            "/latest/meta-data/iam/security-credentials/" if !listed.is_empty() => {
                Reply::ok(listed)
            }
            _ => Reply::status(404, "Not Found"),
        })
    };
    let server = role("privnet-spoke").await;
    let found = Imds::at(&server.url).unwrap().role().await.unwrap();
    assert_eq!(found.as_deref(), Some("privnet-spoke"));
    let server = role("").await;
    assert_eq!(Imds::at(&server.url).unwrap().role().await.unwrap(), None);
    // It is shown in commands to be copied.
    let server = role("x; rm -rf /").await;
    assert!(Imds::at(&server.url).unwrap().role().await.is_err());
}

#[test]
fn what_nobody_told_leaves_the_commands_as_they_are() {
    let why = || "no answer".to_owned();
    let nearby = Nearby {
        identity: Err(why()),
        role: Err(why()),
        tokenless: Err(why()),
    };
    let findings = nearby.findings(Some("hub-policy.json"));
    assert_eq!(findings.len(), 3);
    assert_eq!(nearby.names(), privnet_reconcile::doctor::Names::default());
}
