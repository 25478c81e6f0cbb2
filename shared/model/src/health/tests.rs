#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use proptest::prelude::*;

use super::*;

const SECRET: &str = "correct horse battery staple, and some more";
const BEFORE: &str = "what the fleet had in common before today";
const A: &str = "i-0000000000000000a";
const B: &str = "i-0000000000000000b";
const C: &str = "i-0000000000000000c";

fn secret(text: &str) -> FleetSecret {
    text.parse().unwrap()
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn question() -> Question {
    Question {
        from: id(A),
        to: id(B),
        nonce: Nonce(std::array::from_fn(|byte| byte as u8)),
    }
}

fn report(condition: Condition) -> HealthReport {
    HealthReport {
        condition,
        well_for: Duration::from_secs(77),
        changes_routes: true,
        has_tunnel: true,
        tables: ["rtb-0000000a", "rtb-0000000b"]
            .into_iter()
            .map(|id| id.parse().unwrap())
            .collect(),
        hears: [(id(C), Duration::from_millis(900))].into(),
    }
}

fn answer(condition: Condition) -> Answer {
    Answer {
        question: question(),
        report: report(condition),
    }
}

fn sick(why: &str) -> Condition {
    let why = why.to_owned();
    Condition::Sick { why }
}

#[test]
fn what_is_sealed_opens_at_the_far_end_alone() {
    let secret = secret(SECRET);
    let bytes = question().seal(&secret);
    assert_eq!(Question::open(&bytes, &secret, &id(B)), Ok(question()));
    for other in [A, C] {
        let opened = Question::open(&bytes, &secret, &id(other));
        assert_eq!(opened, Err(HealthError::NotForMe));
    }
    for condition in [
        Condition::Well,
        sick("no target answers"),
        Condition::Leaving,
        Condition::Starting {
            why: "no session with the hub yet".to_owned(),
        },
    ] {
        let answer = answer(condition);
        let bytes = answer.seal(&secret);
        let opened = Answer::open(&bytes, &secret, &id(A)).unwrap();
        assert_eq!(opened, answer);
        assert!(opened.is_to(&question()));
        for other in [B, C] {
            let opened = Answer::open(&bytes, &secret, &id(other));
            assert_eq!(opened, Err(HealthError::NotForMe));
        }
    }
}

/// By Python's `hmac`: the key is `HMAC(HMAC(salt, secret), info + b"\x01")` with
/// `info = b"\x13" + A + b"\x13" + B`, the signature `HMAC(key, datagram[:-33])`.
#[test]
fn the_signature_is_the_one_that_another_implementation_makes() {
    let bytes = question().seal(&secret(SECRET));
    let hex = |bytes: &[u8]| {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>()
    };
    assert_eq!(bytes.len(), 5 + 20 + 20 + 16 + 1 + 32);
    assert_eq!(
        hex(&bytes[bytes.len() - 32..]),
        "a13e6345baaf6a7d757e59480f69ab3a2f6b4792063b5581cfa760c997e95ba6"
    );
}

#[test]
fn an_answer_is_to_one_question_only() {
    let (mut other_nonce, mut other_pair) = (question(), question());
    other_nonce.nonce.0[15] ^= 1;
    other_pair.to = id(C);
    for other in [other_nonce, other_pair] {
        assert!(!answer(Condition::Well).is_to(&other));
    }
}

/// Whoever may see and send anything has no secret: nothing said once counts elsewhere.
#[test]
fn nothing_counts_for_another_pair_another_kind_or_the_other_direction() {
    let secret = secret(SECRET);
    let bytes = question().seal(&secret);
    let swap = |from: &str, to: &str| {
        let mut other = bytes.clone();
        other[6..25].copy_from_slice(from.as_bytes());
        other[26..45].copy_from_slice(to.as_bytes());
        other
    };
    assert_eq!(swap(A, B), bytes);
    for (from, to) in [(B, A), (A, C), (C, B)] {
        let opened = Question::open(&swap(from, to), &secret, &id(to));
        assert_eq!(opened, Err(HealthError::Signature), "{from} {to}");
    }
    assert_eq!(
        Answer::open(&bytes, &secret, &id(A)),
        Err(HealthError::Foreign)
    );
    // Turned into an answer, it lacks the report; with one, the signature is wrong.
    let signature = &bytes[bytes.len() - 33..];
    let mut forged = bytes[..bytes.len() - 33].to_vec();
    forged[4] = ANSWER;
    report(Condition::Well).put(&mut forged);
    forged.extend_from_slice(signature);
    assert_eq!(
        Answer::open(&forged, &secret, &id(A)),
        Err(HealthError::Signature)
    );
}

#[test]
fn while_the_secret_is_changed_both_ends_understand_each_other() {
    let texts = [
        SECRET.to_owned(),
        BEFORE.to_owned(),
        format!("{SECRET}\n{BEFORE}"),
    ];
    let opens = |from: &str, to: &str| {
        let bytes = answer(Condition::Well).seal(&secret(from));
        Answer::open(&bytes, &secret(to), &id(A)).is_ok()
    };
    for both in &texts {
        assert!(opens(&texts[2], both) && opens(both, &texts[2]), "{both}");
    }
    assert!(!opens(SECRET, BEFORE) && !opens(BEFORE, SECRET));
}

#[test]
fn what_is_too_long_is_cut_where_it_is_said() {
    let secret = secret(SECRET);
    let mut long = answer(sick(&"\u{e9}\n".repeat(200)));
    long.report.tables = (0..300_u32)
        .map(|n| format!("rtb-{n:032x}").parse().unwrap())
        .collect();
    long.report.hears = (0..300_u32)
        .map(|n| (id(&format!("i-{n:032x}")), Duration::MAX))
        .collect();
    long.report.well_for = Duration::MAX;
    // As while the fleet's secret is changed.
    let ids = [A, B].map(|short| id(&format!("i-{:0>32}", &short[2..])));
    let [from, to] = ids.clone();
    long.question = Question {
        from,
        to,
        ..question()
    };
    let bytes = long.seal(&secret);
    assert!(bytes.len() <= MOST_BYTES, "{}", bytes.len());
    let opened = Answer::open(&bytes, &secret, &ids[0]).unwrap().report;
    assert_eq!(opened.tables.len(), MOST_TABLES);
    assert_eq!(opened.hears.len(), MOST_HEARD);
    let ago = Duration::from_millis(u64::from(u16::MAX));
    assert!(opened.hears.values().all(|one| *one == ago));
    assert_eq!(opened.well_for, Duration::from_secs(u64::from(u32::MAX)));
    let Condition::Sick { why } = opened.condition else {
        panic!("{:?}", opened.condition);
    };
    assert!(why.starts_with("\u{e9} \u{e9} ") && why.len() <= MOST_REASON);
}

#[test]
fn a_message_cut_short_or_made_longer_is_refused() {
    let secret = secret(SECRET);
    let bytes = answer(sick("no target answers")).seal(&secret);
    for end in 0..bytes.len() {
        assert!(Answer::open(&bytes[..end], &secret, &id(A)).is_err());
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(
        Answer::open(&longer, &secret, &id(A)),
        Err(HealthError::Malformed("more behind the signatures"))
    );
    let endless = [bytes.as_slice(), &[0; MOST_BYTES]].concat();
    assert_eq!(
        Answer::open(&endless, &secret, &id(A)),
        Err(HealthError::Malformed("too long"))
    );
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Well),
        "[ -~]{0,200}".prop_map(|why| Condition::Sick { why }),
        "[ -~]{0,200}".prop_map(|why| Condition::Starting { why }),
        Just(Condition::Leaving),
    ]
}

proptest! {
    #[test]
    fn any_answer_comes_out_as_it_went_in(
        condition in condition(),
        ids in prop::array::uniform2("i-[0-9a-f]{8,32}"),
        nonce in any::<[u8; 16]>(),
        seconds in any::<u32>(),
        changes_routes in any::<bool>(),
        has_tunnel in any::<bool>(),
        tables in prop::collection::btree_set("rtb-[0-9a-f]{8,32}", 0..30),
        hears in prop::collection::btree_map("i-[0-9a-f]{8,32}", any::<u16>(), 0..30),
    ) {
        let [from, to] = ids.map(|text| id(&text));
        prop_assume!(from != to);
        let answer = Answer {
            question: Question { from: from.clone(), to, nonce: Nonce(nonce) },
            report: HealthReport {
                condition,
                well_for: Duration::from_secs(u64::from(seconds)),
                changes_routes,
                has_tunnel,
                tables: tables.into_iter().map(|id| id.parse().unwrap()).collect(),
                hears: hears
                    .into_iter()
                    .map(|(text, millis)| (id(&text), Duration::from_millis(millis.into())))
                    .collect(),
            },
        };
        let bytes = answer.seal(&secret(SECRET));
        prop_assert_eq!(Answer::open(&bytes, &secret(SECRET), &from), Ok(answer));
    }

    #[test]
    fn no_changed_bit_goes_unseen(position in any::<prop::sample::Index>(), bit in 0_u32..8) {
        for mut bytes in [
            answer(sick("no target answers")).seal(&secret(SECRET)),
            question().seal(&secret(SECRET)),
        ] {
            let position = position.index(bytes.len());
            bytes[position] ^= 1_u8 << bit;
            prop_assert!(Answer::open(&bytes, &secret(SECRET), &id(A)).is_err());
            prop_assert!(Question::open(&bytes, &secret(SECRET), &id(B)).is_err());
        }
    }

    #[test]
    fn hostile_bytes_are_an_error_and_no_panic(
        kind in 0_u8..4,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [MAGIC, &[kind], &bytes].concat();
        prop_assert!(Answer::open(&bytes, &secret(SECRET), &id(A)).is_err());
        prop_assert!(Question::open(&bytes, &secret(SECRET), &id(B)).is_err());
    }

    /// The same behind a head that is right, so that what follows is read as well.
    #[test]
    fn a_hostile_report_is_an_error_and_no_panic(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..4], 0..200),
    ) {
        let bytes = [question().head(ANSWER), bytes].concat();
        prop_assert!(Answer::open(&bytes, &secret(SECRET), &id(A)).is_err());
    }
}
