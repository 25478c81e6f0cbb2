//! The admin socket, its server and its client, as the daemons and `tunnels`
//! use them: over real sockets in a directory of the test's own.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use privnet_model::admin::{
    Event, RefreshReport, RefreshRequest, RotateAnswer, RotateRequest, WhyAnswer, WhyRequest,
};
use privnet_model::key::PublicKey;
use privnet_model::net::Supernet;
use privnet_model::status::{Role, Status};
use privnet_runtime::admin::{AdminHandler, AdminServer, BindError};
use privnet_runtime::client::{AdminClient, ClientError};
use privnet_runtime::metrics_port::MetricsPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A daemon that answers with an empty status.
#[derive(Default)]
struct Daemon {
    refreshed: AtomicBool,
}

impl AdminHandler for Daemon {
    async fn status(&self) -> Result<Status, String> {
        Ok(Status {
            role: Role::Hub,
            version: "0.1.0".to_owned(),
            started: "2026-11-21T00:00:00Z".parse().unwrap(),
            now: "2026-11-21T05:00:00Z".parse().unwrap(),
            instance: None,
            privnet: Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            interface: None,
            charon: None,
            nat: None,
            tunnels: Vec::new(),
            partitions: Vec::new(),
            next_poll: None,
            held_removals: None,
            policy: Vec::new(),
            routes: None,
            problems: Vec::new(),
        })
    }

    async fn refresh(&self, request: RefreshRequest) -> Result<RefreshReport, String> {
        if request.dry_run {
            return Err("not now".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.refreshed.store(true, Ordering::SeqCst);
        Ok(RefreshReport::default())
    }

    async fn events(&self) -> Result<Vec<Event>, String> {
        Ok(vec![Event {
            number: 3,
            at: "2026-11-21T05:00:00Z".parse().unwrap(),
            first: "2026-11-21T04:00:00Z".parse().unwrap(),
            times: 2,
            what: "tunnel spoke-a".to_owned(),
            text: "it is up".to_owned(),
        }])
    }

    async fn why(&self, request: WhyRequest) -> Result<WhyAnswer, String> {
        let WhyRequest { subject, towards } = request;
        Ok(WhyAnswer {
            connected: towards.is_none(),
            text: format!("{subject} towards {towards:?}"),
        })
    }

    async fn rotate_key(&self, request: RotateRequest) -> Result<RotateAnswer, String> {
        if request.commit {
            return Err("no next key was made".to_owned());
        }
        Ok(RotateAnswer {
            public_key: PublicKey::from_bytes([1; 32]),
            next: Some(PublicKey::from_bytes([2; 32])),
            text: "a next key was made".to_owned(),
        })
    }
}

struct Running {
    path: PathBuf,
    daemon: Arc<Daemon>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/hub.sock");
        let server = AdminServer::bind(&path, "privnet-hub").await.unwrap();
        let daemon = Arc::new(Daemon::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.serve(Arc::clone(&daemon), async {
            let _ = stopped.await;
        }));
        Self {
            path,
            daemon,
            stop,
            task,
            _directory: directory,
        }
    }

    async fn stop(self) -> Duration {
        let begin = Instant::now();
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        assert!(!self.path.exists());
        begin.elapsed()
    }

    /// Sends these bytes and returns all that comes back.
    async fn talk(&self, request: &str) -> String {
        let path = self.path.clone();
        let request = request.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .await
        .unwrap()
    }
}

fn post(body: &str) -> String {
    format!(
        "POST /v1/refresh HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn status_and_refresh_are_answered() {
    let running = Running::start().await;
    let client = AdminClient::new(&running.path);
    assert_eq!(
        client.status().await.unwrap(),
        running.daemon.status().await.unwrap()
    );
    let report = client.refresh(RefreshRequest::default()).await.unwrap();
    assert_eq!(report, RefreshReport::default());
    let error = client
        .refresh(RefreshRequest {
            dry_run: true,
            ..RefreshRequest::default()
        })
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ClientError::Api { message } if message == "not now"),
        "{error}"
    );
    running.stop().await;
}

#[tokio::test]
async fn events_explanations_and_changes_of_keys_are_answered() {
    let running = Running::start().await;
    let client = AdminClient::new(&running.path);
    let events = client.events().await.unwrap();
    assert_eq!(events, running.daemon.events().await.unwrap());

    for towards in [None, Some("10.2.0.1".to_owned())] {
        let request = WhyRequest {
            subject: "10.1.0.1".to_owned(),
            towards,
        };
        let answer = client.why(&request).await.unwrap();
        assert_eq!(answer, running.daemon.why(request).await.unwrap());
    }

    let request = RotateRequest::default();
    let answer = client.rotate_key(request).await.unwrap();
    assert_eq!(answer, running.daemon.rotate_key(request).await.unwrap());
    let refused = client.rotate_key(RotateRequest { commit: true }).await;
    let error = refused.unwrap_err();
    assert!(
        matches!(&error, ClientError::Api { message } if message == "no next key was made"),
        "{error}"
    );
    running.stop().await;
}

#[tokio::test]
async fn metrics_are_served_on_the_socket_in_prometheus_text_format() {
    let running = Running::start().await;
    let answer = running.talk("GET /metrics HTTP/1.0\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    let kind = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(head.lines().any(|line| line == kind), "{head}");
    let build = "privnet_build_info{program=\"privnet-hub\",version=\"0.1.0\"} 1\n";
    assert!(body.contains(build), "{body}");
    running.stop().await;
}

#[tokio::test]
async fn the_port_for_metrics_answers_nothing_else() {
    let any_port = "127.0.0.1:0".parse().unwrap();
    let port = MetricsPort::bind(any_port).await.unwrap();
    let address = port.address().unwrap();
    let daemon = Arc::new(Daemon::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(port.serve(Arc::clone(&daemon), async {
        let _ = stopped.await;
    }));
    for (request, status, expected) in [
        (
            "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            200,
            "# TYPE privnet_tunnels gauge\n",
        ),
        (
            "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
            404,
            "GET /metrics",
        ),
        (
            "POST /v1/refresh HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            404,
            "GET /metrics",
        ),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            405,
            "GET /metrics",
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, read).await.unwrap().unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(expected), "{answer}");
    }
    assert!(!daemon.refreshed.load(Ordering::SeqCst));

    let error = MetricsPort::bind(address).await.unwrap_err();
    let told = format!("metrics on {address}: cannot listen there");
    assert_eq!(error.to_string(), told);
    stop.send(()).unwrap();
    task.await.unwrap();
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group() {
    let running = Running::start().await;
    let metadata = fs::symlink_metadata(&running.path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let directory = fs::metadata(running.path.parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o755);
    running.stop().await;
}

#[tokio::test]
async fn a_second_daemon_is_told_what_to_do() {
    let running = Running::start().await;
    let error = AdminServer::bind(&running.path, "privnet-hub")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "another privnet-hub answers on {}; stop it, or set admin_socket to another path",
            running.path.display()
        )
    );
    AdminClient::new(&running.path).status().await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_socket_that_another_program_listens_on_is_left_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.sock");
    let _other = UnixListener::bind(&path).unwrap();
    let error = AdminServer::bind(&path, "privnet-hub").await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn the_socket_of_a_dead_daemon_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.sock");
    drop(UnixListener::bind(&path).unwrap());
    // A start that was killed half-way leaves this, too.
    drop(UnixListener::bind(directory.path().join("hub.sock.new")).unwrap());
    let server = AdminServer::bind(&path, "privnet-hub").await.unwrap();
    UnixStream::connect(&path).unwrap();
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_an_error_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.sock");
    fs::write(&path, "precious").unwrap();
    let error = AdminServer::bind(&path, "privnet-hub").await.unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let error = AdminServer::bind(directory.path(), "privnet-hub")
        .await
        .unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
}

#[tokio::test]
async fn a_path_that_cannot_be_bound_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("x".repeat(120));
    let error = AdminServer::bind(&long, "privnet-hub").await.unwrap_err();
    assert!(error.to_string().contains("xxx: cannot bind it"), "{error}");
}

#[tokio::test]
async fn every_failure_is_an_api_error_with_its_status() {
    let running = Running::start().await;
    let huge = post(&" ".repeat(100_000));
    let unknown_key = post(r#"{"dry_run":true,"x":1}"#);
    let no_json = post("nonsense");
    let refused = post(r#"{"dry_run":true}"#);
    for (request, status) in [
        ("GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET / HTTP/1.0\r\n\r\n", 404),
        ("DELETE /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("GET /v1/refresh HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("GET /v1/why HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        // Nothing to explain.
        ("POST /v1/why HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            405,
        ),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            405,
        ),
        (no_json.as_str(), 400),
        (unknown_key.as_str(), 400),
        (huge.as_str(), 413),
        (refused.as_str(), 500),
    ] {
        let answer = running.talk(request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let line = head.lines().next().unwrap();
        assert!(
            line.contains(&format!(" {status} ")),
            "{request:.60}: {line}"
        );
        let error: privnet_model::admin::ApiError = serde_json::from_str(body).unwrap();
        assert!(!error.error.is_empty());
    }
    running.stop().await;
}

#[tokio::test]
async fn a_request_without_a_body_is_the_default_one() {
    let running = Running::start().await;
    for path in ["refresh", "rotate-key"] {
        let request = format!("POST /v1/{path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = running.talk(&request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_cut_a_refresh_short() {
    let running = Running::start().await;
    let mut stream = UnixStream::connect(&running.path).unwrap();
    stream.write_all(post("{}").as_bytes()).unwrap();
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !running.daemon.refreshed.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "the refresh never ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn clients_that_hang_do_not_keep_others_from_being_served() {
    let running = Running::start().await;
    // More than there are places: some say nothing, some stop half-way.
    let hanging: Vec<UnixStream> = (0..60)
        .map(|number| {
            let mut stream = UnixStream::connect(&running.path).unwrap();
            let begun: &[u8] = match number % 4 {
                0 => b"",
                1 => b"GET /v1/sta",
                2 => b"POST /v1/refresh HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{",
                _ => b"\x00\xff\x16\x03garbage\r\n\r\n",
            };
            stream.write_all(begun).unwrap();
            stream
        })
        .collect();
    let client = AdminClient::new(&running.path);
    assert_eq!(client.status().await.unwrap().version, "0.1.0");
    drop(hanging);
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_does_not_hold_up_the_stop() {
    let running = Running::start().await;
    let _hanging = UnixStream::connect(&running.path).unwrap();
    AdminClient::new(&running.path).status().await.unwrap();
    assert!(running.stop().await < Duration::from_secs(4));
}

#[tokio::test]
async fn without_a_daemon_the_client_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.sock");
    let not_running = async |path: &Path| {
        let error = AdminClient::new(path).status().await.unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    };
    not_running(&path).await;
    drop(UnixListener::bind(&path).unwrap());
    not_running(&path).await;
    fs::write(directory.path().join("file"), "").unwrap();
    not_running(&directory.path().join("file")).await;
    not_running(&directory.path().join("file/hub.sock")).await;
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_a_protocol_error() {
    let directory = tempfile::tempdir().unwrap();
    for (number, answer) in [
        "",
        "SSH-2.0-x\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{",
        "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno",
    ]
    .into_iter()
    .enumerate()
    {
        let path = directory.path().join(number.to_string());
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let error = AdminClient::new(&path).status().await.unwrap_err();
        assert!(
            matches!(error, ClientError::Protocol { .. }),
            "{answer}: {error}"
        );
        server.join().unwrap();
    }
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_a_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let client = AdminClient::new(&path).with_patience(Duration::from_millis(50));
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}
