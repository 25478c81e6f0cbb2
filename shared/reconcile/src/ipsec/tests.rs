#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use privnet_model::ipsec::{ChildSa, ChildState, Nat, Traffic};
use proptest::prelude::*;

use super::*;

fn name(site: &str) -> ConnectionName {
    ConnectionName::of(site).unwrap()
}

fn wanted(child: &str, role: IkeRole) -> WantedConnection {
    WantedConnection {
        child: child.to_owned(),
        has_secret: true,
        role,
        stands_by: false,
    }
}

fn standing_by(child: &str) -> WantedConnection {
    WantedConnection {
        stands_by: true,
        ..wanted(child, IkeRole::Initiator)
    }
}

fn child(name: &str, id: u64, state: ChildState) -> ChildSa {
    ChildSa {
        name: name.to_owned(),
        id: UniqueId(id),
        state,
        encapsulated: true,
        spi_in: None,
        spi_out: None,
        if_id_in: None,
        if_id_out: None,
        proposal: String::new(),
        received: Traffic::default(),
        sent: Traffic::default(),
        rekey_in: None,
        ends_in: None,
        installed: None,
        local_selectors: BTreeSet::new(),
        remote_selectors: BTreeSet::new(),
    }
}

fn ike(connection: &str, id: u64, state: IkeState, children: Vec<ChildSa>) -> IkeSa {
    IkeSa {
        connection: connection.to_owned(),
        id: UniqueId(id),
        state,
        initiated: true,
        local: None,
        remote: None,
        local_id: None,
        remote_id: None,
        nat: Nat::default(),
        proposal: String::new(),
        established: None,
        rekey_in: None,
        tasks: BTreeSet::new(),
        children,
    }
}

/// `dc` loaded with its secret as wanted, with these SAs.
fn loaded(child: &str, associations: Vec<IkeSa>) -> ActualIpsec {
    ActualIpsec {
        connections: BTreeMap::from([(name("dc"), BTreeSet::from([child.to_owned()]))]),
        secrets: BTreeSet::from([name("dc")]),
        current_secrets: BTreeSet::from([name("dc")]),
        associations,
    }
}

fn words(wanted: WantedConnection, actual: &ActualIpsec) -> Vec<String> {
    let wanted = BTreeMap::from([(name("dc"), wanted)]);
    let changes = plan(&wanted, actual);
    changes.iter().map(ToString::to_string).collect()
}

fn up(child_name: &str) -> IkeSa {
    let children = vec![child(child_name, 9, ChildState::Installed)];
    ike("privnet-dc", 1, IkeState::Established, children)
}

#[test]
fn what_runs_as_wanted_is_left_alone() {
    let actual = loaded("dc.1", vec![up("dc.1")]);
    assert_eq!(words(wanted("dc.1", IkeRole::Initiator), &actual), [""; 0]);
    assert_eq!(words(wanted("dc.1", IkeRole::Responder), &actual), [""; 0]);
}

#[test]
fn a_new_connection_gets_its_secret_first() {
    let expected = [
        "load preshared key of privnet-dc",
        "load connection privnet-dc",
        "initiate privnet-dc",
    ];
    let nothing = ActualIpsec::default();
    assert_eq!(
        words(wanted("dc.1", IkeRole::Initiator), &nothing),
        expected
    );
    let as_responder = words(wanted("dc.1", IkeRole::Responder), &nothing);
    assert_eq!(as_responder, expected[..2]);
}

#[test]
fn after_a_restart_of_ours_only_the_secret_is_loaded_again() {
    let mut actual = loaded("dc.1", vec![up("dc.1")]);
    actual.current_secrets.clear();
    let words = words(wanted("dc.1", IkeRole::Initiator), &actual);
    assert_eq!(words, ["load preshared key of privnet-dc"]);
}

#[test]
fn what_changed_is_set_up_beside_the_old_which_ends_afterwards() {
    let changed = || wanted("dc.2", IkeRole::Initiator);
    let before = loaded("dc.1", vec![up("dc.1")]);
    let first = ["load connection privnet-dc", "initiate privnet-dc"];
    assert_eq!(words(changed(), &before), first);
    // Under way, as a second IKE SA.
    let connecting = ike("privnet-dc", 2, IkeState::Connecting, vec![]);
    let under_way = loaded("dc.2", vec![up("dc.1"), connecting]);
    assert_eq!(words(changed(), &under_way), [""; 0]);
    let mut new = up("dc.2");
    new.id = UniqueId(2);
    let both = loaded("dc.2", vec![up("dc.1"), new]);
    let last = ["terminate IKE SA #1 of privnet-dc: the connection has changed"];
    assert_eq!(words(changed(), &both), last);
    // As a second child of the same IKE SA.
    let mut shared = up("dc.1");
    shared
        .children
        .push(child("dc.2", 10, ChildState::Installed));
    let both = loaded("dc.2", vec![shared]);
    let last = ["terminate child SA #9 of privnet-dc: the connection has changed"];
    assert_eq!(words(changed(), &both), last);
}

#[test]
fn an_attempt_by_the_old_connection_ends_when_the_new_one_is_loaded() {
    let connecting = ike("privnet-dc", 1, IkeState::Connecting, vec![]);
    let actual = loaded("dc.1", vec![connecting]);
    assert_eq!(
        words(wanted("dc.2", IkeRole::Initiator), &actual),
        [
            "load connection privnet-dc",
            "terminate IKE SA #1 of privnet-dc: the connection has changed",
            "initiate privnet-dc",
        ]
    );
}

#[test]
fn a_responder_ends_the_old_so_that_the_peer_begins_anew() {
    let actual = loaded("dc.1", vec![up("dc.1")]);
    assert_eq!(
        words(wanted("dc.2", IkeRole::Responder), &actual),
        [
            "load connection privnet-dc",
            "terminate IKE SA #1 of privnet-dc: the connection has changed",
        ]
    );
}

#[test]
fn what_is_not_wanted_is_unloaded_before_it_ends() {
    let actual = loaded("dc.1", vec![up("dc.1")]);
    let changes = plan(&BTreeMap::new(), &actual);
    let words: Vec<_> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "unload connection privnet-dc",
            "terminate IKE SA #1 of privnet-dc: the connection is not wanted any more",
            "unload preshared key of privnet-dc",
        ]
    );
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut foreign = up("dc.1");
    foreign.connection = "dc".to_owned();
    let actual = ActualIpsec {
        associations: vec![foreign],
        ..ActualIpsec::default()
    };
    assert_eq!(plan(&BTreeMap::new(), &actual), []);
}

#[test]
fn ike_without_its_child_is_initiated_unless_that_is_under_way() {
    let initiator = || wanted("dc.1", IkeRole::Initiator);
    let mut alone = ike("privnet-dc", 1, IkeState::Established, vec![]);
    let actual = loaded("dc.1", vec![alone.clone()]);
    assert_eq!(words(initiator(), &actual), ["initiate privnet-dc"]);
    alone.tasks.insert("CHILD_CREATE".to_owned());
    let actual = loaded("dc.1", vec![alone]);
    assert_eq!(words(initiator(), &actual), [""; 0]);
    // A child that ended just now is still listed, and carries nothing.
    let ended = vec![child("dc.1", 9, ChildState::Deleted)];
    let ended = ike("privnet-dc", 1, IkeState::Established, ended);
    let actual = loaded("dc.1", vec![ended]);
    assert_eq!(words(initiator(), &actual), ["initiate privnet-dc"]);
}

#[test]
fn what_stands_by_has_ike_and_nothing_else() {
    let none = loaded("dc.1", Vec::new());
    let initiates = IpsecChange::Initiate {
        name: name("dc"),
        child: None,
    };
    let only_ike = BTreeMap::from([(name("dc"), standing_by("dc.1"))]);
    assert_eq!(plan(&only_ike, &none), [initiates]);
    for state in [IkeState::Connecting, IkeState::Established] {
        let alone = ike("privnet-dc", 1, state, Vec::new());
        assert!(plan(&only_ike, &loaded("dc.1", vec![alone])).is_empty());
    }
    // It was in use before: what it has of that time ends.
    assert_eq!(
        words(standing_by("dc.1"), &loaded("dc.2", vec![up("dc.2")])),
        [
            "load connection privnet-dc",
            "terminate IKE SA #1 of privnet-dc: the connection has changed",
            "initiate privnet-dc",
        ]
    );
    // And the other way round.
    let alone = ike("privnet-dc", 1, IkeState::Established, Vec::new());
    assert_eq!(
        words(
            wanted("dc.1", IkeRole::Initiator),
            &loaded("dc.2", vec![alone])
        ),
        [
            "load connection privnet-dc",
            "terminate IKE SA #1 of privnet-dc: the connection has changed",
            "initiate privnet-dc",
        ]
    );
}

/// What charon does with a plan when nothing goes wrong.
fn apply(
    changes: &[IpsecChange],
    wanted: &BTreeMap<ConnectionName, WantedConnection>,
    actual: &mut ActualIpsec,
) {
    for change in changes {
        match change {
            IpsecChange::UnloadConnection(name) => {
                assert!(actual.connections.remove(name).is_some());
            }
            IpsecChange::TerminateIke { id, .. } => {
                let before = actual.associations.len();
                actual.associations.retain(|sa| sa.id != *id);
                assert_eq!(actual.associations.len() + 1, before);
            }
            IpsecChange::TerminateChild { id, .. } => {
                for sa in &mut actual.associations {
                    sa.children.retain(|child| child.id != *id);
                }
            }
            IpsecChange::UnloadSecret(name) => {
                assert!(actual.secrets.remove(name));
                actual.current_secrets.remove(name);
            }
            IpsecChange::LoadSecret(name) => {
                actual.secrets.insert(name.clone());
                actual.current_secrets.insert(name.clone());
            }
            IpsecChange::LoadConnection(name) => {
                let children = BTreeSet::from([wanted[name].child.clone()]);
                actual.connections.insert(name.clone(), children);
            }
            IpsecChange::Initiate { name, child: new } => {
                let loaded = &actual.connections[name];
                assert!(new.iter().all(|new| loaded.contains(new)), "not loaded");
                let id = 1000 + actual.associations.len() as u64;
                let new = new.iter();
                let children = new.map(|new| child(new, 2000 + id, ChildState::Installed));
                let children = children.collect();
                let sa = ike(name.as_str(), id, IkeState::Established, children);
                actual.associations.push(sa);
            }
        }
    }
}

fn some_sa(id: u64) -> impl Strategy<Value = IkeSa> {
    let names = prop::sample::select(vec!["privnet-a", "privnet-b", "privnet-c", "theirs"]);
    let states = prop::sample::select(vec![
        IkeState::Connecting,
        IkeState::Established,
        IkeState::Deleting,
    ]);
    let children = prop::collection::vec(
        (
            prop::sample::select(vec!["x.1", "x.2", "x.3"]),
            prop::sample::select(vec![
                ChildState::Installed,
                ChildState::Rekeying,
                ChildState::Deleted,
            ]),
        ),
        0..3,
    );
    (names, states, children, any::<bool>()).prop_map(move |(name, state, children, busy)| {
        let children = (0..).zip(children);
        let children = children.map(|(at, (name, state))| child(name, id * 10 + at, state));
        let mut sa = ike(name, id, state, children.collect());
        if busy {
            sa.tasks.insert("CHILD_CREATE".to_owned());
        }
        sa
    })
}

fn some_wanted() -> impl Strategy<Value = BTreeMap<ConnectionName, WantedConnection>> {
    let sites = prop::sample::select(vec!["a", "b", "c"]).prop_map(name);
    let children = prop::sample::select(vec!["x.1", "x.2"]);
    let roles = prop::sample::select(vec![IkeRole::Initiator, IkeRole::Responder]);
    let flags = any::<(bool, bool)>();
    let connection = (children, flags, roles).prop_map(|(child, (has_secret, stands_by), role)| {
        let child = child.to_owned();
        WantedConnection {
            child,
            has_secret,
            role,
            stands_by,
        }
    });
    prop::collection::btree_map(sites, connection, 0..4)
}

fn some_actual() -> impl Strategy<Value = ActualIpsec> {
    let site = || prop::sample::select(vec!["a", "b", "c"]).prop_map(name);
    let children = prop::sample::select(vec!["x.1", "x.2", "x.3"]);
    let children = children.prop_map(|child| BTreeSet::from([child.to_owned()]));
    (
        prop::collection::btree_map(site(), children, 0..4),
        prop::collection::btree_set(site(), 0..4),
        prop::collection::btree_set(site(), 0..4),
        (some_sa(1), some_sa(2), some_sa(3), 0_usize..4),
    )
        .prop_map(
            |(connections, secrets, current_secrets, (one, two, three, many))| {
                let mut associations = vec![one, two, three];
                associations.truncate(many);
                ActualIpsec {
                    connections,
                    secrets,
                    current_secrets,
                    associations,
                }
            },
        )
}

proptest! {
    /// In two rounds, because the old ends only once the new is seen to run.
    #[test]
    fn a_plan_carried_out_twice_leaves_nothing_to_do_but_wait(
        wanted in some_wanted(),
        mut actual in some_actual(),
    ) {
        let foreign = |actual: &ActualIpsec| {
            let sas = actual.associations.iter();
            sas.filter(|sa| sa.connection == "theirs").cloned().collect::<Vec<_>>()
        };
        let theirs = foreign(&actual);
        for _ in 0..2 {
            let changes = plan(&wanted, &actual);
            apply(&changes, &wanted, &mut actual);
        }
        let left = plan(&wanted, &actual);
        prop_assert!(left.is_empty(), "{:?}", left);
        prop_assert_eq!(foreign(&actual), theirs);
        prop_assert!(actual.connections.keys().eq(wanted.keys()));
    }

    #[test]
    fn a_tunnel_that_is_to_stay_up_always_has_a_child_that_carries_traffic(
        wanted in some_wanted(),
        mut actual in some_actual(),
    ) {
        let carries = |actual: &ActualIpsec, name: &ConnectionName| {
            let sas = actual.associations.iter();
            let ours = sas.filter(|sa| sa.connection == name.as_str() && sa.state.is_alive());
            ours.flat_map(IkeSa::live_children).next().is_some()
        };
        for _ in 0..2 {
            for change in plan(&wanted, &actual) {
                let before = actual.clone();
                apply(std::slice::from_ref(&change), &wanted, &mut actual);
                for (name, connection) in &wanted {
                    let lost = carries(&before, name) && !carries(&actual, name);
                    prop_assert!(
                        !lost || connection.role == IkeRole::Responder || connection.stands_by,
                        "{} cut {}", change, name
                    );
                }
            }
        }
    }
}
