//! A conversation between two spokes that nobody else can read, change, repeat or take
//! part in: what they tell is who in the VPC talks to whom.
//!
//! | | bytes |
//! |---|---|
//! | who asks sends `PVC1`, its id and the other's, each with its length, and 32 at random | 4 + 2 × (1 + 10 … 34) + 32 |
//! | who is asked sends `PVC1` and 32 at random | 4 + 32 |
//! | then both send frames: the length, and a message sealed by ChaCha20-Poly1305 | 2 + 16 + 1 … |
//!
//! Each direction has a key of its own: HKDF over the fleet's secret, with both ids, both
//! random numbers and the direction in `info`. As each side chose one of the numbers, no
//! key is ever used twice, and the nonce is the number of the frame, which is not sent: a
//! frame that is left out, repeated or moved does not open. Who asks sends the first
//! frame, which shows that it has the secret before it is told anything.
//!
//! While the fleet's secret is changed there are two: who asks takes one or, the next time,
//! the other ([`Greeting::keys`]), and who is asked learns by the first frame which.

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use zeroize::Zeroizing;

use crate::id::InstanceId;
use crate::secret::FleetSecret;

/// The salt of the derivation. Another way to derive gets another number.
const SALT: &[u8] = b"privnet connections v1";
const MAGIC: &[u8; 4] = b"PVC1";
/// The longest id that is read.
const MOST_ID: usize = 64;
const TAG_BYTES: usize = 16;

/// Bytes of what is said before all else by who is asked.
pub const REPLY_BYTES: usize = 36;
/// The longest frame, without its length.
pub const MOST_FRAME: usize = super::wire::MOST_BYTES + TAG_BYTES;

/// What makes a conversation unlike any before: drawn at random, one by each side.
pub type Random = [u8; 32];

/// How a conversation begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Who asks.
    pub from: InstanceId,
    /// Who is asked.
    pub to: InstanceId,
    /// The asker's random number.
    pub random: Random,
}

/// Why a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// It does not begin as ours do.
    #[error("not a conversation about connections")]
    Foreign,
    /// It is meant for another instance, or comes from this one.
    #[error("meant for another instance")]
    NotForMe,
    /// A frame was not sealed with the key: another secret, or changed on the way.
    #[error("a frame does not open: is the fleet's secret the same?")]
    Sealed,
}

/// The keys of one side.
pub struct Keys {
    /// For what it sends.
    pub seal: Sealer,
    /// For what it hears.
    pub open: Opener,
}

/// Seals the frames of one direction.
pub struct Sealer(Direction);

/// Opens them.
pub struct Opener(Direction);

struct Direction {
    cipher: ChaCha20Poly1305,
    frames: u64,
}

impl Greeting {
    /// The bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(MAGIC);
        self.put_ids(&mut bytes);
        bytes.extend_from_slice(&self.random);
        bytes
    }

    /// The greeting that the bytes begin with, and how long it is; nothing while more have
    /// to come.
    ///
    /// # Errors
    /// It is none, or not for `me`.
    pub fn parse(bytes: &[u8], me: &InstanceId) -> Result<Option<(Self, usize)>, ChannelError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(ChannelError::Foreign);
        }
        let mut at = MAGIC.len();
        let mut ids = Vec::with_capacity(2);
        for _ in 0..2 {
            let Some(length) = bytes.get(at).copied().map(usize::from) else {
                return Ok(None);
            };
            if length > MOST_ID {
                return Err(ChannelError::Foreign);
            }
            let Some(text) = bytes.get(at + 1..at + 1 + length) else {
                return Ok(None);
            };
            let text = str::from_utf8(text).map_err(|_| ChannelError::Foreign)?;
            let id: InstanceId = text.parse().map_err(|_| ChannelError::Foreign)?;
            ids.push(id);
            at += 1 + length;
        }
        let Some(random) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        let Ok([from, to]) = <[InstanceId; 2]>::try_from(ids) else {
            return Err(ChannelError::Foreign);
        };
        if to != *me || from == *me {
            return Err(ChannelError::NotForMe);
        }
        let random = *random;
        Ok(Some((Self { from, to, random }, at + random.len())))
    }

    /// The keys of who asks, and of who is asked, given the other's random number: by the
    /// secret in use and, while it is changed, by the one before.
    pub fn keys(&self, secret: &FleetSecret, reply: &Random) -> Vec<(Keys, Keys)> {
        let mut ids = Vec::with_capacity(72);
        self.put_ids(&mut ids);
        let derived = |direction: &[u8]| secret.keys(SALT, &[&ids, &self.random, reply, direction]);
        let asked = derived(b"asks");
        let told = derived(b"tells");
        let both = asked.iter().zip(&told);
        both.map(|(asks, tells)| {
            let asker = Keys {
                seal: Sealer(Direction::new(asks)),
                open: Opener(Direction::new(tells)),
            };
            let teller = Keys {
                seal: Sealer(Direction::new(tells)),
                open: Opener(Direction::new(asks)),
            };
            (asker, teller)
        })
        .collect()
    }

    /// The lengths are there so that no two pairs have the same bytes.
    fn put_ids(&self, bytes: &mut Vec<u8>) {
        for id in [&self.from, &self.to] {
            let text = id.as_str();
            bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(text.as_bytes());
        }
    }
}

/// What who is asked says before all else.
pub fn reply(random: &Random) -> [u8; REPLY_BYTES] {
    let mut bytes = [0; REPLY_BYTES];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..].copy_from_slice(random);
    bytes
}

/// The random number in it.
///
/// # Errors
/// It is no reply.
pub fn parse_reply(bytes: &[u8; REPLY_BYTES]) -> Result<Random, ChannelError> {
    let random = bytes.strip_prefix(MAGIC);
    let random = random.and_then(|random| Random::try_from(random).ok());
    random.ok_or(ChannelError::Foreign)
}

impl Direction {
    fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self {
            cipher: ChaCha20Poly1305::new(Key::from_slice(&**key)),
            frames: 0,
        }
    }

    /// 2^64 frames are more than anybody sends.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.frames.to_be_bytes());
        self.frames += 1;
        nonce.into()
    }
}

impl Sealer {
    /// The frame, with its length before it.
    pub fn seal(&mut self, message: &[u8]) -> Vec<u8> {
        let nonce = self.0.nonce();
        let length = u16::try_from(message.len() + TAG_BYTES).unwrap_or(u16::MAX);
        let mut frame = Vec::with_capacity(2 + usize::from(length));
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(message);
        match self.0.cipher.encrypt_in_place_detached(
            &nonce,
            &length.to_be_bytes(),
            &mut frame[2..],
        ) {
            Ok(tag) => frame.extend_from_slice(&tag),
            Err(_) => unreachable!("the limit is 256 GiB"),
        }
        frame
    }
}

impl Opener {
    /// The message in a frame, given without its length.
    ///
    /// # Errors
    /// It is not the next frame of this direction.
    pub fn open(&mut self, frame: &[u8]) -> Result<Vec<u8>, ChannelError> {
        let (message, tag) = frame
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(ChannelError::Sealed)?;
        let length = u16::try_from(frame.len()).map_err(|_| ChannelError::Sealed)?;
        let mut message = message.to_vec();
        let nonce = self.0.nonce();
        self.0
            .cipher
            .decrypt_in_place_detached(
                &nonce,
                &length.to_be_bytes(),
                &mut message,
                Tag::from_slice(tag),
            )
            .map_err(|_| ChannelError::Sealed)?;
        Ok(message)
    }
}

/// Keys are shown to nobody.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use proptest::prelude::*;

    use super::*;

    fn secret(text: &str) -> FleetSecret {
        text.parse().unwrap()
    }

    const OLD: &str = "an old fleet secret of 32 and more characters";
    const NEW: &str = "a new fleet secret of 32 and more characters";

    fn greeting() -> Greeting {
        Greeting {
            from: "i-00000001".parse().unwrap(),
            to: "i-00000002".parse().unwrap(),
            random: [7; 32],
        }
    }

    fn keys(secret: &FleetSecret) -> (Keys, Keys) {
        greeting().keys(secret, &[9; 32]).remove(0)
    }

    #[test]
    fn a_greeting_is_understood_byte_by_byte_by_who_is_meant() {
        let bytes = greeting().to_bytes();
        let me = greeting().to;
        for length in 0..bytes.len() {
            assert_eq!(Greeting::parse(&bytes[..length], &me), Ok(None));
        }
        let more = [bytes.as_slice(), b"more"].concat();
        let found = Greeting::parse(&more, &me).unwrap();
        assert_eq!(found, Some((greeting(), bytes.len())));
        for other in ["i-00000001", "i-00000003"] {
            let told = Greeting::parse(&bytes, &other.parse().unwrap());
            assert_eq!(told, Err(ChannelError::NotForMe));
        }
        assert_eq!(
            Greeting::parse(b"GET / HTTP", &me),
            Err(ChannelError::Foreign)
        );
        assert_eq!(parse_reply(&reply(&[3; 32])), Ok([3; 32]));
        assert_eq!(parse_reply(&[3; REPLY_BYTES]), Err(ChannelError::Foreign));
    }

    #[test]
    fn frames_open_once_in_order_and_in_their_direction() {
        let (mut asker, mut teller) = keys(&secret(OLD));
        let one = asker.seal.seal(b"one");
        let two = asker.seal.seal(b"two");
        assert_eq!(one.len(), 2 + 3 + TAG_BYTES);
        assert_ne!(&one[2..5], b"one");
        assert_eq!(teller.open.open(&one[2..]).unwrap(), b"one");
        // The same once more, in place of the second.
        assert_eq!(teller.open.open(&one[2..]), Err(ChannelError::Sealed));
        // That one cost a number, and whoever hears it ends the conversation.
        assert_eq!(teller.open.open(&two[2..]), Err(ChannelError::Sealed));
        // It does not open what it sealed itself.
        let (mut asker, _) = keys(&secret(OLD));
        let own = asker.seal.seal(b"one");
        assert_eq!(asker.open.open(&own[2..]), Err(ChannelError::Sealed));
    }

    #[test]
    fn other_secrets_instances_and_random_numbers_have_other_keys() {
        let sealed = keys(&secret(OLD)).0.seal.seal(b"hello");
        let opens = |mut keys: (Keys, Keys)| keys.1.open.open(&sealed[2..]).is_ok();
        assert!(opens(keys(&secret(OLD))));
        assert!(!opens(keys(&secret(NEW))));
        let with = |change: fn(&mut Greeting), reply: u8| {
            let mut other = greeting();
            change(&mut other);
            other.keys(&secret(OLD), &[reply; 32]).remove(0)
        };
        assert!(opens(with(|_| {}, 9)));
        assert!(!opens(with(|_| {}, 8)));
        assert!(!opens(with(|other| other.random = [8; 32], 9)));
        assert!(!opens(with(
            |other| other.from = "i-00000003".parse().unwrap(),
            9
        )));
    }

    #[test]
    fn while_the_secret_is_changed_either_will_do() {
        let both = secret(&format!("{NEW}\n{OLD}"));
        let sealed = keys(&secret(OLD)).0.seal.seal(b"hello");
        let each = greeting().keys(&both, &[9; 32]);
        let opened = each
            .into_iter()
            .map(|(_, mut teller)| teller.open.open(&sealed[2..]).is_ok());
        assert_eq!(opened.collect::<Vec<_>>(), [false, true]);
    }

    proptest! {
        #[test]
        fn whatever_is_changed_does_not_open(
            message in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            change in 1_u8..,
        ) {
            let (mut asker, mut teller) = keys(&secret(OLD));
            let mut frame = asker.seal.seal(&message).split_off(2);
            let mut cut = frame.clone();
            cut.pop();
            prop_assert_eq!(keys(&secret(OLD)).1.open.open(&cut), Err(ChannelError::Sealed));
            let at = at.index(frame.len());
            frame[at] ^= change;
            prop_assert_eq!(teller.open.open(&frame), Err(ChannelError::Sealed));
        }
    }
}
