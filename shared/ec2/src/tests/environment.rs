//! What the environment variables of AWS's tools do. A process cannot change
//! its own safely, so these tests run themselves again in another one.

use std::time::Duration;

use super::answers::{discovery, instances, only, region};
use super::imds;
use super::server::{Reply, Server};
use crate::{Imds, ImdsError, Known, SdkContext, parameter_text};

/// Runs one ignored test of this file with these variables and no others of AWS.
async fn run_with(test: &str, variables: &[(&str, &str)]) {
    let name = format!("tests::environment::{test}");
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", &name, "--nocapture"]);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("AWS_") {
            command.env_remove(variable);
        }
    }
    let output = command
        .envs(variables.iter().copied())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[tokio::test]
async fn endpoint_and_credentials_come_from_the_environment() {
    let server = Server::start(|_| Reply::ok(instances([], None))).await;
    for endpoint in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"] {
        run_with(
            "child_polls_the_endpoint_of_its_environment",
            &[
                (endpoint, &server.url),
                ("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_EC2_METADATA_DISABLED", "true"),
            ],
        )
        .await;
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| {
        request.headers["authorization"].contains("AKIAENVIRONMENT")
            && request.headers["user-agent"].contains("privnet")
            && request.region() == "us-west-2"
    }));
}

#[tokio::test]
#[ignore = "run by endpoint_and_credentials_come_from_the_environment"]
async fn child_polls_the_endpoint_of_its_environment() {
    let context = SdkContext::load(&region("eu-west-1")).await;
    let discovery = discovery(&context, &["us-west-2"], Duration::from_secs(30));
    assert_eq!(only(discovery.poll(&Known::new()).await), Ok(vec![]));
}

#[tokio::test]
async fn a_parameter_is_asked_for_in_the_region_of_the_instance() {
    let server = Server::start(|request| match request.path.as_str() {
        "/" => Reply::ok(r#"{"Parameter":{"Type":"String","Value":"a = 1\n"}}"#),
        _ => imds::instance(request),
    })
    .await;
    run_with(
        "child_reads_a_parameter",
        &[
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url),
            ("AWS_ENDPOINT_URL_SSM", &server.url),
            ("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ],
    )
    .await;
    let requests = server.requests();
    let asked = requests.last().unwrap();
    assert_eq!(asked.headers["x-amz-target"], "AmazonSSM.GetParameter");
    assert_eq!(asked.region(), "eu-west-1");
}

#[tokio::test]
#[ignore = "run by a_parameter_is_asked_for_in_the_region_of_the_instance"]
async fn child_reads_a_parameter() {
    let text = parameter_text("/privnet/hub/config").await;
    assert_eq!(text, Ok("a = 1\n".to_owned()));
}

#[tokio::test]
async fn the_metadata_service_is_where_the_environment_says_and_off_when_it_says() {
    let server = Server::start(|_| Reply::status(403, "")).await;
    run_with(
        "child_is_refused_by_the_metadata_service",
        &[
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ],
    )
    .await;
    assert_eq!(server.requests().len(), 1);
    run_with(
        "child_has_no_metadata_service",
        &[("AWS_EC2_METADATA_DISABLED", "true")],
    )
    .await;
}

#[tokio::test]
#[ignore = "run by the_metadata_service_is_where_the_environment_says_and_off_when_it_says"]
async fn child_is_refused_by_the_metadata_service() {
    let identity = Imds::from_env().unwrap().identity().await;
    assert!(
        matches!(identity, Err(ImdsError::Refused { .. })),
        "{identity:?}"
    );
}

#[test]
#[ignore = "run by the_metadata_service_is_where_the_environment_says_and_off_when_it_says"]
fn child_has_no_metadata_service() {
    assert!(matches!(Imds::from_env(), Err(ImdsError::SwitchedOff)));
}
