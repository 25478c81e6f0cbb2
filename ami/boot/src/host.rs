//! The instance itself: its files and its services.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::firewall::{self, Firewall};
use crate::user_data::{Instance, Source};

/// The first line of a file that is taken away when user data has it no more.
pub(crate) const MARK: &str = "# From user data, by privnet-boot: written again at each boot.\n";

/// What a configuration is called until it is found good: the daemon says it in front of
/// each line.
const FROM_USER_DATA: &str = "etc/privnet/user-data.toml";
const FROM_PARAMETER: &str = "etc/privnet/parameter.toml";

/// Which daemon this image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Hub,
    Spoke,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hub => "privnet-hub",
            Self::Spoke => "privnet-spoke",
        })
    }
}

/// Why there is no text of a parameter: what the daemon says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfetched {
    /// It may be there the next time.
    NotNow(String),
    /// Somebody has to change something.
    Wrong(String),
}

/// An instance, seen from its root directory.
#[derive(Debug)]
pub(crate) struct Host {
    root: PathBuf,
    /// What it is.
    pub(crate) role: Role,
}

/// Tells who looks at the console, line by line.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    for line in text.lines() {
        // There is nobody else to tell.
        let _ = writeln!(out, "privnet-boot: {line}");
    }
}

impl Host {
    /// The one that this runs on.
    pub(crate) fn here() -> Result<Self> {
        Self::at(Path::new("/"))
    }

    fn at(root: &Path) -> Result<Self> {
        let has = |role: Role| root.join(format!("usr/bin/{role}")).exists();
        let role = match (has(Role::Hub), has(Role::Spoke)) {
            (true, false) => Role::Hub,
            (false, true) => Role::Spoke,
            (true, true) => bail!("both daemons are in /usr/bin: a gateway is one or the other"),
            (false, false) => bail!("neither privnet-hub nor privnet-spoke is in /usr/bin"),
        };
        Ok(Self {
            root: root.to_owned(),
            role,
        })
    }

    /// The daemon's config file.
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("etc/privnet").join(self.role.config_name())
    }

    /// Gives the host its name.
    pub(crate) fn set_name(&self, name: &str) -> Result<()> {
        self.write("etc/hostname", &format!("{name}\n"))?;
        let kernel = self.root.join("proc/sys/kernel/hostname");
        std::fs::write(&kernel, name).with_context(|| format!("cannot write {}", kernel.display()))
    }

    /// Has the daemon fetch the text of an SSM parameter: it alone speaks to AWS.
    pub(crate) fn fetch(
        &self,
        parameter: &str,
        environment: &BTreeMap<String, String>,
    ) -> Result<Result<String, Unfetched>> {
        let output = self
            .daemon("fetch-config")
            // The name of a parameter may begin with one dash as well.
            .arg("--")
            .arg(parameter)
            .envs(environment)
            .output()
            .with_context(|| format!("cannot run {}", self.role))?;
        if !output.status.success() {
            let said = self.said("fetch-config", &output);
            return Ok(Err(match output.status.code() {
                Some(2) => Unfetched::Wrong(said),
                _ => Unfetched::NotNow(said),
            }));
        }
        let text = String::from_utf8(output.stdout);
        Ok(text.map_err(|_| Unfetched::Wrong("it is no text".to_owned())))
    }

    /// Asks the daemon whether a configuration is good; the inner error is what it says.
    pub(crate) fn check(&self, config: &str, source: &Source) -> Result<Result<(), String>> {
        let candidate = self.write(
            match source {
                Source::UserData => FROM_USER_DATA,
                Source::Parameter(_) => FROM_PARAMETER,
            },
            config,
        )?;
        let output = self
            .daemon("check")
            .arg(&candidate)
            .output()
            .with_context(|| format!("cannot run {}", self.role))?;
        match output.status.success() {
            true => Ok(Ok(())),
            false => Ok(Err(self.said("check", &output))),
        }
    }

    fn daemon(&self, subcommand: &str) -> Command {
        let mut command = Command::new(self.root.join(format!("usr/bin/{}", self.role)));
        command.arg(subcommand).env("NO_COLOR", "1");
        command
    }

    /// What it said when it failed.
    fn said(&self, subcommand: &str, output: &Output) -> String {
        let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stdout));
        if said.trim().is_empty() {
            said = format!("{} {subcommand}: {}", self.role, output.status);
        }
        said.trim_end().to_owned()
    }

    /// Makes a configuration that is good the daemon's.
    pub(crate) fn keep(&self, config: &str) -> Result<()> {
        let name = format!("etc/privnet/{}", self.role.config_name());
        self.write(&name, config)?;
        for candidate in [FROM_USER_DATA, FROM_PARAMETER] {
            remove(&self.root.join(candidate))?;
        }
        // At boot it waits for us and is started anyway; not where this is a second try, or
        // where somebody runs it by hand because user data has changed.
        let service = format!("{}.service", self.role);
        self.systemctl(&["reload-or-restart", "--no-block", &service])
    }

    /// Starts a service, without waiting for it: it may wait for us.
    pub(crate) fn start(&self, service: &str) -> Result<()> {
        self.systemctl(&["start", "--no-block", service])
    }

    /// Opens what the configuration wants open.
    pub(crate) fn open(&self, firewall: &Firewall) -> Result<()> {
        self.write("etc/privnet/input.d/50-tunnels.nft", &firewall.script())?;
        self.systemctl(&["reload", "privnet-firewall.service"])
    }

    /// Carries out what is for the instance.
    pub(crate) fn apply(&self, instance: &Instance) -> Result<()> {
        let lines = |lines: &mut dyn Iterator<Item = String>| {
            let lines: String = lines.map(|line| line + "\n").collect();
            (!lines.is_empty()).then(|| format!("{MARK}{lines}"))
        };
        let environment = instance.environment.iter();
        self.write_or_remove(
            "etc/privnet/environment",
            lines(&mut environment.map(|(name, value)| format!("{name}={}", quoted(value)))),
        )?;
        self.write_or_remove(
            "etc/ssh/authorized_keys.d/admin",
            lines(&mut instance.ssh_authorized_keys.iter().cloned()),
        )?;
        self.write(
            "etc/privnet/input.d/40-ssh.nft",
            &firewall::ssh_script(instance),
        )?;
        self.systemctl(&["reload", "privnet-firewall.service"])?;
        if !instance.ssh_authorized_keys.is_empty() {
            self.start("ssh.service")?;
        }
        if instance.security_updates {
            self.start("privnet-security-updates.timer")?;
        }
        Ok(())
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(self.root.join("usr/bin/systemctl"))
            .args(arguments)
            .output()
            .context("cannot run systemctl")?;
        if !output.status.success() {
            bail!(
                "systemctl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(())
    }

    /// Without text it takes the file away that it once wrote, and no other.
    fn write_or_remove(&self, name: &str, text: Option<String>) -> Result<()> {
        let path = self.root.join(name);
        match text {
            Some(text) => self.write(name, &text).map(drop),
            None if std::fs::read_to_string(&path).is_ok_and(|old| old.starts_with(MARK)) => {
                remove(&path)
            }
            None => Ok(()),
        }
    }

    /// Writes a file that everybody may read, whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        let new = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            std::fs::write(&new, text)?;
            std::fs::set_permissions(&new, Permissions::from_mode(0o644))?;
            std::fs::File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// As systemd reads it in an EnvironmentFile.
fn quoted(value: &str) -> String {
    format!(
        "\"{}\"",
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('$', "\\$")
            .replace('`', "\\`")
    )
}

#[cfg(test)]
impl Host {
    /// A root directory with a daemon that is this script, and a systemctl that writes
    /// what it is asked into the file `calls`.
    #[expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    pub(crate) fn for_test(role: Role, daemon: &str) -> (tempfile::TempDir, Self) {
        let root = tempfile::tempdir().unwrap();
        for directory in [
            "usr/bin",
            "etc/privnet/input.d",
            "etc/ssh/authorized_keys.d",
        ] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let systemctl = format!("echo \"$@\" >>{}/calls", root.path().display());
        for (program, script) in [
            (role.to_string(), daemon),
            ("systemctl".to_owned(), &systemctl),
        ] {
            let program = root.path().join("usr/bin").join(program);
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        }
        let host = Self::at(root.path()).unwrap();
        (root, host)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn the_role_is_that_of_the_installed_daemon() {
        let (_root, hub) = Host::for_test(Role::Hub, "exit 0");
        assert_eq!(hub.role, Role::Hub);
        assert!(hub.config().ends_with("etc/privnet/hub.toml"));
        let nothing = tempfile::tempdir().unwrap();
        assert!(Host::at(nothing.path()).is_err());
    }

    #[test]
    fn a_refusal_is_what_the_daemon_says() {
        let (_root, host) = Host::for_test(Role::Spoke, "echo \"$2:7: no good\" >&2; exit 1");
        let said = host
            .check("a = 1\n", &Source::UserData)
            .unwrap()
            .unwrap_err();
        assert!(said.ends_with("user-data.toml:7: no good"), "{said}");
        let parameter = Source::Parameter("/privnet/spoke/config".to_owned());
        let said = host.check("a = 1\n", &parameter).unwrap().unwrap_err();
        assert!(said.ends_with("parameter.toml:7: no good"), "{said}");
        assert!(!host.config().exists());
    }

    #[test]
    fn files_that_others_made_stay() {
        let (root, host) = Host::for_test(Role::Spoke, "exit 0");
        let name = "etc/privnet/environment";
        let path = root.path().join(name);
        std::fs::write(&path, "PRIVNET_LOG=debug\n").unwrap();
        host.write_or_remove(name, None).unwrap();
        assert!(path.exists());
        host.write_or_remove(name, Some(format!("{MARK}A=1\n")))
            .unwrap();
        host.write_or_remove(name, None).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn environment_values_are_quoted_for_systemd() {
        assert_eq!(quoted(r#"a "b" \c $d"#), r#""a \"b\" \\c \$d""#);
    }
}
