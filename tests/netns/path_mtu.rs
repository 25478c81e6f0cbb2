//! Packets larger than the tunnel: told so, and TCP never stalls. On the demo
//! network (drawn at `privnet_tests::topology::demo`), whose every link has an
//! MTU of 1500.

use std::time::Duration;

use anyhow::{Result, ensure};
use privnet_tests::deployment::{self, PATIENCE, reach_each_other, wait_until_up};
use privnet_tests::world::World;

pub(crate) fn a_full_packet_that_may_not_be_fragmented_is_told_the_tunnels_mtu() -> Result<()> {
    let world = running()?;
    let ping = |from: &str, to: &str| -> Result<String> {
        let output = world
            .namespace(from)?
            .command("ping")
            .args([
                "-n", "-M", "do", "-s", "1472", "-c", "3", "-i", "0.2", "-W", "1", to,
            ])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr))
    };
    // At the spoke, and in the hub VPC at the hub.
    for (from, to) in [("host-a", "10.2.1.10"), ("host-hub", "10.1.1.10")] {
        let said = ping(from, to)?;
        ensure!(
            said.contains("Frag needed") || said.contains("message too long"),
            "{from} was told nothing:\n{said}"
        );
        ensure!(
            said.contains("mtu = 1440") || said.contains("mtu=1440"),
            "{said}"
        );
    }
    Ok(())
}

pub(crate) fn the_largest_packet_that_fits_crosses_whole() -> Result<()> {
    let world = running()?;
    // 1440 less 28 bytes of IPv4 and ICMP.
    let arguments = [
        "-n",
        "-q",
        "-M",
        "do",
        "-s",
        "1412",
        "-c",
        "10",
        "-i",
        "0.05",
        "-W",
        "1",
        "10.2.1.10",
    ];
    let said = world.namespace("host-a")?.run("ping", arguments)?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}

pub(crate) fn large_packets_that_may_be_fragmented_cross() -> Result<()> {
    let world = running()?;
    let arguments = [
        "-n",
        "-q",
        "-M",
        "dont",
        "-s",
        "8000",
        "-c",
        "10",
        "-i",
        "0.05",
        "-W",
        "1",
        "10.2.1.10",
    ];
    let said = world.namespace("host-a")?.run("ping", arguments)?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}

pub(crate) fn tcp_never_stalls_even_where_icmp_is_lost() -> Result<()> {
    let world = running()?;
    // Nobody hears that a packet was too big: only the clamped MSS helps.
    for host in ["host-a", "host-b", "host-hub"] {
        world.namespace(host)?.nft(
            "table ip deaf {
    chain input {
        type filter hook input priority filter
        icmp type destination-unreachable drop
    }
}
",
        )?;
    }
    for (from, url) in [
        ("host-a", "http://10.2.1.10/bytes/5000000"),
        ("host-b", "http://10.1.1.10/bytes/5000000"),
        ("host-hub", "http://10.1.1.10/bytes/5000000"),
        ("host-a", "http://10.0.1.10/bytes/5000000"),
    ] {
        let size = world.namespace(from)?.run(
            "curl",
            [
                "-sS",
                "--fail",
                "--max-time",
                "30",
                "-o",
                "/dev/null",
                "-w",
                "%{size_download}",
                url,
            ],
        )?;
        ensure!(size == "5000000", "{from} got {size} bytes of {url}");
    }
    Ok(())
}

fn running() -> Result<World> {
    let world = deployment::demo()?;
    wait_until_up(
        &world,
        &["spoke-a", "spoke-b"],
        PATIENCE.max(Duration::from_secs(30)),
    )?;
    reach_each_other(&world, "host-a", "host-b")?;
    reach_each_other(&world, "host-hub", "host-a")?;
    Ok(world)
}
