//! A configuration that is a parameter of SSM, fetched as `privnet-boot` has it fetched:
//! by the program of the role, on an instance of the demo network (drawn at
//! `privnet_tests::topology::demo`).

use anyhow::{Result, ensure};
use privnet_tests::daemon;
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::topology;
use privnet_tests::world::World;

const PARAMETER: &str = "/privnet/hub/config";

pub(crate) fn it_comes_as_it_was_put_and_an_exit_code_says_whether_to_ask_again() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    let config = "privnet = \"10.0.0.0/8\"\n# No new line at the end";
    let region = world.host("hub")?.metadata.region.clone();
    world.ec2.put_secret(&region, PARAMETER, config)?;
    for (host, program) in [("hub", "privnet-hub"), ("spoke-a", "privnet-spoke")] {
        let (code, printed, said) = fetch(&world, host, program, PARAMETER)?;
        ensure!(code == Some(0) && printed == config, "{code:?}: {said}");
    }
    // Each instance asks in its own region.
    for (host, program, parameter) in [
        ("hub", "privnet-hub", "/privnet/none"),
        ("spoke-b", "privnet-spoke", PARAMETER),
    ] {
        let (code, printed, said) = fetch(&world, host, program, parameter)?;
        ensure!(code == Some(2) && printed.is_empty(), "{code:?}: {said}");
        ensure!(said.contains("there is none"), "{said}");
        ensure!(said.contains(parameter), "{said}");
    }
    for (kind, says) in [
        (FaultKind::Unavailable, "SSM did not give it"),
        (FaultKind::Throttled, "SSM did not give it"),
        (FaultKind::Denied, "ssm:GetParameter"),
    ] {
        world
            .faults
            .set(&[Fault::of_action("GetParameter", kind)])?;
        let (code, printed, said) = fetch(&world, "hub", "privnet-hub", PARAMETER)?;
        ensure!(code == Some(1) && printed.is_empty(), "{code:?}: {said}");
        ensure!(said.contains(says), "{said}");
    }
    world.faults.clear()?;
    world.change_metadata("hub", |metadata| metadata.iam_role = None)?;
    let (code, _, said) = fetch(&world, "hub", "privnet-hub", PARAMETER)?;
    ensure!(code == Some(1), "{code:?}: {said}");
    ensure!(said.contains("give the instance a role"), "{said}");
    world.check()
}

/// The exit code, and what is printed and said.
fn fetch(
    world: &World,
    host: &str,
    program: &str,
    parameter: &str,
) -> Result<(Option<i32>, String, String)> {
    let output = daemon::command(&world.host(host)?.namespace, program)?
        .args(["fetch-config", "--", parameter])
        .output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    ))
}
