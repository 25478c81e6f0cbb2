//! The roles of `ami/iam` with signatures and permissions checked in earnest, as
//! far as moto does that: it knows which actions a role may do, and reads neither
//! conditions nor (of EC2) resources. What these mean is told in
//! `privnet_tests::iam`. On the demo network (drawn at
//! `privnet_tests::topology::demo`).

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::status::Status;
use privnet_tests::daemon::{hub_public_key, spoke_config};
use privnet_tests::deployment::{
    FLEET_SECRET, PATIENCE, fleet_secret, nothing_leaked, public_address, reach_each_other, sees,
    sibling_config, start_hub, start_spokes, wait_for_published_key, wait_until_up,
};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::iam;
use privnet_tests::imds::IamRole;
use privnet_tests::process::{run, wait_until};
use privnet_tests::topology::{self, HUB_PUBLIC, OTHER_ACCOUNT, PORT, WEB};
use privnet_tests::world::World;

use crate::doctor::doctor;

const SPOKES: [&str; 2] = ["spoke-a", "spoke-b"];

pub(crate) fn the_hubs_policy_is_enough_for_the_hub_and_another_is_refused() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    let roles = Roles::make(&world)?;
    world.ec2.enforce_iam(true)?;
    world.change_metadata("hub", |metadata| {
        metadata.iam_role = Some(roles.hub.clone());
    })?;
    start_hub(&mut world)?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    let status = poll_errors(&world, &[])?;
    ensure!(status.partitions.len() == topology::REGIONS.len());

    // Each start reads the credentials anew; the tunnels come out of the cache.
    let mut wrong_secret = roles.hub.clone();
    wrong_secret.secret_key = "not what it is".to_owned();
    for (credentials, says) in [
        (
            roles.spoke.clone(),
            ["not allowed", "ec2:DescribeInstances"],
        ),
        (wrong_secret, ["does not accept", "credentials"]),
    ] {
        world.stop("hub")?;
        world.change_metadata("hub", |metadata| metadata.iam_role = Some(credentials))?;
        world.start_again("hub")?;
        poll_errors(&world, &says)?;
        wait_until_up(&world, &SPOKES, PATIENCE)?;
    }
    world.stop("hub")?;
    world.change_metadata("hub", |metadata| metadata.iam_role = None)?;
    world.start_again("hub")?;
    poll_errors(&world, &["no AWS credentials", "give the instance a role"])?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;

    // Without a restart: the role is given back while the hub runs.
    world.change_metadata("hub", |metadata| metadata.iam_role = Some(roles.hub))?;
    poll_errors(&world, &[])?;
    world.check()
}

pub(crate) fn each_role_is_refused_what_it_has_no_use_for() -> Result<()> {
    let world = World::build(&topology::Network { vpcs: vec![] })?;
    let roles = Roles::make(&world)?;
    world.ec2.enforce_iam(true)?;
    let tag = [
        ("ResourceId.1", "i-0123456789abcdef0"),
        ("Tag.1.Key", "service"),
        ("Tag.1.Value", "nat"),
    ];
    let terminate = [("InstanceId.1", "i-0123456789abcdef0")];
    let assume = |role| [("RoleArn", role), ("RoleSessionName", "x")];
    let discovery = assume("arn:aws:iam::222222222222:role/privnet-discovery");
    let admin = assume("arn:aws:iam::222222222222:role/admin");
    let describe = [
        "DescribeInstances",
        "DescribeVpcs",
        "DescribeSubnets",
        "DescribeRegions",
    ];
    for (name, role) in [("hub", &roles.hub), ("discovery", &roles.discovery)] {
        for action in describe {
            let answer = ask(&world, role, "ec2", action, &[])?;
            ensure!(allowed(&answer), "{name} {action}: {answer}");
        }
        for (action, form) in [
            ("CreateTags", &tag[..]),
            ("DeleteTags", &tag[..2]),
            ("TerminateInstances", &terminate),
            ("DescribeImages", &[]),
        ] {
            let answer = ask(&world, role, "ec2", action, form)?;
            ensure!(refused(&answer), "{name} {action}: {answer}");
        }
    }
    let answer = ask(&world, &roles.hub, "sts", "AssumeRole", &discovery)?;
    ensure!(allowed(&answer), "{answer}");
    for (role, form) in [
        (&roles.hub, &admin),
        (&roles.spoke, &discovery),
        (&roles.discovery, &discovery),
    ] {
        let answer = ask(&world, role, "sts", "AssumeRole", form)?;
        ensure!(refused(&answer), "{form:?}: {answer}");
    }
    for action in describe.into_iter().chain(["DeleteTags", "RunInstances"]) {
        let answer = ask(&world, &roles.spoke, "ec2", action, &tag)?;
        ensure!(refused(&answer), "spoke {action}: {answer}");
    }
    Ok(())
}

/// The fleet's secret in the Parameter Store.
const PARAMETER: &str = "/privnet/psk";

pub(crate) fn a_spoke_that_may_not_read_the_fleets_secret_says_so_and_does_the_rest() -> Result<()>
{
    let mut world = World::build(&topology::demo())?;
    let region = world.host("spoke-a")?.metadata.region.clone();
    world.ec2.put_secret(&region, PARAMETER, FLEET_SECRET)?;
    let denied = [Fault::of_action("GetParameter", FaultKind::Denied)];
    world.faults.set(&denied)?;
    let key = hub_public_key(world.host("hub")?)?;
    let config = |world: &World, name: &str| -> Result<String> {
        Ok(spoke_config(
            world.host(name)?,
            &format!("{HUB_PUBLIC}:{PORT}"),
            &key,
        ))
    };
    // The others have it in a file, so that only one role lacks something.
    let by_file = fleet_secret(&world, "spoke-b")? + &config(&world, "spoke-b")?;
    world.start("spoke-b", &by_file)?;
    let by_ssm = format!(
        "preshared_key = {{ ssm = {PARAMETER:?} }}\n{}",
        config(&world, "spoke-a")?
    );
    world.start("spoke-a", &by_ssm)?;
    secret_problem(&world, true)?;
    let (code, told, _) = doctor(&world, "spoke-a", &[])?;
    ensure!(
        code == 1 && told.contains("fleet secret") && told.contains("secret-policy.json"),
        "{code}: {told}"
    );

    // Its key is published, its hosts have their internet, the other spoke its tunnel;
    // and what would go through its own goes nowhere.
    for spoke in SPOKES {
        wait_for_published_key(&mut world, spoke)?;
    }
    let hub = sibling_config(&world, "hub", "", "")?;
    world.start("hub", &hub)?;
    wait_until_up(&world, &["spoke-b"], PATIENCE)?;
    let public = public_address(&world, "spoke-a")?;
    sees(&world, "host-a", WEB, public)?;
    reach_each_other(&world, "host-hub", "host-b")?;
    let host_b = world.host("host-b")?.instance.address;
    let answered = world.namespace("host-a")?.ping(host_b, 3)?;
    ensure!(answered == 0, "{answered} of 3 pings were answered");
    let status = world.daemon("spoke-a")?.status()?;
    ensure!(status.nat.is_some_and(|nat| nat.active), "no NAT");

    world.faults.clear()?;
    let spoke = &world.daemon("spoke-a")?.process;
    spoke.signal(Signal::SIGHUP)?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    secret_problem(&world, false)?;

    // From then on it has a copy, and a permission that is taken away costs no tunnel.
    world.faults.set(&denied)?;
    world.crash("spoke-a")?;
    world.start_again("spoke-a")?;
    secret_problem(&world, true)?;
    reach_each_other(&world, "host-a", "host-b")?;
    sees(&world, "host-a", WEB, public)?;
    nothing_leaked(&world)?;
    world.check()
}

/// Waits until spoke-a says that it may not read the fleet's secret, or no longer does.
fn secret_problem(world: &World, expected: bool) -> Result<()> {
    wait_until("a word about the secret", PATIENCE, || {
        let problems = world.daemon("spoke-a")?.status()?.problems;
        let mut told = problems.iter();
        let told = told.any(|problem| {
            problem.contains("the role needs ssm:GetParameter") && problem.contains(PARAMETER)
        });
        ensure!(told == expected, "{problems:?}");
        Ok(Some(()))
    })
}

/// IamRole of each of our roles.
struct Roles {
    hub: IamRole,
    spoke: IamRole,
    discovery: IamRole,
}

impl Roles {
    fn make(world: &World) -> Result<Self> {
        let other = world.ec2.in_account(OTHER_ACCOUNT);
        world.ec2.create_role("privnet-hub", iam::TRUST, iam::HUB)?;
        world
            .ec2
            .create_role("privnet-spoke", iam::TRUST, iam::SPOKE)?;
        other.create_role("privnet-discovery", iam::DISCOVERY_TRUST, iam::DISCOVERY)?;
        Ok(Self {
            hub: world.ec2.assume("privnet-hub", "i-0a")?,
            spoke: world.ec2.assume("privnet-spoke", "i-0b")?,
            discovery: other.assume("privnet-discovery", "privnet-hub")?,
        })
    }
}

/// Waits until the newest poll of every region failed and said so; with nothing
/// to say, until none failed.
fn poll_errors(world: &World, says: &[&str]) -> Result<Status> {
    wait_until("a poll", PATIENCE, || {
        let status = world.daemon("hub")?.status()?;
        for partition in &status.partitions {
            ensure!(partition.polls > 0, "there was none");
            let error = partition.error.as_deref();
            ensure!(error.is_none() == says.is_empty(), "{error:?}");
            for text in says {
                ensure!(error.is_some_and(|error| error.contains(text)), "{error:?}");
            }
        }
        Ok(Some(status))
    })
    .with_context(|| format!("which says {says:?}"))
}

/// Asks moto, with a signature that it can check.
fn ask(
    world: &World,
    role: &IamRole,
    service: &str,
    action: &str,
    form: &[(&str, &str)],
) -> Result<String> {
    let version = match service {
        "sts" => "2011-06-15",
        _ => "2016-11-15",
    };
    let mut curl = world.web.command("curl");
    curl.args(["-sS", "--max-time", "20", "--aws-sigv4"])
        .arg(format!("aws:amz:us-west-2:{service}"))
        .arg("--user")
        .arg(format!("{}:{}", role.access_key, role.secret_key))
        .arg("-H")
        .arg(format!("X-Amz-Security-Token: {}", role.token));
    for (key, value) in [("Action", action), ("Version", version)]
        .iter()
        .chain(form)
    {
        curl.arg("--data-urlencode").arg(format!("{key}={value}"));
    }
    run(curl.arg(format!("{}/", world.ec2.endpoint())))
}

fn allowed(answer: &str) -> bool {
    answer.contains("Response") && !answer.contains("<Error>")
}

fn refused(answer: &str) -> bool {
    answer.contains("<Code>AccessDenied</Code>")
}
