//! Proofs that hold, and everything that must not. The answers of STS are as AWS
//! documents them (GetCallerIdentity, "Examples"), with other names.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use proptest::prelude::*;

use super::*;

const DATE: &str = "20261121T110000Z";
const SIGNATURE: &str = "fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024";
const CREDENTIAL: &str = "ASIAIOSFODNN7EXAMPLE/20261121/eu-west-1/sts/aws4_request";
const URL: &str = "https://sts.eu-west-1.amazonaws.com/";
const SPOKE: PublicKey = PublicKey::from_bytes([7; 32]);
const HUB: PublicKey = PublicKey::from_bytes([9; 32]);

struct Names {
    account: AccountId,
    instance: InstanceId,
}

impl Names {
    fn new() -> Self {
        Self {
            account: "111122223333".parse().unwrap(),
            instance: "i-0123456789abcdef0".parse().unwrap(),
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

fn authorization(credential: &str, signed: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={signature}"
    )
}

fn good() -> Proof {
    let headers = [
        ("content-type", QUESTION_TYPE.to_owned()),
        (SPOKE_KEY_HEADER, SPOKE.to_string()),
        (HUB_KEY_HEADER, HUB.to_string()),
        ("x-amz-date", DATE.to_owned()),
        (
            "authorization",
            authorization(CREDENTIAL, SIGNED, SIGNATURE),
        ),
        (
            "x-amz-security-token",
            "IQoJb3JpZ2luX2VjEXAMPLE//8=".to_owned(),
        ),
    ];
    Proof {
        url: URL.to_owned(),
        method: "POST".to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
        body: QUESTION.to_owned(),
    }
}

/// The good one, with one header otherwise.
fn with(name: &str, value: &str) -> Proof {
    let mut proof = good();
    let header = proof.headers.iter_mut().find(|(known, _)| known == name);
    value.clone_into(&mut header.unwrap().1);
    proof
}

fn at(date: &str) -> Timestamp {
    date.parse().unwrap()
}

fn checked(proof: &Proof) -> Result<Checked, ProofError> {
    let now = at("2026-11-21T11:00:03Z");
    check(proof, Names::new().claim(), &StsEndpoints::Aws, now)
}

#[test]
fn a_good_proof_becomes_the_request_to_send() {
    let proof = good();
    let checked = checked(&proof).unwrap();
    assert_eq!(checked.url, URL);
    assert_eq!(checked.headers, proof.headers);
    assert_eq!(checked.body, QUESTION);
    assert_eq!(checked.signature, SIGNATURE);
    assert_eq!(checked.expires, at("2026-11-21T11:05:00Z"));
    assert_eq!(checked.partition, Some("aws"));
    let shown = format!("{checked:?} {proof:?}");
    assert!(
        !shown.contains("IQoJ") && !shown.contains("ASIA"),
        "{shown}"
    );
}

#[test]
fn sts_is_asked_where_aws_has_it_and_nowhere_else() {
    for (url, partition) in [
        ("https://sts.eu-west-1.amazonaws.com/", "aws"),
        ("https://sts-fips.us-east-2.amazonaws.com/", "aws"),
        ("https://sts.us-gov-west-1.amazonaws.com/", "aws-us-gov"),
        ("https://sts.cn-north-1.amazonaws.com.cn/", "aws-cn"),
    ] {
        let region = sts_region(url);
        assert_eq!(region.as_ref().map(partition_of), Some(partition), "{url}");
    }
    for url in [
        "http://sts.eu-west-1.amazonaws.com/",
        "https://sts.eu-west-1.amazonaws.com",
        "https://sts.eu-west-1.amazonaws.com//",
        "https://sts.eu-west-1.amazonaws.com/?Action=AssumeRole",
        "https://sts.eu-west-1.amazonaws.com/#/",
        "https://sts.eu-west-1.amazonaws.com:443/",
        "https://sts.eu-west-1.amazonaws.com:8443/",
        "https://sts.eu-west-1.amazonaws.com./",
        "https://STS.eu-west-1.amazonaws.com/",
        "https://sts.EU-WEST-1.amazonaws.com/",
        "https://sts.eu-west-1.amazonaws.com.evil.example/",
        "https://sts.eu-west-1.amazonaws.com@evil.example/",
        "https://evil.example/sts.eu-west-1.amazonaws.com/",
        "https://evil.example\\sts.eu-west-1.amazonaws.com/",
        "https://user:word@sts.eu-west-1.amazonaws.com/",
        "https://sts.evil.example#.amazonaws.com/",
        "https://sts.evil.example/x-y-1.amazonaws.com/",
        "https://sts.eu-west-1.amazonaws.com\t/",
        " https://sts.eu-west-1.amazonaws.com/",
        "https://sts.eu-west-1.amazonaws.com\u{3002}cn/",
        "https://sts.eu-west-1.\u{430}mazonaws.com/",
        "https://\u{ff53}ts.eu-west-1.amazonaws.com/",
        "https://sts.amazonaws.com/",
        "https://ec2.eu-west-1.amazonaws.com/",
        "https://sts.eu-west-1.amazonaws.com.cn/",
        "https://sts.cn-north-1.amazonaws.com/",
        "https://169.254.169.254/",
        "https://[::1]/",
        "",
    ] {
        let proof = Proof {
            url: url.to_owned(),
            ..good()
        };
        assert_eq!(checked(&proof), Err(ProofError::Endpoint), "{url}");
    }
}

#[test]
fn an_endpoint_of_the_hubs_environment_is_the_only_one() {
    let names = Names::new();
    let only = StsEndpoints::Only("http://127.0.0.1:5000/".to_owned());
    let now = at("2026-11-21T11:00:03Z");
    let local = Proof {
        url: "http://127.0.0.1:5000/".to_owned(),
        ..good()
    };
    let checked = check(&local, names.claim(), &only, now).unwrap();
    assert_eq!(checked.partition, None);
    assert_eq!(
        check(&good(), names.claim(), &only, now),
        Err(ProofError::Endpoint)
    );
    assert_eq!(
        check(&local, names.claim(), &StsEndpoints::Aws, now),
        Err(ProofError::Endpoint)
    );
}

#[test]
fn only_the_one_question_is_sent() {
    for body in [
        "",
        "Action=AssumeRole&Version=2011-06-15",
        "Action=GetCallerIdentity&Version=2011-06-15&Action=AssumeRole",
        "Action=GetCallerIdentity&Version=2011-06-15 ",
        "action=GetCallerIdentity&Version=2011-06-15",
    ] {
        let proof = Proof {
            body: body.to_owned(),
            ..good()
        };
        assert_eq!(checked(&proof), Err(ProofError::Question), "{body}");
    }
    for method in ["GET", "post", "PUT", ""] {
        let proof = Proof {
            method: method.to_owned(),
            ..good()
        };
        assert_eq!(checked(&proof), Err(ProofError::Malformed("it is no POST")));
    }
    let json = with("content-type", "application/x-amz-json-1.1");
    assert_eq!(checked(&json), Err(ProofError::Question));
}

#[test]
fn a_proof_of_another_tunnel_is_worth_nothing_in_this_one() {
    let stranger = PublicKey::from_bytes([8; 32]).to_string();
    assert_eq!(
        checked(&with(SPOKE_KEY_HEADER, &stranger)),
        Err(ProofError::OtherKey)
    );
    assert_eq!(
        checked(&with(HUB_KEY_HEADER, &stranger)),
        Err(ProofError::OtherHub)
    );
}

#[test]
fn every_header_is_signed_and_there_is_no_other() {
    for signed in [
        "",
        "host",
        "content-type;host;x-amz-date;x-amz-security-token",
        "content-type;host;x-amz-date;x-amz-security-token;x-privnet-public-key",
        "content-type;host;x-amz-date;x-amz-security-token;x-privnet-hub-key",
        "content-type;x-amz-date;x-amz-security-token;x-privnet-hub-key;x-privnet-public-key",
        "Content-Type;host;x-amz-date;x-amz-security-token;x-privnet-hub-key;x-privnet-public-key",
    ] {
        let authorization = authorization(CREDENTIAL, signed, SIGNATURE);
        let proof = with("authorization", &authorization);
        assert_eq!(checked(&proof), Err(ProofError::Unsigned), "{signed}");
    }
    for (name, value) in [
        ("host", "sts.eu-west-1.amazonaws.com"),
        ("transfer-encoding", "chunked"),
        ("content-length", "0"),
        ("X-Amz-Date", DATE),
        ("x-amz-date", DATE),
        (
            SPOKE_KEY_HEADER,
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
        ),
        ("", ""),
    ] {
        let mut proof = good();
        proof.headers.push((name.to_owned(), value.to_owned()));
        let result = checked(&proof);
        assert!(
            matches!(result, Err(ProofError::Malformed(_))),
            "{name}: {result:?}"
        );
    }
    for missing in HEADERS {
        let mut proof = good();
        proof.headers.retain(|(name, _)| name != missing);
        let result = checked(&proof);
        assert_eq!(
            result,
            Err(ProofError::Malformed("a header is missing")),
            "{missing}"
        );
    }
    for value in [
        "a\r\nhost: evil.example",
        "a\nb",
        "a\0b",
        "\u{e9}",
        "a\u{7f}",
    ] {
        let result = checked(&with("x-amz-security-token", value));
        assert_eq!(
            result,
            Err(ProofError::Malformed("a header that is not plain text"))
        );
    }
}

#[test]
fn an_authorization_is_for_sts_in_the_region_and_on_the_day_of_the_proof() {
    let scope = ProofError::Malformed("a scope that is not its own");
    let form = ProofError::Malformed("an authorization that is not AWS's");
    for (credential, signature, error) in [
        (
            "ASIAIOSFODNN7EXAMPLE/20261121/us-east-1/sts/aws4_request",
            SIGNATURE,
            &scope,
        ),
        (
            "ASIAIOSFODNN7EXAMPLE/20261120/eu-west-1/sts/aws4_request",
            SIGNATURE,
            &scope,
        ),
        (
            "ASIAIOSFODNN7EXAMPLE/2026/eu-west-1/sts/aws4_request",
            SIGNATURE,
            &scope,
        ),
        (
            "ASIAIOSFODNN7EXAMPLE/20261121/eu-west-1/iam/aws4_request",
            SIGNATURE,
            &form,
        ),
        (
            "ASIAIOSFODNN7EXAMPLE/20261121/eu-west-1/sts",
            SIGNATURE,
            &form,
        ),
        ("ASIA/20261121/eu-west-1/sts/aws4_request", SIGNATURE, &form),
        (
            "ASIAIOSFODNN7EXAM LE/20261121/eu-west-1/sts/aws4_request",
            SIGNATURE,
            &form,
        ),
        (CREDENTIAL, &SIGNATURE[1..], &form),
        (CREDENTIAL, &SIGNATURE.to_uppercase(), &form),
        (CREDENTIAL, &format!("{SIGNATURE}, x=y"), &form),
    ] {
        let authorization = authorization(credential, SIGNED, signature);
        let result = checked(&with("authorization", &authorization));
        assert_eq!(result.as_ref(), Err(error), "{credential} {signature}");
    }
    for text in [
        "",
        "Bearer x",
        "AWS4-HMAC-SHA256",
        "AWS4-ECDSA-P256-SHA256 Credential=a",
    ] {
        assert_eq!(checked(&with("authorization", text)).as_ref(), Err(&form));
    }
}

#[test]
fn a_proof_is_good_for_five_minutes() {
    let names = Names::new();
    let at = |now: &str| {
        let now = now.parse().unwrap();
        check(&good(), names.claim(), &StsEndpoints::Aws, now).map(|_| ())
    };
    assert_eq!(at("2026-11-21T11:05:00Z"), Ok(()));
    assert_eq!(at("2026-11-21T11:05:01Z"), Err(ProofError::Expired(301)));
    assert_eq!(at("2026-11-21T10:59:00Z"), Ok(()));
    assert_eq!(at("2026-11-21T10:58:59Z"), Err(ProofError::Early(61)));
    assert_eq!(
        at("2027-11-21T11:00:00Z"),
        Err(ProofError::Expired(31_536_000))
    );
    for date in [
        "",
        "20261121T110000",
        "20261131T110000Z",
        "20261121T250000Z",
        "2026-11-21T11:00Z",
    ] {
        let day = date.get(..8).unwrap_or_default();
        let credential = CREDENTIAL.replace("20261121", day);
        let mut proof = with("x-amz-date", date);
        let header = proof
            .headers
            .iter_mut()
            .find(|(name, _)| name == "authorization");
        header.unwrap().1 = authorization(&credential, SIGNED, SIGNATURE);
        let result = checked(&proof);
        assert!(
            matches!(result, Err(ProofError::Malformed(_))),
            "{date}: {result:?}"
        );
    }
}

/// STS's answer as its API reference shows it, for an instance's role.
fn answer(arn: &str, user: &str, account: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  \
         <GetCallerIdentityResult>\n    <Arn>{arn}</Arn>\n    <UserId>{user}</UserId>\n    \
         <Account>{account}</Account>\n  </GetCallerIdentityResult>\n  <ResponseMetadata>\n    \
         <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>\n  </ResponseMetadata>\n\
         </GetCallerIdentityResponse>\n"
    )
}

const ARN: &str = "arn:aws:sts::111122223333:assumed-role/privnet-spoke/i-0123456789abcdef0";
const USER: &str = "AROACKCEVSQ6C2EXAMPLE:i-0123456789abcdef0";

fn judged(status: u16, body: &str) -> Result<(), ProofError> {
    judge(
        status,
        body.as_bytes(),
        Names::new().claim(),
        Some("aws"),
        &[],
    )
}

#[test]
fn the_instance_that_sts_names_is_the_one_that_ec2_named() {
    assert_eq!(judged(200, &answer(ARN, USER, "111122223333")), Ok(()));
    let other = ARN.replace("cdef0", "cdef1");
    let user = USER.replace("cdef0", "cdef1");
    let error = judged(200, &answer(&other, &user, "111122223333"));
    assert!(
        matches!(error, Err(ProofError::OtherInstance { .. })),
        "{error:?}"
    );
    let other = ARN.replace("111122223333", "444455556666");
    let error = judged(200, &answer(&other, USER, "444455556666"));
    assert!(
        matches!(error, Err(ProofError::OtherAccount { .. })),
        "{error:?}"
    );
}

#[test]
fn who_is_no_instance_proves_nothing() {
    for arn in [
        "arn:aws:iam::111122223333:user/i-0123456789abcdef0",
        "arn:aws:sts::111122223333:federated-user/i-0123456789abcdef0",
        "arn:aws:sts::111122223333:assumed-role/privnet-spoke/alice",
        "arn:aws:sts::111122223333:assumed-role/privnet-spoke/x/i-0123456789abcdef0",
        "arn:aws:sts::111122223333:assumed-role//i-0123456789abcdef0",
        "arn:aws:sts::111122223333:assumed-role/i-0123456789abcdef0",
        "arn:aws:sts:eu-west-1:111122223333:assumed-role/privnet-spoke/i-0123456789abcdef0",
        "arn:aws-cn:sts::111122223333:assumed-role/privnet-spoke/i-0123456789abcdef0",
        "arn:aws:sts::1111:assumed-role/privnet-spoke/i-0123456789abcdef0",
        "arn:aws:sts::111122223333:assumed-role/privnet-spoke/i-0123456789abcdef0:x",
    ] {
        let user = format!("AROA:{}", arn.rsplit('/').next().unwrap());
        let error = judged(200, &answer(arn, &user, "111122223333"));
        assert!(
            matches!(error, Err(ProofError::NotAnInstance(_))),
            "{arn}: {error:?}"
        );
    }
}

#[test]
fn an_answer_that_is_not_what_was_asked_for_is_no_proof() {
    let good = answer(ARN, USER, "111122223333");
    let bomb = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY b \"{}\">]>{good}",
        "&c;".repeat(1000)
    );
    let outside = format!(
        "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]>{}",
        good.replace(ARN, "&b;")
    );
    let twice = good.replace("<UserId>", &format!("<Arn>{ARN}</Arn><UserId>"));
    for body in [
        String::new(),
        "<html>".to_owned(),
        bomb,
        outside,
        twice,
        good.replace("2011-06-15/", "2011-06-16/"),
        good.replace("GetCallerIdentity", "AssumeRole"),
        good.replace("<Account>111122223333</Account>", ""),
        good.replace("<Account>111122223333", "<Account>444455556666"),
        good.replace(USER, "AROACKCEVSQ6C2EXAMPLE:i-0123456789abcdef1"),
        good.replace(USER, "AROACKCEVSQ6C2EXAMPLE"),
        good.replace(ARN, &format!("{ARN}<b/>")),
        good.replace("<Arn>", &"<x>".repeat(50)),
        format!("{good}{good}"),
        good.replace(
            "<ResponseMetadata>",
            &format!("{}<ResponseMetadata>", "<x/>".repeat(200)),
        ),
        good[..good.len() / 2].to_owned(),
    ] {
        let error = judged(200, &body);
        assert!(
            matches!(error, Err(ProofError::Unreadable(_))),
            "{body:.80}: {error:?}"
        );
    }
    let latin = judge(200, b"<a>\xe9</a>", Names::new().claim(), None, &[]);
    assert!(matches!(latin, Err(ProofError::Unreadable(_))));
}

#[test]
fn a_refusal_of_sts_is_told_from_a_failure() {
    // As STS's "Common errors" have it.
    let error = |code: &str| {
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
             <Type>Sender</Type><Code>{code}</Code><Message>m</Message></Error></ErrorResponse>"
        )
    };
    for code in [
        "SignatureDoesNotMatch",
        "InvalidClientTokenId",
        "ExpiredToken",
    ] {
        let refused = judged(403, &error(code));
        assert_eq!(refused, Err(ProofError::Refused(code.to_owned())));
    }
    for (status, body, code) in [
        (400, error("Throttling"), "Throttling"),
        (503, error("ServiceUnavailable"), "ServiceUnavailable"),
        (500, "<html>".to_owned(), "HTTP status 500"),
        (302, String::new(), "HTTP status 302"),
        (429, String::new(), "HTTP status 429"),
    ] {
        let failed = judged(status, &body);
        assert_eq!(failed, Err(ProofError::NoAnswer(code.to_owned())));
        assert!(failed.unwrap_err().is_temporary());
    }
    // Even if it says who it is.
    let refused = judged(403, &answer(ARN, USER, "111122223333"));
    assert!(
        matches!(refused, Err(ProofError::Refused(_))),
        "{refused:?}"
    );
}

proptest! {
    #[test]
    fn no_change_of_a_byte_makes_another_proof_good(
        which in 0_usize..8,
        position in any::<prop::sample::Index>(),
        byte in 32_u8..127,
    ) {
        let mut proof = good();
        let text = match which {
            0 => &mut proof.url,
            1 => &mut proof.body,
            header => &mut proof.headers[header - 2].1,
        };
        let position = position.index(text.len());
        text.replace_range(position..=position, &char::from(byte).to_string());
        // What is left to STS, which checks the signature: the time within its
        // bounds, the token, the key's name and the signature itself.
        let by_sts = ["x-amz-date", "authorization", "x-amz-security-token"];
        let same = |(new, old): (&(String, String), (String, String))| {
            *new == old || by_sts.contains(&old.0.as_str())
        };
        if let Ok(checked) = checked(&proof) {
            prop_assert!(checked.headers.iter().zip(good().headers).all(same));
            prop_assert_eq!(checked.url, URL);
        }
    }

    #[test]
    fn nothing_makes_the_judge_panic(
        status in 100_u16..600,
        body in prop::collection::vec(any::<u8>(), 0..300),
        arn in "\\PC{0,60}",
    ) {
        let names = Names::new();
        let _ = judge(status, &body, names.claim(), None, &[]);
        let told = judge(200, answer(&arn, USER, "111122223333").as_bytes(), names.claim(), None, &[]);
        prop_assert!(told.is_err());
    }
}
