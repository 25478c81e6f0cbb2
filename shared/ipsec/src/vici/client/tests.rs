//! The client against a charon that does what the test says, over a socket pair.
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use super::*;
use crate::vici::Happening;

/// charon's end.
struct Daemon(UnixStream);

fn pair() -> (Client, Daemon) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (
        Client::over(ours, Path::new("/test/charon.vici")),
        Daemon(theirs),
    )
}

impl Daemon {
    /// Waits for a packet and gives its type and name.
    async fn takes(&mut self) -> (u8, String) {
        let length = self.0.read_u32().await.unwrap();
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut bytes).await.unwrap();
        let name = &bytes[2..2 + usize::from(bytes[1])];
        (bytes[0], String::from_utf8(name.to_vec()).unwrap())
    }

    async fn takes_command(&mut self, name: &str) {
        assert_eq!(self.takes().await, (0, name.to_owned()));
    }

    async fn takes_registration(&mut self, name: &str) {
        assert_eq!(self.takes().await, (3, name.to_owned()));
        self.sends(Incoming::Confirmed).await;
    }

    async fn sends(&mut self, packet: Incoming) {
        let bytes = packet.encode().unwrap();
        self.sends_bytes(u32::try_from(bytes.len()).unwrap(), &bytes)
            .await;
    }

    async fn sends_bytes(&mut self, length: u32, bytes: &[u8]) {
        self.0.write_u32(length).await.unwrap();
        self.0.write_all(bytes).await.unwrap();
    }

    async fn answers(&mut self, text: &str) {
        self.sends(Incoming::Response(told(text))).await;
    }
}

fn told(text: &str) -> Section {
    Section::new().with("told", text)
}

fn event(name: &str, text: &str) -> Incoming {
    Incoming::Event {
        name: name.to_owned(),
        message: told(text),
    }
}

fn happened(name: &str, text: &str) -> Happening {
    Happening::Event {
        name: name.to_owned(),
        message: told(text),
    }
}

const NOTHING: &Section = &Section::new();

#[tokio::test]
async fn commands_are_answered_in_their_order_and_sent_one_at_a_time() {
    let (client, mut daemon) = pair();
    let asked = async {
        tokio::join!(
            client.command("first", NOTHING),
            client.command("second", NOTHING)
        )
    };
    let serving = async {
        daemon.takes_command("first").await;
        // The second must not be there: charon answers without numbers.
        let mut early = [0];
        assert!(daemon.0.try_read(&mut early).is_err());
        daemon.answers("1").await;
        daemon.takes_command("second").await;
        daemon.answers("2").await;
    };
    let ((first, second), ()) = tokio::join!(asked, serving);
    assert_eq!(first.unwrap(), told("1"));
    assert_eq!(second.unwrap(), told("2"));
}

#[tokio::test]
async fn an_event_between_a_command_and_its_answer_goes_to_its_subscriber() {
    let (client, mut daemon) = pair();
    let (subscribed, ()) = tokio::join!(
        client.subscribe(&["ike-updown"], 4),
        daemon.takes_registration("ike-updown")
    );
    let mut events = subscribed.unwrap();
    let serving = async {
        daemon.takes_command("version").await;
        daemon.sends(event("ike-updown", "up")).await;
        daemon.sends(event("something-else", "?")).await;
        daemon.answers("5.9.8").await;
    };
    let (version, ()) = tokio::join!(client.command("version", NOTHING), serving);
    assert_eq!(version.unwrap(), told("5.9.8"));
    assert_eq!(events.next().await.unwrap(), happened("ike-updown", "up"));
}

#[tokio::test]
async fn events_that_nobody_fetches_keep_no_command_waiting_and_are_told_to_be_lost() {
    let (client, mut daemon) = pair();
    let (subscribed, ()) = tokio::join!(
        client.subscribe(&["log"], 2),
        daemon.takes_registration("log")
    );
    let mut events = subscribed.unwrap();
    let serving = async {
        for number in 0..5000 {
            daemon.sends(event("log", &number.to_string())).await;
        }
        daemon.takes_command("stats").await;
        daemon.answers("fine").await;
    };
    let (stats, ()) = tokio::join!(client.command("stats", NOTHING), serving);
    assert_eq!(stats.unwrap(), told("fine"));
    assert_eq!(events.next().await.unwrap(), Happening::Lost);
    assert_eq!(events.next().await.unwrap(), happened("log", "0"));
    assert_eq!(events.next().await.unwrap(), happened("log", "1"));
    daemon.sends(event("log", "later")).await;
    assert_eq!(events.next().await.unwrap(), happened("log", "later"));
}

#[tokio::test]
async fn parts_of_an_answer_are_collected_and_kept_from_subscribers() {
    let (client, mut daemon) = pair();
    let serving = async {
        daemon.takes_registration("list-sa").await;
        for round in ["a", "b"] {
            daemon.takes_command("list-sas").await;
            daemon.sends(event("list-sa", round)).await;
            daemon.sends(event("log", "between")).await;
            daemon.sends(event("list-sa", "last")).await;
            daemon.sends(Incoming::Response(Section::new())).await;
        }
    };
    let asked = async {
        let mut rounds = Vec::new();
        for _ in 0..2 {
            rounds.push(client.list("list-sas", "list-sa", NOTHING).await.unwrap());
        }
        rounds
    };
    let (rounds, ()) = tokio::join!(asked, serving);
    assert_eq!(rounds[0], [told("a"), told("last")]);
    assert_eq!(rounds[1], [told("b"), told("last")]);
}

#[tokio::test]
async fn an_event_that_two_ask_for_at_once_is_registered_once() {
    let (client, mut daemon) = pair();
    let asked = async {
        tokio::join!(
            client.list("list-sas", "list-sa", NOTHING),
            client.list("list-sas", "list-sa", NOTHING)
        )
    };
    let serving = async {
        // A second registration would fail here: charon would send all twice.
        daemon.takes_registration("list-sa").await;
        for round in ["a", "b"] {
            daemon.takes_command("list-sas").await;
            daemon.sends(event("list-sa", round)).await;
            daemon.sends(Incoming::Response(Section::new())).await;
        }
    };
    let ((first, second), ()) = tokio::join!(asked, serving);
    assert_eq!(first.unwrap(), [told("a")]);
    assert_eq!(second.unwrap(), [told("b")]);
}

#[test]
fn an_answer_of_too_many_bytes_is_dropped_and_said_to_be() {
    let mut parts = Parts::default();
    parts.keep(told("a"), MOST_PART_BYTES);
    assert_eq!(parts.messages.len(), 1);
    parts.keep(told("b"), 1);
    parts.keep(told("c"), 1);
    assert!(parts.too_large && parts.messages.is_empty());
    let (answer, mut answered) = oneshot::channel();
    let kind = Kind::Command {
        name: "list-sas".to_owned(),
        parts: Some("list-sa"),
    };
    let waiting = Waiting {
        kind,
        answer,
        parts,
    };
    waiting.answer(Ok(Section::new()));
    let error = answered.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, ViciError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn the_end_of_the_stream_fails_all_that_waits_and_all_that_comes() {
    let (client, mut daemon) = pair();
    let (subscribed, ()) = tokio::join!(
        client.subscribe(&["log"], 4),
        daemon.takes_registration("log")
    );
    let mut events = subscribed.unwrap();
    let serving = async move {
        daemon.takes_command("first").await;
        daemon.sends(event("log", "last words")).await;
        drop(daemon);
    };
    let (first, queued, ()) = tokio::join!(
        client.command("first", NOTHING),
        client.command("queued", NOTHING),
        serving
    );
    for result in [first, queued, client.command("later", NOTHING).await] {
        let error = result.unwrap_err();
        assert!(matches!(error, ViciError::Closed { .. }), "{error}");
        assert!(error.ends_the_connection());
    }
    // What came before the end is still told.
    assert_eq!(events.next().await.unwrap(), happened("log", "last words"));
    let error = events.next().await.unwrap_err();
    assert!(matches!(error, ViciError::Closed { .. }), "{error}");
    let error = client.subscribe(&["log"], 4).await.unwrap_err();
    assert!(matches!(error, ViciError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn what_makes_no_sense_ends_the_connection_with_the_reason() {
    let cases: [(u32, &[u8], &str); 5] = [
        (
            3,
            b"\x01\x02\x02",
            "Malformed(Misplaced { found: 2, at: 0 })",
        ),
        (1, b"\x09", "Malformed(PacketType { found: 9 })"),
        (0, b"", "Malformed(PacketLength { bytes: 0 })"),
        (
            u32::MAX,
            b"",
            "Malformed(PacketLength { bytes: 4294967295 })",
        ),
        (
            1,
            b"\x05",
            r#"OutOfTurn { found: "\"event confirmed\"", expected: "the answer to a command" }"#,
        ),
    ];
    for (length, bytes, reason) in cases {
        let (client, mut daemon) = pair();
        let serving = async {
            daemon.takes_command("version").await;
            daemon.sends_bytes(length, bytes).await;
        };
        let (answer, ()) = tokio::join!(client.command("version", NOTHING), serving);
        assert_eq!(format!("{:?}", answer.unwrap_err()), reason);
        let later = client.command("version", NOTHING).await;
        assert_eq!(format!("{:?}", later.unwrap_err()), reason);
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let (client, mut daemon) = pair();
    let (subscribed, ()) = tokio::join!(
        client.subscribe(&["log"], 4),
        daemon.takes_registration("log")
    );
    daemon.answers("surprise").await;
    let error = subscribed.unwrap().next().await.unwrap_err();
    let words = "the IKE daemon (charon) sent an answer to a command, expected nothing but events";
    assert_eq!(error.to_string(), words);
}

#[tokio::test]
async fn an_answer_after_the_deadline_is_not_taken_for_the_next_ones() {
    let (client, mut daemon) = pair();
    let soon = Duration::from_millis(20);
    let late = client.slow_command("slow", NOTHING, soon).await;
    let error = late.unwrap_err();
    assert!(matches!(error, ViciError::Timeout { .. }), "{error}");
    // Queued behind it, and given up before it was its turn: never sent.
    let never = client.slow_command("never", NOTHING, soon).await;
    assert!(never.is_err());
    let serving = async {
        daemon.takes_command("slow").await;
        daemon.answers("late").await;
        daemon.takes_command("next").await;
        daemon.answers("in time").await;
    };
    let (next, ()) = tokio::join!(client.command("next", NOTHING), serving);
    assert_eq!(next.unwrap(), told("in time"));
}

#[tokio::test]
async fn what_charon_does_not_know_is_an_error_and_no_end() {
    let (client, mut daemon) = pair();
    let serving = async {
        daemon.takes_command("dance").await;
        daemon.sends(Incoming::UnknownCommand).await;
        assert_eq!(daemon.takes().await, (3, "alert".to_owned()));
        daemon.sends(Incoming::UnknownEvent).await;
        daemon.takes_command("version").await;
        daemon.answers("5.9.8").await;
    };
    let asked = async {
        let command = client.command("dance", NOTHING).await.unwrap_err();
        let event = client.subscribe(&["alert"], 4).await.unwrap_err();
        (command, event, client.command("version", NOTHING).await)
    };
    let ((command, event, version), ()) = tokio::join!(asked, serving);
    let words = "the IKE daemon (charon) knows no command `dance`";
    assert_eq!(command.to_string(), words);
    assert_eq!(
        event.to_string(),
        "the IKE daemon (charon) knows no event `alert`"
    );
    assert_eq!(version.unwrap(), told("5.9.8"));
}

#[tokio::test]
async fn the_last_client_that_is_dropped_closes_the_connection() {
    let (client, mut daemon) = pair();
    let (subscribed, ()) = tokio::join!(
        client.subscribe(&["log"], 4),
        daemon.takes_registration("log")
    );
    let mut events = subscribed.unwrap();
    let clone = client.clone();
    drop(client);
    let (answer, ()) = tokio::join!(clone.command("version", NOTHING), async {
        daemon.takes_command("version").await;
        daemon.answers("5.9.8").await;
    });
    answer.unwrap();
    drop(clone);
    assert_eq!(daemon.0.read(&mut [0]).await.unwrap(), 0);
    let error = events.next().await.unwrap_err();
    assert!(matches!(error, ViciError::GivenUp), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_an_error_that_names_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("charon.vici");
    let error = Client::connect(&socket).await.unwrap_err();
    assert!(error.to_string().contains("charon.vici"), "{error}");
}
