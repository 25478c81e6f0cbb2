//! Security groups: what they let through, for a gateway of a VPC. The classic mistake
//! is a NAT instance whose group lets nobody of the VPC in.
//!
//! Groups only ever let something through, so all groups of the interface count
//! together. Who is a member of another group, or in a prefix list, is not asked: a rule
//! for those is named, and counts for siblings only.

use std::fmt;

use ipnet::IpNet;
use privnet_model::doctor::{Area, Finding};
use privnet_model::instance::{GroupRule, SecurityGroup, TCP, Traffic, UDP};

const AREA: Area = Area::Aws;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the instance.
    In,
    /// From it.
    Out,
}

/// What must get through.
#[derive(Debug, Clone)]
pub struct Passage<'a> {
    /// What it is for, as the check is called: "security group, NAT".
    pub check: &'a str,
    /// Why, as it fits behind "so": "no host of the VPC reaches the internet".
    pub consequence: &'a str,
    /// Which way.
    pub direction: Direction,
    /// Of what kind.
    pub traffic: Traffic,
    /// From or to whom.
    pub with: &'a [IpNet],
    /// Whether those are spokes of the same VPC, which share their groups: a group of the
    /// interface's own lets them through.
    pub siblings: bool,
    /// Whether the instance is of no use without.
    pub vital: bool,
}

/// How much of it gets through.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Through {
    All,
    /// If those who matter are members of these groups and lists.
    Members(Vec<String>),
    /// Only these kinds of it, or only these CIDRs.
    Some(Vec<String>),
    Nothing,
}

/// Whether it gets through.
pub fn passes(groups: &[SecurityGroup], passage: &Passage<'_>) -> Finding {
    let Passage {
        check, consequence, ..
    } = passage;
    let ids: Vec<&str> = groups.iter().map(|group| group.id.as_str()).collect();
    let ids = ids.join(", ");
    let what = Described(passage);
    match through(groups, passage) {
        Through::All => Finding::ok(AREA, check, format!("{ids}: {what}")),
        Through::Members(members) => {
            let members = members.join(", ");
            let found = format!(
                "{ids}: {what} only for members of {members}: whether those \
                                 are all cannot be told from here"
            );
            Finding::warning(AREA, check, found)
                .mend(format!("see who is in {members}: otherwise {consequence}"))
        }
        Through::Some(some) => {
            let some = some.join(", ");
            let found = format!("{ids}: of {what} only {some}: {consequence}, but for that");
            mend(Finding::warning(AREA, check, found), groups, passage)
        }
        Through::Nothing => {
            let found = format!("{ids}: nothing of {what}, so {consequence}");
            let finding = if passage.vital {
                Finding::wrong(AREA, check, found)
            } else {
                Finding::warning(AREA, check, found)
            };
            mend(finding, groups, passage)
        }
    }
}

fn through(groups: &[SecurityGroup], passage: &Passage<'_>) -> Through {
    let rules: Vec<&GroupRule> = groups
        .iter()
        .flat_map(|group| match passage.direction {
            Direction::In => &group.ingress,
            Direction::Out => &group.egress,
        })
        .collect();
    let whole = rules
        .iter()
        .filter(|rule| rule.traffic.covers(passage.traffic));
    let open: Vec<IpNet> = whole
        .clone()
        .flat_map(|rule| rule.cidrs.iter().copied())
        .collect();
    let open = IpNet::aggregate(&open);
    let reached = |net: &IpNet| open.iter().any(|open| open.contains(net));
    if passage.with.iter().all(reached) {
        return Through::All;
    }
    let members: Vec<String> = whole
        .flat_map(|rule| rule.groups.iter().chain(&rule.prefix_lists))
        .cloned()
        .collect();
    let own = |id: &String| groups.iter().any(|group| group.id.as_str() == id);
    if passage.siblings && members.iter().any(own) {
        return Through::All;
    }
    if !members.is_empty() {
        return Through::Members(members);
    }
    // Part of those who matter, or part of the traffic.
    let within = |net: &&IpNet| {
        let mut with = passage.with.iter();
        with.any(|with| with.contains(*net) || net.contains(with))
    };
    let mut some: Vec<String> = open.iter().filter(within).map(IpNet::to_string).collect();
    let parts = rules.iter().filter(|rule| {
        passage.traffic.covers(rule.traffic) && !rule.traffic.covers(passage.traffic)
    });
    let parts = parts.filter(|rule| {
        let members = !rule.groups.is_empty() || !rule.prefix_lists.is_empty();
        members || rule.cidrs.iter().any(|net| within(&net))
    });
    some.extend(parts.map(|rule| name(rule.traffic)));
    some.dedup();
    if some.is_empty() {
        Through::Nothing
    } else {
        Through::Some(some)
    }
}

fn mend(finding: Finding, groups: &[SecurityGroup], passage: &Passage<'_>) -> Finding {
    let Some(group) = groups.first() else {
        return finding.mend(
            "aws ec2 modify-instance-attribute --region $REGION --instance-id $INSTANCE --groups GROUP",
        );
    };
    let verb = match passage.direction {
        Direction::In => "authorize-security-group-ingress",
        Direction::Out => "authorize-security-group-egress",
    };
    let (four, six): (Vec<&IpNet>, Vec<&IpNet>) =
        passage.with.iter().partition(|net| net.addr().is_ipv4());
    let ranges = |nets: &[&IpNet], key: &str| {
        let nets: Vec<String> = nets.iter().map(|net| format!("{{{key}={net}}}")).collect();
        nets.join(",")
    };
    let mut permission = format!(
        "IpProtocol={}",
        passage.traffic.protocol.map_or(-1, i16::from)
    );
    if let (Some(_), Some((first, last))) = (passage.traffic.protocol, passage.traffic.ports) {
        permission.push_str(&format!(",FromPort={first},ToPort={last}"));
    }
    if !four.is_empty() {
        let ranges = ranges(&four, "CidrIp");
        permission.push_str(&format!(",IpRanges=[{ranges}]"));
    }
    if !six.is_empty() {
        let ranges = ranges(&six, "CidrIpv6");
        permission.push_str(&format!(",Ipv6Ranges=[{ranges}]"));
    }
    finding.mend(format!(
        "aws ec2 {verb} --region $REGION --group-id {} --ip-permissions '{permission}'",
        group.id
    ))
}

/// `everything in from 10.1.0.0/16`.
struct Described<'a>(&'a Passage<'a>);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passage = self.0;
        let way = match passage.direction {
            Direction::In => "in from",
            Direction::Out => "out to",
        };
        let with: Vec<String> = passage.with.iter().map(IpNet::to_string).collect();
        let traffic = name(passage.traffic);
        write!(f, "{traffic} {way} {}", with.join(", "))
    }
}

/// `tcp 443`, `everything`.
fn name(traffic: Traffic) -> String {
    let protocol = match traffic.protocol {
        None => return "everything".to_owned(),
        Some(TCP) => "TCP".to_owned(),
        Some(UDP) => "UDP".to_owned(),
        Some(other) => format!("protocol {other}"),
    };
    match traffic.ports {
        None | Some((0, u16::MAX)) => protocol,
        Some((first, last)) if first == last => format!("{protocol} {first}"),
        Some((first, last)) => format!("{protocol} {first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::doctor::Verdict;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn rule(traffic: Traffic, cidrs: &[&str]) -> GroupRule {
        GroupRule {
            traffic,
            cidrs: nets(cidrs),
            groups: Vec::new(),
            prefix_lists: Vec::new(),
        }
    }

    fn groups(ingress: Vec<GroupRule>) -> [SecurityGroup; 1] {
        [SecurityGroup {
            id: "sg-0123456789abcdef0".parse().unwrap(),
            ingress,
            egress: vec![rule(Traffic::ALL, &["0.0.0.0/0"])],
        }]
    }

    fn judged(ingress: Vec<GroupRule>, traffic: Traffic, from: &[&str]) -> Finding {
        let with = nets(from);
        let passage = Passage {
            check: "security group",
            consequence: "nothing works",
            direction: Direction::In,
            traffic,
            with: &with,
            siblings: false,
            vital: true,
        };
        passes(&groups(ingress), &passage)
    }

    #[test]
    fn a_nat_instance_that_lets_the_vpc_in_is_well() {
        let vpc = ["10.1.0.0/16", "10.2.0.0/16"];
        for cidrs in [&["10.0.0.0/8"][..], &vpc, &["0.0.0.0/0"]] {
            let finding = judged(vec![rule(Traffic::ALL, cidrs)], Traffic::ALL, &vpc);
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        }
        // Two halves are a whole.
        let halves = vec![
            rule(Traffic::ALL, &["10.1.0.0/17"]),
            rule(Traffic::ALL, &["10.1.128.0/17"]),
        ];
        let finding = judged(halves, Traffic::ALL, &["10.1.0.0/16"]);
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    }

    #[test]
    fn one_that_lets_nobody_in_is_wrong_and_the_command_is_told() {
        for ingress in [
            vec![],
            vec![rule(Traffic::ALL, &["192.168.0.0/16"])],
            vec![rule(Traffic::port(TCP, 22), &["203.0.113.0/24"])],
        ] {
            let finding = judged(ingress, Traffic::ALL, &["10.1.0.0/16", "fd00::/56"]);
            assert_eq!(finding.verdict, Verdict::Wrong, "{finding:?}");
            assert_eq!(
                finding.remedy,
                [
                    "aws ec2 authorize-security-group-ingress --region $REGION --group-id \
                     sg-0123456789abcdef0 --ip-permissions \
                     'IpProtocol=-1,IpRanges=[{CidrIp=10.1.0.0/16}],Ipv6Ranges=[{CidrIpv6=fd00::/56}]'"
                ]
            );
        }
    }

    #[test]
    fn one_that_lets_some_in_is_a_warning_that_names_them() {
        let web = rule(Traffic::port(TCP, 443), &["10.1.0.0/16"]);
        let finding = judged(vec![web], Traffic::ALL, &["10.1.0.0/16"]);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.found.contains("only TCP 443"), "{finding:?}");
        let subnet = rule(Traffic::ALL, &["10.1.5.0/24"]);
        let finding = judged(vec![subnet], Traffic::ALL, &["10.1.0.0/16"]);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.found.contains("only 10.1.5.0/24"), "{finding:?}");
    }

    #[test]
    fn members_of_a_group_count_for_siblings_only() {
        let members = GroupRule {
            groups: vec!["sg-0aaaaaaaaaaaaaaaa".to_owned()],
            ..rule(Traffic::ALL, &[])
        };
        for from in ["10.1.0.0/16", "0.0.0.0/0"] {
            let finding = judged(vec![members.clone()], Traffic::ALL, &[from]);
            assert_eq!(finding.verdict, Verdict::Warning);
            assert!(finding.found.contains("sg-0aaaaaaaaaaaaaaaa"));
            assert!(!finding.remedy[0].contains("aws "), "{finding:?}");
        }
        let with = nets(&["10.1.0.11/32"]);
        for (group, siblings, verdict) in [
            ("sg-0123456789abcdef0", true, Verdict::Ok),
            ("sg-0123456789abcdef0", false, Verdict::Warning),
            ("sg-0aaaaaaaaaaaaaaaa", true, Verdict::Warning),
        ] {
            let passage = Passage {
                check: "security group",
                consequence: "nothing works",
                direction: Direction::In,
                traffic: Traffic::ALL,
                with: &with,
                siblings,
                vital: true,
            };
            let members = GroupRule {
                groups: vec![group.to_owned()],
                ..members.clone()
            };
            assert_eq!(passes(&groups(vec![members]), &passage).verdict, verdict);
        }
    }

    #[test]
    fn the_tunnels_port_must_be_open_as_udp() {
        let port = Traffic::port(UDP, 51820);
        let anywhere = ["0.0.0.0/0"];
        for (traffic, verdict) in [
            (port, Verdict::Ok),
            (Traffic::ALL, Verdict::Ok),
            (
                Traffic {
                    protocol: Some(UDP),
                    ports: Some((50_000, 60_000)),
                },
                Verdict::Ok,
            ),
            (Traffic::port(TCP, 51820), Verdict::Wrong),
            (Traffic::port(UDP, 51821), Verdict::Wrong),
        ] {
            let finding = judged(vec![rule(traffic, &anywhere)], port, &anywhere);
            assert_eq!(finding.verdict, verdict, "{traffic:?}");
        }
        let finding = judged(vec![], port, &anywhere);
        let open = "'IpProtocol=17,FromPort=51820,ToPort=51820,IpRanges=[{CidrIp=0.0.0.0/0}]'";
        assert!(finding.remedy[0].ends_with(open), "{finding:?}");
        let some = judged(vec![rule(port, &["198.51.100.11/32"])], port, &anywhere);
        assert_eq!(some.verdict, Verdict::Warning);
    }

    #[test]
    fn what_may_leave_is_asked_of_the_other_rules() {
        let with = nets(&["198.51.100.100/32"]);
        let mut passage = Passage {
            check: "security group",
            consequence: "the hub is not reached",
            direction: Direction::Out,
            traffic: Traffic::port(UDP, 51820),
            with: &with,
            siblings: false,
            vital: true,
        };
        let open = groups(vec![]);
        assert_eq!(passes(&open, &passage).verdict, Verdict::Ok);
        let mut closed = groups(vec![]);
        closed[0].egress.clear();
        let finding = passes(&closed, &passage);
        assert_eq!(finding.verdict, Verdict::Wrong);
        assert!(finding.remedy[0].contains("authorize-security-group-egress"));
        passage.vital = false;
        assert_eq!(passes(&closed, &passage).verdict, Verdict::Warning);
        // An interface of no group at all.
        assert_eq!(passes(&[], &passage).remedy.len(), 1);
    }
}
