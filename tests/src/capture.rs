//! What an instance sends on the wire, as tcpdump saw it at the VPC's router: before
//! the router's own rules, so that what these drop is seen, too.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::namespace::{Namespace, logs};
use crate::process::{Process, run, wait_until};
use crate::topology::{PRIVNET, Vpc};

/// What every ping of the tests carries, again and again: nowhere to be seen in what is
/// encrypted, whatever it is wrapped in.
pub const MARKER: &[u8] = b"privnet-in-clear";

/// [`MARKER`] as ping takes it.
pub fn ping_pattern() -> String {
    MARKER.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A capture of what an instance sends to anywhere but its own VPC. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Capture {
    instance: String,
    file: PathBuf,
    _process: Process,
}

impl Capture {
    /// Begins, at the port of the VPC's router that the instance is connected to.
    pub(crate) fn start(router: &Namespace, vpc: &Vpc, instance: &str) -> Result<Self> {
        let file = router.directory().join(format!("{instance}.pcap"));
        let mut filter = "ip".to_owned();
        for cidr in &vpc.cidrs {
            filter += &format!(" and not dst net {cidr}");
        }
        filter += " or ip6 and not dst net fe80::/10 and not dst net ff00::/8";
        let mut command = router.command("tcpdump");
        command
            .args(["-Z", "root", "-n", "-U", "--immediate-mode", "-s", "256"])
            .args(["-Q", "in", "-i", instance, "-w"])
            .arg(&file)
            .arg(filter);
        let name = format!("{instance}-capture");
        let mut process = Process::start(&name, &logs(), command)?;
        wait_until("tcpdump to listen", crate::deployment::PATIENCE, || {
            process.check()?;
            Ok(process.log().contains("listening on").then_some(()))
        })?;
        Ok(Self {
            instance: instance.to_owned(),
            file,
            _process: process,
        })
    }

    /// The instance.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// An error if nothing is in it.
    pub(crate) fn saw_something(&self) -> Result<()> {
        // More than the file's own header.
        let length = std::fs::metadata(&self.file)?.len();
        ensure!(length > 24, "nothing was captured of {}", self.instance);
        Ok(())
    }

    /// An error if something of the privnet is in it: a packet to there, or the inside of
    /// a ping in a packet to anywhere.
    pub(crate) fn is_clean(&self) -> Result<()> {
        let Self { instance, file, .. } = self;
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        let mut tcpdump = std::process::Command::new("tcpdump");
        tcpdump.args(["-Z", "root", "-n", "-r"]).arg(file);
        let to_privnet = run(tcpdump.args(["ip", "and", "dst", "net", PRIVNET]))?;
        ensure!(
            to_privnet.is_empty(),
            "{instance} sent this in clear:\n{to_privnet}"
        );
        let marked = bytes.windows(MARKER.len()).any(|part| part == MARKER);
        ensure!(!marked, "{instance} sent the inside of a ping in clear");
        Ok(())
    }
}
