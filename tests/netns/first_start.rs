//! Spokes that cannot serve when they start for the first time, each for another reason:
//! they claim nothing and say why, and claim what is theirs when they can. In the VPC with
//! a spoke in each of three zones (drawn at `privnet_tests::topology::three_gateways`).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use privnet_model::admin::SPOKE_SOCKET;
use privnet_tests::daemon;
use privnet_tests::deployment::{PATIENCE, public_address, sees, sibling_config};
use privnet_tests::namespace::ROOT;
use privnet_tests::process::{run, wait_until};
use privnet_tests::programs;
use privnet_tests::topology::WEB;
use privnet_tests::vpc_fabric::Fabric;
use privnet_tests::world::World;

use crate::three_zones;

const LOOK: &str = "DescribeRouteTables";
const CLAIMS: [&str; 2] = ["CreateRoute", "ReplaceRoute"];
/// On a host with this file in its directory `nft` fails, and says so.
const NO_NFT: &str = "no-nft";
const NFT_SAYS: &str = "nft: out of order";

struct Starting {
    world: World,
    fabric: Fabric,
}

impl Starting {
    /// How often a spoke asked EC2 for any of these.
    fn asked(&self, spoke: &str, actions: &[&str]) -> Result<usize> {
        let key = self.world.access_key(spoke)?;
        let calls = self.world.faults.calls()?;
        let calls = calls
            .iter()
            .filter(|call| call.access_key == key && actions.contains(&call.action.as_str()));
        Ok(calls.count())
    }

    /// It says why, to everybody who may ask, and looks at the tables for which nobody has
    /// a route, and takes none.
    fn claims_nothing(&mut self, spoke: &str, host: &str, why: &str) -> Result<()> {
        let config = sibling_config(&self.world, spoke, "", "")?;
        self.world.start(spoke, &config)?;
        wait_until(&format!("{spoke} to say why"), PATIENCE, || {
            let status = self.world.daemon(spoke)?.status()?;
            let sick = status.routes.and_then(|routes| routes.sick);
            let said = sick.as_ref().is_some_and(|sick| sick.contains(why));
            ensure!(said, "{sick:?}");
            Ok(Some(()))
        })?;
        let looks = self.asked(spoke, &[LOOK])?;
        wait_until(&format!("{spoke} to look twice"), PATIENCE, || {
            Ok((self.asked(spoke, &[LOOK])? >= looks + 2).then_some(()))
        })?;
        let mut tunnels = daemon::command(self.world.namespace(spoke)?, "tunnels")?;
        let told = run(tunnels.args(["--socket", SPOKE_SOCKET, "list"]))?;
        let warning = format!("serves no VPC routes: {why}");
        ensure!(told.contains(&warning), "no {warning} in:\n{told}");
        ensure!(self.asked(spoke, &CLAIMS)? == 0, "{spoke} claims");
        let led = self.fabric.egress_of(host);
        ensure!(led.is_none(), "{host} is led to {led:?}");
        Ok(())
    }

    /// So does the spoke of another zone know it, by the signed word of the one itself.
    fn is_known(&self, at: &str, spoke: &str, why: &str) -> Result<()> {
        let words = format!("starting: {why}");
        three_zones::wait_for_state(&self.world, at, spoke, &words)
    }

    fn claims(&self, spoke: &str, host: &str) -> Result<()> {
        wait_until(&format!("{spoke} to serve {host}"), PATIENCE * 2, || {
            let now = self.fabric.egress_of(host);
            ensure!(now == Some(spoke), "{host} is led to {now:?}");
            Ok(Some(()))
        })?;
        ensure!(self.asked(spoke, &CLAIMS)? > 0, "others did that");
        sees(&self.world, host, WEB, public_address(&self.world, spoke)?)
    }
}

/// Makes `nft` a program that can be broken, host by host. For what is started from now on.
fn breakable_nft() -> Result<()> {
    let nft = programs::tool("nft")?;
    let (real, breakable) = (
        Path::new(ROOT).join("nft"),
        Path::new(ROOT).join("breakable-nft"),
    );
    std::fs::copy(&nft, &real)?;
    std::fs::write(
        &breakable,
        format!(
            "#!/bin/sh\n\
             [ ! -e \"$PRIVNET_HOST/{NO_NFT}\" ] || {{ echo \"{NFT_SAYS}\" >&2; exit 1; }}\n\
             exec {} \"$@\"\n",
            real.display()
        ),
    )?;
    std::fs::set_permissions(&breakable, Permissions::from_mode(0o755))?;
    let mut mount = Command::new("mount");
    run(mount.arg("--bind").arg(breakable).arg(nft)).map(drop)
}

pub(crate) fn who_cannot_serve_claims_nothing_and_says_why() -> Result<()> {
    let (world, fabric) = three_zones::build()?;
    breakable_nft()?;
    let mut starting = Starting { world, fabric };

    let why = "there has been no session with the hub yet";
    starting.claims_nothing("spoke-d1", "host-d1", why)?;
    let hub = sibling_config(&starting.world, "hub", "", "")?;
    starting.world.start("hub", &hub)?;
    starting.claims("spoke-d1", "host-d1")?;

    let why = "the NAT rules are not in place";
    let no_nft = starting.world.namespace("spoke-d2")?.directory();
    let no_nft = no_nft.join(NO_NFT);
    std::fs::write(&no_nft, "")?;
    starting.claims_nothing("spoke-d2", "host-d2", why)?;
    starting.is_known("spoke-d1", "spoke-d2", why)?;
    let problems = starting.world.daemon("spoke-d2")?.status()?.problems;
    let told = problems.iter().any(|problem| problem.contains(NFT_SAYS));
    ensure!(told, "{problems:?}");
    std::fs::remove_file(&no_nft)?;
    starting.claims("spoke-d2", "host-d2")?;

    // What it sends to the internet is lost; EC2 and the hub hear it.
    let why = "no way to the internet through this spoke's NAT";
    let address = starting.world.host("spoke-d3")?.instance.address;
    let router = starting.world.router("vpc-d")?;
    router.nft(&format!(
        "table ip broken {{
    chain forward {{
        type filter hook forward priority -10
        oifname uplink ip saddr {address} ip daddr {WEB} drop
    }}
}}
"
    ))?;
    starting.claims_nothing("spoke-d3", "host-d3", why)?;
    starting.is_known("spoke-d1", "spoke-d3", why)?;
    let router = starting.world.router("vpc-d")?;
    router.nft("delete table ip broken\n")?;
    starting.claims("spoke-d3", "host-d3")?;
    starting.world.check()
}
