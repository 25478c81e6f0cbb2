#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use privnet_model::ipsec::{ChildState, Traffic};

use super::*;

fn name() -> ConnectionName {
    ConnectionName::of("dc").unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn child(id: u64, bytes: u64, state: ChildState) -> ChildSa {
    let traffic = Traffic {
        bytes,
        packets: bytes / 100,
        idle: None,
    };
    ChildSa {
        name: "privnet-dc-1".to_owned(),
        id: UniqueId(id),
        state,
        encapsulated: true,
        spi_in: None,
        spi_out: None,
        if_id_in: None,
        if_id_out: None,
        proposal: "AES_GCM_16-256".to_owned(),
        received: traffic,
        sent: traffic,
        rekey_in: Some(Duration::from_secs(60)),
        ends_in: None,
        installed: Some(Duration::from_secs(1)),
        local_selectors: ["10.0.0.0/8".to_owned()].into(),
        remote_selectors: ["10.200.0.0/16".to_owned()].into(),
    }
}

fn ike(state: IkeState, children: Vec<ChildSa>) -> IkeSa {
    IkeSa {
        connection: "privnet-dc".to_owned(),
        id: UniqueId(1),
        state,
        initiated: true,
        local: None,
        remote: Some("203.0.113.9:4500".parse().unwrap()),
        local_id: None,
        remote_id: None,
        nat: privnet_model::ipsec::Nat::default(),
        proposal: String::new(),
        established: None,
        rekey_in: None,
        tasks: [].into(),
        children,
    }
}

fn seen(ledger: &mut Ledger, sas: &[IkeSa], second: u64) -> (TunnelState, Option<Reason>) {
    ledger.look(sas, at(second));
    let report = ledger.report(&name(), sas, at(second));
    (report.state, report.reason)
}

#[test]
fn a_tunnel_is_up_by_its_child_and_never_by_ike_alone() {
    let mut ledger = Ledger::default();
    let no_answer = (TunnelState::Connecting, Some(Reason::NoAnswer));
    assert_eq!(seen(&mut ledger, &[], 0), no_answer);
    let alone = [ike(IkeState::Established, Vec::new())];
    let ike_only = (TunnelState::Connecting, Some(Reason::IkeOnly));
    assert_eq!(seen(&mut ledger, &alone, 1), ike_only);
    let failure = IkeFailure::SelectorsRefused;
    ledger.failed(name(), failure.clone());
    let refused = (TunnelState::Connecting, Some(Reason::Ike { failure }));
    assert_eq!(seen(&mut ledger, &alone, 2), refused);

    let installed = child(1, 0, ChildState::Installed);
    let up = [ike(IkeState::Established, vec![installed])];
    assert_eq!(seen(&mut ledger, &up, 3), (TunnelState::Up, None));
    // What went wrong before is over.
    let dead = Some(Reason::Ike {
        failure: IkeFailure::PeerDead,
    });
    assert_eq!(seen(&mut ledger, &[], 4), (TunnelState::Down, dead));
}

#[test]
fn counts_go_on_over_rekeys_and_begin_where_we_began_to_look() {
    let mut ledger = Ledger::default();
    let with = |children| [ike(IkeState::Established, children)];
    let mut bytes = |children: Vec<ChildSa>, second| {
        let sas = with(children);
        ledger.look(&sas, at(second));
        let report = ledger.report(&name(), &sas, at(second));
        (report.rx_bytes, report.status.tx_packets)
    };
    // It was there before this daemon.
    assert_eq!(
        bytes(vec![child(1, 5_000, ChildState::Installed)], 0),
        (0, 0)
    );
    assert_eq!(
        bytes(vec![child(1, 5_700, ChildState::Installed)], 1),
        (700, 7)
    );
    let both = vec![
        child(1, 5_800, ChildState::Rekeyed),
        child(2, 300, ChildState::Installed),
    ];
    assert_eq!(bytes(both, 2), (1_100, 11));
    assert_eq!(
        bytes(vec![child(2, 500, ChildState::Installed)], 3),
        (1_300, 13)
    );

    // Another charon numbers its SAs anew.
    ledger.begin();
    let sas = with(vec![child(1, 200, ChildState::Installed)]);
    ledger.look(&sas, at(9));
    assert_eq!(ledger.report(&name(), &sas, at(9)).rx_bytes, 1_300);
}

#[test]
fn the_newest_keys_are_the_last_handshake() {
    let mut ledger = Ledger::default();
    let mut old = child(1, 0, ChildState::Rekeying);
    old.installed = Some(Duration::from_secs(3_000));
    let new = child(2, 0, ChildState::Installed);
    let sas = [ike(IkeState::Established, vec![new, old])];
    ledger.look(&sas, at(5_000));
    let report = ledger.report(&name(), &sas, at(5_000));
    assert_eq!(report.last_handshake, Some(at(4_999)));
    assert_eq!(report.status.remote_selectors, ["10.200.0.0/16"]);
}
