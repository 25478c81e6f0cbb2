//! Whether a spoke is the instance that it says: its proof, and what STS says of
//! it, judged.
//!
//! A proof is a question to STS ("who am I?") that the spoke has signed with the
//! credentials of its instance's role and that the hub sends on. STS checks the
//! signature and names the signer, in whose name AWS puts the instance's id. What
//! is signed with it are both keys of the tunnel, so a proof cannot be carried to
//! another tunnel or another hub, and the time, so it cannot be kept.
//!
//! The hub sends a request that somebody else wrote, so nothing of it is taken
//! that is not known to the letter: [`check`] builds the request anew from parts
//! that passed. It must be the question and no other (the same credentials could
//! sign a request that changes things), go to STS and nowhere else, and have the
//! headers signed that say whom it is for.
//!
//! What this rests on: that only EC2 may assume the instance's role (its trust
//! policy), because whoever else may can choose a name that looks like an
//! instance's. So the operator can say which roles count.

mod caller;
mod replay;

use std::collections::BTreeMap;
use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use privnet_model::enrol::{HUB_KEY_HEADER, Proof, QUESTION, QUESTION_TYPE, SPOKE_KEY_HEADER};
use privnet_model::id::{AccountId, InstanceId, Region};
use privnet_model::key::PublicKey;

pub use caller::judge;
pub use replay::Replays;

/// How old a proof may be. AWS takes requests of up to 15 minutes; one that is
/// sent on at once needs none of it but the difference of two clocks.
pub const OLDEST: SignedDuration = SignedDuration::from_mins(5);
/// How far the spoke's clock may be ahead.
pub const EARLIEST: SignedDuration = SignedDuration::from_mins(1);

/// What must be signed: all headers that there are, and the host.
const SIGNED: &str =
    "content-type;host;x-amz-date;x-amz-security-token;x-privnet-hub-key;x-privnet-public-key";
/// The headers themselves: `authorization` in place of `host`.
const HEADERS: [&str; 6] = [
    "authorization",
    "content-type",
    "x-amz-date",
    "x-amz-security-token",
    HUB_KEY_HEADER,
    SPOKE_KEY_HEADER,
];

/// Of whom the proof must be.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The key of the tunnel that it came through.
    pub spoke_key: &'a PublicKey,
    /// The hub's own.
    pub hub_key: &'a PublicKey,
    /// The account that EC2 was asked in when it named the instance.
    pub account: &'a AccountId,
    /// The instance that published that key.
    pub instance: &'a InstanceId,
}

/// Where STS may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StsEndpoints {
    /// Where AWS has it: in any region of any of its partitions.
    Aws,
    /// At this URL alone, as the hub's own environment says.
    Only(String),
}

/// A proof that says what it should, as the request to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Checked {
    /// The URL.
    pub url: String,
    /// The headers; `host` follows from the URL.
    pub headers: Vec<(String, String)>,
    /// The body of the POST.
    pub body: &'static str,
    /// The signature, by which it is known again.
    pub signature: String,
    /// From when on it is too old.
    pub expires: Timestamp,
    /// The partition of AWS that is asked, as in ARNs; `None` is not known.
    pub partition: Option<&'static str>,
}

/// Its headers hold a session token.
impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checked(POST {})", self.url)
    }
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It is not made as ours are.
    #[error("the proof is not one: {0}")]
    Malformed(&'static str),
    /// It is to be asked of somebody else than STS.
    #[error("the proof is for an endpoint that is not STS's here")]
    Endpoint,
    /// It asks something else.
    #[error("the proof asks another question than who signed it")]
    Question,
    /// Part of it is not signed.
    #[error("the proof has other headers signed than it must have")]
    Unsigned,
    /// It was made for another tunnel.
    #[error("the proof is of another public key than this tunnel's")]
    OtherKey,
    /// It was made for another hub.
    #[error("the proof is for another hub")]
    OtherHub,
    /// It is too old.
    #[error("the proof is {0} s old, at most 300 are allowed; compare the clocks")]
    Expired(i64),
    /// It is from the future.
    #[error(
        "the proof is {0} s ahead of the hub's clock, at most 60 are allowed; compare the clocks"
    )]
    Early(i64),
    /// It was there before.
    #[error("the proof was used before")]
    Replayed,
    /// Too many came through this tunnel.
    #[error("more proofs than a tunnel may send in five minutes")]
    TooMany,
    /// STS does not accept the signature.
    #[error("STS does not accept the proof ({0})")]
    Refused(String),
    /// STS did not say.
    #[error("STS did not answer: {0}")]
    NoAnswer(String),
    /// STS's answer makes no sense.
    #[error("STS's answer is not understood: {0}")]
    Unreadable(&'static str),
    /// The signer is no instance.
    #[error("the proof is signed by {0}, which is not an instance's role")]
    NotAnInstance(String),
    /// The signer has another role than those that count.
    #[error("the proof is signed by role {0}, which is not in trust.proof_roles")]
    OtherRole(String),
    /// The signer is in another account.
    #[error("the proof is of account {found}, and the instance is in {expected}")]
    OtherAccount {
        /// STS's.
        found: String,
        /// EC2's.
        expected: AccountId,
    },
    /// The signer is another instance.
    #[error("the proof is of instance {found}, and the key was published by {expected}")]
    OtherInstance {
        /// STS's.
        found: InstanceId,
        /// EC2's.
        expected: InstanceId,
    },
}

impl ProofError {
    /// Whether the same spoke may succeed later without anybody changing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NoAnswer(_)
            | Self::TooMany
            | Self::Unreadable(_)
            | Self::Expired(_)
            | Self::Early(_)
            | Self::Replayed => true,
            Self::Malformed(_)
            | Self::Endpoint
            | Self::Question
            | Self::Unsigned
            | Self::OtherKey
            | Self::OtherHub
            | Self::Refused(_)
            | Self::NotAnInstance(_)
            | Self::OtherRole(_)
            | Self::OtherAccount { .. }
            | Self::OtherInstance { .. } => false,
        }
    }
}

/// Checks all of a proof that can be checked without STS.
///
/// # Errors
/// The first thing that is wrong. What STS would say is not known then.
pub fn check(
    proof: &Proof,
    claim: Claim<'_>,
    endpoints: &StsEndpoints,
    now: Timestamp,
) -> Result<Checked, ProofError> {
    if proof.method != "POST" {
        return Err(ProofError::Malformed("it is no POST"));
    }
    let (region, partition) = match endpoints {
        StsEndpoints::Aws => {
            let region = sts_region(&proof.url).ok_or(ProofError::Endpoint)?;
            let partition = partition_of(&region);
            (Some(region), Some(partition))
        }
        StsEndpoints::Only(url) if proof.url == *url => (None, None),
        StsEndpoints::Only(_) => return Err(ProofError::Endpoint),
    };
    if proof.body != QUESTION {
        return Err(ProofError::Question);
    }
    let headers = headers(proof)?;
    if headers["content-type"] != QUESTION_TYPE {
        return Err(ProofError::Question);
    }
    let date = headers["x-amz-date"];
    let signature = signature(headers["authorization"], date, region.as_ref())?;
    if headers[SPOKE_KEY_HEADER] != claim.spoke_key.to_string() {
        return Err(ProofError::OtherKey);
    }
    if headers[HUB_KEY_HEADER] != claim.hub_key.to_string() {
        return Err(ProofError::OtherHub);
    }
    let signed_at = timestamp(date)?;
    let age = now.duration_since(signed_at);
    if age > OLDEST {
        return Err(ProofError::Expired(age.as_secs()));
    }
    if -age > EARLIEST {
        return Err(ProofError::Early(-age.as_secs()));
    }
    Ok(Checked {
        url: proof.url.clone(),
        headers: proof.headers.clone(),
        body: QUESTION,
        signature: signature.to_owned(),
        // Cannot overflow by a time that is near ours.
        expires: signed_at.checked_add(OLDEST).unwrap_or(signed_at),
        partition,
    })
}

/// The region of a URL that is STS's, spelled as we spell it: nothing before the
/// name, no port, no path, no dot at the end.
fn sts_region(url: &str) -> Option<Region> {
    let host = url.strip_prefix("https://")?.strip_suffix('/')?;
    let rest = host
        .strip_prefix("sts.")
        .or_else(|| host.strip_prefix("sts-fips."))?;
    let in_china = |region: &Region| region.as_str().starts_with("cn-");
    if let Some(region) = rest.strip_suffix(".amazonaws.com.cn") {
        return region.parse().ok().filter(in_china);
    }
    let region = rest.strip_suffix(".amazonaws.com")?.parse().ok();
    region.filter(|region| !in_china(region))
}

/// The partition of AWS that a region is in, as ARNs name it.
fn partition_of(region: &Region) -> &'static str {
    match region.as_str() {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// The headers by name: these and no others, each once, none with anything that
/// could end it.
fn headers(proof: &Proof) -> Result<BTreeMap<&str, &str>, ProofError> {
    let mut headers = BTreeMap::new();
    for (name, value) in &proof.headers {
        if !HEADERS.contains(&name.as_str()) {
            return Err(ProofError::Malformed("a header that no proof has"));
        }
        if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(ProofError::Malformed("a header that is not plain text"));
        }
        if headers.insert(name.as_str(), value.as_str()).is_some() {
            return Err(ProofError::Malformed("a header twice"));
        }
    }
    match headers.len() == HEADERS.len() {
        true => Ok(headers),
        // An instance's credentials are temporary, so there is a token as well.
        false => Err(ProofError::Malformed("a header is missing")),
    }
}

/// The signature in an `Authorization` header, after all that it says it signs.
///
/// `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/sts/aws4_request,
/// SignedHeaders=a;b;c, Signature=HEX` ("Create a signed AWS API request", AWS).
fn signature<'h>(
    authorization: &'h str,
    date: &str,
    region: Option<&Region>,
) -> Result<&'h str, ProofError> {
    let malformed = ProofError::Malformed("an authorization that is not AWS's");
    let parts = authorization
        .strip_prefix("AWS4-HMAC-SHA256 Credential=")
        .and_then(|rest| rest.split_once(", SignedHeaders="))
        .and_then(|(scope, rest)| Some((scope, rest.split_once(", Signature=")?)));
    let Some((scope, (signed, signature))) = parts else {
        return Err(malformed);
    };
    if signed != SIGNED {
        return Err(ProofError::Unsigned);
    }
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if signature.len() != 64 || !signature.bytes().all(hex) {
        return Err(malformed);
    }
    let scope: Vec<&str> = scope.split('/').collect();
    let [key, day, scope_region, "sts", "aws4_request"] = scope[..] else {
        return Err(malformed);
    };
    let known = |byte: u8| byte.is_ascii_alphanumeric();
    if !(16..=128).contains(&key.len()) || !key.bytes().all(known) {
        return Err(malformed);
    }
    let same_region = match region {
        Some(region) => region.as_str() == scope_region,
        None => scope_region.parse::<Region>().is_ok(),
    };
    match same_region && date.starts_with(day) && day.len() == 8 {
        true => Ok(signature),
        false => Err(ProofError::Malformed("a scope that is not its own")),
    }
}

/// `20261121T110000Z`, to the letter.
fn timestamp(date: &str) -> Result<Timestamp, ProofError> {
    let malformed = ProofError::Malformed("a time that is none");
    if date.len() != 16 {
        return Err(malformed);
    }
    let Ok(time) = DateTime::strptime("%Y%m%dT%H%M%SZ", date) else {
        return Err(malformed);
    };
    let zoned = time.to_zoned(TimeZone::UTC).map_err(|_| malformed)?;
    Ok(zoned.timestamp())
}

#[cfg(test)]
mod tests;
