//! What a poll tells of spokes that are known and that EC2's answer lacks, what
//! it tells of zones, and how many requests it takes.

use std::collections::BTreeMap;
use std::time::Duration;

use privnet_model::inventory::{Answer, Fate, PartitionAnswer};

use super::answers::{
    TAG, config, described, discovery, gateway, hub, id, instance, instance_with, instances, known,
    numbers, only, refusal, region, subnets, vpcs,
};
use super::memory::Memory;
use super::server::{Reply, Request};
use crate::budget::MAX_CALLS;
use crate::{Discovery, Known, SdkContext};

const REGION: &str = "eu-west-1";
const LONG: Duration = Duration::from_secs(60);
const OTHER_TAG: &str = "<item><key>owner</key><value>me</value></item>";

impl Request {
    /// Whether it asks for instances by their ids.
    fn is_by_id(&self) -> bool {
        self.body.contains("Name=instance-id&")
    }
}

/// Asks a region of such an EC2, in which these instances are known.
async fn ask(memory: &Memory, known: &Known) -> PartitionAnswer {
    let context = SdkContext::for_test_through(memory.clone()).await;
    let answers = discovery(&context, &[REGION], LONG).poll(known).await;
    <[PartitionAnswer; 1]>::try_from(answers)
        .unwrap()
        .into_iter()
        .next()
        .unwrap()
}

/// An EC2 that finds these by their tags, and describes those when asked by id.
fn ec2(tagged: Vec<String>, by_id: Vec<String>) -> Memory {
    Memory::new(move |request| {
        Reply::ok(if request.is("DescribeVpcs") {
            vpcs(1..=20, None)
        } else if request.is_by_id() {
            instances(by_id.clone(), None)
        } else {
            instances(tagged.clone(), None)
        })
    })
}

fn fates(answer: &Answer) -> Vec<(u32, Fate)> {
    let absent = answer.absent.iter();
    absent
        .map(|(id, fate)| (u32::from_str_radix(&id.as_str()[2..], 16).unwrap(), *fate))
        .collect()
}

#[tokio::test]
async fn every_known_spoke_that_is_missing_has_a_fate_or_turns_out_to_run() {
    let memory = ec2(
        vec![instance(1)],
        vec![
            instance_with(2, "terminated", ""),
            instance_with(3, "shutting-down", OTHER_TAG),
            instance_with(4, "stopped", OTHER_TAG),
            instance_with(5, "stopping", ""),
            instance_with(6, "running", ""),
            instance_with(7, "running", OTHER_TAG),
            instance_with(8, "pending", OTHER_TAG),
            instance_with(9, "dreaming", OTHER_TAG),
            described(10, ""),
            instance(11),
            // Nobody asked for it.
            instance_with(13, "terminated", ""),
        ],
    );
    let answer = ask(&memory, &known(REGION, 1..=12)).await;
    let told = answer.answer.clone().unwrap();
    assert_eq!(
        fates(&told),
        [
            (2, Fate::Terminated),
            (3, Fate::Terminated),
            (4, Fate::Stopped),
            (5, Fate::Stopped),
            (6, Fate::Tagless),
            (7, Fate::Untagged),
            (8, Fate::Unclear),
            (9, Fate::Unclear),
            (10, Fate::Unclear),
            (12, Fate::NotFound),
        ]
    );
    assert_eq!(told.spokes[1].cidrs, ["10.11.0.0/16".parse().unwrap()]);
    assert_eq!((answer.calls, memory.requests().len()), (3, 3));
    assert_eq!(numbers(answer), Ok(vec![1, 11]));
}

#[tokio::test]
async fn who_is_not_missing_is_not_asked_for_again() {
    let memory = ec2(vec![instance(1), instance(2)], vec![]);
    let answer = ask(&memory, &known(REGION, [1, 2])).await;
    assert_eq!(answer.answer.unwrap().absent, BTreeMap::new());
    assert_eq!(answer.calls, 2);
}

#[tokio::test]
async fn spokes_of_other_regions_are_not_asked_for() {
    let memory = ec2(vec![instance(1)], vec![]);
    let answer = ask(&memory, &known("us-east-1", [5])).await;
    assert_eq!(answer.answer.unwrap().absent, BTreeMap::new());
    assert!(!memory.requests().iter().any(Request::is_by_id));
}

#[tokio::test]
async fn the_missing_are_asked_for_in_filters_of_200() {
    let memory = ec2(vec![], vec![]);
    let answer = ask(&memory, &known(REGION, 1..=401)).await;
    let told = answer.answer.unwrap();
    assert_eq!(told.absent.len(), 401);
    assert!(told.absent.values().all(|fate| *fate == Fate::NotFound));
    let requests = memory.requests();
    let asked: Vec<_> = requests
        .iter()
        .map(|request| request.body.matches("=i-").count())
        .collect();
    assert_eq!(asked, [0, 200, 200, 1]);
    // As a list of ids one unknown id would make the whole request fail.
    assert!(
        !requests
            .iter()
            .any(|request| request.body.contains("InstanceId.1"))
    );
}

#[tokio::test]
async fn a_question_by_id_that_fails_leaves_no_answer() {
    let memory = Memory::new(|request| {
        if request.is_by_id() {
            return Reply::status(503, refusal("RequestLimitExceeded", "Why."));
        }
        Reply::ok(instances([], None))
    });
    let error = ask(&memory, &known(REGION, [1])).await.answer.unwrap_err();
    assert_eq!(
        error,
        "EC2 throttles DescribeInstances in eu-west-1 (RequestLimitExceeded, request ea966190)"
    );
}

#[tokio::test]
async fn an_instance_found_by_its_tags_and_described_without_them_is_neither_spoke_nor_gone() {
    for tags in ["", OTHER_TAG] {
        let bare = instance_with(2, "running", tags);
        // Even described twice like that: EC2 still finds it by the tags.
        let memory = ec2(vec![instance(1), bare.clone()], vec![bare]);
        let told = ask(&memory, &known(REGION, [1, 2])).await.answer.unwrap();
        assert_eq!(fates(&told), [(2, Fate::Tagless)]);
        assert_eq!(told.spokes.len(), 1);
        // Unknown, it is left out: nothing is half known.
        let answer = ask(&memory, &Known::new()).await;
        assert_eq!(answer.answer.clone().unwrap().absent, BTreeMap::new());
        assert_eq!(numbers(answer), Ok(vec![1]));
    }
}

#[tokio::test]
async fn tags_that_come_back_within_the_poll_were_never_gone() {
    let memory = ec2(vec![instance_with(2, "running", "")], vec![instance(2)]);
    let answer = ask(&memory, &known(REGION, [2])).await;
    assert_eq!(answer.answer.clone().unwrap().absent, BTreeMap::new());
    assert_eq!(numbers(answer), Ok(vec![2]));
}

#[tokio::test]
async fn who_is_told_in_two_ways_is_not_gone() {
    let twice = [
        instance_with(1, "terminated", ""),
        instance_with(1, "stopped", ""),
        instance_with(2, "terminated", ""),
        instance(2),
        instance(3),
        instance_with(3, "terminated", ""),
    ];
    let answer = ask(&ec2(vec![], twice.to_vec()), &known(REGION, 1..=3)).await;
    assert_eq!(fates(&answer.answer.clone().unwrap()), [(1, Fate::Unclear)]);
    assert_eq!(numbers(answer), Ok(vec![2, 3]));
}

#[tokio::test]
async fn an_instance_in_two_vpcs_makes_the_answer_an_error() {
    let memory = ec2(
        vec![gateway(1, 1, "eu-west-1a"), gateway(1, 2, "eu-west-1a")],
        vec![],
    );
    assert_eq!(
        ask(&memory, &Known::new()).await.answer,
        Err(
            "EC2's answer to DescribeInstances in eu-west-1 could not be read: \
             i-00000000000000001 is in two VPCs"
                .to_owned()
        )
    );
}

/// VPC 1 has spokes 1 and 2 in zones a and b, VPC 2 has spoke 3 in zone a.
fn zoned(answer: impl Fn() -> Reply + Send + Sync + 'static) -> Memory {
    Memory::new(move |request| {
        if request.is("DescribeSubnets") {
            return answer();
        }
        Reply::ok(match request.is("DescribeVpcs") {
            true => vpcs(1..=2, None),
            false => instances(
                [
                    gateway(1, 1, "eu-west-1a"),
                    gateway(2, 1, "eu-west-1b"),
                    gateway(3, 2, "eu-west-1a"),
                ],
                None,
            ),
        })
    })
}

#[tokio::test]
async fn spokes_of_one_vpc_are_told_the_cidrs_of_their_zones() {
    let memory = zoned(|| {
        Reply::ok(subnets([
            (1, "eu-west-1a", "10.1.1.0/24"),
            (1, "eu-west-1b", "10.1.2.0/24"),
            (1, "eu-west-1a", "10.1.0.0/24"),
            (1, "eu-west-1a", "10.1.0.0/24"),
            // Nonsense: outside the VPC, in no zone, and nothing at all.
            (1, "eu-west-1a", "10.2.1.0/24"),
            (1, "", "10.1.3.0/24"),
            (1, "eu-west-1a", "10.1.4.0/99"),
            // Nobody asked for it.
            (2, "eu-west-1a", "10.2.1.0/24"),
        ]))
    });
    let answer = ask(&memory, &Known::new()).await;
    let cidrs: Vec<Vec<String>> = answer
        .answer
        .unwrap()
        .spokes
        .iter()
        .map(|spoke| spoke.zone_cidrs.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(
        cidrs,
        [
            vec!["10.1.0.0/24", "10.1.1.0/24"],
            vec!["10.1.2.0/24"],
            vec!["10.2.1.0/24"]
        ]
    );
    assert_eq!(answer.calls, 3);
    let body = &memory.requests()[2].body;
    assert!(body.contains("vpc-00000000000000001") && !body.contains("vpc-00000000000000002"));
    assert!(
        body.contains("eu-west-1a") && body.contains("eu-west-1b"),
        "{body}"
    );
}

#[tokio::test]
async fn subnets_that_ec2_does_not_tell_leave_the_answer_whole() {
    for memory in [
        zoned(|| Reply::status(403, refusal("UnauthorizedOperation", "Why."))),
        zoned(|| Reply::ok("<DescribeSubnetsResponse><subnetSet>")),
    ] {
        let answer = ask(&memory, &Known::new()).await;
        let spokes = &answer.answer.as_ref().unwrap().spokes;
        assert!(spokes.iter().all(|spoke| spoke.zone_cidrs.is_empty()));
        assert_eq!(numbers(answer), Ok(vec![1, 2, 3]));
    }
}

#[tokio::test]
async fn pages_without_end_are_an_error_when_the_requests_are_used_up() {
    let page = std::sync::atomic::AtomicUsize::new(0);
    let memory = Memory::new(move |_| {
        let next = page
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            .to_string();
        Reply::ok(instances([], Some(&next)))
    });
    let answer = ask(&memory, &Known::new()).await;
    assert_eq!(
        answer.answer,
        Err(
            "EC2's answer in eu-west-1 took more than 500 requests: given up at DescribeInstances"
                .to_owned()
        )
    );
    assert_eq!(answer.calls, MAX_CALLS);
    assert_eq!(memory.requests().len(), 500);
}

#[tokio::test]
async fn retries_count() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let server = super::server::Server::start(move |request| {
        if request.is("DescribeInstances")
            && tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2
        {
            return Reply::status(500, refusal("InternalError", "Why."));
        }
        Reply::ok(match request.is("DescribeVpcs") {
            true => vpcs([1], None),
            false => instances([instance(1)], None),
        })
    })
    .await;
    let context = SdkContext::for_test(&server.url, 3).await;
    let answers = discovery(&context, &[REGION], LONG)
        .poll(&Known::new())
        .await;
    assert_eq!(answers[0].calls, 4);
    assert_eq!(only(answers), Ok(vec![1]));
}

#[tokio::test]
async fn tags_images_and_profiles_come_with_the_spoke() {
    let fields = format!(
        "<imageId>ami-1</imageId><iamInstanceProfile><arn>arn:aws:iam::1:instance-profile/p</arn>\
         </iamInstanceProfile><tagSet><item><key>{}</key><value>{}</value></item>\
         <item><key>team</key><value>a b</value></item><item><key>bare</key></item></tagSet>",
        TAG.0, TAG.1
    );
    let memory = ec2(vec![described(1, &fields)], vec![]);
    let context = SdkContext::for_test_through(memory).await;
    let answers = Discovery::new(&context, &hub(), &config(&[REGION], LONG))
        .poll(&Known::new())
        .await;
    assert_eq!(answers[0].partition.region, region(REGION));
    let spoke = &answers[0].answer.as_ref().unwrap().spokes[0];
    assert_eq!(spoke.instance, id(1));
    assert_eq!(spoke.image.as_deref(), Some("ami-1"));
    assert_eq!(
        spoke.instance_profile.as_deref(),
        Some("arn:aws:iam::1:instance-profile/p")
    );
    let tags: Vec<_> = spoke
        .tags
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(tags, [("bare", ""), TAG, ("team", "a b")]);
}
