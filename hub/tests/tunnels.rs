//! The `tunnels` command as a shell and a script see it: its output and exit
//! codes, against the real admin server with a made-up daemon behind it.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

#[path = "../src/bin/tunnels/fixture.rs"]
mod fixture;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use privnet_model::admin::{
    Event, PolledPartition, RefreshReport, RefreshRequest, RotateAnswer, RotateRequest, WhyAnswer,
    WhyRequest,
};
use privnet_model::status::{InterfaceStatus, Status, Tunnel, TunnelState};
use privnet_runtime::admin::{AdminHandler, AdminServer};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const TUNNELS: &str = env!("CARGO_BIN_EXE_tunnels");

/// A daemon that always says the same.
struct Daemon {
    status: Status,
    refresh: Result<RefreshReport, String>,
}

impl AdminHandler for Daemon {
    async fn status(&self) -> Result<Status, String> {
        Ok(self.status.clone())
    }

    async fn refresh(&self, request: RefreshRequest) -> Result<RefreshReport, String> {
        self.refresh.clone().map(|report| RefreshReport {
            dry_run: request.dry_run,
            // Accepted, none is held.
            held_removals: report.held_removals.filter(|_| !request.accept_removals),
            ..report
        })
    }

    async fn events(&self) -> Result<Vec<Event>, String> {
        Ok(fixture::events())
    }

    async fn why(&self, request: WhyRequest) -> Result<WhyAnswer, String> {
        if request.subject == "nonesuch" {
            return Err("nothing goes by nonesuch".to_owned());
        }
        Ok(WhyAnswer {
            connected: request.towards.is_none(),
            text: format!("{} towards {:?}.", request.subject, request.towards),
        })
    }

    async fn rotate_key(&self, _: RotateRequest) -> Result<RotateAnswer, String> {
        Err("`tunnels` asks for no other key".to_owned())
    }
}

/// That daemon on a socket of its own.
struct Host {
    runtime: Runtime,
    directory: tempfile::TempDir,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Host {
    /// A machine on which nothing runs.
    fn idle() -> Self {
        Self {
            runtime: Runtime::new().unwrap(),
            directory: tempfile::tempdir().unwrap(),
            serving: None,
        }
    }

    fn running(status: Status) -> Self {
        Self::refreshing(status, Ok(RefreshReport::default()))
    }

    fn refreshing(status: Status, refresh: Result<RefreshReport, String>) -> Self {
        let mut host = Self::idle();
        host.start(Daemon { status, refresh });
        host
    }

    fn start(&mut self, daemon: Daemon) {
        let server = self
            .runtime
            .block_on(AdminServer::bind(&self.socket(), "privnet-hub"))
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = self.runtime.spawn(server.serve(Arc::new(daemon), async {
            let _ = stopped.await;
        }));
        self.serving = Some((stop, task));
    }

    fn stop(&mut self) {
        let (stop, task) = self.serving.take().unwrap();
        stop.send(()).unwrap();
        self.runtime.block_on(task).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("hub.sock")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(TUNNELS);
        command
            .args(arguments)
            .env_remove("NO_COLOR")
            .env_remove("COLUMNS")
            .env_remove("CLICOLOR_FORCE")
            .env("PRIVNET_SOCKET", self.socket())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn code(&self, arguments: &[&str]) -> i32 {
        self.run(arguments).status.code().unwrap()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn all_up() -> Status {
    let mut status = fixture::hub();
    status
        .tunnels
        .retain(|tunnel| matches!(tunnel.state, TunnelState::Up | TunnelState::Rejected));
    status
}

#[test]
fn off_a_terminal_the_list_is_wide_and_plain_and_the_default_command() {
    let host = Host::running(fixture::hub());
    let golden = include_str!("../src/bin/tunnels/golden/hub-wide.txt");
    for arguments in [&["list"][..], &[], &["list", "--wide"]] {
        let output = host.run(arguments);
        assert_eq!(text(&output.stdout), golden);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn colour_is_there_when_asked_for() {
    let host = Host::running(fixture::hub());
    assert!(text(&host.run(&["--color", "always"]).stdout).contains("\x1b[32mup\x1b[0m"));
    assert!(!text(&host.run(&["--color", "never"]).stdout).contains('\x1b'));
}

#[test]
fn json_is_the_status_with_the_listed_tunnels() {
    let host = Host::running(fixture::hub());
    let output = host.run(&["list", "--json", "--state", "up", "--state", "down"]);
    let status: Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status.tunnels.len(), 4);
    assert_eq!(status.partitions, fixture::hub().partitions);
    let output = host.run(&["show", "prod-web", "--json"]);
    let tunnel: Tunnel = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(tunnel.name, "prod-web");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let why = &shown["interface"]["offloads"]["udp_gso"]["why"];
    assert_eq!(why["code"], "rejected");
}

#[test]
fn show_without_a_name_is_about_the_interface() {
    let host = Host::running(fixture::hub());
    let output = host.run(&["show"]);
    let golden = include_str!("../src/bin/tunnels/golden/show-interface.txt");
    assert_eq!(text(&output.stdout), golden);
    let output = host.run(&["show", "--json"]);
    let told: InterfaceStatus = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(Some(told), fixture::hub().interface);

    let nothing = Status {
        interface: None,
        charon: None,
        nat: None,
        ..fixture::spoke()
    };
    let output = Host::running(nothing).run(&["show"]);
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(
        text(&output.stderr),
        "tunnels: privnet-spoke has no tunnel interface here, and no NAT: its transport is none\n"
    );
    let output = Host::running(fixture::nat_gateway()).run(&["show"]);
    let golden = include_str!("../src/bin/tunnels/golden/show-nat.txt");
    assert_eq!(text(&output.stdout), golden);
}

#[test]
fn a_daemon_that_does_not_run_is_one_line_and_exit_code_3() {
    let host = Host::idle();
    for command in [
        &["list"][..],
        &["show", "x"],
        &["refresh"],
        &["list", "--watch"],
        &["events"],
        &["events", "--follow"],
        &["why", "x"],
    ] {
        let output = host.run(command);
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout.is_empty());
        let socket = host.socket();
        assert_eq!(
            text(&output.stderr),
            format!(
                "tunnels: no daemon answers on {}: is privnet-hub or privnet-spoke running?\n",
                socket.display()
            )
        );
    }
}

#[test]
fn a_socket_of_others_is_one_line_and_exit_code_4() {
    let host = Host::running(fixture::hub());
    fs::set_permissions(host.socket(), Permissions::from_mode(0o000)).unwrap();
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let output = if is_root {
        // Root may use every socket. What nobody runs, nobody must get at.
        let program = host.directory.path().join("tunnels");
        fs::copy(TUNNELS, &program).unwrap();
        fs::set_permissions(host.directory.path(), Permissions::from_mode(0o755)).unwrap();
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(program)
            .arg("--socket")
            .arg(host.socket())
            .output()
            .unwrap()
    } else {
        host.run(&[])
    };
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(
        stderr.starts_with("tunnels: no permission to use "),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1);
}

#[test]
fn check_tells_by_the_exit_code_whether_all_that_is_listed_is_up() {
    let host = Host::running(fixture::hub());
    assert_eq!(host.code(&["list"]), 0);
    assert_eq!(host.code(&["list", "--check"]), 5);
    assert_eq!(host.code(&["list", "--check", "--state", "up"]), 0);
    assert_eq!(host.code(&["list", "--check", "--vpc", "vpc-00000000"]), 6);
    assert_eq!(host.code(&["show", "prod-web", "--check"]), 0);
    assert_eq!(host.code(&["show", "staging", "--check"]), 5);
    assert_eq!(host.code(&["show", "staging"]), 0);
    // The NAT gateway is not up, and is not meant to be.
    assert_eq!(Host::running(all_up()).code(&["list", "--check"]), 0);
}

#[test]
fn no_such_tunnel_is_exit_code_6_and_a_wrong_command_line_2() {
    let host = Host::running(fixture::hub());
    assert_eq!(host.code(&["show", "nonesuch"]), 6);
    for wrong in [
        &["list", "--state", "sideways"][..],
        &["list", "--region", "moon"],
        &["list", "--interval", "2s"],
        &["list", "--watch", "--interval", "2"],
        &["show", "--check"],
        &["events", "-n", "some"],
        &["why"],
        &["why", "a", "b", "c"],
        &["frobnicate"],
    ] {
        assert_eq!(host.code(wrong), 2, "{wrong:?}");
    }
}

#[test]
fn a_refresh_that_failed_in_part_is_exit_code_7_and_one_refused_1() {
    let done = Host::running(fixture::hub());
    assert_eq!(done.code(&["refresh"]), 0);
    let output = done.run(&["refresh", "--dry-run"]);
    assert_eq!(text(&output.stdout), "Nothing would change.\n");

    let partition = PolledPartition {
        partition: "111122223333/eu-west-1".to_owned(),
        spokes: 3,
        error: Some("timed out".to_owned()),
    };
    let report = RefreshReport {
        partitions: vec![partition],
        ..Default::default()
    };
    let partial = Host::refreshing(fixture::hub(), Ok(report.clone()));
    assert_eq!(partial.code(&["refresh"]), 7);
    let output = partial.run(&["refresh", "--json"]);
    let told: RefreshReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told, report);

    let refused = Host::refreshing(fixture::hub(), Err("busy\x1b[2J".to_owned()));
    let output = refused.run(&["refresh"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "tunnels: busy\\u{1b}[2J\n");
}

#[test]
fn removals_that_are_held_are_exit_code_8_until_they_are_accepted() {
    let held = fixture::gateways().held_removals;
    let report = RefreshReport {
        held_removals: held,
        ..Default::default()
    };
    let host = Host::refreshing(fixture::gateways(), Ok(report));
    let output = host.run(&["refresh"]);
    assert_eq!(output.status.code(), Some(8));
    let stdout = text(&output.stdout);
    assert!(
        stdout.contains("held: 3 of 9 tunnels would go at once"),
        "{stdout}"
    );
    let output = host.run(&["refresh", "--dry-run", "--json"]);
    assert_eq!(output.status.code(), Some(8));
    let told: RefreshReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told.held_removals, held);
    assert_eq!(host.code(&["refresh", "--accept-removals"]), 0);
    assert!(text(&host.run(&["list"]).stdout).contains("warning: 3 of 9 tunnels"));
}

#[test]
fn events_are_told_as_lines_or_as_json() {
    let host = Host::running(fixture::hub());
    let golden = include_str!("../src/bin/tunnels/golden/events.txt");
    let output = host.run(&["events"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), golden);
    let last = golden.lines().last().unwrap();
    assert_eq!(
        text(&host.run(&["events", "-n", "1"]).stdout),
        format!("{last}\n")
    );
    let output = host.run(&["events", "--json", "-n", "2"]);
    let told: Vec<Event> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told, fixture::events()[2..]);
}

#[test]
fn events_that_are_followed_are_lines_until_interrupted_also_after_a_restart() {
    let mut host = Host::running(fixture::hub());
    let mut child = Interrupted(
        host.command(&["events", "--follow", "--json", "-n", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut complaints = BufReader::new(child.0.stderr.take().unwrap());
    let mut next = || serde_json::from_str::<Event>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next().number, 25);
    host.stop();
    let mut complaint = String::new();
    complaints.read_line(&mut complaint).unwrap();
    let waits = "; waiting for it\n";
    assert!(
        complaint.starts_with("tunnels: privnet-hub: no daemon answers")
            && complaint.ends_with(waits),
        "{complaint}"
    );
    // The one that is started then has told nothing yet.
    host.start(Daemon {
        status: fixture::hub(),
        refresh: Ok(RefreshReport::default()),
    });
    assert_eq!([next().number, next().number], [3, 20]);
    let pid = child.0.id().to_string();
    let sent = Command::new("kill")
        .args(["-s", "INT", &pid])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn why_tells_by_the_exit_code_whether_it_is_connected() {
    let host = Host::running(fixture::hub());
    let output = host.run(&["why", "10.1.0.0/16"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout),
        "connected: 10.1.0.0/16 towards None.\n"
    );
    let output = host.run(&["why", "prod-web", "10.2.0.1", "--json"]);
    assert_eq!(output.status.code(), Some(5));
    let told: WhyAnswer = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told.text, "prod-web towards Some(\"10.2.0.1\").");
    let output = host.run(&["why", "nonesuch"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "tunnels: nothing goes by nonesuch\n");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let host = Host::running(fixture::hub());
    for arguments in [
        &["list"][..],
        &["events"],
        &["events", "--follow"],
        &["why", "x"],
        &["list", "--watch"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = host.command(arguments).stdout(writer).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_watch_outlives_a_restart_of_the_daemon_and_ends_well_when_interrupted() {
    let mut host = Host::running(fixture::hub());
    let mut child = Interrupted(
        host.command(&["list", "--watch", "--json", "--interval", "200ms"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut complaints = BufReader::new(child.0.stderr.take().unwrap());
    let version = |line: String| serde_json::from_str::<Status>(&line).unwrap().version;
    assert_eq!(version(lines.next().unwrap().unwrap()), "0.1.0");
    host.stop();
    let mut complaint = String::new();
    complaints.read_line(&mut complaint).unwrap();
    assert_eq!(
        complaint,
        "tunnels: privnet-hub is not running; waiting for it\n"
    );
    host.start(Daemon {
        status: Status {
            version: "0.2.0".to_owned(),
            ..fixture::hub()
        },
        refresh: Ok(RefreshReport::default()),
    });
    while version(lines.next().unwrap().unwrap()) != "0.2.0" {}
    let pid = child.0.id().to_string();
    let sent = Command::new("kill")
        .args(["-s", "INT", &pid])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    complaints.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

/// Does not outlive a test that fails.
struct Interrupted(Child);

impl Drop for Interrupted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_spoke_lists_its_hub_and_its_nat() {
    let host = Host::running(fixture::spoke());
    let output = host.run(&[]);
    let stdout = text(&output.stdout);
    assert!(stdout.contains("NAT on ens5 for 10.1.0.0/16"), "{stdout}");
    assert!(stdout.contains("198.51.100.100:51820"), "{stdout}");
}

#[test]
fn there_is_a_man_page_for_each_command_with_the_exit_codes() {
    let host = Host::idle();
    let directory = host.directory.path().to_str().unwrap();
    assert_eq!(host.code(&["man", directory]), 0);
    for page in [
        "tunnels",
        "tunnels-list",
        "tunnels-show",
        "tunnels-events",
        "tunnels-why",
        "tunnels-refresh",
        "tunnels-completions",
    ] {
        let page = fs::read_to_string(host.directory.path().join(format!("{page}.1"))).unwrap();
        let (_, codes) = page.split_once(".SH \"EXIT STATUS\"").unwrap();
        assert!(codes.contains("3  the daemon is not running"), "{page}");
    }
    assert!(!host.directory.path().join("tunnels-man.1").exists());
    assert_eq!(host.code(&["man", "/dev/null/nowhere"]), 1);
}

#[test]
fn there_are_completions_for_each_shell() {
    let host = Host::idle();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = host.run(&["completions", shell]);
        assert!(output.status.success());
        for word in ["refresh", "accept-removals", "events", "follow", "why"] {
            assert!(text(&output.stdout).contains(word), "{shell}: {word}");
        }
    }
}
