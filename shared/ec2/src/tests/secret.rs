//! Secrets and configurations in the Parameter Store: from moto, as far as it behaves
//! like SSM, and from a server that answers as SSM does when it does not give them.

use std::time::{Duration, SystemTime};

use privnet_model::doctor::Verdict;
use privnet_model::ipsec::IkeSecret;
use privnet_model::key::{PresharedKey, PrivateKey};

use super::answers::region;
use super::moto::Moto;
use super::server::{Reply, Server};
use crate::doctor::hub_key;
use crate::signed::{Request, Service};
use crate::{
    CallError, ParameterStore, SdkContext, SecretFetchError, SecretFetchReason, TextError,
};

const SECRET: &str = "correct horse battery staple, and some more";
const BEFORE: &str = "what the fleet had in common before today";

async fn put(context: &SdkContext, name: &str, kind: &str, value: &str) {
    let region = region("eu-west-1");
    let (url, _) = context.endpoint(Service::Ssm, &region);
    let body = serde_json::json!({ "Name": name, "Type": kind, "Value": value });
    let mut request = Request {
        url,
        headers: vec![
            ("content-type".into(), "application/x-amz-json-1.1".into()),
            ("x-amz-target".into(), "AmazonSSM.PutParameter".into()),
        ],
        body: body.to_string(),
    };
    let now = SystemTime::now();
    let signed = context.sign(Service::Ssm, &region, &mut request, now);
    signed.await.unwrap();
    let answer = context.send(request, Duration::from_secs(60), 4096).await;
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn a_secure_string_is_decrypted_and_whatever_else_there_is_is_refused() {
    let moto = Moto::start().await;
    let store = ParameterStore::new(&moto.context, &region("eu-west-1"));
    let both = format!("{SECRET}\n{BEFORE}\n");
    for (name, kind, value) in [
        ("/privnet/psk", "SecureString", both.as_str()),
        ("/privnet/open", "String", SECRET),
        ("/privnet/weak", "SecureString", "hunter2"),
    ] {
        put(&moto.context, name, kind, value).await;
    }
    let secret = store.fleet_secret("/privnet/psk").await.unwrap();
    assert_eq!(secret, both.parse().unwrap());

    for (name, said) in [
        ("/privnet/none", "there is none"),
        ("/privnet/open", "it is a String, expected a SecureString"),
        ("/privnet/weak", "line 1 has 7 bytes"),
    ] {
        let error = store.fleet_secret(name).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(said) && shown.contains(name), "{shown}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("horse"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_private_key_comes_as_it_was_put_and_nothing_else_passes_for_one() {
    let moto = Moto::start().await;
    let store = ParameterStore::new(&moto.context, &region("eu-west-1"));
    let key = PrivateKey::from_random([7; 32]);
    let line = format!("{}\n", *key.to_base64());
    for (name, kind, value) in [
        ("/privnet/hub", "SecureString", line.as_str()),
        ("/privnet/open", "String", &line),
        ("/privnet/psk", "SecureString", SECRET),
    ] {
        put(&moto.context, name, kind, value).await;
    }
    let found = store.private_key("/privnet/hub").await.unwrap();
    assert_eq!(found.public(), key.public());
    let other = PrivateKey::from_random([8; 32]).public();
    for (name, in_use, verdict) in [
        ("/privnet/hub", None, Verdict::Ok),
        ("/privnet/hub", Some(key.public()), Verdict::Ok),
        ("/privnet/hub", Some(other), Verdict::Wrong),
        ("/privnet/none", Some(key.public()), Verdict::Wrong),
    ] {
        let region = region("eu-west-1");
        let patience = Duration::from_secs(10);
        let finding = hub_key(&moto.context, &region, name, in_use, patience).await;
        assert_eq!(finding.verdict, verdict, "{finding:?}");
    }
    for (name, said) in [
        ("/privnet/none", "there is none"),
        ("/privnet/open", "it is a String, expected a SecureString"),
        ("/privnet/psk", "it holds no private key"),
    ] {
        let error = store.private_key(name).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(said) && shown.contains(name), "{shown}");
        assert!(
            !shown.contains("horse") && !shown.contains(line.trim_end()),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_sites_key_comes_as_it_was_put_and_nothing_else_passes_for_one() {
    let moto = Moto::start().await;
    let store = ParameterStore::new(&moto.context, &region("eu-west-1"));
    let key = PrivateKey::from_random([7; 32]);
    let line = format!("{}\n", *key.to_base64());
    for (name, kind, value) in [
        ("/privnet/site/wg", "SecureString", line.as_str()),
        ("/privnet/site/ike", "SecureString", "hunter2 horse\n"),
        ("/privnet/site/weak", "SecureString", "hunter2"),
        ("/privnet/site/open", "String", SECRET),
    ] {
        put(&moto.context, name, kind, value).await;
    }
    let found = store.preshared_key("/privnet/site/wg").await.unwrap();
    let expected: PresharedKey = line.parse().unwrap();
    assert_eq!(found, expected);
    let found = store.ike_secret("/privnet/site/ike").await.unwrap();
    assert_eq!(found, IkeSecret::new("hunter2 horse").unwrap());
    let by_wireguard = [
        ("/privnet/site/none", "there is none"),
        (
            "/privnet/site/open",
            "it is a String, expected a SecureString",
        ),
        (
            "/privnet/site/ike",
            "it holds no preshared key, as `wg genpsk`",
        ),
    ];
    for (name, said) in by_wireguard {
        refused(name, said, &store.preshared_key(name).await.unwrap_err());
    }
    let by_ipsec = [
        ("/privnet/site/none", "there is none"),
        (
            "/privnet/site/open",
            "it is a String, expected a SecureString",
        ),
        ("/privnet/site/weak", "it holds no preshared key for IPsec"),
    ];
    for (name, said) in by_ipsec {
        refused(name, said, &store.ike_secret(name).await.unwrap_err());
    }
}

fn refused(name: &str, said: &str, error: &SecretFetchError) {
    let shown = format!("{error} {error:?}");
    assert!(shown.contains(said) && shown.contains(name), "{shown}");
    let secret = ["hunter2", "horse"].iter().any(|it| shown.contains(it));
    assert!(!secret, "{shown}");
}

#[tokio::test]
async fn a_text_comes_as_it_was_put_encrypted_or_not() {
    let moto = Moto::start().await;
    let store = ParameterStore::new(&moto.context, &region("eu-west-1"));
    let config = "privnet = \"10.0.0.0/8\"\n\n[discovery]\nregions = ['eu-west-1']\n# \u{e9}\n";
    for kind in ["String", "SecureString"] {
        let name = format!("/privnet/{kind}");
        put(&moto.context, &name, kind, config).await;
        assert_eq!(store.text(&name).await.unwrap(), config);
    }
    put(&moto.context, "/privnet/list", "StringList", "a,b").await;
    for (name, said) in [
        (
            "/privnet/list",
            "it is a StringList, expected a String or a SecureString",
        ),
        ("/privnet/none", "there is none"),
    ] {
        let error = TextError::from(store.text(name).await.unwrap_err());
        let shown = error.to_string();
        assert!(shown.contains(said) && shown.contains(name), "{shown}");
        assert!(!error.is_temporary(), "{shown}");
    }
}

#[tokio::test]
async fn the_longest_text_that_ssm_takes_is_read() {
    let long = "\"\n".repeat(4096);
    let found = serde_json::json!({ "Parameter": { "Type": "String", "Value": long } });
    let body = found.to_string();
    let server = Server::start(move |_| Reply::ok(body.clone())).await;
    let context = SdkContext::for_test(&server.url, 1).await;
    let store = ParameterStore::new(&context, &region("eu-west-1"));
    assert_eq!(store.text("config").await.unwrap(), long);
}

#[tokio::test]
async fn what_the_next_time_may_mend_is_told_from_what_stays() {
    for (status, body, temporary) in [
        (400, r#"{"__type":"ParameterNotFound"}"#, false),
        (400, r#"{"__type":"ValidationException"}"#, false),
        // A permission that was given with the instance takes some seconds.
        (400, r#"{"__type":"AccessDeniedException"}"#, true),
        (400, r#"{"__type":"ThrottlingException"}"#, true),
        (400, r#"{"__type":"InvalidSignatureException"}"#, true),
        (503, "<html>", true),
        (200, "{}", true),
    ] {
        let server = Server::start(move |_| Reply::status(status, body)).await;
        let context = SdkContext::for_test(&server.url, 1).await;
        let store = ParameterStore::new(&context, &region("eu-west-1"));
        let error = TextError::from(store.text("config").await.unwrap_err());
        assert_eq!(error.is_temporary(), temporary, "{status} {body}: {error}");
    }
    let nobody = SdkContext::for_test("http://127.0.0.1:9", 1).await;
    let store = ParameterStore::new(&nobody, &region("eu-west-1"));
    let error = TextError::from(store.text("config").await.unwrap_err());
    assert!(error.is_temporary(), "{error}");
}

/// What SSM says, by its API reference ("GetParameter", "Common errors").
#[tokio::test]
async fn a_refusal_is_told_for_what_it_is() {
    for (status, body, expected) in [
        (
            400,
            r#"{"__type":"AccessDeniedException","Message":"not authorized"}"#,
            "ssm:GetParameter",
        ),
        (
            400,
            r#"{"__type":"com.amazonaws.ssm#ParameterVersionNotFound"}"#,
            "there is none",
        ),
        (
            400,
            r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#,
            "Rate exceeded (ThrottlingException)",
        ),
        (503, "<html>", "HTTP status 503"),
        (302, "", "HTTP status 302"),
        (200, "{}", "makes no sense"),
        (
            200,
            r#"{"Parameter":{"Type":"SecureString"}}"#,
            "makes no sense",
        ),
    ] {
        let server = Server::start(move |_| Reply::Answer {
            status,
            header: "Location: /elsewhere\r\n",
            body: body.to_owned(),
        })
        .await;
        let context = SdkContext::for_test(&server.url, 1).await;
        let store = ParameterStore::new(&context, &region("eu-west-1"));
        let error = store.fleet_secret("psk").await.unwrap_err().to_string();
        assert!(error.contains(expected), "{status} {body}: {error}");
        let requests = server.requests();
        assert_eq!(requests.len(), 1, "{status} {body}");
        let request = &requests[0];
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("POST", "/")
        );
        assert_eq!(request.region(), "eu-west-1");
        assert_eq!(request.headers["x-amz-target"], "AmazonSSM.GetParameter");
        let signed = &request.headers["authorization"];
        for part in ["/ssm/aws4_request", "content-type;host;", ";x-amz-target"] {
            assert!(signed.contains(part), "{signed}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_end_or_does_not_come_is_an_error() {
    let long = format!(
        r#"{{"Parameter":{{"Type":"SecureString","Value":"{}"}}}}"#,
        SECRET.repeat(1000)
    );
    let cut = r#"{"Parameter":"#;
    for (reply, reason) in [
        (Reply::ok(long), "more than 32768 bytes"),
        (
            Reply::Shorter {
                promised: 500,
                body: cut.to_owned(),
            },
            "cannot be read",
        ),
        (Reply::UntilClose(cut.to_owned()), "makes no sense"),
    ] {
        let server = Server::start(move |_| reply.clone()).await;
        let context = SdkContext::for_test(&server.url, 1).await;
        let store = ParameterStore::new(&context, &region("eu-west-1"));
        let error = store.fleet_secret("psk").await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains("horse"), "{error}");
    }
    let nobody = SdkContext::for_test("http://127.0.0.1:9", 1).await;
    let store = ParameterStore::new(&nobody, &region("eu-west-1"));
    let error = store.fleet_secret("psk").await.unwrap_err();
    assert!(
        matches!(
            error.reason,
            SecretFetchReason::Call(CallError::Unreachable { .. })
        ),
        "{error:?}"
    );

    let nameless = SdkContext::for_test_without_credentials("http://127.0.0.1:9").await;
    let store = ParameterStore::new(&nameless, &region("eu-west-1"));
    let error = store.fleet_secret("psk").await.unwrap_err().to_string();
    assert!(error.contains("give the instance a role"), "{error}");
}

#[tokio::test]
async fn a_store_that_is_silent_is_given_up() {
    let server = Server::start(|_| Reply::Silence).await;
    let context = SdkContext::for_test(&server.url, 1).await;
    let request = Request {
        url: format!("{}/", server.url),
        headers: Vec::new(),
        body: String::new(),
    };
    let patience = Duration::from_millis(200);
    let answer = context.send(request, patience, 100).await;
    assert_eq!(
        answer.map(|answer| answer.status),
        Err(CallError::NoAnswer { after: patience })
    );
}
