//! The subnet's network ACL. It has no memory: what goes out needs an entry for what
//! comes back. Only samples are tried, because any entry may be there on purpose.

use std::net::IpAddr;

use privnet_model::doctor::{Area, Finding};
use privnet_model::instance::{AclEntry, NetworkAcl, Traffic};

const AREA: Area = Area::Aws;
const CHECK: &str = "network ACL";

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
}

/// Which of these it drops.
pub fn network_acl(acl: &NetworkAcl, samples: &[Sample<'_>]) -> Vec<Finding> {
    let dropped = samples.iter().filter(|sample| !lets(acl, sample));
    let mut findings: Vec<Finding> = dropped
        .map(|sample| {
            let found = format!("{} drops {}", acl.id, sample.what);
            Finding::warning(AREA, CHECK, found).mend(entry(acl, sample))
        })
        .collect();
    if findings.is_empty() {
        let found = format!("{} lets through what was tried", acl.id);
        findings.push(Finding::ok(AREA, CHECK, found));
    }
    findings
}

/// The entry with the lowest number that fits decides, and without one nothing gets
/// through.
fn lets(acl: &NetworkAcl, sample: &Sample<'_>) -> bool {
    let entries = acl.entries.iter();
    let fits = entries.filter(|entry| {
        entry.egress == sample.egress
            && entry.traffic.covers(sample.traffic)
            && entry.cidr.contains(&sample.peer)
    });
    fits.min_by_key(|entry| entry.number)
        .is_some_and(|entry| entry.allow)
}

/// The command that makes an entry before all others of its direction.
fn entry(acl: &NetworkAcl, sample: &Sample<'_>) -> String {
    let same_way = |entry: &&AclEntry| entry.egress == sample.egress;
    let numbers = acl.entries.iter().filter(same_way);
    let first = numbers.map(|entry| entry.number).min().unwrap_or(100);
    let way = if sample.egress { "egress" } else { "ingress" };
    let protocol = sample.traffic.protocol.map_or(-1, i16::from);
    let (family, net) = match sample.peer {
        IpAddr::V4(_) => ("cidr-block", "0.0.0.0/0"),
        IpAddr::V6(_) => ("ipv6-cidr-block", "::/0"),
    };
    let ports = sample.traffic.ports.map(|(from, to)| {
        // What answers is sent to is any port that the kernel chooses.
        let (from, to) = if from >= 1024 {
            (1024, u16::MAX)
        } else {
            (from, to)
        };
        format!(" --port-range From={from},To={to}")
    });
    format!(
        "aws ec2 create-network-acl-entry --region $REGION --network-acl-id {} --{way} \
         --rule-number {} --protocol {protocol}{} --{family} {net} --rule-action allow",
        acl.id,
        (first - 1).max(1),
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
        }
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
                 acl-0123456789abcdef0 --ingress --rule-number 99 --protocol 6 --port-range \
                 From=1024,To=65535 --cidr-block 0.0.0.0/0 --rule-action allow"
            ]
        );
        let denied = entry(50, false, false, Traffic::ALL, "203.0.113.0/24");
        let allowed = entry(100, false, true, Traffic::ALL, "0.0.0.0/0");
        assert_eq!(
            judged(vec![allowed, denied], answers()).verdict,
            Verdict::Warning
        );
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
