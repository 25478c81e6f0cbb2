//! `make demo`: Privnet's main job, shown on a simulated internet.
//!
//! Needs no AWS account and no configuration, and no root where the kernel
//! allows user namespaces. Ends with 0 when every step held, else with the
//! reason and the logs at the first that did not. Leaves nothing behind.

#![forbid(unsafe_code)]

mod show;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use privnet_model::admin::HUB_SOCKET;
use privnet_tests::deployment::{
    PATIENCE, launch_latecomer, nothing_leaked, ping_without_loss, public_address,
    reach_each_other, sees, start_hub, start_spokes, tunnels, wait_until_up,
};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, WEB};
use privnet_tests::world::World;
use privnet_tests::{isolation, namespace, programs};

use crate::show::Show;

/// Shows Privnet at work on a simulated internet
#[derive(Debug, Parser)]
struct Arguments {
    /// Stay up until Ctrl-C, and print commands to try
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let outcome = run(&Arguments::parse());
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "demo: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    for program in ["privnet-hub", "privnet-spoke", "tunnels", "privnet-sim"] {
        programs::ours(program)?;
    }
    if !isolation::inside() {
        let mut again = isolation::again(std::env::args_os().skip(1))?;
        return Err(again.exec()).context("cannot run unshare");
    }
    let kept = end_on_signals()?;
    let enter = isolation::settle()?;
    let mut show = Show::new();
    let mut world = None;
    let outcome = demonstrate(&mut show, &mut world);
    if outcome.is_err() {
        if let Some(world) = &world {
            show.print(&format!(
                "\nThe daemons said last:\n{}",
                world.log_tails(15)
            ));
        }
        show.print("\nThis does not hold: see ✗ above.");
    } else {
        show.end();
    }
    if arguments.keep {
        invite(&show, &enter);
        kept.store(outcome.is_ok(), Ordering::Relaxed);
        loop {
            std::thread::park();
        }
    }
    Ok(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// A signal ends it with an error, except where the flag says that all is shown and
/// the signal the expected end.
fn end_on_signals() -> Result<Arc<AtomicBool>> {
    let all_shown = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&all_shown);
    isolation::on_end_signal(move |code| {
        std::process::exit(if flag.load(Ordering::Relaxed) {
            0
        } else {
            code
        });
    })?;
    Ok(all_shown)
}

fn demonstrate(show: &mut Show, slot: &mut Option<World>) -> Result<()> {
    let built = show.step("A world: an internet, two regions, three VPCs", || {
        let world = World::build(&topology::demo())?;
        Ok((
            world,
            "made of network namespaces; moto plays the EC2 API; \
             every instance has its own IMDSv2"
                .to_owned(),
        ))
    })?;
    let world = slot.insert(built);

    show.step(
        "Spokes start, knowing only the hub's address and key",
        || {
            start_spokes(world)?;
            Ok((
                (),
                "each tells EC2 its public key, as a tag of its own instance".to_owned(),
            ))
        },
    )?;

    show.step("The hub starts, knowing no spoke", || {
        start_hub(world)?;
        wait_until_up(world, &["spoke-a", "spoke-b"], PATIENCE)?;
        Ok((
            (),
            "it finds both through the EC2 API, in two regions; both tunnels are up".to_owned(),
        ))
    })?;
    show.print("\n    $ tunnels list");
    show.quote(&tunnels(world, &["list"])?);

    show.step("Private host to private host, across regions", || {
        reach_each_other(world, "host-a", "host-b")?;
        reach_each_other(world, "host-a", "host-b2")?;
        ping_without_loss(world, "host-a", "host-b", 50)?;
        Ok((
            (),
            "both directions; each sees the other's private address: no NAT inside the privnet\n\
             the secondary CIDR of VPC b is reached as well\n\
             50 of 50 pings answered through spoke, hub and spoke"
                .to_owned(),
        ))
    })?;

    show.step("Private hosts to the internet", || {
        let mut proof = Vec::new();
        for (host, gateway) in [
            ("host-a", "spoke-a"),
            ("host-b2", "spoke-b"),
            ("host-hub", "nat-hub"),
        ] {
            let public = public_address(world, gateway)?;
            sees(world, host, WEB, public)?;
            proof.push(format!(
                "the web server sees {host} as {public}, {gateway}'s public address"
            ));
        }
        Ok(((), proof.join("\n")))
    })?;

    show.step("The hub's own VPC", || {
        reach_each_other(world, "host-hub", "host-a")?;
        reach_each_other(world, "host-hub", "host-b")?;
        Ok((
            (),
            "its private host and the hosts behind both spokes reach each other".to_owned(),
        ))
    })?;

    show.step("A third VPC is launched, in a third region", || {
        launch_latecomer(world)?;
        tunnels(world, &["refresh"])?;
        wait_until_up(world, &["spoke-a", "spoke-b", "spoke-c"], PATIENCE)?;
        reach_each_other(world, "host-c", "host-a")?;
        let public = public_address(world, "spoke-c")?;
        sees(world, "host-c", WEB, public)?;
        Ok((
            (),
            "it joins with the next poll (`tunnels refresh` asks for it now), nothing registered by hand".to_owned(),
        ))
    })?;

    show.step("The EC2 API fails", || {
        world
            .faults
            .set(&[Fault::everywhere(FaultKind::Unavailable)])?;
        // It may well say so with its exit code.
        let _ = tunnels(world, &["refresh"]);
        let status = world.daemon("hub")?.status()?;
        ensure!(
            status
                .partitions
                .iter()
                .all(|partition| partition.error.is_some()),
            "the hub did not notice"
        );
        wait_until_up(world, &["spoke-a", "spoke-b", "spoke-c"], Duration::ZERO)?;
        reach_each_other(world, "host-a", "host-b")?;
        world.faults.clear()?;
        Ok((
            (),
            "the hub says so, keeps every tunnel, and traffic flows on".to_owned(),
        ))
    })?;

    show.step("The third spoke is terminated", || {
        world.terminate("spoke-c")?;
        tunnels(world, &["refresh"])?;
        wait_until("spoke-c to leave", PATIENCE, || {
            let status = world.daemon("hub")?.status()?;
            let gone = !status.tunnels.iter().any(|tunnel| tunnel.name == "spoke-c");
            Ok(gone.then_some(()))
        })?;
        reach_each_other(world, "host-a", "host-b")?;
        Ok((
            (),
            "its tunnel leaves with the next poll; the others stay".to_owned(),
        ))
    })?;
    show.print("\n    $ tunnels list");
    show.quote(&tunnels(world, &["list"])?);

    show.step("All the while", || {
        nothing_leaked(world)?;
        world.check()?;
        Ok((
            (),
            "not one packet of the privnet crossed the internet in clear".to_owned(),
        ))
    })
}

fn invite(show: &Show, enter: &str) {
    let on = namespace::ON;
    show.print(&format!(
        "
The network stays up until Ctrl-C. In another terminal:

    on='{enter} {on}'
    $on hub tunnels list
    $on host-a ping -c 3 10.2.1.10
    $on host-a curl http://{WEB}/
    $on hub curl --unix-socket {HUB_SOCKET} http://privnet/v1/status
    $on spoke-a nft list ruleset

Hosts: hub nat-hub host-hub spoke-a host-a spoke-b host-b host-b2 web internet vpc-a …
Logs:  {enter} ls {}",
        namespace::logs().display()
    ));
}
