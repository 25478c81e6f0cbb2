//! The subnet's network ACL. It has no memory: what goes out needs an entry for what
//! comes back. Only samples are tried, because any entry may be there on purpose.

use std::net::IpAddr;

use privnet_model::doctor::{Area, Finding, quoted};
use privnet_model::instance::{AclEntry, NetworkAcl, Traffic};

const AREA: Area = Area::Aws;
const CHECK: &str = "network ACL";
/// The number of the entry that denies the rest, which each ACL has (VPC user guide,
/// "Network ACL rules": rules of one's own end at 32766).
const LAST: i32 = 32_767;

/// A packet that should get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample<'a> {
    /// What it is, as it fits behind "drops": "answers from the internet".
    pub what: &'a str,
    /// Whether it leaves the subnet.
    pub egress: bool,
    /// Its protocol and destination port.
    pub traffic: Traffic,
    /// The far end.
    pub peer: IpAddr,
    /// What an entry for it may open.
    pub opening: Opening,
}

/// What an entry may open that lets a sample through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The sample's port, for its peer alone.
    Peer,
    /// The ports that kernels choose, for everybody: the answers to what goes out.
    Answers,
    /// Who may is not known: no entry is named.
    Unknown,
}

/// Which of these it drops.
pub fn network_acl(acl: &NetworkAcl, samples: &[Sample<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // No two commands may name the same number.
    let mut free = [false, true].map(|egress| free(acl, egress));
    for sample in samples {
        let decides = decides(acl, sample);
        if decides.is_some_and(|entry| entry.allow) {
            continue;
        }
        let found = format!("{} drops {}", acl.id, sample.what);
        let finding = Finding::warning(AREA, CHECK, found);
        let free = &mut free[usize::from(sample.egress)];
        findings.push(match decides {
            Some(denies) if denies.number < LAST => finding.mend(format!(
                "entry {} of {} denies it: is that meant?",
                denies.number, acl.id
            )),
            _ => finding.mend(entry(acl, sample, free)),
        });
    }
    if findings.is_empty() {
        let found = format!("{} lets through what was tried", acl.id);
        findings.push(Finding::ok(AREA, CHECK, found));
    }
    findings
}

/// The entry with the lowest number that fits decides, and without one nothing gets
/// through.
fn decides<'a>(acl: &'a NetworkAcl, sample: &Sample<'_>) -> Option<&'a AclEntry> {
    let entries = acl.entries.iter();
    let fits = entries.filter(|entry| {
        entry.egress == sample.egress
            && entry.traffic.covers(sample.traffic)
            && entry.cidr.contains(&sample.peer)
    });
    fits.min_by_key(|entry| entry.number)
}

/// A number behind all entries of a direction: what they deny stays denied.
fn free(acl: &NetworkAcl, egress: bool) -> i32 {
    let entries = acl.entries.iter();
    let numbers = entries.filter(|entry| entry.egress == egress && entry.number < LAST);
    numbers.map(|entry| entry.number).max().unwrap_or(99) + 1
}

/// The command that makes an entry behind all others of its direction.
fn entry(acl: &NetworkAcl, sample: &Sample<'_>, free: &mut i32) -> String {
    if sample.opening == Opening::Unknown || *free >= LAST {
        return format!(
            "an entry of {} that allows it, if it is meant to pass",
            acl.id
        );
    }
    let number = *free;
    *free += 1;
    let way = if sample.egress { "egress" } else { "ingress" };
    let protocol = sample.traffic.protocol.map_or(-1, i16::from);
    let answers = sample.opening == Opening::Answers;
    let (family, net) = match sample.peer {
        IpAddr::V4(_) if answers => ("cidr-block", "0.0.0.0/0".to_owned()),
        IpAddr::V6(_) if answers => ("ipv6-cidr-block", "::/0".to_owned()),
        IpAddr::V4(peer) => ("cidr-block", format!("{peer}/32")),
        IpAddr::V6(peer) => ("ipv6-cidr-block", format!("{peer}/128")),
    };
    let ports = sample.traffic.ports.map(|(from, to)| {
        let (from, to) = if answers {
            (1024, u16::MAX)
        } else {
            (from, to)
        };
        format!(" --port-range From={from},To={to}")
    });
    format!(
        "aws ec2 create-network-acl-entry --region $REGION --network-acl-id {} --{way} \
         --rule-number {number} --protocol {protocol}{} --{family} {net} --rule-action allow",
        quoted(&acl.id),
        ports.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::doctor::Verdict;
    use privnet_model::instance::{TCP, UDP};

    use super::*;

    fn entry(number: i32, egress: bool, allow: bool, traffic: Traffic, cidr: &str) -> AclEntry {
        AclEntry {
            number,
            egress,
            allow,
            traffic,
            cidr: cidr.parse().unwrap(),
        }
    }

    fn judged(entries: Vec<AclEntry>, sample: Sample<'_>) -> Finding {
        let acl = NetworkAcl {
            id: "acl-0123456789abcdef0".to_owned(),
            entries,
        };
        network_acl(&acl, &[sample]).remove(0)
    }

    fn answers() -> Sample<'static> {
        Sample {
            what: "answers from the internet",
            egress: false,
            traffic: Traffic::port(TCP, 40_000),
            peer: "203.0.113.80".parse().unwrap(),
            opening: Opening::Answers,
        }
    }

    #[test]
    fn a_tunnel_is_let_in_from_its_peer_alone_and_each_entry_has_its_own_number() {
        let tunnel = |port| Sample {
            what: "what comes from the hub",
            traffic: Traffic::port(UDP, port),
            opening: Opening::Peer,
            ..answers()
        };
        let acl = NetworkAcl {
            id: "acl-1".to_owned(),
            entries: vec![entry(32_767, false, false, Traffic::ALL, "0.0.0.0/0")],
        };
        let findings = network_acl(&acl, &[tunnel(51820), tunnel(51821)]);
        for (finding, number, port) in [(&findings[0], 100, 51820), (&findings[1], 101, 51821)] {
            let command = format!(
                "--rule-number {number} --protocol 17 --port-range From={port},To={port} \
                 --cidr-block 203.0.113.80/32 --rule-action allow"
            );
            assert!(finding.remedy[0].ends_with(&command), "{finding:?}");
        }
        let unknown = Sample {
            opening: Opening::Unknown,
            ..tunnel(51820)
        };
        assert!(!network_acl(&acl, &[unknown])[0].remedy[0].contains("aws "));
    }

    #[test]
    fn the_default_acl_lets_all_through() {
        let all = |egress, allow, number| entry(number, egress, allow, Traffic::ALL, "0.0.0.0/0");
        let entries = vec![
            all(false, false, 32_767),
            all(false, true, 100),
            all(true, true, 100),
            all(true, false, 32_767),
        ];
        assert_eq!(judged(entries, answers()).verdict, Verdict::Ok);
    }

    #[test]
    fn the_lowest_number_decides_and_answers_need_an_entry_of_their_own() {
        let web = entry(100, false, true, Traffic::port(TCP, 443), "0.0.0.0/0");
        let finding = judged(vec![web], answers());
        assert_eq!(finding.verdict, Verdict::Warning);
        assert_eq!(
            finding.remedy,
            [
                "aws ec2 create-network-acl-entry --region $REGION --network-acl-id \
                 acl-0123456789abcdef0 --ingress --rule-number 101 --protocol 6 --port-range \
                 From=1024,To=65535 --cidr-block 0.0.0.0/0 --rule-action allow"
            ]
        );
        let denied = entry(50, false, false, Traffic::ALL, "203.0.113.0/24");
        let allowed = entry(100, false, true, Traffic::ALL, "0.0.0.0/0");
        let finding = judged(vec![allowed, denied], answers());
        assert_eq!(finding.verdict, Verdict::Warning);
        let named = "entry 50 of acl-0123456789abcdef0 denies it: is that meant?";
        assert_eq!(finding.remedy, [named]);
        let udp = entry(
            10,
            false,
            false,
            Traffic {
                protocol: Some(UDP),
                ports: None,
            },
            "0.0.0.0/0",
        );
        assert_eq!(judged(vec![udp, allowed], answers()).verdict, Verdict::Ok);
        // What may leave is another list.
        let out = entry(100, true, true, Traffic::ALL, "0.0.0.0/0");
        assert_eq!(judged(vec![out], answers()).verdict, Verdict::Warning);
    }
}
