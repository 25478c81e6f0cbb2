//! `ami/image/register`, by the AWS command line, against moto: each step once, and
//! nothing a second time. coldsnap is played by a script that makes an empty snapshot,
//! because moto has no EBS direct API: the upload itself is not tested.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use privnet_tests::namespace::{Namespace, logs};
use privnet_tests::process::{Process, run};
use privnet_tests::{moto, programs};

use crate::report::Figures;

const REGION: &str = "us-west-2";
const COPY: &str = "eu-west-1";
const COLDSNAP: &str = r#"#!/bin/sh
# coldsnap --region REGION upload --wait --description TEXT IMAGE
set -eu
volume=$(aws ec2 create-volume --region "$2" --size 1 --availability-zone "$2a" --query VolumeId --output text)
aws ec2 create-snapshot --region "$2" --volume-id "$volume" --query SnapshotId --output text
"#;

pub(crate) fn test(figures: &mut Figures) -> Result<()> {
    let host = Namespace::add("registering")?;
    let (moto, ec2) = host.enter(|| moto::start(&host, std::net::Ipv4Addr::LOCALHOST, 5000))?;
    let work = tempfile::tempdir()?;
    let coldsnap = work.path().join("coldsnap");
    std::fs::write(&coldsnap, COLDSNAP)?;
    std::fs::set_permissions(&coldsnap, std::fs::Permissions::from_mode(0o755))?;
    let images = Registering {
        host: &host,
        endpoint: ec2.endpoint(),
        work: work.path(),
    };

    let before = images.all(REGION)?;
    let said = images.register(
        "one",
        &["--dry-run", "--copy-to", COPY, "--share", "222222222222"],
    )?;
    ensure!(said.contains("would: aws ec2 register-image"), "{said}");
    ensure!(
        images.all(REGION)? == before,
        "a dry run registered something"
    );

    let options = ["--copy-to", COPY, "--share", "222222222222"];
    let first = images.register("one", &options)?;
    let described = images.aws(&[
        "describe-images",
        "--region",
        REGION,
        "--owners",
        "self",
        "--filters",
        "Name=name,Values=privnet-spoke-amd64-*",
        "--query",
        // moto keeps neither the architecture nor the virtualization type.
        "Images[].[Description,Public]",
        "--output",
        "text",
    ])?;
    ensure!(
        described.trim() == "Privnet spoke\tFalse",
        "what was registered: {described}"
    );
    let again = images.register("one", &options)?;
    ensure!(
        first == again,
        "a second run did something else:\n{first}\n{again}"
    );

    images.register("two", &[])?;
    images.register("three", &["--keep", "2"])?;
    let left = images.all(REGION)?.len() - before.len();
    ensure!(left == 2, "{left} AMIs are left, of three, with --keep 2");
    figures.row(
        "ami/image/register against moto (upload played by a script)",
        "registers, copies, shares, keeps the newest; a second run and a dry run change nothing",
    );
    drop::<Process>(moto);
    Ok(())
}

struct Registering<'a> {
    host: &'a Namespace,
    endpoint: &'a str,
    work: &'a Path,
}

impl Registering<'_> {
    /// Registers an image of this content; returns the ids, or what a dry run says.
    fn register(&self, content: &str, options: &[&str]) -> Result<String> {
        let image = self.work.join("privnet-spoke-amd64.raw");
        std::fs::write(&image, content)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ami/image/register");
        let mut command = self.host.command(script);
        self.environment(&mut command)?;
        let output = command
            .args(["--region", REGION])
            .args(options)
            .arg(&image)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "register {options:?}: {said}");
        std::fs::write(logs().join("register.log"), &said)?;
        if options.contains(&"--dry-run") {
            return Ok(said);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn all(&self, region: &str) -> Result<BTreeSet<String>> {
        let ids = self.aws(&[
            "describe-images",
            "--region",
            region,
            "--owners",
            "self",
            "--query",
            "Images[].ImageId",
            "--output",
            "text",
        ])?;
        Ok(ids.split_whitespace().map(str::to_owned).collect())
    }

    fn aws(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.host.command(programs::tool("aws")?);
        self.environment(&mut command)?;
        run(command.arg("ec2").args(arguments))
    }

    fn environment(&self, command: &mut Command) -> Result<()> {
        let path = std::env::var("PATH").context("PATH")?;
        // `on` puts its own in front of this: coldsnap is in neither.
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
