//! An instance that is a machine of its own: a disk image that QEMU boots, in the place
//! that the instance has in its VPC.
//!
//! ```text
//! VPC's router ── subnetN (bridge) ── TAP ── virtio ── the guest
//!   10.N.0.1   DHCP, metadata at 169.254.169.254
//! ```
//!
//! KVM is not asked for: on the machines that this runs on it does not work, and what is
//! tested is that it boots, not how fast. Nothing in the image knows of the test: the
//! guest is told by user data who may log in, as any operator would.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::imds;
use crate::namespace::{Namespace, logs};
use crate::process::{Process, run, wait_until};
use crate::programs;
use crate::topology::{Instance, Subnet};
use crate::vpc_router::{MTU, bridge, mac};

/// The tools that a guest needs beside those of a world and its QEMU.
pub const TOOLS: [&str; 3] = ["dnsmasq", "ssh", "ssh-keygen"];

/// What a guest's processor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM: Graviton's, on EC2.
    Arm64,
}

impl Architecture {
    /// This machine's.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::Amd64
    };

    /// That of the image `privnet-ROLE-ARCHITECTURE.raw`.
    pub fn of_image(image: &Path) -> Option<Self> {
        let (_, name) = image.file_stem()?.to_str()?.rsplit_once('-')?;
        Self::value_variants()
            .iter()
            .copied()
            .find(|one| one.name() == name)
    }

    /// Debian's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The program that emulates it.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// The machine around it.
    fn machine(self, console: &Path) -> Vec<String> {
        let console = console.display();
        let arguments = match self {
            Self::Amd64 => format!("-machine q35 -cpu max -serial file:{console}"),
            // Graviton2's core. Its console is a 16550 on PCI, there as here: nothing is said
            // by the PL011 that this machine has besides.
            Self::Arm64 => format!(
                "-machine virt,gic-version=3 -cpu neoverse-n1 -serial null \
                 -chardev file,id=console,path={console} -device pci-serial,chardev=console"
            ),
        };
        arguments.split(' ').map(str::to_owned).collect()
    }

    /// The firmware, and its variables as they are at first.
    fn firmware(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => (
                "/usr/share/OVMF/OVMF_CODE_4M.fd",
                "/usr/share/OVMF/OVMF_VARS_4M.fd",
            ),
            Self::Arm64 => (
                "/usr/share/AAVMF/AAVMF_CODE.fd",
                "/usr/share/AAVMF/AAVMF_VARS.fd",
            ),
        }
    }
}

/// What EC2 is to an instance beside a network: DHCP and the way to its metadata.
pub(crate) fn connect(
    router: &Namespace,
    subnet_number: usize,
    subnet: &Subnet,
    instance: &Instance,
) -> Result<Process> {
    let bridge = bridge(subnet_number);
    router.ip(&[
        format!("tuntap add dev {} mode tap", instance.name),
        format!("link set {} mtu {MTU} master {bridge} up", instance.name),
        format!("addr add {}/32 dev lo scope host", imds::ADDRESS),
    ])?;
    let leases = router.directory().join("leases");
    router.start(
        "dhcp",
        programs::tool("dnsmasq")?,
        [
            "--no-daemon".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--user=root".to_owned(),
            "--port=0".to_owned(),
            "--bind-interfaces".to_owned(),
            format!("--interface={bridge}"),
            format!(
                "--dhcp-range={},static,{},1h",
                subnet.cidr.network(),
                subnet.cidr.netmask()
            ),
            format!("--dhcp-host={},{}", mac(instance.address), instance.address),
            format!("--dhcp-option=option:router,{}", subnet.gateway()),
            format!("--dhcp-option=option:mtu,{MTU}"),
            format!("--dhcp-leasefile={}", leases.display()),
            "--dhcp-authoritative".to_owned(),
            "--no-ping".to_owned(),
        ],
    )
}

/// A key pair to log in with.
#[derive(Debug)]
pub struct LoginKey {
    file: PathBuf,
    /// The line for `authorized_keys`.
    pub public: String,
}

impl LoginKey {
    /// Makes one.
    pub fn make(directory: &Path) -> Result<Self> {
        let file = directory.join("login");
        run(Command::new(programs::tool("ssh-keygen")?)
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(&file))?;
        let public = std::fs::read_to_string(file.with_extension("pub"))?;
        Ok(Self {
            file,
            public: public.trim().to_owned(),
        })
    }
}

/// A guest's disk: a copy of an image, larger than it, as an EBS volume may be.
#[derive(Debug)]
pub struct Disk {
    /// Whose programs are on it.
    pub architecture: Architecture,
    file: PathBuf,
    variables: PathBuf,
}

impl Disk {
    /// Copies the image, `privnet-ROLE-ARCHITECTURE.raw`, into this directory. Holes stay
    /// holes.
    pub fn copy_of(image: &Path, directory: &Path, bytes: u64) -> Result<Self> {
        let architecture = Architecture::of_image(image)
            .with_context(|| format!("{}: for which architecture?", image.display()))?;
        let file = directory.join("disk.raw");
        let variables = directory.join("variables.fd");
        run(Command::new("cp")
            .arg("--sparse=always")
            .arg(image)
            .arg(&file))?;
        std::fs::File::options()
            .write(true)
            .open(&file)?
            .set_len(bytes)?;
        let (_, at_first) = architecture.firmware();
        std::fs::copy(at_first, &variables).with_context(|| {
            format!("cannot copy {at_first} (Debian's packages ovmf, qemu-efi-aarch64)")
        })?;
        Ok(Self {
            architecture,
            file,
            variables,
        })
    }
}

/// A guest that runs.
#[derive(Debug)]
pub struct Guest {
    name: &'static str,
    router: String,
    address: String,
    process: Process,
    console: PathBuf,
    /// When the machine was switched on.
    pub started: Instant,
}

impl Guest {
    /// Switches it on, in the place of this instance.
    pub fn boot(router: &Namespace, instance: &Instance, disk: &Disk, boot: &str) -> Result<Self> {
        let console = logs().join(format!("{}-console-{boot}.log", instance.name));
        let file = |path: &Path| path.display().to_string();
        let architecture = disk.architecture;
        let (firmware, _) = architecture.firmware();
        let mut command = router.command(programs::tool(architecture.qemu())?);
        command
            .args(architecture.machine(&console))
            .args(["-accel", "tcg,thread=multi"])
            .args(["-smp", "2", "-m", "1024", "-display", "none", "-no-reboot"])
            .args([
                "-drive",
                &format!("if=pflash,format=raw,readonly=on,file={firmware}"),
            ])
            .args([
                "-drive",
                &format!("if=pflash,format=raw,file={}", file(&disk.variables)),
            ])
            .args([
                "-drive",
                &format!(
                    "if=none,id=volume,format=raw,discard=unmap,file={}",
                    file(&disk.file)
                ),
            ])
            .args(["-device", "nvme,drive=volume,serial=vol0123456789abcdef0"])
            .args([
                "-netdev",
                &format!(
                    "tap,id=network,ifname={},script=no,downscript=no",
                    instance.name
                ),
            ])
            .args([
                "-device",
                &format!(
                    "virtio-net-pci,netdev=network,mac={}",
                    mac(instance.address)
                ),
            ]);
        Ok(Self {
            name: instance.name,
            router: router.name().to_owned(),
            address: instance.address.to_string(),
            process: Process::start(&format!("{}-qemu-{boot}", instance.name), &logs(), command)?,
            console,
            started: Instant::now(),
        })
    }

    /// What is on its console so far, without colours and cursor movements.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        plain(&String::from_utf8_lossy(&bytes))
    }

    /// Waits until its console shows this.
    pub fn wait_for_console(&mut self, text: &str, patience: Duration) -> Result<()> {
        let what = format!("{text:?} on the console of {}", self.name);
        let waited = wait_until(&what, patience, || {
            self.check()?;
            Ok(self.console().contains(text).then_some(()))
        });
        waited.with_context(|| self.console_tail(40))
    }

    /// Waits until somebody can log in.
    pub fn wait_for_login(&mut self, key: &LoginKey, patience: Duration) -> Result<()> {
        let what = format!("a login on {}", self.name);
        let waited = wait_until(&what, patience, || {
            self.check()?;
            self.run(key, "true").map(Some)
        });
        waited.map(drop).with_context(|| self.console_tail(40))
    }

    /// Runs a shell command on it as root and returns what it printed.
    pub fn run(&self, key: &LoginKey, script: &str) -> Result<String> {
        run(&mut self.ssh(key, script))
            .map(|text| text.trim_end().to_owned())
            .with_context(|| format!("on {}", self.name))
    }

    /// Copies these files into a directory of the guest, with all that they link to.
    pub fn copy(&self, key: &LoginKey, files: &[&Path], directory: &str) -> Result<()> {
        let pack = tempfile::NamedTempFile::new()?;
        run(Command::new("tar")
            .args([
                "--create",
                "--dereference",
                "--transform",
                "s,.*/,,",
                "--file",
            ])
            .arg(pack.path())
            .arg("--absolute-names")
            .args(files))?;
        let script = format!("mkdir -p {directory} && tar --extract --directory {directory}");
        let mut ssh = self.ssh(key, &script);
        let status = ssh.stdin(std::fs::File::open(pack.path())?).status()?;
        ensure!(status.success(), "files for {}: {status}", self.name);
        Ok(())
    }

    fn ssh(&self, key: &LoginKey, script: &str) -> Command {
        // Its host key is as new as the guest: there is nothing to compare it with.
        let mut ssh = Command::new("ip");
        ssh.args(["netns", "exec", &self.router, "ssh", "-q", "-T"])
            .args(["-F", "/dev/null"])
            .args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=20"])
            .args(["-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null"])
            .arg("-i")
            .arg(&key.file)
            .arg(format!("admin@{}", self.address))
            .arg(format!("sudo sh -c {}", shell_quoted(script)));
        ssh
    }

    /// An error with the end of its console if it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.check().with_context(|| self.console_tail(40))
    }

    /// Switches it off as a person would: it shuts down by itself.
    pub fn shut_down(mut self, key: &LoginKey, patience: Duration) -> Result<()> {
        // The connection ends with what it is through.
        let _ = self.run(key, "systemctl poweroff");
        let status = self.process.wait(patience)?;
        if !status.success() {
            bail!("{}: QEMU ended with {status}", self.name);
        }
        Ok(())
    }

    /// Takes its power away.
    pub fn switch_off(self) -> Result<()> {
        self.process.kill()
    }

    /// The last lines of its console, for a failure's report.
    pub fn console_tail(&self, lines: usize) -> String {
        let console = self.console();
        let all: Vec<&str> = console
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let mut tail = format!("--- the end of the console of {}", self.name);
        for line in &all[all.len().saturating_sub(lines)..] {
            let _ = write!(tail, "\n    {line}");
        }
        tail
    }
}

/// A private directory for a key: ssh refuses one that others may read.
pub fn private_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    Ok(())
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Without escape sequences and carriage returns.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(one) = characters.next() {
        match one {
            '\u{1b}' => {
                // CSI: parameters up to a letter; other sequences have one more character.
                if characters.next() == Some('[') {
                    for parameter in characters.by_ref() {
                        if ('@'..='~').contains(&parameter) {
                            break;
                        }
                    }
                }
            }
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_has_the_console_that_its_instances_have_on_ec2() {
        let machine = |one: Architecture| one.machine(Path::new("/run/it.log")).join(" ");
        assert!(machine(Architecture::Amd64).ends_with(" -serial file:/run/it.log"));
        let arm64 = machine(Architecture::Arm64);
        let console =
            "-chardev file,id=console,path=/run/it.log -device pci-serial,chardev=console";
        assert!(
            arm64.ends_with(&format!("-serial null {console}")),
            "{arm64}"
        );
    }

    #[test]
    fn a_console_is_read_without_its_colours() {
        let seen = "\u{1b}[0;1;31mFAILED\u{1b}[0m Failed\u{1b}[K\r\n\u{1b}MOK";
        assert_eq!(plain(seen), "FAILED Failed\nOK");
    }

    #[test]
    fn a_script_is_one_word_for_the_shell() {
        assert_eq!(shell_quoted("echo 'a'"), r"'echo '\''a'\'''");
    }
}
