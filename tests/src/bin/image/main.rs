//! `make test-image`: boots the images that `make images` built, under QEMU, in the
//! simulated internet, and looks whether they do what they are for.
//!
//! Needs root, as building them does. Ends with 0 when everything held, else with the
//! reason and the end of the guest's console; when both images were tested it writes
//! what it measured into `tests/IMAGE.md`.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it reports")]

mod content;
mod gateways;
mod hub;
mod machine;
mod registering;
mod report;
mod spoke;
mod upgrade;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use privnet_tests::guest::{self, Architecture};
use privnet_tests::{isolation, programs};

use crate::report::Figures;

/// How long a guest is waited for, also where another step is why it is late. What a boot may
/// take is less: [`machine::IN_SERVICE`].
const BOOT: Duration = Duration::from_secs(420);

/// Boots both images and tests them
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the images are
    directory: PathBuf,

    /// Where the packages are, of which the hub's are installed in its image
    #[arg(long)]
    packages: PathBuf,

    /// Which images; what runs as a program of the test in the guest is left out where it
    /// is not this machine's
    #[arg(long, default_value = Architecture::HERE.name())]
    arch: Architecture,

    /// Only one of them
    #[arg(long)]
    only: Option<Role>,

    /// Test one image, here: inside the isolation
    #[arg(long, hide = true)]
    inside: Option<Role>,

    /// Where to write its figures
    #[arg(long, hide = true)]
    figures: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Spoke,
    Hub,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Spoke => "spoke",
            Self::Hub => "hub",
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(role) = arguments.inside {
        let figures = arguments
            .figures
            .as_deref()
            .context("--figures is missing")?;
        return inside(role, arguments, figures);
    }
    programs::require_tools(&guest::TOOLS)?;
    programs::require_tools(&[arguments.arch.qemu()])?;
    programs::require_tools(&["wg", "curl", "iperf3", "debugfs", "zstd", "sfdisk", "aws"])?;
    if arguments.arch == Architecture::HERE {
        programs::coldsnap()?;
    }
    let work = tempfile::tempdir()?;
    let roles = [Role::Spoke, Role::Hub];
    let mut tested = Vec::new();
    for role in roles {
        if arguments.only.is_some_and(|only| only != role) {
            continue;
        }
        let image = arguments.image(role);
        let mut figures = Figures::new(role.name());
        content::examine(&image, &mut figures)?;
        let file = work.path().join(role.name());
        figures.write(&file)?;
        let mut again = isolation::again([
            arguments.directory.clone().into_os_string(),
            "--packages".into(),
            arguments.packages.clone().into_os_string(),
            "--arch".into(),
            arguments.arch.name().into(),
            "--inside".into(),
            role.name().into(),
            "--figures".into(),
            file.clone().into_os_string(),
        ])?;
        let status = again.status().context("cannot run unshare")?;
        if !status.success() {
            bail!("the image of the {} does not hold: see above", role.name());
        }
        tested.push(Figures::read(&file)?);
    }
    if tested.len() == roles.len() {
        report::write(arguments.arch, &tested)?;
    }
    Ok(())
}

impl Arguments {
    fn image(&self, role: Role) -> PathBuf {
        self.directory
            .join(format!("privnet-{}-{}.raw", role.name(), self.arch.name()))
    }
}

fn inside(role: Role, arguments: &Arguments, file: &Path) -> Result<()> {
    isolation::on_end_signal(|code| std::process::exit(code))?;
    isolation::settle()?;
    let mut figures = Figures::read(file)?;
    let image = arguments.image(role);
    match role {
        Role::Spoke => {
            if arguments.arch == Architecture::HERE {
                registering::test(&mut figures)?;
                // A world is made where none was, so the logs start afresh.
                std::fs::remove_dir_all(privnet_tests::namespace::ROOT)?;
            } else {
                registering::left_out(&mut figures);
            }
            spoke::test(&image, &mut figures)?;
        }
        Role::Hub => hub::test(&image, &arguments.packages, &mut figures)?,
    }
    figures.write(file)
}
