//! The difference between two decisions, told to a person: what a refresh
//! changed (or would change), and why.

use ipnet::IpNet;
use privnet_model::admin::{Action, Change};
use privnet_model::inventory::Fate;

use crate::fleet::{Fleet, Obstacle, PlannedTunnel, TunnelId};
use crate::health::Health;
use crate::inventory::Removed;

/// Every tunnel that appears, disappears or becomes different. `removed` tells what
/// became of spokes that went.
pub fn changes(before: &Fleet, after: &Fleet, removed: &[Removed]) -> Vec<Change> {
    let gone = before
        .tunnels
        .iter()
        .filter(|(id, _)| !after.tunnels.contains_key(id))
        .map(|(id, tunnel)| Change {
            action: Action::Remove,
            what: name(tunnel),
            why: format!("{} ({})", farewell(id, removed), list(&tunnel.cidrs)),
        });
    let rest = after.tunnels.iter().filter_map(|(id, tunnel)| {
        let (action, why) = match before.tunnels.get(id) {
            None => (Action::Add, introduce(id, tunnel)),
            Some(old) if old != tunnel && !only_flaps(old, tunnel) => {
                (Action::Change, compare(old, tunnel))
            }
            Some(_) => return None,
        };
        Some(Change {
            action,
            what: name(tunnel),
            why,
        })
    });
    gone.chain(rest).collect()
}

fn farewell(id: &TunnelId, removed: &[Removed]) -> String {
    let (partition, instance) = match id {
        TunnelId::Site(_) => return "no longer in the config".to_owned(),
        TunnelId::Spoke(partition, instance) => (partition, instance),
    };
    let gone = removed
        .iter()
        .find(|gone| gone.partition == *partition && gone.instance == *instance);
    match gone {
        Some(gone) if gone.fate == Fate::Unconfigured => {
            format!("{instance}: the config no longer names {partition}")
        }
        Some(gone) => {
            let accepted = if gone.accepted {
                "; its removal was accepted"
            } else {
                ""
            };
            format!(
                "{instance} is {}, says EC2, and missing from {partition} since {:.0}{accepted}",
                gone.fate, gone.since
            )
        }
        // It is in what is the hub's own VPC now.
        None => format!("{instance} of {partition} is no longer a spoke of this hub"),
    }
}

fn name(tunnel: &PlannedTunnel) -> String {
    format!("tunnel {}", tunnel.name)
}

fn introduce(id: &TunnelId, tunnel: &PlannedTunnel) -> String {
    let from = match id {
        TunnelId::Site(_) => "[[site]] of the config".to_owned(),
        TunnelId::Spoke(partition, instance) => format!("{instance} found in {partition}"),
    };
    format!("{from}; {}", outcome(tunnel))
}

fn outcome(tunnel: &PlannedTunnel) -> String {
    match &tunnel.obstacle {
        Some(Obstacle::Pending(reason) | Obstacle::Unproven(reason)) => {
            format!("pending: {reason}")
        }
        Some(Obstacle::Rejected(reason)) => format!("rejected: {reason}"),
        None if tunnel.cidrs.is_empty() => "standby".to_owned(),
        None => format!("carries {}", list(&tunnel.cidrs)),
    }
}

/// Whether all that changed is that a gateway which failed answers again, or again does
/// not: it may go on like that for long.
fn only_flaps(old: &PlannedTunnel, new: &PlannedTunnel) -> bool {
    let failed = |tunnel: &PlannedTunnel| tunnel.health.is_some_and(Health::has_failed);
    failed(old) && failed(new) && {
        let as_new = PlannedTunnel {
            health: new.health,
            ..old.clone()
        };
        as_new == *new
    }
}

fn compare(old: &PlannedTunnel, new: &PlannedTunnel) -> String {
    let mut facts = Vec::new();
    if old.name != new.name {
        facts.push(format!("was called {}", old.name));
    }
    if old.public_key != new.public_key {
        facts.push("public key changed".to_owned());
    }
    if old.preshared_key != new.preshared_key {
        facts.push("preshared key changed".to_owned());
    }
    if old.endpoint != new.endpoint {
        let show = |endpoint: Option<std::net::SocketAddr>| {
            endpoint.map_or_else(|| "none".to_owned(), |endpoint| endpoint.to_string())
        };
        facts.push(format!(
            "endpoint {} instead of {}",
            show(new.endpoint),
            show(old.endpoint)
        ));
    }
    if outcome(old) != outcome(new) {
        facts.push(format!("{} (was: {})", outcome(new), outcome(old)));
    }
    if old.beside.is_none() && new.beside.is_some() {
        facts.push("its next key is set up beside this one".to_owned());
    }
    if old.beside.is_some() && new.beside.is_none() {
        facts.push("one key is left".to_owned());
    }
    if old.health != new.health {
        facts.push(match new.health {
            Some(Health::Up) => "answers probes".to_owned(),
            Some(Health::Down) => "does not answer probes".to_owned(),
            Some(Health::Recovering) => "answers probes again, not for long enough".to_owned(),
            Some(Health::Untried) => "is probed".to_owned(),
            None => "is no longer probed".to_owned(),
        });
    }
    for note in new.notes.iter().filter(|note| !old.notes.contains(note)) {
        facts.push(note.to_string());
    }
    if facts.is_empty() && old.notes != new.notes {
        facts.push("well again".to_owned());
    }
    if facts.is_empty() {
        facts.push("its description changed".to_owned());
    }
    facts.join("; ")
}

fn list(cidrs: &[IpNet]) -> String {
    if cidrs.is_empty() {
        return "no CIDRs".to_owned();
    }
    let texts: Vec<String> = cidrs.iter().map(IpNet::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::fleet::fixtures::{decide, inventory, partition, spoke};
    use jiff::Timestamp;
    use privnet_model::inventory::Fate;

    fn told(before: &Fleet, after: &Fleet) -> Vec<String> {
        let removed = [Removed {
            partition: partition("eu-west-1"),
            instance: spoke(1, "10.1.0.0/16").instance,
            fate: Fate::Terminated,
            since: Timestamp::from_second(7).unwrap(),
            accepted: false,
        }];
        changes(before, after, &removed)
            .into_iter()
            .map(|change| format!("{} {}: {}", change.action, change.what, change.why))
            .collect()
    }

    #[test]
    fn equal_decisions_differ_in_nothing() {
        let fleet = decide(&inventory([spoke(1, "10.1.0.0/16")]), &[]);
        assert!(changes(&fleet, &fleet, &[]).is_empty());
    }

    #[test]
    fn a_gateway_that_flaps_is_told_once() {
        let with = |health, port| {
            let mut fleet = decide(&inventory([spoke(2, "10.2.0.0/16")]), &[]);
            let tunnel = fleet.tunnels.values_mut().next().unwrap();
            tunnel.health = Some(health);
            tunnel.endpoint.as_mut().unwrap().set_port(port);
            fleet
        };
        let (up, down) = (with(Health::Up, 51820), with(Health::Down, 51820));
        let (recovering, moved) = (
            with(Health::Recovering, 51820),
            with(Health::Recovering, 51821),
        );
        assert_eq!(
            told(&up, &down),
            ["change tunnel spoke-2: does not answer probes"]
        );
        assert_eq!(told(&down, &recovering), [""; 0]);
        assert_eq!(told(&recovering, &down), [""; 0]);
        assert_eq!(told(&down, &moved).len(), 1);
        assert_eq!(
            told(&recovering, &up),
            ["change tunnel spoke-2: answers probes"]
        );
    }

    #[test]
    fn each_kind_of_change_is_told_with_its_reason() {
        let before = decide(
            &inventory([spoke(1, "10.1.0.0/16"), spoke(2, "10.2.0.0/16")]),
            &[],
        );
        let mut moved = spoke(2, "10.2.0.0/16");
        moved.public_address = Some("192.0.2.9".parse().unwrap());
        let mut keyless = spoke(3, "10.3.0.0/16");
        keyless.public_key = None;
        let after = decide(&inventory([moved, keyless]), &[]);
        assert_eq!(
            told(&before, &after),
            [
                "remove tunnel spoke-1: i-00000000000000001 is terminated, says EC2, and missing \
                 from 111122223333/eu-west-1 since 1970-01-01T00:00:07Z (10.1.0.0/16)",
                "change tunnel spoke-2: endpoint 192.0.2.9:51820 instead of 203.0.113.2:51820",
                "add tunnel spoke-3: i-00000000000000003 found in 111122223333/eu-west-1; \
                 pending: no privnet:public-key tag",
            ]
        );
    }
}
