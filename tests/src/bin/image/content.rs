//! An image as a file: how large it is, and that nothing is in it that must not be.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use privnet_tests::process::run;
use privnet_tests::programs;

use crate::report::Figures;

/// What an image may have at most, in MiB.
const LARGEST: u64 = 700;
const LARGEST_COMPRESSED: u64 = 250;

/// What `ami/image/images --twice` leaves beside the images: the checksums of those that
/// were the same bytes when they were built again.
const REPRODUCED: &str = "REPRODUCED";

pub(crate) fn examine(image: &Path, figures: &mut Figures) -> Result<()> {
    let bytes = std::fs::metadata(image)
        .with_context(|| format!("{}: build it first (make images)", image.display()))?
        .len();
    let mib = bytes >> 20;
    ensure!(mib < LARGEST, "{} has {mib} MiB", image.display());
    let compressed = compressed(image)? >> 20;
    ensure!(
        compressed < LARGEST_COMPRESSED,
        "{} has {compressed} MiB compressed",
        image.display()
    );
    figures.row(
        "size",
        format!("{mib} MiB, {compressed} MiB compressed (zstd -10)"),
    );
    let root = tempfile::tempdir()?;
    extract(image, root.path())?;
    run(Command::new(repository().join("ami/image/check")).arg(root.path()))?;
    figures.row(
        "secrets, identities, compilers in it",
        "none (ami/image/check)",
    );
    let packages = format!("{}.packages", image.display());
    let count = std::fs::read_to_string(&packages)
        .with_context(|| packages.clone())?
        .lines()
        .count();
    figures.row("Debian packages", count);
    let again = match reproduced(image)? {
        Some(sum) => format!("the same bytes (SHA-256 {sum})"),
        None => "not tried of this one (make test-image TWICE=1)".to_owned(),
    };
    figures.row("built a second time, from the packages on", again);
    Ok(())
}

/// The checksum of an image that was built twice.
fn reproduced(image: &Path) -> Result<Option<String>> {
    let list = image.with_file_name(REPRODUCED);
    let known = match std::fs::read_to_string(&list) {
        Ok(known) => known,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| list.display().to_string()),
    };
    let said = run(Command::new(programs::tool("sha256sum")?).arg(image))?;
    let sum = said.split_whitespace().next().context("no checksum")?;
    let name = image.file_name().and_then(|name| name.to_str());
    let line = [sum, name.context("an image without a name")?];
    let known = known.lines().any(|known| known.split_whitespace().eq(line));
    Ok(known.then(|| sum.to_owned()))
}

fn compressed(image: &Path) -> Result<u64> {
    let mut child = Command::new(programs::tool("zstd")?)
        .args(["-10", "-T0", "--quiet", "--stdout"])
        .arg(image)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = child.stdout.take().context("zstd without output")?;
    let bytes = std::io::copy(&mut output, &mut std::io::sink())?;
    ensure!(child.wait()?.success(), "zstd failed");
    Ok(bytes)
}

/// Copies the root file system, the second partition, out of the image.
fn extract(image: &Path, to: &Path) -> Result<()> {
    let table = run(Command::new(programs::tool("sfdisk")?)
        .arg("--json")
        .arg(image))?;
    let table: serde_json::Value = serde_json::from_str(&table)?;
    let start = table["partitiontable"]["partitions"][1]["start"]
        .as_u64()
        .context("no second partition")?;
    let filesystem = format!("{}?offset={}", image.display(), start * 512);
    let said = run(Command::new(programs::tool("debugfs")?)
        .args(["-R", &format!("rdump / {}", to.display())])
        .arg(filesystem))?;
    ensure!(
        to.join("etc/shadow").is_file(),
        "nothing was extracted: {said}"
    );
    Ok(())
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
