//! A proof of identity from end to end: signed, checked, carried to STS, judged.
//!
//! Against moto as far as moto goes: it names the role and session that the access
//! key belongs to. It does not look at the signature, so what AWS does with a
//! wrong one is shown by a server that answers as its API reference has it, named as such.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use jiff::Timestamp;
use privnet_model::enrol::Proof;
use privnet_model::id::{AccountId, InstanceId};
use privnet_model::key::PublicKey;
use privnet_reconcile::proof::{Checked, Claim, ProofError, Replays, StsEndpoints, check, judge};

use super::answers::region;
use super::moto::Moto;
use super::server::{Reply, Server};
use crate::signed::{Request, Service};
use crate::{CallError, ProofCourier, ProofSigner, SdkContext};

const SPOKE: PublicKey = PublicKey::from_bytes([7; 32]);
const HUB: PublicKey = PublicKey::from_bytes([9; 32]);
const INSTANCE: &str = "i-0123456789abcdef0";
const ACCOUNT: &str = "111122223333";

struct Names {
    account: AccountId,
    instance: InstanceId,
}

impl Names {
    fn of(account: &str, instance: &str) -> Self {
        Self {
            account: account.parse().unwrap(),
            instance: instance.parse().unwrap(),
        }
    }

    fn claim(&self) -> Claim<'_> {
        Claim {
            spoke_key: &SPOKE,
            hub_key: &HUB,
            account: &self.account,
            instance: &self.instance,
        }
    }
}

/// The credentials that moto gives an instance's role, by AssumeRole with the
/// instance as the session, which is what EC2 does.
async fn assume(moto: &Moto, session: &str) -> Credentials {
    let region = region("eu-west-1");
    let (url, _) = moto.context.endpoint(Service::Sts, &region);
    let role = format!("arn%3Aaws%3Aiam%3A%3A{ACCOUNT}%3Arole%2Fprivnet-spoke");
    let mut request = Request {
        url,
        headers: vec![(
            "content-type".to_owned(),
            "application/x-www-form-urlencoded".to_owned(),
        )],
        body: format!(
            "Action=AssumeRole&Version=2011-06-15&RoleArn={role}&RoleSessionName={session}"
        ),
    };
    let now = SystemTime::now();
    let signed = moto.context.sign(Service::Sts, &region, &mut request, now);
    signed.await.unwrap();
    let patience = Duration::from_secs(60);
    let answer = moto.context.send(request, patience, 16_384).await.unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let part = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>")).expect(&text);
        rest.split_once('<').unwrap().0.to_owned()
    };
    Credentials::new(
        part("AccessKeyId"),
        part("SecretAccessKey"),
        Some(part("SessionToken")),
        None,
        "moto",
    )
}

async fn prove(url: &str, credentials: Credentials) -> Proof {
    let context = SdkContext::for_test_as(url, credentials).await;
    let signer = ProofSigner::new(&context, &region("eu-west-1"));
    signer.sign(&SPOKE, &HUB).await.unwrap()
}

/// As the hub does it.
fn checked(courier: &ProofCourier, proof: &Proof, names: &Names) -> Result<Checked, ProofError> {
    let endpoints = match courier.endpoint() {
        Some(url) => StsEndpoints::Only(url.to_owned()),
        None => StsEndpoints::Aws,
    };
    check(proof, names.claim(), &endpoints, Timestamp::now())
}

async fn judged(courier: &ProofCourier, proof: &Proof, names: &Names) -> Result<(), ProofError> {
    let checked = checked(courier, proof, names)?;
    let said = courier
        .ask(checked.url, checked.headers, checked.body)
        .await;
    let said = said.map_err(|error| ProofError::NoAnswer(error.to_string()))?;
    judge(
        said.status,
        &said.body,
        names.claim(),
        checked.partition,
        &[],
    )
}

#[tokio::test]
async fn an_instances_role_proves_the_instance_and_nothing_else() {
    let moto = Moto::start().await;
    let courier = ProofCourier::new(&moto.context, &region("us-east-1"));
    let proof = prove(&moto.url, assume(&moto, INSTANCE).await).await;
    let own = Names::of(ACCOUNT, INSTANCE);
    assert_eq!(judged(&courier, &proof, &own).await, Ok(()));

    let other = Names::of(ACCOUNT, "i-0123456789abcdef1");
    let error = judged(&courier, &proof, &other).await;
    assert!(
        matches!(error, Err(ProofError::OtherInstance { .. })),
        "{error:?}"
    );
    let other = Names::of("444455556666", INSTANCE);
    let error = judged(&courier, &proof, &other).await;
    assert!(
        matches!(error, Err(ProofError::OtherAccount { .. })),
        "{error:?}"
    );

    let person = prove(&moto.url, assume(&moto, "alice").await).await;
    let error = judged(&courier, &person, &own).await;
    assert!(
        matches!(error, Err(ProofError::NotAnInstance(_))),
        "{error:?}"
    );
    // A user's keys have no session token; moto calls whom it does not know a user.
    let user = prove(
        &moto.url,
        Credentials::new("AKIAIOSFODNN7EXAMPLE", "secret", None, None, "test"),
    );
    let error = judged(&courier, &user.await, &own).await;
    assert_eq!(error, Err(ProofError::Malformed("a header is missing")));
}

#[tokio::test]
async fn what_is_signed_is_what_the_hub_insists_on_and_a_second_time_is_refused() {
    let credentials = Credentials::new(
        "ASIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        Some("IQoJb3JpZ2luX2VjEXAMPLE".to_owned()),
        None,
        "test",
    );
    // As on a real host, where no environment names an endpoint.
    let proof = prove_at_aws(credentials);
    assert_eq!(proof.url, "https://sts.eu-west-1.amazonaws.com/");
    let names = Names::of(ACCOUNT, INSTANCE);
    let now = Timestamp::now();
    let checked = check(&proof, names.claim(), &StsEndpoints::Aws, now).unwrap();
    let mut replays = Replays::default();
    assert_eq!(replays.admit(&SPOKE, &checked, now), Ok(()));
    let again = replays.admit(&SPOKE, &checked, now);
    assert_eq!(again, Err(ProofError::Replayed));
}

fn prove_at_aws(credentials: Credentials) -> Proof {
    let region = region("eu-west-1");
    let mut request = crate::proof::question(
        "https://sts.eu-west-1.amazonaws.com/".to_owned(),
        &SPOKE,
        &HUB,
    );
    let now = SystemTime::now();
    crate::signed::sign_with(credentials, Service::Sts, &region, &mut request, now).unwrap();
    crate::proof::signed(request)
}

/// STS's own answer to a proof whose key was changed on the way, as its "Common
/// errors" of its API reference have it: moto does not check signatures.
const MISMATCH: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  \
    <Error>\n    <Type>Sender</Type>\n    <Code>SignatureDoesNotMatch</Code>\n    <Message>The \
    request signature we calculated does not match the signature you provided. Check your AWS \
    Secret Access Key and signing method. Consult the service documentation for details.</Message>\n  \
    </Error>\n  <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>\n</ErrorResponse>";

#[tokio::test]
async fn the_hub_carries_the_question_unchanged_and_believes_only_sts() {
    let location = "Location: http://127.0.0.1:9/\r\n";
    let cases: [(u16, &str, &str); 4] = [
        (403, MISMATCH, "SignatureDoesNotMatch"),
        (302, "", "HTTP status 302"),
        (200, "<html/>", "not understood"),
        (503, "", "HTTP status 503"),
    ];
    for (status, body, expected) in cases {
        let server = Server::start(move |_| Reply::Answer {
            status,
            header: location,
            body: body.to_owned(),
        })
        .await;
        let token = Some("IQoJb3JpZ2luX2VjEXAMPLE".to_owned());
        let credentials = Credentials::new("ASIAIOSFODNN7EXAMPLE", "secret", token, None, "test");
        let proof = prove(&server.url, credentials).await;
        let context = SdkContext::for_test(&server.url, 1).await;
        let courier = ProofCourier::new(&context, &region("us-east-1"));
        let names = Names::of(ACCOUNT, INSTANCE);
        let error = judged(&courier, &proof, &names).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let requests = server.requests();
        assert_eq!(requests.len(), 1);
        let request = &requests[0];
        assert_eq!(request.method, "POST");
        assert_eq!(request.body, proof.body);
        for (name, value) in &proof.headers {
            assert_eq!(request.headers.get(name), Some(value), "{name}");
        }
        assert_eq!(format!("http://{}", request.headers["host"]), server.url);
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let server = Server::start(|_| Reply::ok("x".repeat(1_000_000))).await;
    let context = SdkContext::for_test(&server.url, 1).await;
    let courier = ProofCourier::new(&context, &region("eu-west-1"));
    let url = courier.endpoint().unwrap().to_owned();
    let error = courier.ask(url, Vec::new(), "").await.map(|_| ());
    assert_eq!(error, Err(CallError::TooLong { most: 16 * 1024 }));
}
