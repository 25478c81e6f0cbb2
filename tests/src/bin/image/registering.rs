//! `ami/image/register`, by the AWS command line and coldsnap, against moto: each step once,
//! and nothing a second time; what it does where a permission is missing; what it forgets
//! and what it must not. moto keeps no more of an AMI than its name, description and
//! permissions, so tags and properties are read from what the programs were asked.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use privnet_tests::namespace::{Namespace, logs};
use privnet_tests::process::{Process, run};
use privnet_tests::{moto, programs};

use crate::report::Figures;

const REGION: &str = "us-west-2";
const COPY: &str = "eu-west-1";
const FRIEND: &str = "222222222222";

/// What stands in front of a program, and ends as the AWS command line does where IAM does
/// not permit something.
const WITNESS: &str = r#"#!/bin/sh
# NAME, which writes down what it is asked; what has $REFUSED in it, is not permitted.
set -eu
printf '%s\n' "NAME $*" >>"ASKED"
if [ -n "${REFUSED:-}" ]; then
    case $* in
    *"$REFUSED"*)
        echo "An error occurred (UnauthorizedOperation): You are not authorized to perform this operation." >&2
        exit 254
        ;;
    esac
fi
exec "PROGRAM" "$@"
"#;

pub(crate) fn test(figures: &mut Figures) -> Result<()> {
    let host = Namespace::add("registering")?;
    let (moto, ec2) = host.enter(|| moto::start(&host, std::net::Ipv4Addr::LOCALHOST, 5000))?;
    let work = tempfile::tempdir()?;
    let images = Registering {
        host: &host,
        endpoint: ec2.endpoint(),
        work: work.path(),
    };
    images.install()?;

    let before = images.all(REGION)?;
    images.changes_nothing_in_a_dry_run()?;
    let one = images.makes_each_thing_once()?;
    images.goes_on_where_it_was_refused()?;
    figures.row(
        "ami/image/register against moto",
        "uploads by coldsnap, registers, tags, copies, shares; a second run and a dry run change nothing; \
         where a permission is missing it stops, and goes on from there",
    );
    images.forgets_what_is_old_and_its_own(&one, &before)?;
    figures.row(
        "its --keep",
        "the newest stay, one with an instance, and those of other names; snapshots go along",
    );
    drop::<Process>(moto);
    Ok(())
}

/// Tells why there is nothing of it in the page.
pub(crate) fn left_out(figures: &mut Figures) {
    figures.row(
        "ami/image/register against moto",
        "left out: emulated; the page of this machine's own architecture has it",
    );
}

struct Registering<'a> {
    host: &'a Namespace,
    endpoint: &'a str,
    work: &'a Path,
}

impl Registering<'_> {
    /// Puts the scripts in front of the programs.
    fn install(&self) -> Result<()> {
        for (name, program) in [
            ("aws", programs::tool("aws")?),
            ("coldsnap", programs::coldsnap()?),
        ] {
            let text = WITNESS
                .replace("NAME", name)
                .replace("ASKED", &self.work.join("asked").display().to_string())
                .replace("PROGRAM", &program.display().to_string());
            let file = self.work.join(name);
            std::fs::write(&file, text)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn changes_nothing_in_a_dry_run(&self) -> Result<()> {
        let before = self.all(REGION)?;
        let options = ["--dry-run", "--copy-to", COPY, "--share", FRIEND];
        let (_, said) = self.register("one", &options)?;
        ensure!(said.contains("would: aws ec2 register-image"), "{said}");
        ensure!(
            self.all(REGION)? == before,
            "a dry run registered something"
        );
        Ok(())
    }

    /// Returns the AMI's id.
    fn makes_each_thing_once(&self) -> Result<String> {
        let options = ["--copy-to", COPY, "--share", FRIEND];
        self.asked()?;
        let (first, _) = self.register("one", &options)?;
        let asked = self.asked()?;
        let sum = self.sum()?;
        let described = self.aws(&[
            "describe-images",
            "--region",
            REGION,
            "--owners",
            "self",
            "--filters",
            &format!("Name=name,Values=privnet-spoke-amd64-{}", &sum[..16]),
            "--query",
            "Images[].[Description,Public]",
            "--output",
            "text",
        ])?;
        ensure!(
            described.trim() == "Privnet spoke\tFalse",
            "what was registered: {described}"
        );

        // By these tags the script knows what is there, and the policy what may be changed.
        let tags = format!(
            "Tags=[{{Key=Name,Value=privnet-spoke-amd64-{}}},{{Key=privnet:image,Value=spoke-amd64}},\
             {{Key=privnet:sha256,Value={sum}}}]",
            &sum[..16]
        );
        let image = format!("ResourceType=image,{tags}");
        let snapshot = format!("ResourceType=snapshot,{tags}");
        let uploaded = format!("--tag Key=Name,Value=privnet-spoke-amd64-{} ", &sum[..16]);
        let found = self.snapshots_of(&sum)?;
        let [snapshot_id, kind] = found.as_slice() else {
            bail!("not one snapshot has the image's sum: {found:?}");
        };
        ensure!(kind == "spoke-amd64", "its privnet:image is {kind}");
        self.holds_the_image(snapshot_id)?;
        let made_of = format!("SnapshotId={snapshot_id},");
        for (command, parts) in [
            (
                " register-image ",
                &[
                    image.as_str(),
                    made_of.as_str(),
                    "--architecture x86_64",
                    "--boot-mode uefi",
                    "--ena-support",
                    "--imds-support v2.0",
                ][..],
            ),
            (" copy-image ", &[image.as_str(), snapshot.as_str()][..]),
            (" upload ", &[uploaded.as_str()][..]),
        ] {
            let lines: Vec<&str> = asked.lines().filter(|it| it.contains(command)).collect();
            ensure!(lines.len() == 1, "{command}: {lines:?}");
            for part in parts {
                ensure!(lines[0].contains(part), "no {part} in {lines:?}");
            }
        }
        for line in first.lines() {
            let (region, id) = line.split_once(' ').context("no id")?;
            let friends = self.aws(&[
                "describe-image-attribute",
                "--region",
                region,
                "--image-id",
                id,
                "--attribute",
                "launchPermission",
                "--query",
                "LaunchPermissions[].UserId",
                "--output",
                "text",
            ])?;
            ensure!(friends.trim() == FRIEND, "{line} is for {friends:?}");
        }

        let (again, _) = self.register("one", &options)?;
        ensure!(
            first == again,
            "a second run did something else:\n{first}\n{again}"
        );
        self.made_nothing()?;
        Ok(id_in(&first, REGION)?.to_owned())
    }

    fn goes_on_where_it_was_refused(&self) -> Result<()> {
        let before = self.all(REGION)?;
        let share = ["--share", FRIEND];
        self.asked()?;
        // A look that is refused is no answer: it would register twice.
        self.is_refused("two", &share, " describe-images ")?;
        self.made_nothing()?;
        self.is_refused("two", &share, " register-image ")?;
        ensure!(self.all(REGION)? == before, "refused, and registered");
        let asked = self.asked()?;
        ensure!(asked.contains(" upload "), "{asked}");
        // The upload is not done again.
        self.is_refused("two", &share, " modify-image-attribute ")?;
        let asked = self.asked()?;
        ensure!(!asked.contains(" upload "), "{asked}");
        let made = self.all(REGION)?;
        ensure!(made.len() == before.len() + 1, "{before:?}, {made:?}");
        let (done, _) = self.register("two", &share)?;
        self.made_nothing()?;
        let id = id_in(&done, REGION)?;
        ensure!(
            made.contains(id) && !before.contains(id),
            "{id} is another one than before"
        );
        Ok(())
    }

    /// There are the images one and two, of which an instance of the first runs, and others'.
    fn forgets_what_is_old_and_its_own(&self, one: &str, before: &BTreeSet<String>) -> Result<()> {
        let mut others = BTreeSet::new();
        for name in [
            "privnet-hub-amd64-0123456789abcdef",
            "privnet-spoke-arm64-0123456789abcdef",
            "privnet-spoke",
            "golden",
        ] {
            let arguments = ["register-image", "--region", REGION, "--name", name];
            others.insert(self.aws(&with_query(&arguments, "ImageId"))?);
        }
        let ours = |images: &Self| -> Result<BTreeSet<String>> {
            let all = images.all(REGION)?;
            let others: BTreeSet<String> = before.union(&others).cloned().collect();
            ensure!(all.is_superset(&others), "others' images are gone");
            Ok(all.difference(&others).cloned().collect())
        };
        let two = ours(self)?.into_iter().find(|id| id != one);
        let two = two.context("there is no image two")?;
        let arguments = ["run-instances", "--region", REGION, "--image-id", one];
        let instance = self.aws(&with_query(&arguments, "Instances[0].InstanceId"))?;
        let copies = self.all(COPY)?;
        let (done, _) = self.register("three", &["--copy-to", COPY])?;
        let three = id_in(&done, REGION)?.to_owned();
        let of_one = self.snapshot(one)?;
        let of_two = self.snapshot(&two)?;
        let of_three = self.snapshot(&three)?;

        let keep = ["--copy-to", COPY, "--keep", "1"];
        let dry = [&keep[..], &["--dry-run"][..]].concat();
        let (_, said) = self.register("three", &dry)?;
        let would = format!("would: aws ec2 deregister-image --region {REGION} --image-id {two}");
        ensure!(said.contains(&would), "{said}");
        // Whether the command line is recent enough is found out where no region is configured.
        ensure!(!said.contains("specify a region"), "{said}");
        ensure!(ours(self)?.len() == 3, "a dry run deregistered something");
        // Who cannot see what there is says so.
        self.is_refused("three", &keep, "reverse(sort_by(")?;
        self.is_refused("three", &keep, " describe-instances ")?;
        ensure!(ours(self)?.len() == 3, "forgotten without a look");

        let (_, said) = self.register("three", &keep)?;
        let reason = format!("{one} stays, {instance} is of it");
        ensure!(said.contains(&reason), "{said}");
        let left = ours(self)?;
        let expected = BTreeSet::from([one.to_owned(), three.clone()]);
        ensure!(left == expected, "left are {left:?}, not {expected:?}");
        let snapshots = self.snapshots()?;
        ensure!(!snapshots.contains(&of_two), "{of_two} is still there");
        for kept in [&of_one, &of_three] {
            ensure!(snapshots.contains(kept), "{kept} is gone");
        }
        // Where it was copied to there was no instance of it.
        let copied = id_in(&done, COPY)?;
        let left = self.all(COPY)?;
        ensure!(
            left.contains(copied) && left.len() == copies.len(),
            "of {copies:?} and {copied} are left {left:?}"
        );

        let arguments = ["terminate-instances", "--region", REGION];
        let which = ["--instance-ids", instance.as_str()];
        self.aws(&[&arguments[..], &which[..]].concat())?;
        self.register("three", &keep)?;
        let left = ours(self)?;
        ensure!(left == BTreeSet::from([three]), "left are {left:?}");
        Ok(())
    }

    /// An error unless this snapshot holds the image, and nothing behind it.
    fn holds_the_image(&self, snapshot: &str) -> Result<()> {
        let file = self.work.join("downloaded");
        let mut command = self.host.command(programs::coldsnap()?);
        self.environment(&mut command)?;
        command.args(["--region", REGION, "download", "--no-progress", snapshot]);
        run(command.arg(&file))?;
        let mut image = std::fs::read(self.image())?;
        image.resize(image.len() + 4096, 0);
        // All of the volume is a GiB.
        let mut volume = vec![0; image.len()];
        std::fs::File::open(&file)?.read_exact(&mut volume)?;
        ensure!(volume == image, "{snapshot} holds something else");
        std::fs::remove_file(file).context("what was downloaded")
    }

    /// An error unless it fails for want of a permission.
    fn is_refused(&self, content: &str, options: &[&str], what: &str) -> Result<()> {
        let output = self.script(content, options, what)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && said.contains("UnauthorizedOperation"),
            "refused {what:?}, it ended with {}: {said}",
            output.status
        );
        Ok(())
    }

    /// Registers an image of this content; returns the ids, a region a line, and what it said.
    fn register(&self, content: &str, options: &[&str]) -> Result<(String, String)> {
        let output = self.script(content, options, "")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "register {options:?}: {said}");
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), said))
    }

    /// Runs the script; the AWS command line is refused what has `refused` in it.
    fn script(&self, content: &str, options: &[&str], refused: &str) -> Result<Output> {
        // Some of the blocks that EBS makes of it, the last one not a whole one.
        std::fs::write(self.image(), content.repeat(1000))?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ami/image/register");
        let mut command = self.host.command(script);
        self.environment(&mut command)?;
        let output = command
            .env("REFUSED", refused)
            .args(["--region", REGION])
            .args(options)
            .arg(self.image())
            .output()?;
        std::fs::write(logs().join("register.log"), &output.stderr)?;
        Ok(output)
    }

    fn image(&self) -> std::path::PathBuf {
        self.work.join("privnet-spoke-amd64.raw")
    }

    /// The image's checksum.
    fn sum(&self) -> Result<String> {
        let said = run(Command::new("sha256sum").arg(self.image()))?;
        let sum = said.split_whitespace().next().context("no sum")?;
        ensure!(sum.len() == 64, "{said}");
        Ok(sum.to_owned())
    }

    /// What the AWS command line was asked since this was called last.
    fn asked(&self) -> Result<String> {
        let file = self.work.join("asked");
        let asked = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(file, "")?;
        Ok(asked)
    }

    /// An error if something was made since [`Self::asked`] was called last.
    fn made_nothing(&self) -> Result<()> {
        let asked = self.asked()?;
        ensure!(!asked.is_empty(), "nothing was asked");
        for made in [" upload ", " register-image ", " copy-image "] {
            ensure!(!asked.contains(made), "{made} in:\n{asked}");
        }
        Ok(())
    }

    fn all(&self, region: &str) -> Result<BTreeSet<String>> {
        let arguments = ["describe-images", "--region", region, "--owners", "self"];
        let ids = self.aws(&with_query(&arguments, "Images[].ImageId"))?;
        Ok(ids.split_whitespace().map(str::to_owned).collect())
    }

    fn snapshots(&self) -> Result<BTreeSet<String>> {
        let arguments = ["describe-snapshots", "--region", REGION];
        let ids = self.aws(&with_query(&arguments, "Snapshots[].SnapshotId"))?;
        Ok(ids.split_whitespace().map(str::to_owned).collect())
    }

    /// Those with this sum as a tag: the id of each, and its tag `privnet:image`.
    fn snapshots_of(&self, sum: &str) -> Result<Vec<String>> {
        let filter = format!("Name=tag:privnet:sha256,Values={sum}");
        let arguments = [
            "describe-snapshots",
            "--region",
            REGION,
            "--filters",
            &filter,
        ];
        let query = "Snapshots[].[SnapshotId, Tags[?Key=='privnet:image'].Value | [0]]";
        let words = self.aws(&with_query(&arguments, query))?;
        Ok(words.split_whitespace().map(str::to_owned).collect())
    }

    /// The snapshot of an AMI: moto makes one for each, whatever it is told.
    fn snapshot(&self, image: &str) -> Result<String> {
        let arguments = ["describe-images", "--region", REGION, "--image-ids", image];
        let query = "Images[0].BlockDeviceMappings[0].Ebs.SnapshotId";
        let id = self.aws(&with_query(&arguments, query))?;
        ensure!(id.starts_with("snap-"), "{image} has the snapshot {id:?}");
        Ok(id)
    }

    /// What the AWS command line prints, past the script that refuses.
    fn aws(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.host.command(programs::tool("aws")?);
        self.environment(&mut command)?;
        let said = run(command.arg("ec2").args(arguments))?;
        Ok(said.trim_end().to_owned())
    }

    fn environment(&self, command: &mut Command) -> Result<()> {
        let path = std::env::var("PATH").context("PATH")?;
        // `on` puts its own in front of this: what is played by a script is in neither.
        command
            .env("PATH", format!("{}:{path}", self.work.display()))
            .env("AWS_ENDPOINT_URL", self.endpoint)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        Ok(())
    }
}

fn with_query<'a>(arguments: &[&'a str], query: &'a str) -> Vec<&'a str> {
    [arguments, &["--query", query, "--output", "text"][..]].concat()
}

/// The AMI's id in this region, of what the script printed.
fn id_in<'a>(printed: &'a str, region: &str) -> Result<&'a str> {
    let id = printed
        .lines()
        .find_map(|line| line.strip_prefix(region)?.strip_prefix(' '));
    id.with_context(|| format!("nothing in {region}: {printed}"))
}
