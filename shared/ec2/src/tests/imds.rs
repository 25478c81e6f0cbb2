//! The metadata service: as on EC2, and in all the ways it is missing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::server::{Reply, Request, Server};
use crate::departure::DepartureWatch;
use crate::{Departure, Imds, ImdsError, LifecycleState, SpotAction};

const INTERFACE: &str = "/latest/meta-data/network/interfaces/macs/0e:49:61:0f:c3:11";

/// An instance's metadata, IMDSv2 only, without what the test leaves out.
pub(super) fn instance(request: &Request) -> Reply {
    if request.path == "/latest/api/token" {
        assert_eq!(request.method, "PUT");
        return Reply::Answer {
            status: 200,
            header: "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n",
            body: "TOKEN".to_owned(),
        };
    }
    if request
        .headers
        .get("x-aws-ec2-metadata-token")
        .map(String::as_str)
        != Some("TOKEN")
    {
        return Reply::status(401, "Unauthorized");
    }
    let path = request.path.strip_prefix(INTERFACE);
    let body = match (request.path.as_str(), path) {
        ("/latest/dynamic/instance-identity/document", _) => {
            r#"{"accountId": "123456789012", "region": "eu-west-1", "imageId": "ami-1",
                "availabilityZone": "eu-west-1a", "instanceId": "i-0123456789abcdef0"}"#
        }
        ("/latest/meta-data/mac", _) => "0e:49:61:0f:c3:11",
        ("/latest/meta-data/local-ipv4", _) => "10.1.0.4",
        ("/latest/meta-data/public-ipv4", _) => "198.51.100.7",
        (_, Some("/vpc-id")) => "vpc-0123456789abcdef0",
        (_, Some("/vpc-ipv4-cidr-blocks")) => "10.1.0.0/16\n10.9.0.0/16",
        (_, Some("/vpc-ipv6-cidr-blocks")) => "2001:db8::/56",
        (_, Some("/subnet-ipv4-cidr-block")) => "10.1.0.0/24",
        _ => return Reply::status(404, "Not Found"),
    };
    Reply::ok(body)
}

async fn ask(
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (
    String,
    Result<privnet_model::inventory::Identity, ImdsError>,
) {
    let server = Server::start(answer).await;
    let identity = Imds::at(&server.url).unwrap().identity().await;
    (server.url.replace("http://", ""), identity)
}

/// The instance, but for one path that is answered otherwise.
async fn ask_with(
    path: &'static str,
    reply: Reply,
) -> (
    String,
    Result<privnet_model::inventory::Identity, ImdsError>,
) {
    ask(move |request| {
        if request.path.ends_with(path) {
            reply.clone()
        } else {
            instance(request)
        }
    })
    .await
}

#[tokio::test]
async fn an_instance_knows_who_and_where_it_is() {
    let identity = ask(instance).await.1.unwrap();
    assert_eq!(identity.account.as_str(), "123456789012");
    assert_eq!(identity.region.as_str(), "eu-west-1");
    assert_eq!(identity.zone.unwrap().as_str(), "eu-west-1a");
    assert_eq!(identity.instance.as_str(), "i-0123456789abcdef0");
    assert_eq!(identity.vpc.as_str(), "vpc-0123456789abcdef0");
    let cidrs: Vec<_> = identity.vpc_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.1.0.0/16", "10.9.0.0/16", "2001:db8::/56"]);
    assert_eq!(identity.subnet_cidr.unwrap().to_string(), "10.1.0.0/24");
    assert_eq!(identity.private_address.to_string(), "10.1.0.4");
    assert_eq!(identity.public_address.unwrap().to_string(), "198.51.100.7");
    assert_eq!(identity.mac, "0e:49:61:0f:c3:11");
}

#[tokio::test]
async fn a_public_address_and_ipv6_are_optional() {
    for reply in [Reply::status(404, "Not Found"), Reply::ok("")] {
        let identity = ask_with("/public-ipv4", reply).await.1.unwrap();
        assert_eq!(identity.public_address, None);
    }
    let identity = ask_with("/vpc-ipv6-cidr-blocks", Reply::status(404, ""))
        .await
        .1
        .unwrap();
    assert_eq!(identity.vpc_cidrs.len(), 2);
}

#[tokio::test]
async fn off_ec2_the_error_says_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Imds::at(&format!("http://{address}"))
        .unwrap()
        .identity()
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no instance metadata at {address} (Connection refused (os error 111)): Privnet runs \
             on EC2 instances, in a container with a metadata hop limit of 2; elsewhere set \
             AWS_EC2_METADATA_SERVICE_ENDPOINT"
        )
    );
    assert!(error.is_temporary());
}

#[tokio::test]
async fn a_service_that_never_answers_is_unreachable_within_seconds() {
    let started = std::time::Instant::now();
    let error = ask(|_| Reply::Silence).await.1.unwrap_err();
    assert!(matches!(error, ImdsError::Unreachable { .. }), "{error}");
    assert!(started.elapsed().as_secs() < 9, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_service_switched_off_is_told_from_one_that_is_not_there() {
    for status in [401, 403] {
        let (endpoint, identity) = ask_with("/api/token", Reply::status(status, "no")).await;
        assert_eq!(
            identity,
            Err(ImdsError::Refused {
                endpoint,
                key: "api/token".to_owned(),
                status
            })
        );
    }
}

#[tokio::test]
async fn a_refused_key_is_told_by_name() {
    let (endpoint, identity) = ask_with("/mac", Reply::status(401, "no")).await;
    assert_eq!(
        identity.unwrap_err().to_string(),
        format!(
            "instance metadata at {endpoint} refuses meta-data/mac (HTTP status 401): enable the \
             metadata service in the instance's metadata options"
        )
    );
}

#[tokio::test]
async fn a_missing_key_is_told_by_name() {
    let (endpoint, identity) = ask_with("/vpc-id", Reply::status(404, "")).await;
    assert_eq!(
        identity,
        Err(ImdsError::Missing {
            endpoint,
            key: format!("{}/vpc-id", &INTERFACE["/latest/".len()..]),
        })
    );
}

#[tokio::test]
async fn a_vpc_without_cidrs_is_not_believed() {
    let identity = ask_with("/vpc-ipv4-cidr-blocks", Reply::ok("\n")).await.1;
    assert!(
        matches!(identity, Err(ImdsError::Missing { .. })),
        "{identity:?}"
    );
}

#[tokio::test]
async fn a_failing_service_is_told_and_temporary() {
    let error = ask_with("/local-ipv4", Reply::status(503, ""))
        .await
        .1
        .unwrap_err();
    assert!(
        matches!(error, ImdsError::Failing { status: 503, .. }),
        "{error}"
    );
    assert!(error.is_temporary());
}

#[tokio::test]
async fn another_web_server_is_not_taken_for_the_service() {
    for status in [200, 404] {
        let (_, identity) = ask(move |_| Reply::status(status, "<html>")).await;
        assert!(
            matches!(identity, Err(ImdsError::NotMetadata { .. })),
            "{status}: {identity:?}"
        );
    }
}

#[tokio::test]
async fn a_value_that_makes_no_sense_is_told_with_what_was_expected() {
    let text = async |path, reply| ask_with(path, reply).await.1.unwrap_err().to_string();
    assert_eq!(
        text("/mac", Reply::ok("../../user-data")).await,
        "instance metadata meta-data/mac is `../../user-data`, expected a MAC address"
    );
    assert_eq!(
        text("/local-ipv4", Reply::ok("<html>")).await,
        "instance metadata meta-data/local-ipv4 is `<html>`, expected an IP address"
    );
    assert_eq!(
        text(
            "/document",
            Reply::ok(r#"{"accountId":"1","region":"x","instanceId":"y"}"#)
        )
        .await,
        "instance metadata dynamic/instance-identity/document is `1`, \
         expected an account id (12 digits)"
    );
    let truncated = text("/document", Reply::ok("{\"accountId\":")).await;
    assert!(
        truncated.starts_with(
            "instance metadata dynamic/instance-identity/document could not be read: EOF"
        ),
        "{truncated}"
    );
}

#[test]
fn an_endpoint_that_is_none_is_told() {
    assert_eq!(
        Imds::at("169.254.169.254").unwrap_err().to_string(),
        "AWS_EC2_METADATA_SERVICE_ENDPOINT is `169.254.169.254`: it must start with http://"
    );
}

const SPOT: &str = "/spot/instance-action";
const LIFECYCLE: &str = "/autoscaling/target-lifecycle-state";

/// What the instance is told when these are its answers to the two questions.
async fn departure(spot: Reply, lifecycle: Reply) -> Result<Option<Departure>, ImdsError> {
    let server = Server::start(move |request| {
        if request.path.ends_with(SPOT) {
            spot.clone()
        } else if request.path.ends_with(LIFECYCLE) {
            lifecycle.clone()
        } else {
            instance(request)
        }
    })
    .await;
    Imds::at(&server.url).unwrap().departure().await
}

fn none() -> Reply {
    Reply::status(404, "Not Found")
}

#[tokio::test]
async fn an_instance_that_is_told_nothing_stays() {
    assert_eq!(departure(none(), none()).await, Ok(None));
    for state in ["InService", "InService\n", "Detached", ""] {
        assert_eq!(
            departure(none(), Reply::ok(state)).await,
            Ok(None),
            "{state}"
        );
    }
}

#[tokio::test]
async fn a_spot_notice_says_what_comes_and_when() {
    for (action, expected, words) in [
        ("terminate", SpotAction::Terminate, "terminates"),
        ("stop", SpotAction::Stop, "stops"),
        ("hibernate", SpotAction::Hibernate, "hibernates"),
    ] {
        let notice =
            format!(r#"{{"action": "{action}", "time": "2026-11-21T08:22:00Z", "new": 1}}"#);
        // Whatever the group says.
        for lifecycle in [none(), Reply::ok("InService"), Reply::status(503, "")] {
            let told = departure(Reply::ok(notice.clone()), lifecycle).await;
            let departure = told.unwrap().unwrap();
            let Departure::Spot { action, at } = departure else {
                panic!("{departure:?}");
            };
            assert_eq!(action, expected);
            assert_eq!(at.to_string(), "2026-11-21T08:22:00Z");
            assert_eq!(
                departure.to_string(),
                format!("EC2 {words} this spot instance at 2026-11-21T08:22:00Z")
            );
        }
    }
}

#[tokio::test]
async fn an_auto_scaling_group_takes_an_instance_out_of_service() {
    for (state, target) in [
        ("Terminated", LifecycleState::Terminated),
        ("Standby", LifecycleState::Standby),
        ("Warmed:Running", LifecycleState::Warmed),
        ("Warmed:Hibernated", LifecycleState::Warmed),
        ("Warmed:Stopped", LifecycleState::Warmed),
        ("Warmed:Terminated", LifecycleState::Warmed),
    ] {
        // Also where the other question fails.
        for spot in [none(), Reply::status(503, "")] {
            let told = departure(spot, Reply::ok(state)).await;
            assert_eq!(told, Ok(Some(Departure::AutoScaling { target })), "{state}");
        }
    }
}

#[tokio::test]
async fn a_notice_that_makes_no_sense_is_no_departure_but_an_error() {
    for notice in [
        "terminate",
        "{}",
        r#"{"action": "explode", "time": "2026-11-21T08:22:00Z"}"#,
        r#"{"action": "stop", "time": "soon"}"#,
        r#"{"action": "stop""#,
    ] {
        let error = departure(Reply::ok(notice), none()).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("meta-data/spot/instance-action is"),
            "{error}"
        );
    }
    let error = departure(none(), Reply::ok("<html>")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "instance metadata meta-data/autoscaling/target-lifecycle-state is `<html>`, \
         expected a lifecycle state such as InService or Terminated"
    );
    let error = departure(Reply::status(503, ""), none()).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
}

#[tokio::test]
async fn a_departure_is_told_once_outlasts_failures_and_can_be_taken_back() {
    let state = Arc::new(Mutex::new(Reply::ok("InService")));
    let asked = Arc::clone(&state);
    let server = Server::start(move |request| {
        if request.path.ends_with(LIFECYCLE) {
            asked.lock().unwrap().clone()
        } else {
            instance(request)
        }
    })
    .await;
    let imds = Imds::at(&server.url).unwrap();
    let mut watch = DepartureWatch::every(imds, Duration::from_millis(20));
    assert_eq!(watch.known(), None);
    let told = async |watch: &mut DepartureWatch| {
        let changed = tokio::time::timeout(Duration::from_secs(10), watch.changed());
        changed.await.expect("something new")
    };
    let leaving = Departure::AutoScaling {
        target: LifecycleState::Terminated,
    };
    *state.lock().unwrap() = Reply::ok("Terminated");
    assert_eq!(told(&mut watch).await, Some(leaving));
    for reply in [
        Reply::ok("<html>"),
        Reply::status(403, ""),
        Reply::ok("Terminated"),
    ] {
        *state.lock().unwrap() = reply;
        let quiet = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        assert_eq!(watch.known(), Some(leaving));
    }
    *state.lock().unwrap() = Reply::ok("InService");
    assert_eq!(told(&mut watch).await, None);
}
