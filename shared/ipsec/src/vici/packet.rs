//! The packets: what is between two lengths on the socket.

use zeroize::Zeroizing;

use super::message::{Malformed, Reader, Section, push_name};

/// The longest packet that charon sends or takes.
pub const MOST_BYTES: usize = 512 * 1024;

const COMMAND: u8 = 0;
const RESPONSE: u8 = 1;
const UNKNOWN_COMMAND: u8 = 2;
const REGISTER: u8 = 3;
const UNREGISTER: u8 = 4;
const CONFIRMED: u8 = 5;
const UNKNOWN_EVENT: u8 = 6;
const EVENT: u8 = 7;

/// What charon sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The answer to a command.
    Response(Section),
    /// There is no such command.
    UnknownCommand,
    /// An event will be sent from now on, or no more.
    Confirmed,
    /// There is no such event.
    UnknownEvent,
    /// Something happened, or a part of an answer.
    Event {
        /// Which event.
        name: String,
        /// What is told of it.
        message: Section,
    },
}

impl Incoming {
    /// The packet that these bytes are, its length not among them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, at: 0 };
        let (_, kind) = reader.kind().ok_or(Malformed::PacketLength { bytes: 0 })?;
        match kind {
            RESPONSE => Ok(Self::Response(Section::decode(&bytes[1..])?)),
            EVENT => {
                let name = reader.name()?.to_owned();
                let message = Section::decode(&bytes[reader.at..])?;
                Ok(Self::Event { name, message })
            }
            UNKNOWN_COMMAND | CONFIRMED | UNKNOWN_EVENT if bytes.len() > 1 => {
                Err(Malformed::Surplus {
                    found: kind,
                    bytes: bytes.len() - 1,
                })
            }
            UNKNOWN_COMMAND => Ok(Self::UnknownCommand),
            CONFIRMED => Ok(Self::Confirmed),
            UNKNOWN_EVENT => Ok(Self::UnknownEvent),
            COMMAND | REGISTER | UNREGISTER => Err(Malformed::NotForClients { found: kind }),
            found => Err(Malformed::PacketType { found }),
        }
    }

    /// The bytes that this is read from: the same again.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let nothing = Section::new();
        let framed = match self {
            Self::Response(message) => frame(RESPONSE, None, message),
            Self::UnknownCommand => frame(UNKNOWN_COMMAND, None, &nothing),
            Self::Confirmed => frame(CONFIRMED, None, &nothing),
            Self::UnknownEvent => frame(UNKNOWN_EVENT, None, &nothing),
            Self::Event { name, message } => frame(EVENT, Some(name), message),
        }?;
        Ok(Zeroizing::new(framed[4..].to_vec()))
    }
}

/// The bytes that ask for a command, with their length before them.
pub fn request(command: &str, message: &Section) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    frame(COMMAND, Some(command), message)
}

/// The bytes that ask for an event from now on, with their length before them.
pub fn event_registration(event: &str) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    frame(REGISTER, Some(event), &Section::new())
}

fn frame(kind: u8, name: Option<&str>, message: &Section) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    let length = 1 + name.map_or(0, |name| 1 + name.len()) + message.encoded_len();
    let too_long = Malformed::PacketLength {
        bytes: length as u64,
    };
    if length > MOST_BYTES {
        return Err(too_long);
    }
    let header = u32::try_from(length).map_err(|_| too_long)?;
    // At once: growing would leave copies of secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4 + length));
    bytes.extend_from_slice(&header.to_be_bytes());
    bytes.push(kind);
    if let Some(name) = name {
        push_name(&mut bytes, name)?;
    }
    message.encode_into(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn requests_are_framed_with_their_length() {
        let bytes = request("version", &Section::new()).unwrap();
        assert_eq!(*bytes, b"\x00\x00\x00\x09\x00\x07version");
        let bytes = event_registration("log").unwrap();
        assert_eq!(*bytes, b"\x00\x00\x00\x05\x03\x03log");
        let bytes = request("x", &Section::new().with("a", "b")).unwrap();
        assert_eq!(*bytes, b"\x00\x00\x00\x09\x00\x01x\x03\x01a\x00\x01b");
    }

    #[test]
    fn what_charon_would_not_take_is_not_sent() {
        let item = vec![0; 65_535];
        let long = Section::new().with_list("n", vec![item; 8]);
        assert!(matches!(
            request("x", &long),
            Err(Malformed::PacketLength { .. })
        ));
        let name = "n".repeat(256);
        assert!(matches!(
            event_registration(&name),
            Err(Malformed::TooLong { .. })
        ));
    }

    #[test]
    fn packets_that_make_no_sense_are_errors() {
        use Malformed as M;
        let cases: [(&[u8], Malformed); 6] = [
            (b"", M::PacketLength { bytes: 0 }),
            (b"\x08", M::PacketType { found: 8 }),
            (b"\x00\x01x", M::NotForClients { found: 0 }),
            (b"\x05\x00", M::Surplus { found: 5, bytes: 1 }),
            (b"\x07\x02x", M::CutOff { at: 3 }),
            (b"\x01\x02", M::Misplaced { found: 2, at: 0 }),
        ];
        for (bytes, error) in cases {
            assert_eq!(Incoming::decode(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn an_event_keeps_its_name_and_its_bytes() {
        let bytes = b"\x07\x0aike-updown\x03\x02up\x00\x03yes";
        let event = Incoming::decode(bytes).unwrap();
        let message = Section::new().with("up", "yes");
        let name = "ike-updown".to_owned();
        assert_eq!(event, Incoming::Event { name, message });
        assert_eq!(*event.encode().unwrap(), bytes);
    }
}
