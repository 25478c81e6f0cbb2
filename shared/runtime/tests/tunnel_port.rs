//! The port inside the tunnels and its client, on the loopback interface: who
//! calls is known by the source address, and none can take what is others'.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use privnet_model::enrol::{MOST_REQUEST_BYTES, Me, NextKey, Proof, ProofState};
use privnet_model::key::PublicKey;
use privnet_runtime::tunnel_client::{HubCallError, HubClient};
use privnet_runtime::tunnel_port::{Call, CallHandler, Question, Refusal, TunnelPort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

const ME: Me = Me {
    public_key: PublicKey::from_bytes([7; 32]),
    next_key: None,
    proof: ProofState::Wanted,
};

struct Calls(mpsc::Sender<Call>);

impl CallHandler for Calls {
    fn take(&self, call: Call) -> bool {
        self.0.try_send(call).is_ok()
    }
}

/// The port on an address of its own, so that tests run side by side.
struct Port {
    address: SocketAddr,
    calls: mpsc::Receiver<Call>,
    stop: oneshot::Sender<()>,
}

impl Port {
    async fn open(waiting: usize) -> Self {
        // A port that is free: taken, and given back.
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        drop(taken);
        let port = TunnelPort::bind("lo", address).unwrap();
        let (sender, calls) = mpsc::channel(waiting);
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(port.serve(Arc::new(Calls(sender)), async {
            let _ = stopped.await;
        }));
        Self {
            address,
            calls,
            stop,
        }
    }

    fn client(&self) -> HubClient {
        HubClient::new("lo", self.address)
    }

    async fn connect(&self, source: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn call(&mut self) -> Call {
        within(self.calls.recv()).await.unwrap()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.unwrap()
}

/// What comes back on a connection, all of it.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    text
}

async fn post(port: &Port, path: &str, body: &str) -> String {
    let mut stream = port.connect(Ipv4Addr::LOCALHOST).await;
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: privnet\r\nContent-Length: {length}\r\n\r\n");
    // Who says too much is answered before he has said it all.
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    answer(&mut stream).await
}

fn proof() -> Proof {
    Proof {
        url: "https://sts.eu-west-1.amazonaws.com/".to_owned(),
        method: "POST".to_owned(),
        headers: vec![("x-amz-date".to_owned(), "20261121T110000Z".to_owned())],
        body: String::new(),
    }
}

fn next_key(public_key: PublicKey) -> NextKey {
    NextKey {
        public_key,
        possession: "shown".to_owned(),
    }
}

#[tokio::test]
async fn a_call_comes_with_its_source_and_its_question() {
    let mut port = Port::open(8).await;
    let client = port.client();
    let key = PublicKey::from_bytes([9; 32]);
    let asked = tokio::spawn(async move {
        (
            client.me().await,
            client.prove(&proof()).await,
            client.next_key(&next_key(key)).await,
        )
    });
    let call = port.call().await;
    assert_eq!(call.source, Ipv4Addr::LOCALHOST);
    assert!(matches!(call.question, Question::Me));
    call.answer.send(Ok(ME)).unwrap();
    let call = port.call().await;
    let Question::Proof(sent) = call.question else {
        panic!("{:?}", call.question);
    };
    assert_eq!(sent, proof());
    let accepted = Me {
        proof: ProofState::Accepted,
        ..ME
    };
    call.answer.send(Ok(accepted)).unwrap();
    let call = port.call().await;
    let Question::NextKey(next) = call.question else {
        panic!("{:?}", call.question);
    };
    assert_eq!(next, next_key(key));
    let named = Me {
        next_key: Some(key),
        ..accepted
    };
    call.answer.send(Ok(named)).unwrap();
    assert_eq!(
        within(asked).await.unwrap(),
        (Ok(ME), Ok(accepted), Ok(named))
    );

    let mut other = port.connect(Ipv4Addr::new(127, 0, 0, 2)).await;
    let request = b"GET /v1/me HTTP/1.1\r\nHost: privnet\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n";
    other.write_all(request).await.unwrap();
    assert_eq!(port.call().await.source, Ipv4Addr::new(127, 0, 0, 2));
}

#[tokio::test]
async fn a_refusal_says_whether_to_come_again() {
    let mut port = Port::open(8).await;
    for (refusal, expected) in [
        (
            Refusal::Unknown("no spoke has 127.0.0.1".to_owned()),
            HubCallError::Refused("no spoke has 127.0.0.1".to_owned()),
        ),
        (
            Refusal::Never("another instance".to_owned()),
            HubCallError::Refused("another instance".to_owned()),
        ),
        (
            Refusal::Later("STS does not answer".to_owned()),
            HubCallError::Later("STS does not answer".to_owned()),
        ),
    ] {
        let client = port.client();
        let asked = tokio::spawn(async move { client.me().await });
        port.call().await.answer.send(Err(refusal)).unwrap();
        assert_eq!(within(asked).await.unwrap(), Err(expected));
    }
    // A call that the daemon drops is one for later.
    let client = port.client();
    let asked = tokio::spawn(async move { client.me().await });
    drop(port.call().await);
    let dropped = within(asked).await.unwrap();
    assert!(
        matches!(dropped, Err(HubCallError::Later(_))),
        "{dropped:?}"
    );
}

#[tokio::test]
async fn what_is_no_request_of_ours_is_refused_and_does_not_reach_the_daemon() {
    let mut port = Port::open(8).await;
    let secret = r#"{"url": "u", "headers": "FQoGZXIvYXdzEJr"}"#;
    let long = "x".repeat(MOST_REQUEST_BYTES + 1);
    let extra = r#"{"public_key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", "x": 1}"#;
    for (path, body, status) in [
        ("/v1/proof", secret, "400"),
        ("/v1/proof", "", "400"),
        ("/v1/proof", &"[".repeat(10_000), "400"),
        ("/v1/next-key", extra, "400"),
        ("/v1/next-key", r#"{"public_key": "AAAA"}"#, "400"),
        ("/v1/proof", &long, "413"),
        ("/v1/me", "", "405"),
        ("/v1/status", "", "404"),
        ("/metrics", "", "404"),
    ] {
        let answer = post(&port, path, body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path} {body:.40}: {answer}"
        );
        assert!(!answer.contains("FQoG"), "{answer}");
    }
    assert!(port.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_caller_that_holds_its_connections_takes_none_of_the_others() {
    let mut port = Port::open(8).await;
    let greedy = Ipv4Addr::new(127, 0, 0, 3);
    let mut held = [port.connect(greedy).await, port.connect(greedy).await];
    let mut third = port.connect(greedy).await;
    assert_eq!(answer(&mut third).await, "");
    let client = port.client();
    let asked = tokio::spawn(async move { client.me().await });
    port.call().await.answer.send(Ok(ME)).unwrap();
    assert_eq!(within(asked).await.unwrap(), Ok(ME));
    // One that is over makes room, once the port has seen its end.
    let [first, second] = &mut held;
    first.write_all(b"nonsense\r\n\r\n").await.unwrap();
    assert!(answer(first).await.starts_with("HTTP/1.1 400"));
    let request = b"GET /v1/me HTTP/1.1\r\nHost: privnet\r\n\r\n";
    within(async {
        loop {
            let mut again = port.connect(greedy).await;
            again.write_all(request).await.unwrap();
            tokio::select! {
                call = port.calls.recv() => break call.unwrap().answer.send(Ok(ME)).unwrap(),
                _ = again.read_u8() => {}
            }
        }
    })
    .await;
    second.write_all(request).await.unwrap();
    port.call().await.answer.send(Ok(ME)).unwrap();
    assert!(answer(second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn calls_that_nobody_takes_are_told_to_come_again() {
    let mut port = Port::open(1).await;
    let (one, other) = (port.client(), port.client());
    let waits = tokio::spawn(async move { one.me().await });
    let held = port.call().await;
    let waits_too = tokio::spawn({
        let client = port.client();
        async move { client.me().await }
    });
    // The place of the second is taken when a third is sent away; both come from
    // one address, whose connections are two.
    drop(held);
    assert!(matches!(
        within(waits).await.unwrap(),
        Err(HubCallError::Later(_))
    ));
    let second = port.call().await;
    second.answer.send(Ok(ME)).unwrap();
    assert_eq!(within(waits_too).await.unwrap(), Ok(ME));
    port.calls.close();
    let closed = within(other.me()).await;
    assert!(
        matches!(&closed, Err(HubCallError::Later(why)) if why.contains("busy")),
        "{closed:?}"
    );
    port.stop.send(()).unwrap();
}

#[tokio::test]
async fn an_interface_that_is_not_there_is_an_error_that_names_it() {
    let error = TunnelPort::bind("privnet-none", "127.0.0.1:0".parse().unwrap());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("privnet-none") && error.contains("127.0.0.1"),
        "{error}"
    );
    // And nothing is sent another way.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lost = HubClient::new("privnet-none", address).me().await;
    assert!(
        matches!(lost, Err(HubCallError::Unreachable(_))),
        "{lost:?}"
    );
}

#[tokio::test]
async fn a_hub_that_answers_nonsense_is_not_believed() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(1_000_000)
    );
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever".to_owned(),
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        String::new(),
        long,
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = answer.clone();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(text.as_bytes()).await;
        });
        let error = within(HubClient::new("lo", address).me())
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                HubCallError::Protocol(_) | HubCallError::Unreachable(_)
            ),
            "{answer:.40}: {error:?}"
        );
    }
}
