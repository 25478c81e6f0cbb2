//! One of our daemons on an instance: its config file, its process, and what it
//! says of itself on its admin socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use privnet_model::admin::{HUB_SOCKET, SPOKE_SOCKET};
use privnet_model::status::{Status, TunnelState};

use crate::namespace::Namespace;
use crate::process::{Process, run, wait_until};
use crate::programs;
use crate::topology::{API, API_PORT, PORT, PRIVNET, REGIONS, Role, SPOKE_TAGS};
use crate::tuning::Tuning;
use crate::world::Host;

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    /// Its process.
    pub process: Process,
    socket: PathBuf,
}

impl Daemon {
    /// Writes the config file and starts the daemon of the host's role.
    pub(crate) fn start(host: &Host, config: &str) -> Result<Self> {
        let program = program(host.instance.role)?;
        let file = config_file(host);
        std::fs::write(&file, config)?;
        let mut command = command(&host.namespace, program)?;
        command.arg("run").arg(&file);
        let name = format!("{}-{program}", host.instance.name);
        Ok(Self {
            process: Process::start(&name, &crate::namespace::logs(), command)?,
            socket: socket(host)?,
        })
    }

    /// What it says of itself.
    pub fn status(&self) -> Result<Status> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("{}: {}", self.process.name(), self.socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream
            .write_all(b"GET /v1/status HTTP/1.1\r\nHost: privnet\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("the admin socket does not speak HTTP")?;
        if !head.starts_with("HTTP/1.1 200 ") {
            bail!("GET /v1/status: {head}\n{body}");
        }
        serde_json::from_str(body).with_context(|| format!("GET /v1/status: {body}"))
    }

    /// Waits until these tunnels are up, and returns the status that said so.
    pub fn wait_until_up(&self, tunnels: &[&str], patience: Duration) -> Result<Status> {
        let what = format!(
            "tunnels up at {}: {}",
            self.process.name(),
            tunnels.join(", ")
        );
        wait_until(&what, patience, || {
            let status = self.status()?;
            let states: Vec<String> = status
                .tunnels
                .iter()
                .map(|tunnel| match &tunnel.reason {
                    Some(reason) => format!("{} {} ({reason})", tunnel.name, tunnel.state),
                    None => format!("{} {}", tunnel.name, tunnel.state),
                })
                .collect();
            let all_up = tunnels.iter().all(|name| {
                status
                    .tunnels
                    .iter()
                    .any(|tunnel| tunnel.name == *name && tunnel.state == TunnelState::Up)
            });
            if all_up {
                Ok(Some(status))
            } else {
                bail!("it has {}", states.join(", "))
            }
        })
    }
}

/// The command that runs one of our programs on a host, in an environment that
/// holds what a real instance's would and nothing of the tester's.
pub fn command(namespace: &Namespace, program: &str) -> Result<Command> {
    let mut command = namespace.command(programs::ours(program)?);
    as_on_an_instance(&mut command);
    Ok(command)
}

/// Gives a command that environment.
pub fn as_on_an_instance(command: &mut Command) {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("AWS_ENDPOINT_URL", format!("http://{API}:{API_PORT}"))
        .env("RUST_BACKTRACE", "1")
        .env("NO_COLOR", "1");
    for kept in ["PRIVNET_ISOLATED", "PRIVNET_BIN_DIR", "PRIVNET_LOG"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
}

/// The hub's public key; makes the key when there is none.
pub fn hub_public_key(host: &Host) -> Result<String> {
    // Not the hub's own file: the hub may run, with another configuration.
    let file = host.namespace.directory().join("public-key.toml");
    std::fs::write(&file, hub_config(host))?;
    let key = run(command(&host.namespace, "privnet-hub")?
        .arg("public-key")
        .arg(file))?;
    Ok(key.trim().to_owned())
}

/// The hub's configuration, with the suite's [`Tuning`]; so has a spoke's.
pub fn hub_config(host: &Host) -> String {
    let directory = host.namespace.directory();
    let directory = directory.display();
    let quoted: Vec<String> = REGIONS.iter().map(|region| format!("{region:?}")).collect();
    let tags: Vec<String> = SPOKE_TAGS
        .iter()
        .map(|(key, value)| format!("{key} = {value:?}"))
        .collect();
    format!(
        r#"privnet     = "{PRIVNET}"
listen_port = {PORT}
private_key = {{ file = "{directory}/hub.key" }}
state       = "{directory}/hub.state.json"

{tuning}
[discovery]
interval = "1h"
timeout  = "20s"
regions  = [{regions}]
tags     = {{ {tags} }}
"#,
        regions = quoted.join(", "),
        tags = tags.join(", "),
        tuning = Tuning::current().config(),
    )
}

/// A spoke's configuration, with a tunnel to this hub.
pub fn spoke_config(host: &Host, hub_endpoint: &str, hub_public_key: &str) -> String {
    let directory = host.namespace.directory();
    format!(
        r#"privnet     = "{PRIVNET}"
transport   = "wireguard"
private_key = {{ file = "{}/spoke.key" }}
{}
[[hub]]
endpoint   = "{hub_endpoint}"
public_key = "{hub_public_key}"

[nat]
egress = true
"#,
        directory.display(),
        Tuning::current().config(),
    )
}

/// The configuration of a spoke without a tunnel.
pub fn nat_hub_config(host: &Host) -> String {
    let directory = host.namespace.directory();
    format!(
        r#"privnet     = "{PRIVNET}"
transport   = "none"
private_key = {{ file = "{}/spoke.key" }}

[nat]
egress = true
"#,
        directory.display()
    )
}

/// Where a host's config file is.
pub fn config_file(host: &Host) -> PathBuf {
    host.namespace.directory().join("privnet.toml")
}

fn program(role: Role) -> Result<&'static str> {
    match role {
        Role::Hub => Ok("privnet-hub"),
        Role::Spoke | Role::NatHub => Ok("privnet-spoke"),
        Role::Host => bail!("nothing of ours runs on a plain host"),
    }
}

/// The admin socket as seen from outside the host, whose `/run/privnet` is a
/// directory of the world.
fn socket(host: &Host) -> Result<PathBuf> {
    let inside = match host.instance.role {
        Role::Hub => HUB_SOCKET,
        Role::Spoke | Role::NatHub => SPOKE_SOCKET,
        Role::Host => bail!("nothing of ours runs on a plain host"),
    };
    let name = inside.strip_prefix("/run/").context("not below /run")?;
    Ok(host.namespace.directory().join(name))
}
