//! A packet from charon's socket. What is no packet is an error, never a panic; what
//! is one has no other encoding; and whatever an event tells of associations or of
//! the log can be read, or is an error.

use privnet_ipsec::vici::{Incoming, MOST_BYTES, Section, request};
use privnet_ipsec::{AssociationEvent, log_line};
use privnet_reconcile::ipsec::diagnosis::LogReader;

pub(crate) fn run(data: &[u8]) {
    let packet = match Incoming::decode(data) {
        Ok(packet) => packet,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let again = packet.encode().expect("what came can be sent");
    assert_eq!(*again, data, "another encoding of {packet:?}");
    assert_eq!(Incoming::decode(&again).as_ref(), Ok(&packet));
    match &packet {
        Incoming::Response(message) => read(message),
        Incoming::Event { name, message } => {
            let _ = AssociationEvent::read(name, message);
            read(message);
        }
        Incoming::UnknownCommand | Incoming::Confirmed | Incoming::UnknownEvent => {}
    }
}

/// Everything that is ever read from a message, whichever event it came in.
fn read(message: &Section) {
    for name in ["ike-updown", "child-updown", "ike-rekey", "child-rekey"] {
        let told = AssociationEvent::read(name, message);
        if let Err(error) = told {
            assert!(!error.ends_the_connection(), "{error}");
        }
    }
    let mut reader = LogReader::default();
    let mut line = log_line(message);
    for _ in 0..2 {
        if let Some(found) = reader.read(&line) {
            assert!(!found.failure.to_string().is_empty());
        }
        line.sa.get_or_insert(privnet_model::ipsec::UniqueId(1));
    }
    for (name, _) in message.iter() {
        let _ = (message.text(name), message.list(name).count());
    }
    let sent = request("x", message).expect("it fitted into a packet");
    assert!(sent.len() <= 4 + 3 + MOST_BYTES);
}
