//! The far ends of tunnels: whether there is a session, and how large a packet the way
//! there takes.

use std::net::{IpAddr, SocketAddr};

use privnet_model::doctor::{Area, Finding, quoted};
use privnet_model::status::{PartitionStatus, Reason, Role, Status, Tunnel, TunnelState};

use super::Known;

const AREA: Area = Area::Peers;

/// Of ten thousand tunnels that are down the first tell enough.
const MOST_TOLD: usize = 10;

/// What WireGuard and UDP add to a packet, and IPv4 (20 bytes) or IPv6 (40).
const fn overhead(endpoint: IpAddr) -> u32 {
    match endpoint {
        IpAddr::V4(_) => 20 + 8 + 32,
        IpAddr::V6(_) => 40 + 8 + 32,
    }
}

/// The tunnels, as the daemon says.
pub fn tunnels(status: &Status) -> Vec<Finding> {
    let check = "tunnel";
    let (up, down): (Vec<&Tunnel>, Vec<&Tunnel>) = status
        .tunnels
        .iter()
        // A NAT gateway without tunnel is as it should be.
        .filter(|tunnel| tunnel.reason != Some(Reason::NoTransport))
        .partition(|tunnel| tunnel.state == TunnelState::Up);
    let mut findings = Vec::new();
    if !up.is_empty() {
        let newest = up.iter().filter_map(|tunnel| tunnel.last_handshake).max();
        let newest = newest.map(|at| format!(", the last handshake at {at:.0}"));
        let found = format!("{} up{}", up.len(), newest.unwrap_or_default());
        findings.push(Finding::ok(AREA, check, found));
    }
    findings.extend(
        down.iter()
            .take(MOST_TOLD)
            .map(|tunnel| not_up(tunnel, status)),
    );
    if down.len() > MOST_TOLD {
        let found = format!("{} more are not up", down.len() - MOST_TOLD);
        findings.push(Finding::warning(AREA, check, found).mend("tunnels list"));
    }
    if status.tunnels.is_empty() && status.role == Role::Hub {
        let found = "none: no spoke was found so far, and no [[site]] is configured";
        findings.push(
            Finding::warning(AREA, check, found)
                .mend("aws ec2 create-tags --region $REGION --resources SPOKE --tags Key=KEY,Value=VALUE   # those of discovery.tags")
                .mend("tunnels refresh"),
        );
    }
    findings
}

fn not_up(tunnel: &Tunnel, status: &Status) -> Finding {
    let Tunnel { name, state, .. } = tunnel;
    let reason = tunnel.reason.as_ref();
    let reason = reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let endpoint = tunnel.endpoint.map(|at| format!(" at {at}"));
    let found = format!("{name}{} is {state}{reason}", endpoint.unwrap_or_default());
    // A name is whatever the instance's `Name` tag says.
    let called = match &tunnel.instance {
        Some(instance) => instance.to_string(),
        None => quoted(name),
    };
    match (status.role, state) {
        (Role::Spoke, _) => Finding::wrong(AREA, "tunnel", found)
            .mend("privnet-hub doctor   # on the hub: its security group, its address")
            .mend(
                "privnet-hub public-key   # on the hub: must be hub.public_key of this config file",
            )
            .mend("tunnels why $INSTANCE   # on the hub: why it does not let this spoke in"),
        (Role::Hub, TunnelState::Pending | TunnelState::Rejected) => {
            Finding::warning(AREA, "tunnel", found).mend(format!("tunnels why {called}"))
        }
        (Role::Hub, _) => Finding::wrong(AREA, "tunnel", found)
            .mend("privnet-spoke doctor   # on that spoke")
            .mend(format!("tunnels show {called}")),
    }
}

/// The partitions that the hub polls, as it says.
pub fn partitions(status: &Status) -> Vec<Finding> {
    let check = "last poll";
    let judge = |partition: &PartitionStatus| {
        let place = &partition.partition;
        match &partition.error {
            Some(error) => Finding::wrong(Area::Aws, check, format!("{place}: {error}"))
                .mend("tunnels refresh   # once that is mended"),
            None if partition.answered_at.is_none() => {
                Finding::not_checked(Area::Aws, check, format!("{place}: not answered yet"))
            }
            None => Finding::ok(
                Area::Aws,
                check,
                format!("{place}: {} spokes", partition.spokes),
            ),
        }
    };
    status.partitions.iter().map(judge).collect()
}

/// What pings through the tunnel came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pings {
    /// Whether a small one was answered.
    pub small: bool,
    /// Whether one was that fills the tunnel's MTU.
    pub full: bool,
}

/// Whether packets as large as the tunnel's MTU cross it.
pub fn full_size(pings: &Known<Pings>, mtu: u16) -> Finding {
    let check = "tunnel MTU";
    match pings {
        Ok(Pings { full: true, .. }) => Finding::ok(
            AREA,
            check,
            format!("packets of {mtu} bytes cross the tunnel"),
        ),
        Ok(Pings { small: true, .. }) => {
            let found = format!(
                "small packets cross the tunnel and those of {mtu} bytes do not: the way there \
                 takes less, and does not say so"
            );
            // IPv6's least, which every way takes, less what the tunnel adds.
            let less = 1280.min(mtu.saturating_sub(80));
            Finding::wrong(AREA, check, found)
                .mend(format!("mtu = {less}   # in the config files of both ends"))
        }
        Ok(Pings { .. }) => {
            let found = "a ping through the tunnel was not answered";
            Finding::warning(AREA, check, found)
                .mend("tunnels list   # on the hub: is the tunnel up, and whose is this address?")
        }
        Err(why) => Finding::not_checked(AREA, check, why.clone()),
    }
}

/// What this host knows of the way to the endpoint: an MTU that routers told it of, or its
/// own interface's.
pub fn path_mtu(endpoint: SocketAddr, path: &Known<u32>, mtu: u16) -> Finding {
    let check = "path MTU";
    let needs = u32::from(mtu) + overhead(endpoint.ip());
    match path {
        Ok(path) if *path >= needs => Finding::ok(
            AREA,
            check,
            format!("{path} bytes to {endpoint}, {needs} needed"),
        ),
        Ok(path) => {
            let found =
                format!("{path} bytes to {endpoint}, and {needs} are needed for mtu = {mtu}");
            let fits = path.saturating_sub(overhead(endpoint.ip()));
            Finding::wrong(AREA, check, found)
                .mend(format!("mtu = {fits}   # in the config files of both ends"))
        }
        Err(why) => Finding::not_checked(AREA, check, format!("{endpoint}: {why}")),
    }
}

/// Whether a target of the self-test takes a connection from this host.
pub fn target(target: SocketAddr, connected: &Known<()>) -> Finding {
    let check = "self-test target";
    match connected {
        Ok(()) => Finding::ok(AREA, check, format!("{target} takes connections")),
        Err(why) => Finding::wrong(AREA, check, format!("{target}: {why}"))
            .mend("targets = [\"1.1.1.1:443\"]   # in [self_test]: one that answers; then restart"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use jiff::Timestamp;
    use privnet_model::doctor::Verdict;
    use privnet_model::inventory::{Partition, Transport};
    use privnet_model::net::Supernet;
    use privnet_model::status::Origin;

    use super::*;

    fn tunnel(name: &str, state: TunnelState) -> Tunnel {
        Tunnel {
            name: name.to_owned(),
            origin: Origin::Discovered,
            account: None,
            region: None,
            zone: None,
            vpc: None,
            instance: None,
            launched: None,
            cidrs: Vec::new(),
            excluded: Vec::new(),
            transport: Transport::Wireguard,
            endpoint: None,
            private_address: None,
            public_key: None,
            state,
            reason: (state != TunnelState::Up).then_some(Reason::NoAnswer),
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

    fn status(role: Role, tunnels: Vec<Tunnel>) -> Status {
        Status {
            role,
            version: "1.0.0".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            now: Timestamp::UNIX_EPOCH,
            instance: None,
            privnet: Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            interface: None,
            charon: None,
            nat: None,
            tunnels,
            partitions: Vec::new(),
            next_poll: None,
            held_removals: None,
            policy: Vec::new(),
            routes: None,
            problems: Vec::new(),
        }
    }

    fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
        for finding in findings {
            let well = matches!(finding.verdict, Verdict::Ok | Verdict::NotChecked);
            assert_eq!(finding.remedy.is_empty(), well, "{finding:?}");
        }
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn a_spoke_without_its_hub_is_wrong_and_a_hub_tells_each_that_is_not_up() {
        use TunnelState::{Connecting, Down, Pending, Rejected, Up};
        let judged = |role, states: &[TunnelState]| {
            let named = states.iter().map(|state| tunnel("x", *state));
            verdicts(&tunnels(&status(role, named.collect())))
        };
        assert_eq!(judged(Role::Spoke, &[Up]), [Verdict::Ok]);
        for state in [Connecting, Down] {
            assert_eq!(judged(Role::Spoke, &[state]), [Verdict::Wrong]);
            assert_eq!(
                judged(Role::Hub, &[Up, state]),
                [Verdict::Ok, Verdict::Wrong]
            );
        }
        for state in [Pending, Rejected] {
            assert_eq!(judged(Role::Hub, &[state]), [Verdict::Warning]);
        }
        assert_eq!(judged(Role::Hub, &[]), [Verdict::Warning]);
        assert_eq!(judged(Role::Spoke, &[]), []);
        let told = judged(Role::Hub, &[Down; 100]);
        assert_eq!(told.len(), MOST_TOLD + 1);
    }

    #[test]
    fn what_a_tag_says_is_no_command() {
        let mut hostile = tunnel("x; reboot #", TunnelState::Down);
        let mended = |tunnel: &Tunnel| {
            let findings = tunnels(&status(Role::Hub, vec![tunnel.clone()]));
            findings[0].remedy[1].clone()
        };
        assert_eq!(mended(&hostile), "tunnels show 'x; reboot #'");
        hostile.instance = Some("i-0123456789abcdef0".parse().unwrap());
        assert_eq!(mended(&hostile), "tunnels show i-0123456789abcdef0");
    }

    #[test]
    fn a_partition_that_fails_is_wrong() {
        let partition = |error: Option<&str>, answered| PartitionStatus {
            partition: Partition {
                account: "111122223333".parse().unwrap(),
                region: "eu-west-1".parse().unwrap(),
            },
            spokes: 3,
            answered_at: answered,
            error: error.map(str::to_owned),
            failing_since: None,
            polls: 1,
            failures: 0,
            calls: 1,
        };
        let mut status = status(Role::Hub, Vec::new());
        let then = Some(Timestamp::UNIX_EPOCH);
        status.partitions = vec![
            partition(None, then),
            partition(Some("throttled"), then),
            partition(None, None),
        ];
        let found = verdicts(&partitions(&status));
        assert_eq!(found, [Verdict::Ok, Verdict::Wrong, Verdict::NotChecked]);
    }

    #[test]
    fn a_way_that_swallows_large_packets_is_found_out() {
        let judged = |small, full| {
            let finding = full_size(&Ok(Pings { small, full }), 1440);
            (verdicts(std::slice::from_ref(&finding))[0], finding)
        };
        assert_eq!(judged(true, true).0, Verdict::Ok);
        assert_eq!(judged(false, true).0, Verdict::Ok);
        let (verdict, finding) = judged(true, false);
        assert_eq!(verdict, Verdict::Wrong);
        assert!(finding.remedy[0].starts_with("mtu = 1280 "), "{finding:?}");
        assert_eq!(judged(false, false).0, Verdict::Warning);
        let unknown = full_size(&Err("no permission".to_owned()), 1440);
        assert_eq!(verdicts(&[unknown]), [Verdict::NotChecked]);
    }

    #[test]
    fn a_way_narrower_than_the_tunnel_is_told_with_what_fits() {
        let four = "198.51.100.100:51820".parse().unwrap();
        let six = "[2001:db8::1]:51820".parse().unwrap();
        for (endpoint, path, mtu, verdict) in [
            (four, 1500, 1440, Verdict::Ok),
            (four, 1499, 1440, Verdict::Wrong),
            (six, 1500, 1420, Verdict::Ok),
            (six, 1500, 1440, Verdict::Wrong),
        ] {
            let finding = path_mtu(endpoint, &Ok(path), mtu);
            assert_eq!(verdicts(&[finding]), [verdict], "{endpoint} {path} {mtu}");
        }
        let narrow = path_mtu(four, &Ok(1400), 1440);
        assert!(narrow.remedy[0].starts_with("mtu = 1340 "), "{narrow:?}");
        let unknown = path_mtu(four, &Err("no route".to_owned()), 1440);
        assert_eq!(verdicts(&[unknown]), [Verdict::NotChecked]);
    }

    #[test]
    fn a_target_that_takes_no_connection_is_wrong() {
        let address = "203.0.113.80:80".parse().unwrap();
        assert_eq!(verdicts(&[target(address, &Ok(()))]), [Verdict::Ok]);
        let refused = target(address, &Err("refused".to_owned()));
        assert_eq!(verdicts(&[refused]), [Verdict::Wrong]);
    }
}
