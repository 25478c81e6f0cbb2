//! An EC2 that fails in every way that was ever seen: no fault may pass for a
//! complete answer, and each is told in words.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::answers::{
    account, discovery, instance, instance_with, instances, numbers, only, refusal, region, vpcs,
};
use super::server::{Reply, Request, Server};
use crate::{Known, Published, SdkContext, TagPublisher};

const REGION: &str = "eu-west-1";
const LONG: Duration = Duration::from_secs(60);

/// Asks one region of such a server once, with so many tries per request.
async fn ask(
    attempts: u32,
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> Result<Vec<u32>, String> {
    let server = Server::start(answer).await;
    let context = SdkContext::for_test(&server.url, attempts).await;
    only(
        discovery(&context, &[REGION], LONG)
            .poll(&Known::new())
            .await,
    )
}

/// A server that has instances 1 to 5, and does what it should about VPCs.
fn five(request: &Request) -> Reply {
    if request.is("DescribeVpcs") {
        Reply::ok(vpcs(1..=5, None))
    } else {
        Reply::ok(instances((1..=5).map(instance), None))
    }
}

#[tokio::test]
async fn a_whole_answer_is_an_answer() {
    assert_eq!(ask(1, five).await, Ok(vec![1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn a_whole_answer_without_a_length_is_an_answer() {
    let answer = ask(1, |request| match five(request) {
        Reply::Answer { body, .. } => Reply::UntilClose(body),
        other => other,
    })
    .await;
    assert_eq!(answer, Ok(vec![1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn an_answer_cut_short_is_an_error_wherever_the_cut_is() {
    let whole = instances((1..=5).map(instance), None);
    for percent in [0, 1, 10, 30, 50, 90, 99] {
        let cut = &whole[..whole.len() * percent / 100];
        let body = cut.to_owned();
        assert_eq!(
            ask(1, move |_| Reply::UntilClose(body.clone())).await,
            Err(format!(
                "EC2's answer to DescribeInstances in eu-west-1 was cut short after {} bytes",
                cut.len()
            )),
            "at {percent} %"
        );
    }
}

/// If this fails, the SDK checks by itself, and `completeness` can go.
#[tokio::test]
async fn the_sdk_alone_takes_half_an_answer_for_a_whole_one() {
    let whole = instances((1..=5).map(instance), None);
    let half = whole[..whole.len() / 2].to_owned();
    let server = Server::start(move |_| Reply::UntilClose(half.clone())).await;
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(REGION))
        .endpoint_url(&server.url)
        .http_client(crate::context::http_client())
        .credentials_provider(aws_credential_types::Credentials::new(
            "a", "b", None, None, "test",
        ))
        .build();
    let client = aws_sdk_ec2::Client::from_conf(config);
    let answer = client.describe_instances().send().await.unwrap();
    assert!(answer.reservations().len() < 5);
}

#[tokio::test]
async fn an_answer_shorter_than_its_length_is_an_error() {
    let whole = instances((1..=5).map(instance), None);
    let error = ask(1, move |_| Reply::Shorter {
        promised: whole.len() + 10,
        body: whole.clone(),
    })
    .await
    .unwrap_err();
    assert!(
        error.starts_with("EC2's answer to DescribeInstances in eu-west-1 could not be read: "),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_cut_short_once_is_asked_for_again() {
    let count = AtomicUsize::new(0);
    let answer = ask(3, move |request| {
        if request.is("DescribeInstances") && count.fetch_add(1, Ordering::Relaxed) == 0 {
            let whole = instances((1..=5).map(instance), None);
            return Reply::UntilClose(whole[..whole.len() / 2].to_owned());
        }
        five(request)
    })
    .await;
    assert_eq!(answer, Ok(vec![1, 2, 3, 4, 5]));
}

/// Page 1 holds 1 and 2, page 2 what the test says.
fn second_page(
    second: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    move |request| match request.page() {
        _ if request.is("DescribeVpcs") => Reply::ok(vpcs(1..=4, None)),
        None => Reply::ok(instances([1, 2].map(instance), Some("two"))),
        Some(_) => second(),
    }
}

#[tokio::test]
async fn all_pages_together_are_the_answer() {
    let answer = ask(
        1,
        second_page(|| Reply::ok(instances([4, 3].map(instance), None))),
    )
    .await;
    assert_eq!(answer, Ok(vec![1, 2, 3, 4]));
}

#[tokio::test]
async fn a_second_page_that_fails_leaves_no_partial_answer() {
    let fault = || Reply::status(500, refusal("InternalError", "An internal error occurred."));
    assert_eq!(
        ask(2, second_page(fault)).await,
        Err(
            "EC2 in eu-west-1 fails at DescribeInstances: An internal error occurred \
             (InternalError, request ea966190)"
                .to_owned()
        )
    );
}

#[tokio::test]
async fn a_second_page_cut_short_leaves_no_partial_answer() {
    let fault = || {
        let page = instances([3, 4].map(instance), None);
        Reply::UntilClose(page[..page.len() - 30].to_owned())
    };
    let error = ask(1, second_page(fault)).await.unwrap_err();
    assert!(error.contains("was cut short after"), "{error}");
}

#[tokio::test]
async fn a_page_that_names_itself_as_the_next_is_an_error() {
    let fault = || Reply::ok(instances([3].map(instance), Some("two")));
    assert_eq!(
        ask(1, second_page(fault)).await,
        Err("EC2 in eu-west-1 gave the same page of DescribeInstances twice".to_owned())
    );
}

#[tokio::test]
async fn an_instance_that_no_longer_runs_is_left_out() {
    let answer = ask(1, |request| {
        if request.is("DescribeVpcs") {
            return five(request);
        }
        let gone =
            ["shutting-down", "terminated", "stopped"].map(|state| instance_with(9, state, ""));
        Reply::ok(instances([instance(1)].into_iter().chain(gone), None))
    })
    .await;
    assert_eq!(answer, Ok(vec![1]));
}

#[tokio::test]
async fn an_instance_without_an_id_makes_the_answer_an_error() {
    let error = ask(1, |_| {
        let nameless = instance(2).replace("<instanceId>i-00000000000000002</instanceId>", "");
        Reply::ok(instances([instance(1), nameless], None))
    })
    .await
    .unwrap_err();
    assert_eq!(
        error,
        "EC2's answer to DescribeInstances in eu-west-1 could not be read: \
         `` is not an instance id (i-…)"
    );
}

#[tokio::test]
async fn no_instances_is_an_answer_and_asks_for_no_vpcs() {
    let server = Server::start(|_| Reply::ok(instances([], None))).await;
    let context = SdkContext::for_test(&server.url, 1).await;
    assert_eq!(
        only(
            discovery(&context, &[REGION], LONG)
                .poll(&Known::new())
                .await
        ),
        Ok(vec![])
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn vpcs_are_asked_for_in_chunks_and_an_unknown_one_is_a_hole() {
    let server = Server::start(|request| {
        if request.is("DescribeVpcs") {
            // All of which the server knows 1 to 250; EC2 returns only those of the filter.
            let asked =
                (1..=250).filter(|number| request.body.contains(&format!("vpc-{number:017x}")));
            Reply::ok(vpcs(asked, None))
        } else {
            Reply::ok(instances((1..=450).map(instance), None))
        }
    })
    .await;
    let context = SdkContext::for_test(&server.url, 1).await;
    let answer = discovery(&context, &[REGION], LONG)
        .poll(&Known::new())
        .await
        .remove(0);
    let spokes = answer.answer.unwrap().spokes;
    assert_eq!(spokes.len(), 450);
    assert_eq!(spokes[249].cidrs, ["10.250.0.0/16".parse().unwrap()]);
    assert_eq!(spokes[250].cidrs, []);
    assert!(spokes[250].vpc.is_some());
    assert_eq!(server.requests().len(), 1 + 3);
}

#[tokio::test]
async fn a_cidr_that_is_none_makes_the_answer_an_error() {
    let error = ask(1, |request| match five(request) {
        Reply::Answer { body, .. } if request.is("DescribeVpcs") => {
            Reply::ok(body.replace("10.3.0.0/16", "10.3.0.0/61"))
        }
        other => other,
    })
    .await
    .unwrap_err();
    assert!(
        error.contains("`10.3.0.0/61` is not a CIDR of a VPC"),
        "{error}"
    );
}

#[tokio::test]
async fn regions_that_fail_or_hang_cost_only_their_own_answers() {
    let server = Server::start(|request| match request.region() {
        "eu-west-1" | "us-west-2" => five(request),
        "eu-west-2" => Reply::status(503, refusal("Unavailable", "The server is overloaded.")),
        _ => Reply::Silence,
    })
    .await;
    let context = SdkContext::for_test(&server.url, 2).await;
    let regions = ["us-west-2", "ap-south-1", "eu-west-2", "eu-west-1"];
    let mut answers = discovery(&context, &regions, Duration::from_secs(3))
        .poll(&Known::new())
        .await;
    let names: Vec<_> = answers
        .iter()
        .map(|answer| answer.partition.to_string())
        .collect();
    assert_eq!(
        names,
        ["ap-south-1", "eu-west-1", "eu-west-2", "us-west-2"]
            .map(|region| format!("{}/{region}", account()))
    );
    let last = numbers(answers.remove(3));
    let texts: Vec<_> = answers.into_iter().map(numbers).collect();
    assert_eq!(last, Ok(vec![1, 2, 3, 4, 5]));
    assert_eq!(
        texts,
        [
            Err(
                "EC2 in ap-south-1 had not completed its answer to DescribeInstances after 3s"
                    .to_owned()
            ),
            Ok(vec![1, 2, 3, 4, 5]),
            Err(
                "EC2 in eu-west-2 fails at DescribeInstances: The server is overloaded \
                 (Unavailable, request ea966190)"
                    .to_owned()
            ),
        ]
    );
}

#[tokio::test]
async fn what_ec2_refuses_is_told_with_code_and_request() {
    let cases = [
        (
            403,
            "UnauthorizedOperation",
            "not allowed: the role needs ec2:DescribeInstances in eu-west-1 \
             (UnauthorizedOperation, request ea966190)",
        ),
        (
            503,
            "RequestLimitExceeded",
            "EC2 throttles DescribeInstances in eu-west-1 (RequestLimitExceeded, request ea966190)",
        ),
        (
            401,
            "AuthFailure",
            "EC2 in eu-west-1 does not accept these credentials for DescribeInstances, or the \
             account has not enabled the region: Why (AuthFailure, request ea966190)",
        ),
    ];
    for (status, code, text) in cases {
        let answer = ask(1, move |_| Reply::status(status, refusal(code, "Why."))).await;
        assert_eq!(answer, Err(text.to_owned()));
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_told() {
    let context = SdkContext::for_test(&nobody().await, 1).await;
    let error = only(
        discovery(&context, &[REGION], LONG)
            .poll(&Known::new())
            .await,
    )
    .unwrap_err();
    assert!(
        error
            .starts_with("cannot reach EC2 in eu-west-1 for DescribeInstances: Connection refused"),
        "{error}"
    );
}

#[tokio::test]
async fn missing_credentials_are_told() {
    let context = SdkContext::for_test_without_credentials(&nobody().await).await;
    let error = only(
        discovery(&context, &[REGION], LONG)
            .poll(&Known::new())
            .await,
    )
    .unwrap_err();
    assert!(
        error.starts_with("no AWS credentials for DescribeInstances in eu-west-1: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_region_named_twice_is_asked_once() {
    let server = Server::start(five).await;
    let context = SdkContext::for_test(&server.url, 1).await;
    let discovery = discovery(&context, &[REGION, REGION], LONG);
    assert_eq!(
        only(discovery.poll(&Known::new()).await),
        Ok(vec![1, 2, 3, 4, 5])
    );
}

#[tokio::test]
async fn tags_are_published_when_they_differ_and_again_after_a_failure() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::status(403, refusal("UnauthorizedOperation", "Why.")),
        _ => Reply::ok("<CreateTagsResponse><return>true</return></CreateTagsResponse>"),
    })
    .await;
    let context = SdkContext::for_test(&server.url, 1).await;
    let id = "i-00000000000000001".parse().unwrap();
    let mut publisher = TagPublisher::new(&context, &region(REGION), &id, LONG);
    let tags = [
        ("privnet:port", "51820"),
        ("privnet:transport", "wireguard"),
    ];

    let error = publisher.publish(&tags).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "not allowed: the role needs ec2:CreateTags in eu-west-1 \
         (UnauthorizedOperation, request ea966190)"
    );
    assert!(!error.is_temporary());
    assert_eq!(publisher.publish(&tags).await, Ok(Published::Changed));
    assert_eq!(publisher.publish(&tags).await, Ok(Published::Unchanged));
    let moved = [("privnet:port", "51821"), tags[1]];
    assert_eq!(publisher.publish(&moved).await, Ok(Published::Changed));
    publisher.forget();
    assert_eq!(publisher.publish(&moved).await, Ok(Published::Changed));

    let bodies: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.body)
        .collect();
    assert_eq!(bodies.len(), 4);
    assert!(bodies[2].contains("51821") && !bodies[2].contains("wireguard"));
    assert!(bodies[3].contains("wireguard"));
}

/// An endpoint where nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
