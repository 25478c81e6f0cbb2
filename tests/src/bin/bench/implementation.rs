//! What is compared: programs that make a WireGuard interface in user space, IPsec by
//! strongSwan, and plain routing without any tunnel as the ceiling.

use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use privnet_tests::charon::Esp;
use privnet_tests::namespace::Namespace;
use privnet_tests::process::run;
use privnet_tests::programs;

/// The cargo profile of what is shipped.
pub(crate) const RELEASE: &str = "release";
/// The cargo profile of the same with symbols.
pub(crate) const PROFILING: &str = "profiling";

/// The implementations that take part by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Known {
    /// No tunnel: what the kernel's routing and the traffic itself cost
    Plain,
    /// Ours, as it is shipped
    Privnet,
    /// Debian's wireguard-go
    WireguardGo,
    /// boringtun-cli of the crate registry
    Boringtun,
    /// gotatun-cli of the crate registry
    Gotatun,
    /// strongSwan's own ESP, as our hub uses it on a kernel that has none
    IpsecUserspace,
    /// The kernel's ESP through XFRM interfaces, as in the images; where the kernel has it
    IpsecKernel,
}

impl Known {
    /// Its name in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Privnet => "privnet",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
            Self::IpsecUserspace => "ipsec-userspace",
            Self::IpsecKernel => "ipsec-kernel",
        }
    }
}

/// A further program, given on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    name: String,
    path: PathBuf,
}

impl FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("expected NAME=PATH")?;
        // It becomes part of the names of namespaces and files.
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if name.is_empty() || name.len() > 20 || !name.chars().all(good) {
            bail!("a name is up to 20 letters, digits, dots and hyphens");
        }
        if Known::value_variants().iter().any(|one| one.name() == name) {
            bail!("{name} takes part already: choose another name");
        }
        Ok(Self {
            name: name.to_owned(),
            path: std::path::absolute(path)?,
        })
    }
}

/// One side of the comparison.
#[derive(Debug, Clone)]
pub(crate) struct Implementation {
    name: String,
    tunnel: Tunnel,
}

/// What makes its tunnels.
#[derive(Debug, Clone)]
pub(crate) enum Tunnel {
    /// Nothing: there are none.
    None,
    /// A program with a WireGuard interface.
    Wireguard(Program),
    /// strongSwan, with this ESP.
    Ipsec(Esp),
}

/// A program that makes a WireGuard interface.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Its file.
    pub(crate) path: PathBuf,
    /// What keeps it in the foreground; the interface's name follows.
    pub(crate) arguments: &'static [&'static str],
    /// What a hub is given as well. The others forward by the kernel's routing.
    pub(crate) relay: &'static [&'static str],
}

impl Implementation {
    /// One that takes part by itself, ours as this cargo profile builds it; an
    /// error when its program is missing.
    pub(crate) fn known(known: Known, profile: &str) -> Result<Self> {
        let tunnel = match known {
            Known::Plain => Tunnel::None,
            Known::Privnet => Tunnel::Wireguard(Program::privnet(built(profile)?)),
            Known::WireguardGo => {
                Tunnel::Wireguard(Program::wireguard_go(programs::tool("wireguard-go")?))
            }
            Known::Boringtun => Tunnel::Wireguard(Program::drops_privileges(programs::bench_tool(
                "boringtun-cli",
            )?)),
            Known::Gotatun => {
                Tunnel::Wireguard(Program::drops_privileges(programs::bench_tool("gotatun")?))
            }
            Known::IpsecUserspace => Tunnel::Ipsec(Esp::Userspace),
            Known::IpsecKernel => Tunnel::Ipsec(Esp::Kernel),
        };
        Ok(Self {
            name: known.name().to_owned(),
            tunnel,
        })
    }

    /// One given on the command line.
    pub(crate) fn named(named: &Named) -> Result<Self> {
        if !named.path.is_file() {
            bail!("there is no program {}", named.path.display());
        }
        let path = named.path.clone();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = file.starts_with("privnet-wg");
        Ok(Self {
            name: named.name.clone(),
            tunnel: Tunnel::Wireguard(if ours {
                Program::privnet(path)
            } else {
                Program::wireguard_go(path)
            }),
        })
    }

    /// Its name in results.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What makes its tunnels.
    pub(crate) fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// Whether it is a program of which a profile can be taken.
    pub(crate) fn has_program(&self) -> bool {
        matches!(self.tunnel, Tunnel::Wireguard(_))
    }

    /// Whether this machine's kernel has what it needs. Within the isolation only.
    pub(crate) fn can_run(&self) -> Result<bool> {
        let Tunnel::Ipsec(Esp::Kernel) = self.tunnel else {
            return Ok(true);
        };
        let probe = Namespace::add("probe")?;
        let key = "00".repeat(36);
        let asked = [
            "link add probe type xfrm if_id 1".to_owned(),
            format!(
                "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode tunnel \
                 aead rfc4106(gcm(aes)) 0x{key} 128"
            ),
        ];
        Ok(probe.ip(&asked).is_ok())
    }

    /// What it says of its version.
    pub(crate) fn version(&self) -> Option<String> {
        let mut command = match &self.tunnel {
            Tunnel::None => return None,
            Tunnel::Wireguard(program) => Command::new(&program.path),
            Tunnel::Ipsec(_) => Command::new("swanctl"),
        };
        let said = run(command.arg("--version")).ok()?;
        said.lines().next().map(|line| line.trim().to_owned())
    }
}

impl Program {
    fn privnet(path: PathBuf) -> Self {
        Self {
            path,
            arguments: &["-f"],
            relay: &["--relay"],
        }
    }

    fn wireguard_go(path: PathBuf) -> Self {
        Self {
            path,
            arguments: &["-f"],
            relay: &[],
        }
    }

    /// As root these become another user unless told not to, and then could not
    /// be configured.
    fn drops_privileges(path: PathBuf) -> Self {
        Self {
            path,
            arguments: &["-f", "--disable-drop-privileges"],
            relay: &[],
        }
    }
}

/// Our program as the cargo profile builds it: what is measured is never a debug
/// build, though the bench itself is one, in `debug` beside `release`.
fn built(profile: &str) -> Result<PathBuf> {
    let directory = programs::directory()?;
    let path = directory.with_file_name(profile).join("privnet-wg");
    if !path.is_file() {
        bail!(
            "{} is missing: cargo build --profile {profile} -p privnet-dataplane (make {} does it)",
            path.display(),
            if profile == PROFILING {
                "profile"
            } else {
                "bench"
            }
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::path::Path;

    use super::*;

    #[test]
    fn a_further_program_has_a_name_of_its_own() {
        let named: Named = "before=/bin/true".parse().unwrap();
        assert_eq!(Implementation::named(&named).unwrap().name(), "before");
        for wrong in [
            "/bin/true",
            "=/bin/true",
            "privnet=/bin/true",
            "a/b=/bin/true",
        ] {
            assert!(wrong.parse::<Named>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_build_of_ours_relays_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("privnet-wg-before");
        std::fs::write(&path, "").unwrap();
        let named = |path: &Path| format!("x={}", path.display()).parse::<Named>().unwrap();
        let ours = Implementation::named(&named(&path)).unwrap();
        let relay = |one: &Implementation| match one.tunnel() {
            Tunnel::Wireguard(program) => program.relay,
            other => panic!("{other:?}"),
        };
        assert_eq!(relay(&ours), ["--relay"]);
        let other = Implementation::named(&named(Path::new("/bin/true"))).unwrap();
        assert!(relay(&other).is_empty());
    }
}
