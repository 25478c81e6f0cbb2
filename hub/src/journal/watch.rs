//! What happened between two looks at the tunnels and partitions, in words.
//!
//! What is new or gone as a whole is not told here: the decision that made it
//! so knows why, and is recorded with its reason. Nor is what a failing
//! partition means for each of its tunnels: the partition's own event tells it.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};

use privnet_model::inventory::{HeldRemovals, Partition};
use privnet_model::status::{
    GatewayHealth, GatewayRole, GatewayStatus, Note, PartitionStatus, Reason, Tunnel, TunnelState,
};

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    /// Every tunnel.
    pub(crate) tunnels: &'a [Tunnel],
    /// Every partition.
    pub(crate) partitions: &'a [PartitionStatus],
    /// The removals that are held.
    pub(crate) held_removals: Option<HeldRemovals>,
}

/// To what something happened, and what.
pub(crate) type Happening = (String, String);

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    looks: u64,
    tunnels: BTreeMap<String, Seen>,
    partitions: BTreeMap<Partition, Polled>,
    held_removals: Option<HeldRemovals>,
}

#[derive(Debug)]
struct Seen {
    /// The look at which it was there last.
    look: u64,
    state: TunnelState,
    reason: Option<Reason>,
    gateway: Option<GatewayStatus>,
    failovers: u64,
    notes: Vec<Note>,
}

#[derive(Debug)]
struct Polled {
    failures: u64,
    failing: bool,
}

impl Watch {
    /// Looks, and tells what happened since the last time.
    pub(crate) fn look(&mut self, view: View<'_>) -> Vec<Happening> {
        let mut happened = Vec::new();
        self.looks += 1;
        for tunnel in view.tunnels {
            self.look_at(tunnel, &mut happened);
        }
        let look = self.looks;
        self.tunnels.retain(|_, seen| seen.look == look);
        self.look_at_partitions(view.partitions, &mut happened);
        let before = std::mem::replace(&mut self.held_removals, view.held_removals);
        match (before, view.held_removals) {
            (None, Some(held)) => happened.push(("removals".to_owned(), held.to_string())),
            (Some(_), None) => {
                let text = "no longer held: they were accepted, or EC2 names the spokes again";
                happened.push(("removals".to_owned(), text.to_owned()));
            }
            (Some(before), Some(held)) if before.count != held.count => {
                happened.push(("removals".to_owned(), held.to_string()));
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        happened
    }

    /// Writes into each gateway how often its site's CIDRs were taken from it, as
    /// far as was seen.
    pub(crate) fn count_failovers(&self, tunnels: &mut [Tunnel]) {
        for tunnel in tunnels {
            let seen = self.tunnels.get(id(tunnel));
            if let (Some(gateway), Some(seen)) = (&mut tunnel.gateway, seen) {
                gateway.failovers = seen.failovers;
            }
        }
    }

    fn look_at(&mut self, tunnel: &Tunnel, happened: &mut Vec<Happening>) {
        let id = id(tunnel);
        let Some(seen) = self.tunnels.get_mut(id) else {
            self.tunnels
                .insert(id.to_owned(), Seen::of(tunnel, self.looks, 0));
            return;
        };
        seen.look = self.looks;
        let texts = seen.changes(tunnel);
        if texts.is_empty() {
            return;
        }
        let what = format!("tunnel {}", tunnel.name);
        happened.extend(texts.into_iter().map(|text| (what.clone(), text)));
        let failovers = seen.failovers + u64::from(failed_over(seen.gateway, tunnel.gateway));
        *seen = Seen::of(tunnel, self.looks, failovers);
    }

    fn look_at_partitions(
        &mut self,
        partitions: &[PartitionStatus],
        happened: &mut Vec<Happening>,
    ) {
        self.partitions
            .retain(|known, _| partitions.iter().any(|view| view.partition == *known));
        for view in partitions {
            let now = Polled {
                failures: view.failures,
                failing: view.error.is_some(),
            };
            let before = self.partitions.get(&view.partition);
            let failed_again = before.is_none_or(|before| before.failures != now.failures);
            match &view.error {
                Some(error) if failed_again => {
                    let kept = match view.spokes {
                        1 => "its spoke is kept".to_owned(),
                        spokes => format!("its {spokes} spokes are kept"),
                    };
                    let text = format!("poll failed, {kept}: {error}");
                    happened.push((view.partition.to_string(), text));
                }
                None if before.is_some_and(|before| before.failing) => {
                    let text = "EC2 answers for it again".to_owned();
                    happened.push((view.partition.to_string(), text));
                }
                Some(_) | None => {}
            }
            self.partitions.insert(view.partition.clone(), now);
        }
    }
}

/// Names repeat; instances, and the names of sites, do not.
fn id(tunnel: &Tunnel) -> &str {
    match &tunnel.instance {
        Some(instance) => instance.as_str(),
        None => tunnel.name.as_str(),
    }
}

impl Seen {
    fn of(tunnel: &Tunnel, look: u64, failovers: u64) -> Self {
        Self {
            look,
            state: tunnel.state,
            reason: tunnel.reason.clone(),
            gateway: tunnel.gateway,
            failovers,
            notes: tunnel.notes.clone(),
        }
    }

    /// What the tunnel shows that it did not show before, and the other way round.
    fn changes(&self, tunnel: &Tunnel) -> Vec<String> {
        let mut texts = Vec::new();
        if self.state != tunnel.state || self.reason != tunnel.reason {
            texts.push(match &tunnel.reason {
                Some(reason) => format!("is {}: {reason}", tunnel.state),
                None => format!("is {}", tunnel.state),
            });
        }
        if self.gateway != tunnel.gateway {
            texts.extend(gateway_change(self.gateway, tunnel));
        }
        if self.notes != tunnel.notes {
            let news = tunnel
                .notes
                .iter()
                .filter(|note| !self.notes.contains(note));
            texts.extend(news.filter_map(news_of));
            let still: Vec<Discriminant<Note>> = tunnel.notes.iter().map(discriminant).collect();
            let over = self
                .notes
                .iter()
                .filter(|note| !still.contains(&discriminant(note)));
            texts.extend(over.filter_map(end_of).map(str::to_owned));
        }
        texts
    }
}

/// Whether a gateway lost its site's CIDRs because it does not answer.
fn failed_over(before: Option<GatewayStatus>, now: Option<GatewayStatus>) -> bool {
    let was_active = before.is_some_and(|before| before.role == GatewayRole::Active);
    was_active && now.is_some_and(|now| now.role == GatewayRole::Standby && has_failed(now.health))
}

/// Also one that answers again since: the traffic went elsewhere before that.
fn has_failed(health: GatewayHealth) -> bool {
    matches!(health, GatewayHealth::Down | GatewayHealth::Recovering)
}

fn gateway_change(before: Option<GatewayStatus>, tunnel: &Tunnel) -> Option<String> {
    let Some(now) = tunnel.gateway else {
        return before.map(|_| "is the only gateway of its site".to_owned());
    };
    let Some(before) = before else {
        let role = now.role;
        return Some(format!("shares its site with another gateway: {role}"));
    };
    match (before.role, now.role) {
        (GatewayRole::Standby, GatewayRole::Active) => {
            let cidrs: Vec<String> = tunnel.cidrs.iter().map(ToString::to_string).collect();
            Some(format!("takes over for its site: {}", cidrs.join(", ")))
        }
        (GatewayRole::Active, GatewayRole::Standby) => Some(match has_failed(now.health) {
            true => "fails: another gateway of its site takes over".to_owned(),
            false => "is a standby of its site now".to_owned(),
        }),
        // Whether it answers is told by its state.
        (GatewayRole::Active, GatewayRole::Active)
        | (GatewayRole::Standby, GatewayRole::Standby) => None,
    }
}

fn news_of(note: &Note) -> Option<String> {
    match note {
        Note::Absent { .. }
        | Note::KeyQuarantined { .. }
        | Note::KeyRotating { .. }
        | Note::Unproven { .. } => Some(note.to_string()),
        Note::PartitionFailing { .. } => None,
    }
}

fn end_of(note: &Note) -> Option<&'static str> {
    match note {
        Note::Absent { .. } => Some("EC2 names it again"),
        Note::KeyQuarantined { .. } => Some("no key of it is quarantined any more"),
        Note::KeyRotating { .. } => Some("its change of keys is over"),
        Note::Unproven { .. } => Some("has proved which instance it is, or is not asked any more"),
        Note::PartitionFailing { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use jiff::Timestamp;
    use privnet_model::inventory::{Fate, Transport};
    use privnet_model::key::PublicKey;
    use privnet_model::status::{Kept, Origin};

    use super::*;

    fn time() -> Timestamp {
        "2026-11-21T05:00:00Z".parse().unwrap()
    }

    fn tunnel(number: u8) -> Tunnel {
        Tunnel {
            name: "web".to_owned(),
            origin: Origin::Discovered,
            account: None,
            region: None,
            zone: None,
            vpc: None,
            instance: Some(format!("i-0bbbbbbbbbbbbbbb{number}").parse().unwrap()),
            launched: None,
            cidrs: vec!["10.1.0.0/16".parse().unwrap()],
            excluded: Vec::new(),
            transport: Transport::Wireguard,
            endpoint: None,
            private_address: None,
            public_key: None,
            state: TunnelState::Up,
            reason: None,
            gateway: None,
            notes: Vec::new(),
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_rate: 0.0,
            tx_rate: 0.0,
            ipsec: None,
        }
    }

    fn partition(failures: u64, error: Option<&str>) -> PartitionStatus {
        PartitionStatus {
            partition: Partition {
                account: "111122223333".parse().unwrap(),
                region: "eu-west-1".parse().unwrap(),
            },
            spokes: 3,
            answered_at: None,
            error: error.map(str::to_owned),
            failing_since: None,
            polls: 9,
            failures,
            calls: 2,
        }
    }

    fn look(watch: &mut Watch, tunnels: &[Tunnel]) -> Vec<String> {
        let happened = watch.look(View {
            tunnels,
            partitions: &[],
            held_removals: None,
        });
        happened
            .into_iter()
            .map(|(what, text)| format!("{what}: {text}"))
            .collect()
    }

    fn gateway(role: GatewayRole, health: GatewayHealth) -> Option<GatewayStatus> {
        Some(GatewayStatus {
            role,
            health,
            failovers: 0,
        })
    }

    #[test]
    fn the_first_look_and_one_without_news_tell_nothing() {
        let mut watch = Watch::default();
        let tunnels = [tunnel(1), tunnel(2)];
        assert_eq!(look(&mut watch, &tunnels), [""; 0]);
        let mut busy = tunnels.clone();
        busy[0].rx_bytes = 7;
        busy[0].last_handshake = Some(time());
        assert_eq!(look(&mut watch, &busy), [""; 0]);
        assert_eq!(look(&mut watch, &tunnels[..1]), [""; 0]);
        assert_eq!(watch.tunnels.len(), 1);
    }

    #[test]
    fn a_change_of_state_or_of_its_reason_is_told_of_the_tunnel_it_happened_to() {
        let mut watch = Watch::default();
        let mut tunnels = [tunnel(1), tunnel(2)];
        look(&mut watch, &tunnels);
        tunnels[1].state = TunnelState::Down;
        tunnels[1].reason = Some(Reason::Silent);
        let down = ["tunnel web: is down: no handshake for over 3 minutes"];
        assert_eq!(look(&mut watch, &tunnels), down);
        assert_eq!(look(&mut watch, &tunnels), [""; 0]);
        tunnels[1].reason = Some(Reason::Unresponsive);
        let why = ["tunnel web: is down: probes through the tunnel are not answered reliably"];
        assert_eq!(look(&mut watch, &tunnels), why);
        tunnels[1] = tunnel(2);
        assert_eq!(look(&mut watch, &tunnels), ["tunnel web: is up"]);
    }

    #[test]
    fn notes_are_told_when_they_come_change_and_go() {
        let mut watch = Watch::default();
        let absent = |fate, kept| Note::Absent {
            fate,
            since: time(),
            kept,
        };
        let with = |notes: &[Note]| {
            [Tunnel {
                notes: notes.to_vec(),
                ..tunnel(1)
            }]
        };
        let quarantined = Note::KeyQuarantined {
            key: PublicKey::from_bytes([7; 32]),
        };
        let failing = Note::PartitionFailing { since: time() };
        look(&mut watch, &with(&[]));
        assert_eq!(
            look(&mut watch, &with(std::slice::from_ref(&failing))),
            [""; 0]
        );
        let first = absent(Fate::Stopped, Kept::SecondAnswer);
        assert_eq!(
            look(&mut watch, &with(&[first, quarantined.clone()])),
            [
                "tunnel web: EC2 says stopped since 2026-11-21T05:00:00Z; goes if the next answer lacks it, too",
                &format!("tunnel web: {quarantined}"),
            ]
        );
        let second = absent(Fate::Stopped, Kept::Handshakes);
        assert_eq!(
            look(&mut watch, &with(std::slice::from_ref(&second))),
            [
                "tunnel web: EC2 says stopped since 2026-11-21T05:00:00Z; kept because it still handshakes",
                "tunnel web: no key of it is quarantined any more",
            ]
        );
        assert_eq!(
            look(&mut watch, &with(&[])),
            ["tunnel web: EC2 names it again"]
        );
    }

    #[test]
    fn a_failover_is_told_of_both_gateways_and_counted_of_the_one_that_failed() {
        use GatewayHealth::{Down, Healthy, Unknown};
        use GatewayRole::{Active, Standby};

        let mut watch = Watch::default();
        let mut tunnels = [tunnel(1), tunnel(2)];
        tunnels[1].name = "web-2".to_owned();
        let mut set = |a, b| {
            tunnels[0].gateway = a;
            tunnels[1].gateway = b;
            let told = look(&mut watch, &tunnels);
            let mut counted = tunnels.clone();
            watch.count_failovers(&mut counted);
            let counts = counted.map(|tunnel| tunnel.gateway.map_or(0, |it| it.failovers));
            (told, counts)
        };
        let (active, standby) = (gateway(Active, Healthy), gateway(Standby, Healthy));
        let none = (Vec::<String>::new(), [0, 0]);
        assert_eq!(
            set(gateway(Active, Unknown), gateway(Standby, Unknown)),
            none
        );
        assert_eq!(set(active, standby), none);
        // With nobody better it keeps what it has.
        assert_eq!(set(gateway(Active, Down), standby), none);
        let (told, counts) = set(gateway(Standby, Down), active);
        assert_eq!(
            told,
            [
                "tunnel web: fails: another gateway of its site takes over",
                "tunnel web-2: takes over for its site: 10.1.0.0/16",
            ]
        );
        assert_eq!(counts, [1, 0]);
        assert_eq!(set(standby, active), (Vec::new(), [1, 0]));
        let (told, counts) = set(active, standby);
        assert_eq!(
            told,
            [
                "tunnel web: takes over for its site: 10.1.0.0/16",
                "tunnel web-2: is a standby of its site now",
            ]
        );
        assert_eq!(counts, [1, 0]);
        assert_eq!(set(gateway(Standby, Down), active).1, [2, 0]);
        let (told, _) = set(None, None);
        assert_eq!(
            told,
            [
                "tunnel web: is the only gateway of its site",
                "tunnel web-2: is the only gateway of its site",
            ]
        );
        assert_eq!(
            set(active, standby).0[1],
            "tunnel web-2: shares its site with another gateway: standby"
        );
    }

    #[test]
    fn a_gateway_that_failed_and_answers_now_and_then_is_told_and_counted_once() {
        use GatewayHealth::{Down, Healthy, Recovering};
        use GatewayRole::{Active, Standby};

        let mut watch = Watch::default();
        let mut seen = tunnel(1);
        seen.gateway = gateway(Active, Healthy);
        look(&mut watch, std::slice::from_ref(&seen));
        seen.state = TunnelState::Down;
        seen.reason = Some(Reason::Unresponsive);
        seen.gateway = gateway(Standby, Recovering);
        assert_eq!(
            look(&mut watch, std::slice::from_ref(&seen)),
            [
                "tunnel web: is down: probes through the tunnel are not answered reliably",
                "tunnel web: fails: another gateway of its site takes over",
            ]
        );
        for health in [Down, Recovering, Down, Recovering] {
            seen.gateway = gateway(Standby, health);
            assert_eq!(look(&mut watch, std::slice::from_ref(&seen)), [""; 0]);
        }
        let mut counted = [seen];
        watch.count_failovers(&mut counted);
        assert_eq!(counted[0].gateway.unwrap().failovers, 1);
    }

    #[test]
    fn every_poll_that_fails_is_told_and_the_first_that_does_not() {
        let mut watch = Watch::default();
        let mut look = |failures, error| {
            let happened = watch.look(View {
                tunnels: &[],
                partitions: &[partition(failures, error)],
                held_removals: None,
            });
            happened
                .into_iter()
                .map(|(what, text)| format!("{what}: {text}"))
                .collect::<Vec<_>>()
        };
        let failed = ["111122223333/eu-west-1: poll failed, its 3 spokes are kept: throttled"];
        assert_eq!(look(0, None), [""; 0]);
        assert_eq!(look(1, Some("throttled")), failed);
        assert_eq!(look(1, Some("throttled")), [""; 0]);
        assert_eq!(look(2, Some("throttled")), failed);
        assert_eq!(
            look(2, None),
            ["111122223333/eu-west-1: EC2 answers for it again"]
        );
        assert_eq!(look(2, None), [""; 0]);
    }

    #[test]
    fn held_removals_are_told_when_they_come_grow_and_go() {
        let mut watch = Watch::default();
        let mut look = |count: usize| {
            let held = HeldRemovals {
                count,
                of: 20,
                since: time(),
            };
            watch.look(View {
                tunnels: &[],
                partitions: &[],
                held_removals: (count > 0).then_some(held),
            })
        };
        assert_eq!(look(0), []);
        let [(what, text)] = look(12).try_into().unwrap();
        assert_eq!(what, "removals");
        assert!(text.starts_with("12 of 20 tunnels"), "{text}");
        assert_eq!(look(12), []);
        assert!(look(13)[0].1.starts_with("13 of 20"));
        assert!(look(0)[0].1.starts_with("no longer held"));
        assert_eq!(look(0), []);
    }
}
