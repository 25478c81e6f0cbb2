#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use super::*;
use crate::fleet::fixtures::{key, partition, spoke};
use crate::inventory::{Accepted, Sweep};
use privnet_model::inventory::{Answer, PartitionAnswer};

/// The inventory after a poll that found these, while these keys were alive.
fn poll(inventory: Inventory, spokes: &[SpokeRecord], alive: &[u32]) -> Inventory {
    let answer = PartitionAnswer {
        partition: partition("eu-west-1"),
        answer: Ok(Answer {
            spokes: spokes.to_vec(),
            ..Answer::default()
        }),
        calls: 1,
    };
    let now = Timestamp::from_second(1000).unwrap();
    Sweep::begin(&inventory, Accepted::default())
        .absorb(inventory, vec![answer], &keys(alive), now)
        .inventory
}

fn keys(numbers: &[u32]) -> BTreeSet<PublicKey> {
    numbers.iter().map(|n| key(*n)).collect()
}

fn pin(inventory: &Inventory) -> Pin {
    let view = &inventory.partitions[&partition("eu-west-1")];
    view.pins[&spoke(1, "10.1.0.0/16").instance].clone()
}

fn publishing(n: u32) -> SpokeRecord {
    SpokeRecord {
        public_key: Some(key(n)),
        ..spoke(1, "10.1.0.0/16")
    }
}

fn announced(next: u32) -> Inventory {
    let mut inventory = poll(Inventory::default(), &[publishing(1)], &[]);
    let instance = spoke(1, "10.1.0.0/16").instance;
    announce(
        &mut inventory,
        &partition("eu-west-1"),
        &instance,
        key(1),
        key(next),
    )
    .unwrap();
    inventory
}

#[test]
fn another_key_is_quarantined_while_the_pinned_one_is_alive() {
    let inventory = poll(Inventory::default(), &[publishing(1)], &[]);
    let mut inventory = poll(inventory, &[publishing(7)], &[1]);
    assert_eq!(pin(&inventory).key, key(1));
    assert_eq!(quarantined(&pin(&inventory), &publishing(7)), Some(key(7)));
    // It need not wait for the next poll.
    assert_eq!(settle_all(&mut inventory, &keys(&[1])), []);
    let changes = settle_all(&mut inventory, &keys(&[]));
    assert_eq!((changes[0].from, changes[0].to), (key(1), key(7)));
    assert_eq!(changes[0].cause, KeyCause::Silent);
    assert_eq!(pin(&inventory).key, key(7));
}

#[test]
fn a_key_tag_that_vanishes_changes_nothing() {
    let inventory = poll(Inventory::default(), &[publishing(1)], &[]);
    let bare = SpokeRecord {
        public_key: None,
        ..publishing(1)
    };
    assert_eq!(pin(&poll(inventory, &[bare], &[])).key, key(1));
}

#[test]
fn an_instance_that_was_started_anew_keeps_its_key_while_that_is_in_use() {
    let inventory = poll(Inventory::default(), &[publishing(1)], &[]);
    let anew = SpokeRecord {
        launched: Some(Timestamp::from_second(500).unwrap()),
        ..publishing(7)
    };
    let inventory = poll(inventory, std::slice::from_ref(&anew), &[1]);
    assert_eq!(pin(&inventory).key, key(1));
    let inventory = poll(inventory, &[anew], &[]);
    assert_eq!(pin(&inventory).key, key(7));
}

#[test]
fn an_announced_key_takes_over_when_it_is_used_and_the_one_before_is_silent() {
    let mut inventory = announced(7);
    for (alive, used, beside) in [(&[1][..], 1, 7), (&[1, 7], 7, 1)] {
        assert_eq!(settle_all(&mut inventory, &keys(alive)), []);
        let uses = in_use(&pin(&inventory), &keys(alive));
        assert_eq!(uses, (key(used), Some(key(beside))));
    }
    // Its tag is no news meanwhile.
    assert_eq!(quarantined(&pin(&inventory), &publishing(7)), None);
    let changes = settle_all(&mut inventory, &keys(&[7]));
    assert_eq!(changes[0].cause, KeyCause::Announced);
    assert_eq!((pin(&inventory).key, pin(&inventory).next), (key(7), None));
}

#[test]
fn an_announcement_is_taken_back_by_announcing_the_key_in_use() {
    let mut inventory = announced(7);
    let instance = spoke(1, "10.1.0.0/16").instance;
    announce(
        &mut inventory,
        &partition("eu-west-1"),
        &instance,
        key(1),
        key(1),
    )
    .unwrap();
    assert_eq!(pin(&inventory).next, None);
}

#[test]
fn a_second_announcement_does_not_take_away_the_key_in_use() {
    let mut inventory = announced(7);
    let instance = spoke(1, "10.1.0.0/16").instance;
    announce(
        &mut inventory,
        &partition("eu-west-1"),
        &instance,
        key(7),
        key(8),
    )
    .unwrap();
    assert_eq!(
        (pin(&inventory).key, pin(&inventory).next),
        (key(7), Some(key(8)))
    );
}

#[test]
fn nobody_can_announce_the_key_of_another() {
    let spokes = [publishing(1), spoke(2, "10.2.0.0/16")];
    let mut inventory = poll(Inventory::default(), &spokes, &[]);
    let result = announce(
        &mut inventory,
        &partition("eu-west-1"),
        &spokes[0].instance,
        key(1),
        key(2),
    );
    assert_eq!(
        result.unwrap_err().to_string(),
        "the key is that of i-00000000000000002"
    );
    assert_eq!(pin(&inventory).next, None);
}

#[test]
fn a_proof_goes_with_the_key_and_over_to_the_announced_one_only() {
    let mut inventory = announced(7);
    let instance = spoke(1, "10.1.0.0/16").instance;
    let now = Timestamp::from_second(5).unwrap();
    let mut judge = |number, result| {
        judged(
            &mut inventory,
            &partition("eu-west-1"),
            &instance,
            key(number),
            result,
        )
    };
    assert!(!judge(3, Ok(now)));
    assert!(judge(1, Err("expired".to_owned())));
    assert!(judge(1, Ok(now)));
    assert!(judge(1, Err("replayed".to_owned())));
    assert_eq!(pin(&inventory).proof, Proof::Accepted { at: now });
    settle_all(&mut inventory, &keys(&[7]));
    assert_eq!(pin(&inventory).proof, Proof::Accepted { at: now });
    let taken = poll(inventory, &[publishing(9)], &[]);
    assert_eq!(
        (pin(&taken).key, pin(&taken).proof),
        (key(9), Proof::Missing)
    );
}
