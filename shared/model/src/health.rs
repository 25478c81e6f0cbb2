//! What the spokes of one VPC ask and tell each other about their health: datagrams
//! of UDP between their private addresses, signed by a key of the fleet's secret.
//!
//! | | bytes |
//! |---|---|
//! | `PVH1`, and 1 for a question or 2 for an answer | 5 |
//! | who asks, who is asked: each its length and the instance id | 2 × (1 + 10 … 34) |
//! | the nonce: the asker's, and the same in the answer | 16 |
//! | of an answer alone: the [`HealthReport`] | 10 … |
//! | how many signatures, 1 or 2, and each HMAC-SHA256 over all before the count | 1 + 32 … 64 |
//!
//! The key belongs to the two instances and to who of them asks (HKDF, both ids
//! in `info`), and the kind is among what is signed: nothing that one pair says is
//! worth anything to another, or in the other direction. While the fleet's secret
//! is changed there are two signatures, and either will do: a sibling that has not
//! read the new one yet must not look lost.
//!
//! What the nonce is good for is the asker's to hold: an answer counts once, and only
//! to a question that still waits ([`Answer::is_to`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::id::{InstanceId, RouteTableId};
use crate::secret::FleetSecret;

/// The UDP port that a spoke answers on unless told otherwise; the tunnel has 51820,
/// the hub's port inside its tunnels is 51821.
pub const DEFAULT_HEALTH_PORT: u16 = 51822;
/// The longest datagram. Less than the 9001 bytes of a VPC's MTU, more than the longest answer.
pub const MOST_BYTES: usize = 8900;
/// As many route tables as a VPC has at most, unless AWS is asked for more ("Route
/// tables per VPC" among the quotas of Amazon VPC). Further ones are not told.
pub const MOST_TABLES: usize = 200;
/// Siblings that one tells of hearing. Further ones are not told.
pub const MOST_HEARD: usize = 30;
/// Bytes of a reason. A longer one is cut.
pub const MOST_REASON: usize = 200;

/// The salt of the derivation. Another way to derive gets another number.
const SALT: &[u8] = b"privnet health v1";
const MAGIC: &[u8] = b"PVH1";
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const SIGNATURE_BYTES: usize = 32;
const CHANGES_ROUTES: u8 = 1;
const LACKS_TUNNEL: u8 = 2;

/// What makes a question unlike any before. Drawn at random by whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 16]);

/// "How are you?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who asks.
    pub from: InstanceId,
    /// Who is asked.
    pub to: InstanceId,
    /// What the answer must repeat.
    pub nonce: Nonce,
}

/// What one says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The question that it is the answer to.
    pub question: Question,
    /// How the one that was asked is.
    pub report: HealthReport,
}

/// How a spoke says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether it can carry traffic.
    pub condition: Condition,
    /// For how long it has been well without a break, by its own self-tests, in
    /// whole seconds; nothing if it is not.
    pub well_for: Duration,
    /// Whether it could change routes: its last request to EC2 succeeded.
    pub changes_routes: bool,
    /// Whether its tunnel to the hub is up, or it has none to have.
    pub has_tunnel: bool,
    /// Its home tables.
    pub tables: BTreeSet<RouteTableId>,
    /// The siblings that answered it that they are well, and how long ago it asked them so, in
    /// whole milliseconds: for who cannot hear them itself.
    pub hears: BTreeMap<InstanceId, Duration>,
}

/// Whether a spoke can carry traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Its last self-test passed.
    Well,
    /// It did not.
    Sick {
        /// What did not pass.
        why: String,
    },
    /// It has begun not long ago, and none has passed yet. After a restart what it
    /// served before still leads to it, and the kernel may go on to forward.
    Starting {
        /// What has not passed yet.
        why: String,
    },
    /// It is about to stop, and hands over what it has.
    Leaving,
}

/// Why a datagram is none of ours. Nothing is answered to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HealthError {
    /// It does not start as ours do, or is not of the kind that was expected.
    #[error("not a message of the expected kind")]
    Foreign,
    /// It starts as ours do, and goes on otherwise.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// It is between two others.
    #[error("meant for another instance")]
    NotForMe,
    /// No signature is right: another secret, other instances, or changed on the way.
    #[error("the signature is wrong")]
    Signature,
}

impl Question {
    /// The datagram.
    pub fn seal(&self, secret: &FleetSecret) -> Vec<u8> {
        let mut bytes = self.head(QUESTION);
        sign(&mut bytes, &self.keys(secret));
        bytes
    }

    /// The question in a datagram that reached `me`.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being one that a sibling asked `me`.
    pub fn open(bytes: &[u8], secret: &FleetSecret, me: &InstanceId) -> Result<Self, HealthError> {
        let mut reader = Reader::new(bytes, QUESTION)?;
        let question = reader.question()?;
        let signed = reader.position;
        let signatures = reader.signatures()?;
        if question.to != *me || question.from == *me {
            return Err(HealthError::NotForMe);
        }
        check(&bytes[..signed], &signatures, &question.keys(secret))?;
        Ok(question)
    }

    fn head(&self, kind: u8) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(MAGIC);
        bytes.push(kind);
        put_text(&mut bytes, self.from.as_str());
        put_text(&mut bytes, self.to.as_str());
        bytes.extend_from_slice(&self.nonce.0);
        bytes
    }

    /// The lengths are there so that no two pairs have the same bytes.
    fn keys(&self, secret: &FleetSecret) -> Vec<Zeroizing<[u8; 32]>> {
        let mut pair = Vec::with_capacity(72);
        put_text(&mut pair, self.from.as_str());
        put_text(&mut pair, self.to.as_str());
        secret.keys(SALT, &[&pair])
    }
}

impl Answer {
    /// The datagram.
    pub fn seal(&self, secret: &FleetSecret) -> Vec<u8> {
        let mut bytes = self.question.head(ANSWER);
        self.report.put(&mut bytes);
        sign(&mut bytes, &self.question.keys(secret));
        bytes
    }

    /// The answer in a datagram that reached `me`, who asked. Whether it is to a
    /// question that still waits is not known here: see [`Self::is_to`].
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being one that a sibling gave to `me`.
    pub fn open(bytes: &[u8], secret: &FleetSecret, me: &InstanceId) -> Result<Self, HealthError> {
        let mut reader = Reader::new(bytes, ANSWER)?;
        let question = reader.question()?;
        let report = reader.report()?;
        let signed = reader.position;
        let signatures = reader.signatures()?;
        if question.from != *me || question.to == *me {
            return Err(HealthError::NotForMe);
        }
        check(&bytes[..signed], &signatures, &question.keys(secret))?;
        Ok(Self { question, report })
    }

    /// Whether this answers that question: the same two instances and its nonce.
    pub fn is_to(&self, question: &Question) -> bool {
        self.question == *question
    }
}

impl HealthReport {
    fn put(&self, bytes: &mut Vec<u8>) {
        let (condition, why) = match &self.condition {
            Condition::Well => (0, String::new()),
            Condition::Sick { why } => (1, printable(why)),
            Condition::Leaving => (2, String::new()),
            Condition::Starting { why } => (3, printable(why)),
        };
        bytes.push(condition);
        put_text(bytes, &why);
        let seconds = u32::try_from(self.well_for.as_secs()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&seconds.to_be_bytes());
        let changes_routes = u8::from(self.changes_routes) * CHANGES_ROUTES;
        let lacks_tunnel = u8::from(!self.has_tunnel) * LACKS_TUNNEL;
        bytes.push(changes_routes | lacks_tunnel);
        let count = self.tables.len().min(MOST_TABLES);
        bytes.push(u8::try_from(count).unwrap_or(u8::MAX));
        for table in self.tables.iter().take(count) {
            put_text(bytes, table.as_str());
        }
        let count = self.hears.len().min(MOST_HEARD);
        bytes.push(u8::try_from(count).unwrap_or(u8::MAX));
        for (sibling, ago) in self.hears.iter().take(count) {
            put_text(bytes, sibling.as_str());
            let millis = u16::try_from(ago.as_millis()).unwrap_or(u16::MAX);
            bytes.extend_from_slice(&millis.to_be_bytes());
        }
    }
}

/// "sick: no target answers", as it fits behind "it is".
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => f.write_str("well"),
            Self::Sick { why } => write!(f, "sick: {why}"),
            Self::Starting { why } => write!(f, "starting: {why}"),
            Self::Leaving => f.write_str("leaving"),
        }
    }
}

/// The reason as the far end takes it: it ends up in its log.
fn printable(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(MOST_REASON)];
    cut.replace(char::is_control, " ")
}

/// Ids and reasons are shorter than 256 bytes: see [`printable`] and [`crate::id`].
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let length = text.floor_char_boundary(usize::from(u8::MAX));
    bytes.push(u8::try_from(length).unwrap_or(u8::MAX));
    bytes.extend_from_slice(&text.as_bytes()[..length]);
}

fn signature(signed: &[u8], key: &[u8; 32]) -> Hmac<Sha256> {
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    mac.update(signed);
    mac
}

fn sign(bytes: &mut Vec<u8>, keys: &[Zeroizing<[u8; 32]>]) {
    let signed = bytes.len();
    bytes.push(u8::try_from(keys.len()).unwrap_or(u8::MAX));
    for key in keys {
        let mac = signature(&bytes[..signed], key).finalize();
        bytes.extend_from_slice(&mac.into_bytes());
    }
}

/// In constant time for each signature.
fn check(
    signed: &[u8],
    signatures: &[&[u8]],
    keys: &[Zeroizing<[u8; 32]>],
) -> Result<(), HealthError> {
    let right = |key: &Zeroizing<[u8; 32]>| {
        let mac = signature(signed, key);
        let mut signatures = signatures.iter();
        signatures.any(|bytes| mac.clone().verify_slice(bytes).is_ok())
    };
    match keys.iter().any(right) {
        true => Ok(()),
        false => Err(HealthError::Signature),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], kind: u8) -> Result<Self, HealthError> {
        let rest = bytes.strip_prefix(MAGIC);
        if rest.and_then(|rest| rest.first()) != Some(&kind) {
            return Err(HealthError::Foreign);
        }
        if bytes.len() > MOST_BYTES {
            return Err(HealthError::Malformed("too long"));
        }
        let position = MAGIC.len() + 1;
        Ok(Self { bytes, position })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], HealthError> {
        let end = self.position.saturating_add(length);
        let taken = self.bytes.get(self.position..end);
        let taken = taken.ok_or(HealthError::Malformed("too short"))?;
        self.position = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HealthError> {
        let bytes = self.take(N)?;
        <[u8; N]>::try_from(bytes).map_err(|_| HealthError::Malformed("too short"))
    }

    fn byte(&mut self) -> Result<u8, HealthError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn text(&mut self) -> Result<&'a str, HealthError> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        str::from_utf8(bytes).map_err(|_| HealthError::Malformed("not UTF-8"))
    }

    fn id<T: FromStr>(&mut self) -> Result<T, HealthError> {
        let id = self.text()?.parse();
        id.map_err(|_| HealthError::Malformed("not an id"))
    }

    fn question(&mut self) -> Result<Question, HealthError> {
        Ok(Question {
            from: self.id()?,
            to: self.id()?,
            nonce: Nonce(self.array()?),
        })
    }

    fn report(&mut self) -> Result<HealthReport, HealthError> {
        let condition = self.byte()?;
        let why = self.text()?;
        let condition = match (condition, why) {
            (0, "") => Condition::Well,
            (2, "") => Condition::Leaving,
            (1 | 3, why) if why.len() <= MOST_REASON && !why.contains(char::is_control) => {
                let why = why.to_owned();
                match condition {
                    1 => Condition::Sick { why },
                    _ => Condition::Starting { why },
                }
            }
            _ => return Err(HealthError::Malformed("no condition that is known")),
        };
        let well_for = Duration::from_secs(u64::from(u32::from_be_bytes(self.array()?)));
        let flags = self.byte()?;
        let count = usize::from(self.byte()?);
        if count > MOST_TABLES {
            return Err(HealthError::Malformed("too many tables"));
        }
        let tables = (0..count).map(|_| self.id());
        let tables = tables.collect::<Result<BTreeSet<RouteTableId>, _>>()?;
        let count = usize::from(self.byte()?);
        if count > MOST_HEARD {
            return Err(HealthError::Malformed("too many siblings"));
        }
        let hears = (0..count).map(|_| {
            let millis = |bytes| Duration::from_millis(u64::from(u16::from_be_bytes(bytes)));
            Ok((self.id()?, millis(self.array()?)))
        });
        let hears = hears.collect::<Result<BTreeMap<InstanceId, Duration>, _>>()?;
        Ok(HealthReport {
            condition,
            well_for,
            changes_routes: flags & CHANGES_ROUTES != 0,
            has_tunnel: flags & LACKS_TUNNEL == 0,
            tables,
            hears,
        })
    }

    fn signatures(&mut self) -> Result<Vec<&'a [u8]>, HealthError> {
        let count = self.byte()?;
        if !(1..=2).contains(&count) {
            return Err(HealthError::Malformed("neither one signature nor two"));
        }
        let signatures = (0..count).map(|_| self.take(SIGNATURE_BYTES));
        let signatures = signatures.collect::<Result<Vec<_>, _>>()?;
        match self.position == self.bytes.len() {
            true => Ok(signatures),
            false => Err(HealthError::Malformed("more behind the signatures")),
        }
    }
}

#[cfg(test)]
mod tests;
