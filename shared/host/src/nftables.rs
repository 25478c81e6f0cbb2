//! The table `inet privnet`, by the program `nft`, and `inet privnet_address` beside it.
//!
//! Every command names one of them; none flushes or lists anything else.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::ruleset::{self, LoadedRuleset, Ruleset};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::HostError;

/// nft takes milliseconds; seconds when the kernel first loads the modules.
const DEADLINE: Duration = Duration::from_secs(10);

/// Short: what is asked is whether NAT can be faster, and NAT itself waits for it.
/// On an emulated machine the first answer took longer than 10 s, each later one
/// milliseconds: the modules go on loading when nft is gone.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// What the kernel holds of our table; `None` when there is no such table.
pub(crate) async fn fetch() -> Result<Option<LoadedRuleset>, HostError> {
    Ok(list().await?.as_deref().map(ruleset::inspect))
}

/// Replaces our table and seals it. A failure between the two leaves rules that
/// work and count as altered, so that the next reconciliation loads them again.
pub(crate) async fn load(ruleset: &Ruleset) -> Result<(), HostError> {
    let operation = "load the table inet privnet";
    run_script(&ruleset.text(), operation).await?;
    let listing = list().await?.ok_or_else(|| HostError::Nft {
        operation,
        stderr: "the table was gone right after it was loaded".to_owned(),
    })?;
    let seal = ruleset::seal(ruleset.fingerprint(), &listing);
    run_script(&seal, "seal the table inet privnet").await
}

/// Removes our table, if it is there.
pub(crate) async fn remove() -> Result<(), HostError> {
    // Made before it is deleted, so that there is always one to delete.
    let script = format!("table {0}\ndelete table {0}\n", ruleset::TABLE);
    run_script(&script, "remove the table inet privnet").await
}

/// Loads the table that guards the connections of an address, or removes it.
pub(crate) async fn load_guard(text: &str) -> Result<(), HostError> {
    run_script(text, "load the table inet privnet_address").await
}

/// What nft prints when told to list something.
pub(crate) async fn listing(
    arguments: &[&str],
    operation: &'static str,
) -> Result<String, HostError> {
    let arguments = ["--stateless"].iter().chain(arguments).copied();
    let output = run(arguments, "", operation).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(refused(operation, &String::from_utf8_lossy(&output.stderr)))
}

/// Whether program and kernel can masquerade and track connections. Nothing is loaded.
pub(crate) async fn probe_nat() -> Result<(), HostError> {
    let operation = "try a NAT rule";
    let output = run(["--check", "-f", "-"], ruleset::NAT_PROBE, operation).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(operation, &String::from_utf8_lossy(&output.stderr)))
}

/// Whether the kernel takes a flowtable on the device, or why not. Nothing is
/// loaded: the kernel looks at the rules and forgets them.
pub(crate) async fn probe_flowtable(device: &InterfaceName) -> Result<(), String> {
    let script = ruleset::flowtable_probe(device);
    let operation = "try a flowtable";
    let check = run(["--check", "-f", "-"], &script, operation);
    let output = tokio::time::timeout(PROBE_DEADLINE, check)
        .await
        .map_err(|_| format!("no answer within {PROBE_DEADLINE:?}"))?
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(first_error(&String::from_utf8_lossy(&output.stderr)).to_owned())
}

/// What nft says first, without the place in the script.
fn first_error(stderr: &str) -> &str {
    let line = stderr.lines().next().unwrap_or("nft says nothing").trim();
    line.rsplit_once("Error: ").map_or(line, |(_, error)| error)
}

async fn list() -> Result<Option<String>, HostError> {
    let operation = "list the table inet privnet";
    let arguments = ["--stateless", "list", "table"].into_iter();
    let table = ruleset::TABLE.split(' ');
    let output = run(arguments.chain(table), "", operation).await?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    match String::from_utf8_lossy(&output.stderr) {
        stderr if stderr.contains("No such file or directory") => Ok(None),
        stderr => Err(refused(operation, &stderr)),
    }
}

async fn run_script(script: &str, operation: &'static str) -> Result<(), HostError> {
    let output = run(["-f", "-"], script, operation).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(operation, &String::from_utf8_lossy(&output.stderr)))
}

async fn run(
    arguments: impl IntoIterator<Item = &str>,
    input: &str,
    operation: &'static str,
) -> Result<Output, HostError> {
    let mut child = Command::new("nft")
        .args(arguments)
        // Its messages are told apart by their English text.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => HostError::NftMissing,
            _ => HostError::NftSpawn(error),
        })?;
    let stdin = child.stdin.take();
    let write = async move {
        if let Some(mut stdin) = stdin {
            // When nft leaves before it has read all, its own message says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let both = async { tokio::join!(write, child.wait_with_output()).1 };
    match tokio::time::timeout(DEADLINE, both).await {
        Ok(output) => output.map_err(HostError::NftSpawn),
        Err(_) => Err(HostError::Timeout {
            operation: operation.to_owned(),
            deadline: DEADLINE,
        }),
    }
}

fn refused(operation: &'static str, stderr: &str) -> HostError {
    if stderr.contains("Operation not permitted") {
        return HostError::NotPermitted {
            operation: operation.to_owned(),
        };
    }
    // The kernel has no other words for an expression or chain type it lacks.
    let lacking = [
        "No such file or directory",
        "Operation not supported",
        "Protocol not supported",
        "Protocol error",
        "Unable to initialize Netlink socket",
    ];
    let first_line = stderr.lines().next().unwrap_or_default();
    let stderr = stderr.trim().to_owned();
    if lacking.iter().any(|words| first_line.contains(words)) {
        return HostError::KernelLacksNftables { operation, stderr };
    }
    HostError::Nft { operation, stderr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_error_the_words_are_told_without_their_place() {
        let stderr = "/dev/stdin:2:12-16: Error: Could not process rule: No such file or directory\n\tflowtable flows {\n";
        let words = "Could not process rule: No such file or directory";
        assert_eq!(first_error(stderr), words);
        assert_eq!(first_error("killed\n"), "killed");
        assert_eq!(first_error(""), "nft says nothing");
    }

    #[test]
    fn nfts_refusals_are_told_apart() {
        let refused = |stderr| refused("load the table inet privnet", stderr);
        let kind = refused(
            "Operation not permitted (you must be root)\nnetlink: Error: cache initialization failed: Operation not permitted\n",
        );
        assert!(matches!(kind, HostError::NotPermitted { .. }));
        let kind = refused(
            "/dev/stdin:5:8-18: Error: Could not process rule: No such file or directory\n\tchain postrouting {\n\t      ^^^^^^^^^^^\n",
        );
        assert!(matches!(kind, HostError::KernelLacksNftables { .. }));
        let kind = refused("/dev/stdin:1:1-5: Error: syntax error, unexpected string\n");
        assert!(matches!(kind, HostError::Nft { .. }));
    }
}
