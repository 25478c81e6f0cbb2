//! Several accounts, all regions, and where the requests go. The answers of STS
//! and EC2 are written after the examples of their API references; the URLs are
//! what the SDK makes of the configuration.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use privnet_model::config::hub::{AccountConfig, DiscoveryConfig, Regions};
use privnet_model::inventory::Identity;

use super::answers::{
    config, hub, instance, instances, known, numbers, refusal, region, regions, vpcs,
};
use super::memory::Memory;
use super::server::{Reply, Request};
use crate::{Discovery, Known, SdkContext};

const LONG: Duration = Duration::from_secs(60);
const ROLE: &str = "arn:aws:iam::210987654321:role/privnet-discovery";

fn all() -> DiscoveryConfig {
    DiscoveryConfig {
        regions: Regions::All,
        ..config(&[], LONG)
    }
}

fn with_role(regions: &[&str], role_arn: &str) -> DiscoveryConfig {
    DiscoveryConfig {
        own_account: true,
        accounts: vec![AccountConfig {
            account: "210987654321".parse().unwrap(),
            role_arn: role_arn.to_owned(),
            external_id: Some("a-word".to_owned()),
        }],
        ..config(regions, LONG)
    }
}

async fn at(memory: &Memory, hub: &Identity, config: &DiscoveryConfig) -> Discovery {
    let context = SdkContext::for_test_through(memory.clone()).await;
    Discovery::new(&context, hub, config)
}

/// What a poll says of each partition: the instances or the error.
async fn poll(discovery: &Discovery, known: &Known) -> Vec<(String, Result<Vec<u32>, String>)> {
    let answers = discovery.poll(known).await.into_iter();
    answers
        .map(|answer| (answer.partition.to_string(), numbers(answer)))
        .collect()
}

/// An EC2 with instance 1 in every region, and this list of regions.
fn everywhere(list: impl Fn() -> Reply + Send + Sync + 'static) -> Memory {
    Memory::new(move |request| {
        if request.is("DescribeRegions") {
            return list();
        }
        Reply::ok(match request.is("DescribeVpcs") {
            true => vpcs([1], None),
            false => instances([instance(1)], None),
        })
    })
}

const USABLE: [(&str, &str); 4] = [
    ("eu-west-1", "opt-in-not-required"),
    ("me-south-1", "opted-in"),
    // moto lists these though it was asked not to, or the hub is in another AWS.
    ("ap-east-1", "not-opted-in"),
    ("cn-north-1", "opt-in-not-required"),
];

#[tokio::test]
async fn all_regions_are_those_that_the_account_has_opted_into() {
    let memory = everywhere(|| Reply::ok(regions(USABLE)));
    let discovery = at(&memory, &hub(), &all()).await;
    let answers = discovery.poll(&Known::new()).await;
    let calls: Vec<_> = answers
        .iter()
        .map(|answer| (answer.partition.to_string(), answer.calls))
        .collect();
    let names = ["123456789012/eu-west-1", "123456789012/me-south-1"].map(str::to_owned);
    // The list of regions counts where it was asked for.
    assert_eq!(calls, [(names[0].clone(), 3), (names[1].clone(), 2)]);
    let partitions = discovery.partitions(&Known::new());
    let partitions: Vec<_> = partitions.iter().map(ToString::to_string).collect();
    assert_eq!(partitions, names);
    let asked = &memory.requests()[0].body;
    assert!(
        asked.contains("Filter.1.Name=opt-in-status&Filter.1.Value.1=opt-in-not-required"),
        "{asked}"
    );
}

#[tokio::test]
async fn regions_that_were_never_listed_are_an_error_at_home_and_known_ones_are_polled() {
    let memory = everywhere(|| Reply::status(403, refusal("UnauthorizedOperation", "Why.")));
    let discovery = at(&memory, &hub(), &all()).await;
    let known = known("us-west-2", []);
    assert_eq!(
        poll(&discovery, &known).await,
        [
            (
                "123456789012/eu-west-1".to_owned(),
                Err(
                    "not allowed: the role needs ec2:DescribeRegions in eu-west-1 \
                     (UnauthorizedOperation, request ea966190)"
                        .to_owned()
                )
            ),
            ("123456789012/us-west-2".to_owned(), Ok(vec![1])),
        ]
    );
    // As after a restart: what the cache knows is not thrown away.
    assert_eq!(discovery.partitions(&known).len(), 2);
}

#[tokio::test]
async fn a_list_of_regions_that_is_not_renewed_or_makes_no_sense_stays() {
    let round = Arc::new(AtomicU8::new(0));
    let now = round.clone();
    let memory = everywhere(move || match now.load(Ordering::Relaxed) {
        0 => Reply::ok(regions(USABLE)),
        1 => Reply::status(503, refusal("Unavailable", "Why.")),
        2 => Reply::ok(regions([])),
        3 => Reply::ok(regions([
            ("eu-west-1", "opted-in"),
            ("Ireland", "opted-in"),
        ])),
        _ => Reply::ok(regions([("ap-east-1", "not-opted-in")])),
    });
    let discovery = at(&memory, &hub(), &all()).await;
    for number in 0..=4 {
        round.store(number, Ordering::Relaxed);
        let answers = poll(&discovery, &Known::new()).await;
        assert_eq!(answers.len(), 2, "{number}: {answers:?}");
        assert!(answers.iter().all(|(_, answer)| *answer == Ok(vec![1])));
    }
}

#[tokio::test]
async fn a_region_that_is_listed_no_more_stays_while_spokes_are_known_there() {
    let round = Arc::new(AtomicU8::new(0));
    let now = round.clone();
    let memory = everywhere(move || {
        let count = 2 - usize::from(now.load(Ordering::Relaxed));
        Reply::ok(regions(USABLE.into_iter().take(count)))
    });
    let discovery = at(&memory, &hub(), &all()).await;
    assert_eq!(poll(&discovery, &Known::new()).await.len(), 2);
    round.store(1, Ordering::Relaxed);
    for (known, expected) in [(known("me-south-1", [1]), 2), (known("me-south-1", []), 1)] {
        assert_eq!(poll(&discovery, &known).await.len(), expected);
        assert_eq!(discovery.partitions(&known).len(), expected);
    }
}

#[tokio::test]
async fn partitions_of_accounts_and_regions_that_the_config_does_not_name_are_not_polled() {
    let memory = everywhere(|| Reply::Silence);
    let discovery = at(&memory, &hub(), &config(&["eu-west-1"], LONG)).await;
    let known = known("us-east-1", [1]);
    let partitions = discovery.partitions(&known);
    assert_eq!(partitions.len(), 1);
    assert!(
        known
            .keys()
            .all(|partition| !partitions.contains(partition))
    );
    assert_eq!(poll(&discovery, &known).await.len(), 1);
    assert_eq!(memory.count("DescribeRegions"), 0);
}

/// STS's answer to AssumeRole.
fn credentials() -> Reply {
    Reply::ok(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
         <SessionToken>the-token</SessionToken><Expiration>2099-11-09T13:34:41Z</Expiration>\
         </Credentials></AssumeRoleResult></AssumeRoleResponse>",
    )
}

fn sts_refusal() -> Reply {
    Reply::status(
        403,
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
         <Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn:aws:sts::123456789012:\
         assumed-role/hub/i-1 is not authorized to perform: sts:AssumeRole.</Message></Error>\
         <RequestId>c6104cbe</RequestId></ErrorResponse>",
    )
}

/// AWS with such an STS.
fn with_sts(sts: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Memory {
    Memory::new(move |request| {
        if request.is("AssumeRole") {
            return sts(request);
        }
        Reply::ok(match request.is("DescribeVpcs") {
            true => vpcs([1, 2], None),
            false if request.headers["authorization"].contains("ASIAROLE") => {
                instances([instance(2)], None)
            }
            false => instances([instance(1)], None),
        })
    })
}

#[tokio::test]
async fn each_account_is_asked_with_its_own_credentials() {
    let memory = with_sts(|_| credentials());
    let config = with_role(&["eu-west-1", "us-east-1"], ROLE);
    let discovery = at(&memory, &hub(), &config).await;
    for _ in 0..2 {
        assert_eq!(
            poll(&discovery, &Known::new()).await,
            [
                ("123456789012/eu-west-1".to_owned(), Ok(vec![1])),
                ("123456789012/us-east-1".to_owned(), Ok(vec![1])),
                ("210987654321/eu-west-1".to_owned(), Ok(vec![2])),
                ("210987654321/us-east-1".to_owned(), Ok(vec![2])),
            ]
        );
    }
    assert_eq!(memory.count("AssumeRole"), 1, "credentials are cached");
    let requests = memory.requests();
    let asked = requests
        .iter()
        .find(|request| request.is("AssumeRole"))
        .unwrap();
    assert_eq!(asked.path, "https://sts.eu-west-1.amazonaws.com/");
    for field in [
        "RoleSessionName=privnet-hub-i-0123456789abcdef0",
        "ExternalId=a-word",
        "RoleArn=arn%3Aaws%3Aiam%3A%3A210987654321%3Arole%2Fprivnet-discovery",
    ] {
        assert!(asked.body.contains(field), "{}", asked.body);
    }
    let tokens: BTreeSet<_> = requests
        .iter()
        .filter(|request| request.headers["authorization"].contains("ASIAROLE"))
        .map(|request| request.headers["x-amz-security-token"].as_str())
        .collect();
    assert_eq!(tokens, BTreeSet::from(["the-token"]));
}

#[tokio::test]
async fn a_role_that_is_refused_fails_its_own_account_and_is_asked_for_once() {
    let memory = with_sts(|_| sts_refusal());
    let config = with_role(&["eu-west-1", "us-east-1", "us-west-2"], ROLE);
    let answers = poll(&at(&memory, &hub(), &config).await, &Known::new()).await;
    assert!(
        answers[..3]
            .iter()
            .all(|(_, answer)| *answer == Ok(vec![1]))
    );
    assert_eq!(
        answers[5],
        (
            "210987654321/us-west-2".to_owned(),
            Err(
                "STS refused the role arn:aws:iam::210987654321:role/privnet-discovery for \
                 us-west-2: User: arn:aws:sts::123456789012:assumed-role/hub/i-1 is not authorized \
                 to perform: sts:AssumeRole; check that this hub's role may do sts:AssumeRole on \
                 it, and that its trust policy names this hub's role and the configured \
                 external_id (AccessDenied)"
                    .to_owned()
            )
        )
    );
    assert_eq!(memory.count("AssumeRole"), 1);
}

#[tokio::test]
async fn a_role_is_asked_for_again_after_a_refusal() {
    let refused = Arc::new(AtomicU8::new(1));
    let now = refused.clone();
    let memory = with_sts(move |_| match now.load(Ordering::Relaxed) {
        0 => credentials(),
        _ => sts_refusal(),
    });
    let discovery = at(&memory, &hub(), &with_role(&["eu-west-1"], ROLE)).await;
    assert!(poll(&discovery, &Known::new()).await[1].1.is_err());
    refused.store(0, Ordering::Relaxed);
    let since = Instant::now();
    while poll(&discovery, &Known::new()).await[1].1 != Ok(vec![2]) {
        assert!(since.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_sts_that_hangs_is_told() {
    let memory = with_sts(|_| Reply::Silence);
    let config = DiscoveryConfig {
        timeout: Duration::from_secs(3),
        ..with_role(&["eu-west-1"], ROLE)
    };
    let discovery = at(&memory, &hub(), &config).await;
    let answers = poll(&discovery, &Known::new()).await;
    assert_eq!(answers[0].1, Ok(vec![1]));
    assert_eq!(
        answers[1].1,
        Err(
            "no credentials of the role arn:aws:iam::210987654321:role/privnet-discovery for \
             eu-west-1: STS could not be asked: no answer in time"
                .to_owned()
        )
    );
}

#[tokio::test]
async fn an_account_named_twice_is_polled_once() {
    let memory = with_sts(|_| credentials());
    let mut config = with_role(&["eu-west-1"], ROLE);
    config.accounts.extend(config.accounts.clone());
    config.accounts.push(AccountConfig {
        account: hub().account,
        ..config.accounts[0].clone()
    });
    let answers = poll(&at(&memory, &hub(), &config).await, &Known::new()).await;
    assert_eq!(answers.len(), 2);
}

#[tokio::test]
async fn all_regions_of_another_account_are_its_own() {
    let memory = Memory::new(|request| {
        if request.is("AssumeRole") {
            return credentials();
        }
        let role = request.headers["authorization"].contains("ASIAROLE");
        Reply::ok(match request.is("DescribeRegions") {
            true if role => regions(USABLE),
            true => regions([("eu-west-1", "opted-in")]),
            false => instances([], None),
        })
    });
    let config = DiscoveryConfig {
        regions: Regions::All,
        ..with_role(&[], ROLE)
    };
    let answers = poll(&at(&memory, &hub(), &config).await, &Known::new()).await;
    let names: Vec<_> = answers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "123456789012/eu-west-1",
            "210987654321/eu-west-1",
            "210987654321/me-south-1"
        ]
    );
}

/// The URLs that one poll of one region, of the role's account alone, asks.
async fn urls(home: &'static str, config: DiscoveryConfig) -> Vec<String> {
    let memory = with_sts(|_| credentials());
    let hub = Identity {
        region: region(home),
        ..hub()
    };
    // As the hub does: the SDK's region is its own.
    let context = SdkContext::for_test_through_in(memory.clone(), home).await;
    let answers = Discovery::new(&context, &hub, &config)
        .poll(&Known::new())
        .await;
    assert!(
        answers.iter().all(|answer| answer.answer.is_ok()),
        "{answers:?}"
    );
    let urls: BTreeSet<_> = memory
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    urls.into_iter().collect()
}

#[tokio::test]
async fn requests_go_where_aws_has_its_endpoints() {
    let role = |name: &str| format!("arn:{name}:iam::210987654321:role/r");
    for (region, arn, fips, ec2, sts) in [
        (
            "us-east-1",
            "aws",
            false,
            "https://ec2.us-east-1.amazonaws.com/",
            "https://sts.us-east-1.amazonaws.com/",
        ),
        (
            "us-east-1",
            "aws",
            true,
            "https://ec2-fips.us-east-1.amazonaws.com/",
            "https://sts-fips.us-east-1.amazonaws.com/",
        ),
        (
            "us-gov-west-1",
            "aws-us-gov",
            false,
            "https://ec2.us-gov-west-1.amazonaws.com/",
            "https://sts.us-gov-west-1.amazonaws.com/",
        ),
        (
            "us-gov-west-1",
            "aws-us-gov",
            true,
            "https://ec2.us-gov-west-1.amazonaws.com/",
            "https://sts.us-gov-west-1.amazonaws.com/",
        ),
        (
            "cn-north-1",
            "aws-cn",
            false,
            "https://ec2.cn-north-1.amazonaws.com.cn/",
            "https://sts.cn-north-1.amazonaws.com.cn/",
        ),
        (
            "us-iso-east-1",
            "aws-iso",
            false,
            "https://ec2.us-iso-east-1.c2s.ic.gov/",
            "https://sts.us-iso-east-1.c2s.ic.gov/",
        ),
    ] {
        let config = DiscoveryConfig {
            fips,
            ..with_role(&[region], &role(arn))
        };
        assert_eq!(urls(region, config).await, [ec2, sts], "{region} {fips}");
    }
}

#[tokio::test]
async fn an_endpoint_of_the_config_is_where_ec2_is_and_sts_stays() {
    let config = DiscoveryConfig {
        endpoint: Some("https://vpce-1-2.ec2.{region}.vpce.amazonaws.com".to_owned()),
        ..with_role(&["us-east-1", "us-west-2"], ROLE)
    };
    assert_eq!(
        urls("us-east-1", config).await,
        [
            "https://sts.us-east-1.amazonaws.com/",
            "https://vpce-1-2.ec2.us-east-1.vpce.amazonaws.com/",
            "https://vpce-1-2.ec2.us-west-2.vpce.amazonaws.com/",
        ]
    );
}

#[tokio::test]
async fn credentials_of_another_aws_partition_are_not_even_tried() {
    let memory = with_sts(|_| credentials());
    let china = "arn:aws-cn:iam::210987654321:role/r";
    let config = with_role(&["cn-north-1", "eu-west-1"], china);
    let answers = poll(&at(&memory, &hub(), &config).await, &Known::new()).await;
    let errors: Vec<_> = answers
        .into_iter()
        .filter_map(|(_, answer)| answer.err())
        .collect();
    let end = "credentials of one are worth nothing in the other";
    assert_eq!(
        errors,
        [
            format!("cn-north-1 is in the AWS partition aws-cn, this hub in aws: {end}"),
            format!("the role {china} is in the AWS partition aws-cn, this hub in aws: {end}"),
            format!("the role {china} is in the AWS partition aws-cn, this hub in aws: {end}"),
        ]
    );
    assert_eq!(memory.count("AssumeRole"), 0);
}
