//! `privnet-spoke doctor` and `privnet-hub doctor` on the demo network (drawn at
//! `privnet_tests::topology::demo`): where all is well they say so, and of several things
//! that are broken at once each is named with what mends it.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::doctor::{Checkup, Finding, Verdict};
use privnet_tests::daemon::{self, config_file, hub_public_key, spoke_config};
use privnet_tests::deployment::{PATIENCE, public_address, start_hub, start_spoke, wait_until_up};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::moto::text_of;
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, HUB_PUBLIC, PORT, PRIVNET, WEB};
use privnet_tests::vpc_fabric::{Fabric, Follower};
use privnet_tests::world::World;

/// What the issue asks of a run that nobody answers.
const LONGEST: Duration = Duration::from_secs(10);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The demo network with everything as the README says, and all daemons running.
fn healthy() -> Result<(World, Fabric)> {
    let mut world = World::build(&topology::demo())?;
    let followers = [Follower {
        host: "host-a",
        subnet: 1,
    }];
    let fabric = Fabric::start(&world, "vpc-a", &followers, &["spoke-a"])?;
    for (vpc, cidr) in [("vpc-hub", "10.0.0.0/16"), ("vpc-a", "10.1.0.0/16")] {
        let (region, id) = world.vpc_id(vpc)?;
        let group = world.ec2.default_group(region, id)?;
        world.ec2.let_in(region, &group, cidr)?;
        world.ec2.open_udp(region, &group, PORT)?;
    }
    lead_to_hub(&world)?;
    let hub = &world.host("hub")?.metadata;
    world
        .ec2
        .check_sources(&hub.region, &hub.interface, false)?;
    let key = hub_public_key(world.host("hub")?)?;
    let spoke = world.host("spoke-a")?;
    let config = spoke_config(spoke, &format!("{HUB_PUBLIC}:{PORT}"), &key);
    // Not every kernel that the tests run on has flowtables, which is worth a warning.
    let config = format!(
        "{config}flowtable = false\n[routes]\ntables = \"zone\"\nsource_dest_check = \"off\"\ntakeover = false\n\
         [self_test]\ntargets = [\"{WEB}:80\"]\n"
    );
    world.start("spoke-a", &config)?;
    start_spoke(&mut world, "spoke-b")?;
    start_spoke(&mut world, "nat-hub")?;
    start_hub(&mut world)?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    wait_until("host-a to be led to spoke-a", PATIENCE * 2, || {
        Ok(fabric.egress_of("host-a").map(drop))
    })?;
    Ok((world, fabric))
}

/// Gives the private subnet of the hub's VPC the table in EC2 that it has in the topology:
/// it leads the private network to the hub.
fn lead_to_hub(world: &World) -> Result<()> {
    let (region, vpc) = world.vpc_id("vpc-hub")?;
    let table = world
        .ec2
        .call(region, "CreateRouteTable", &[("VpcId", vpc.as_str())])?;
    let table = text_of(&table, "routeTableId")?;
    let subnet = &world.host("host-hub")?.metadata.subnet;
    let associate = [
        ("RouteTableId", table.as_str()),
        ("SubnetId", subnet.as_str()),
    ];
    world.ec2.call(region, "AssociateRouteTable", &associate)?;
    let route = [
        ("RouteTableId", table.as_str()),
        ("DestinationCidrBlock", PRIVNET),
        (
            "NetworkInterfaceId",
            world.host("hub")?.metadata.interface.as_str(),
        ),
    ];
    world.ec2.call(region, "CreateRoute", &route).map(drop)
}

/// Leads the privnet of a table to a NAT gateway, as infrastructure code might, and tells
/// which.
fn lead_elsewhere(world: &World, host: &str, table: &str) -> Result<String> {
    let metadata = &world.host(host)?.metadata;
    let region = &metadata.region;
    let gateway = [
        ("SubnetId", metadata.subnet.as_str()),
        ("ConnectivityType", "private"),
    ];
    let gateway = world.ec2.call(region, "CreateNatGateway", &gateway)?;
    let gateway = text_of(&gateway, "natGatewayId")?;
    let theirs = [
        ("RouteTableId", table),
        ("DestinationCidrBlock", PRIVNET),
        ("NatGatewayId", gateway.as_str()),
    ];
    world.ec2.call(region, "ReplaceRoute", &theirs)?;
    Ok(gateway)
}

/// What the doctor of a host prints, by these arguments, its exit code, and how long it
/// took.
pub(crate) fn doctor(
    world: &World,
    host: &str,
    arguments: &[&str],
) -> Result<(i32, String, Duration)> {
    doctor_in(world, host, arguments, &[])
}

/// The same with more in its environment.
fn doctor_in(
    world: &World,
    host: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<(i32, String, Duration)> {
    let program = match host {
        "hub" => "privnet-hub",
        _ => "privnet-spoke",
    };
    let host = world.host(host)?;
    let mut command: Command = daemon::command(&host.namespace, program)?;
    command.arg("doctor").args(arguments).arg(config_file(host));
    command.envs(environment.iter().copied());
    let started = Instant::now();
    let output = command.output().context("doctor cannot be run")?;
    let code = output.status.code().context("doctor was killed")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    Ok((code, format!("{text}{errors}"), started.elapsed()))
}

pub(crate) fn checkup(world: &World, host: &str) -> Result<Checkup> {
    checkup_in(world, host, &[])
}

fn checkup_in(world: &World, host: &str, environment: &[(&str, &str)]) -> Result<Checkup> {
    let (code, text, took) = doctor_in(world, host, &["--json"], environment)?;
    ensure!(took < LONGEST, "{took:?}");
    let checkup: Checkup = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(code == i32::from(!checkup.is_well()), "exit code {code}");
    println!("{host}: {} findings in {took:.1?}", checkup.findings.len());
    Ok(checkup)
}

/// Every check was made, and finds nothing. The network needs a moment to come to rest.
fn is_well(world: &World, host: &str) -> Result<Checkup> {
    wait_until(&format!("{host} to be well"), PATIENCE * 2, || {
        let checkup = checkup(world, host)?;
        let bad: Vec<&Finding> = checkup
            .findings
            .iter()
            .filter(|finding| finding.verdict != Verdict::Ok)
            .collect();
        ensure!(bad.is_empty(), "{bad:#?}");
        Ok(Some(checkup))
    })
}

/// There is a finding of this verdict about this check, whose text and remedies hold these.
pub(crate) fn tells(
    checkup: &Checkup,
    verdict: Verdict,
    check: &str,
    found: &str,
    remedy: &str,
) -> Result<()> {
    let told = checkup.findings.iter().any(|finding| {
        finding.verdict == verdict
            && finding.check == check
            && finding.found.contains(found)
            && finding.remedy.iter().any(|line| line.contains(remedy))
    });
    ensure!(
        told,
        "no finding {verdict} of {check} with {found:?} and {remedy:?} in {:#?}",
        checkup.findings
    );
    Ok(())
}

pub(crate) fn a_healthy_spoke_is_well_and_everything_that_breaks_is_named() -> Result<()> {
    let (mut world, fabric) = healthy()?;
    let checkup = is_well(&world, "spoke-a")?;
    for check in [
        "running",
        "kernel",
        "offloads",
        "TUN",
        "nftables rules",
        "sysctls",
        "conntrack",
        "clock",
        "DNS",
        "IMDSv2",
        "hop limit",
        "source/dest check",
        "published tags",
        "permission",
        "route",
        "route tables",
        "security group, from the VPC",
        "security group, from the hub",
        "network ACL",
        "tunnel",
        "tunnel MTU",
        "path MTU",
        "self-test target",
    ] {
        let found = checkup
            .findings
            .iter()
            .any(|finding| finding.check == check);
        ensure!(found, "nobody looked at {check}");
    }
    let (code, text, _) = doctor(&world, "spoke-a", &[])?;
    ensure!(code == 0 && text.lines().count() == 1, "{code}: {text}");
    ensure!(
        text.contains(&format!("{} ok", checkup.findings.len())),
        "{text}"
    );

    // A daemon that hangs mends nothing.
    world.daemon("spoke-a")?.process.signal(Signal::SIGSTOP)?;
    let spoke = world.host("spoke-a")?;
    let key = spoke.namespace.directory().join("spoke.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644))?;
    spoke.namespace.sysctl(&["net.ipv4.ip_forward=0"])?;
    spoke.namespace.nft(
        "table ip filter {
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
    }
}
",
    )?;
    let metadata = &spoke.metadata;
    let region = &metadata.region;
    world.ec2.check_sources(region, &metadata.interface, true)?;
    let group = world.ec2.default_group(region, &metadata.vpc)?;
    world.ec2.keep_out(region, &group, "10.1.0.0/16")?;
    world.ec2.close_udp(region, &group, PORT)?;
    let table = fabric.table_of("host-a")?.to_owned();
    let gateway = lead_elsewhere(&world, "spoke-a", &table)?;
    world.faults.set(&[
        Fault::of_action("CreateTags", FaultKind::Denied),
        Fault::of_action("DescribeNetworkAcls", FaultKind::Denied),
    ])?;
    let broken = self::checkup(&world, "spoke-a")?;
    let key = key.display().to_string();
    let interface = metadata.interface.as_str();
    for (verdict, check, found, remedy) in [
        (
            Verdict::Wrong,
            "running",
            "did not answer",
            "systemctl restart privnet-spoke",
        ),
        (
            Verdict::Wrong,
            "private key",
            "0644",
            &format!("chmod 0600 {key}"),
        ),
        (
            Verdict::Wrong,
            "sysctls",
            "ip_forward is 0",
            "sysctl -w net/ipv4/ip_forward=1",
        ),
        (
            Verdict::Wrong,
            "other firewalls",
            "table ip filter",
            "nft insert rule ip filter FORWARD",
        ),
        (
            Verdict::Wrong,
            "source/dest check",
            interface,
            "--no-source-dest-check",
        ),
        (
            Verdict::Wrong,
            "security group, from the VPC",
            "10.1.0.0/16",
            &format!("--group-id {group}"),
        ),
        (
            Verdict::Warning,
            "security group, from the hub",
            "UDP 51820",
            "IpProtocol=17,FromPort=51820,ToPort=51820,IpRanges=[{CidrIp=198.51.100.100/32}]",
        ),
        (
            Verdict::Wrong,
            "route",
            &format!("{PRIVNET} in {table} leads to NAT gateway {gateway}"),
            "have what made it",
        ),
        (
            Verdict::Wrong,
            "permission",
            "ec2:CreateTags",
            "to the role privnet-spoke",
        ),
        (
            Verdict::NotChecked,
            "network ACL",
            "DescribeNetworkAcls",
            "doctor-policy.json",
        ),
    ] {
        tells(&broken, verdict, check, found, remedy)?;
    }
    let (code, text, _) = doctor(&world, "spoke-a", &[])?;
    ensure!(code == 1, "{code}: {text}");
    ensure!(text.contains(&format!("→ chmod 0600 {key}\n")), "{text}");

    // Where EC2's name has no address; no name that ends so ever has (RFC 6761).
    let nameless = [("AWS_ENDPOINT_URL", "http://ec2.invalid:5000")];
    let nameless = checkup_in(&world, "spoke-a", &nameless)?;
    tells(
        &nameless,
        Verdict::Wrong,
        "DNS",
        "ec2.invalid",
        "resolvectl status",
    )?;

    // And when nobody answers at all.
    world.faults.set(&[Fault::everywhere(FaultKind::Hang)])?;
    let spoke = world.host("spoke-a")?;
    spoke.namespace.nft(&format!(
        "table ip silence {{
    chain output {{
        type filter hook output priority filter;
        ip daddr {METADATA} drop
    }}
}}
"
    ))?;
    let silent = self::checkup(&world, "spoke-a")?;
    tells(
        &silent,
        Verdict::Wrong,
        "identity",
        "",
        "--http-endpoint enabled",
    )?;
    tells(
        &silent,
        Verdict::Wrong,
        "sysctls",
        "ip_forward is 0",
        "sysctl -w",
    )?;
    let unknown = |check: &str| {
        let mut findings = silent.findings.iter();
        findings.any(|it| it.check == check && it.verdict == Verdict::NotChecked)
    };
    ensure!(
        unknown("EC2") && unknown("nftables rules"),
        "{:#?}",
        silent.findings
    );

    // Without the daemon, and without a config that can be read.
    let spoke = world.host("spoke-a")?;
    spoke
        .namespace
        .nft("delete table ip silence\ndelete table ip filter\n")?;
    world.faults.clear()?;
    world.crash("spoke-a")?;
    world.crash("hub")?;
    let without = self::checkup(&world, "spoke-a")?;
    tells(
        &without,
        Verdict::Wrong,
        "running",
        "no daemon answers",
        "systemctl enable --now",
    )?;
    std::fs::write(config_file(world.host("spoke-a")?), "privnet = 7\n")?;
    let (code, text, _) = doctor(&world, "spoke-a", &[])?;
    ensure!(
        code == 2 && text.contains("privnet.toml:1:"),
        "{code}: {text}"
    );
    fabric.end().map(drop)
}

pub(crate) fn a_healthy_hub_is_well_and_everything_that_breaks_is_named() -> Result<()> {
    let (mut world, fabric) = healthy()?;
    let checkup = is_well(&world, "hub")?;
    for check in [
        "running",
        "last poll",
        "discovery",
        "spokes",
        "permission",
        "public address",
        "source/dest check",
        "route tables",
        "security group, tunnels",
        "tunnel",
        "path MTU",
        "role",
        "disk",
    ] {
        let found = checkup
            .findings
            .iter()
            .any(|finding| finding.check == check);
        ensure!(found, "nobody looked at {check}");
    }
    // To each spoke, though no config file of the hub names their endpoints.
    let ways = checkup.findings.iter();
    let ways = ways.filter(|finding| finding.check == "path MTU");
    let ways: Vec<&str> = ways.map(|finding| finding.found.as_str()).collect();
    for spoke in ["spoke-a", "spoke-b"] {
        let endpoint = format!("to {}:{PORT}", public_address(&world, spoke)?);
        let tried = ways.iter().any(|way| way.contains(&endpoint));
        ensure!(tried, "{endpoint}: {ways:?}");
    }

    // The hosts beside the hub are led nowhere; who may not look does not know.
    let metadata = world.host("hub")?.metadata.clone();
    let subnet = world.host("host-hub")?.metadata.subnet.clone();
    let of_subnet = [
        ("Filter.1.Name", "association.subnet-id"),
        ("Filter.1.Value.1", subnet.as_str()),
    ];
    let table = world
        .ec2
        .call(&metadata.region, "DescribeRouteTables", &of_subnet)?;
    let table = text_of(&table, "routeTableId")?;
    let route = [
        ("RouteTableId", table.as_str()),
        ("DestinationCidrBlock", PRIVNET),
    ];
    world.ec2.call(&metadata.region, "DeleteRoute", &route)?;
    tells(
        &self::checkup(&world, "hub")?,
        Verdict::Warning,
        "route tables",
        "none of this VPC leads the private network to this hub",
        &format!(
            "--route-table-id {table} --destination-cidr-block {PRIVNET} --network-interface-id {}",
            metadata.interface
        ),
    )?;
    let denied = Fault::of_action("DescribeRouteTables", FaultKind::Denied);
    world.faults.set(&[denied])?;
    tells(
        &self::checkup(&world, "hub")?,
        Verdict::NotChecked,
        "route tables",
        "DescribeRouteTables",
        "doctor-policy.json",
    )?;

    world.faults.set(&[
        Fault::of_action("DescribeSubnets", FaultKind::Denied),
        Fault::in_region("eu-west-1", FaultKind::Hang),
    ])?;
    let hub = world.host("hub")?;
    let (region, interface) = (&metadata.region, &metadata.interface);
    world.ec2.check_sources(region, interface, true)?;
    let group = world.ec2.default_group(region, &hub.metadata.vpc)?;
    world.ec2.close_udp(region, &group, PORT)?;
    let key = hub.namespace.directory().join("hub.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640))?;
    // A spoke that dies shows at once when the hub starts anew.
    world.crash("spoke-b")?;
    world.stop("hub")?;
    world.start_again("hub")?;
    wait_until_up(&world, &["spoke-a"], PATIENCE)?;
    let broken = self::checkup(&world, "hub")?;
    for (verdict, check, found, remedy) in [
        (Verdict::Wrong, "private key", "0640", "chmod 0600"),
        (
            Verdict::Wrong,
            "source/dest check",
            interface.as_str(),
            "--no-source-dest-check",
        ),
        (
            Verdict::Wrong,
            "security group, tunnels",
            "UDP 51820",
            "IpProtocol=17,FromPort=51820,ToPort=51820,IpRanges=[{CidrIp=0.0.0.0/0}]",
        ),
        (
            Verdict::Wrong,
            "permission",
            "ec2:DescribeSubnets in us-west-2",
            "hub-policy.json",
        ),
        (
            Verdict::Wrong,
            "discovery",
            "eu-west-1",
            "curl -sI https://ec2.eu-west-1",
        ),
        (Verdict::Wrong, "tunnel", "spoke-b", "privnet-spoke doctor"),
    ] {
        tells(&broken, verdict, check, found, remedy)?;
    }
    fabric.end().map(drop)
}

/// A link between the two that takes less than the tunnel needs, as beside a PPPoE or another
/// tunnel; and a spoke whose connection table is nearly full.
pub(crate) fn a_narrow_way_and_a_nearly_full_connection_table_are_named() -> Result<()> {
    let (world, fabric) = healthy()?;
    let (router, internet) = (world.router("vpc-a")?, world.internet());
    router.ip(&["link set uplink mtu 1400"])?;
    internet.ip(&[format!("link set {} mtu 1400", router.name())])?;
    let spoke = public_address(&world, "spoke-a")?;
    for (host, endpoint) in [("spoke-a", HUB_PUBLIC), ("hub", spoke)] {
        // 1440 bytes, and 60 for IPv4, UDP and WireGuard.
        let found = format!("1400 bytes to {endpoint}:{PORT}, and 1500 are needed for mtu = 1440");
        wait_until(&format!("{host} to tell of the way"), PATIENCE, || {
            let told = checkup(&world, host)?;
            let mend = "mtu = 1340   # in the config files of both ends";
            tells(&told, Verdict::Wrong, "path MTU", &found, mend).map(Some)
        })?;
    }

    let limit = world
        .namespace("spoke-a")?
        .run("cat", ["/proc/sys/net/netfilter/nf_conntrack_max"])?;
    let limit: usize = limit.trim().parse()?;
    track(&world, "spoke-a", limit / 100 * 82)?;
    tells(
        &checkup(&world, "spoke-a")?,
        Verdict::Warning,
        "conntrack",
        &format!("connections of at most {limit} (8"),
        &format!(
            "connections = {}   # in [nat] of the config file",
            limit * 2
        ),
    )?;
    fabric.end().map(drop)
}

/// Has an instance's kernel track so many connections for 30 s. How many it may track is the
/// whole machine's to say, so they are many; what they carry ends in an interface that nobody
/// reads.
fn track(world: &World, host: &str, count: usize) -> Result<()> {
    let namespace = world.namespace(host)?;
    namespace.ip(&[
        "tuntap add dev nowhere mode tun",
        "link set nowhere up",
        "route add 192.0.2.128/25 dev nowhere",
    ])?;
    let ports = |host| (1024..=u16::MAX).map(move |port| (Ipv4Addr::new(192, 0, 2, host), port));
    let started = Instant::now();
    namespace.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for to in (129..=254).flat_map(ports).take(count) {
            socket.send_to(&[0], to)?;
        }
        Ok(())
    })?;
    println!("{count} connections in {:.1?}", started.elapsed());
    Ok(())
}
