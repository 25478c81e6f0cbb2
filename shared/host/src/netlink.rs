//! One conversation with the kernel's routing netlink: requests with a
//! deadline, and dumps that are either complete and consistent or an error.
//!
//! A socket lives for one fetch or one apply. Opening it costs microseconds,
//! and a daemon that runs for months keeps none that could have gone stale.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use tokio::task::JoinHandle;

use crate::error::HostError;

/// The kernel answers in microseconds, a dump of 10,000 routes in milliseconds.
/// What takes longer than this is lost (a full receive buffer drops answers).
const DEADLINE: Duration = Duration::from_secs(10);

/// How often a dump is tried when the tables change under it.
const DUMP_ATTEMPTS: u32 = 5;

pub(crate) struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

/// The kernel's refusal, for the caller to interpret.
pub(crate) enum RequestError {
    Refused(io::Error),
    Lost(HostError),
}

enum DumpError {
    Interrupted,
    Failed(HostError),
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, HostError> {
        let (mut connection, handle, _unsolicited) =
            rtnetlink::new_connection().map_err(HostError::NetlinkSocket)?;
        // A dump's end carries its error and its last "interrupted" flag; and
        // without it a complete answer looks like one that was cut off.
        connection.set_forward_done(true);
        // Likewise an acknowledged request and one whose socket broke.
        connection.set_forward_ack(true);
        let connection = tokio::spawn(connection);
        Ok(Self { handle, connection })
    }

    /// All objects of a kind. `operation` is for errors: "list routes".
    pub(crate) async fn dump(
        &self,
        request: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        for _ in 0..DUMP_ATTEMPTS {
            let attempt = self.dump_once(request.clone(), operation);
            match within_deadline(operation, attempt).await? {
                Ok(objects) => return Ok(objects),
                Err(DumpError::Interrupted) => {}
                Err(DumpError::Failed(error)) => return Err(error),
            }
        }
        Err(HostError::Interrupted {
            operation: operation.to_owned(),
            attempts: DUMP_ATTEMPTS,
        })
    }

    async fn dump_once(
        &self,
        request: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, DumpError> {
        let incomplete = || {
            DumpError::Failed(HostError::Incomplete {
                operation: operation.to_owned(),
            })
        };
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(message).map_err(|_| incomplete())?;
        let mut objects = Vec::new();
        let mut interrupted = false;
        while let Some(answer) = answers.next().await {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => objects.push(object),
                NetlinkPayload::Done(_) if interrupted => return Err(DumpError::Interrupted),
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(objects),
                NetlinkPayload::Done(done) => {
                    let source = io::Error::from_raw_os_error(done.code.saturating_abs());
                    return Err(DumpError::Failed(refused(operation.to_owned(), source)));
                }
                NetlinkPayload::Error(error) => {
                    let source = error.to_io();
                    return Err(DumpError::Failed(refused(operation.to_owned(), source)));
                }
                _ => return Err(incomplete()),
            }
        }
        Err(incomplete())
    }

    /// One request that changes something; `flags` beyond request and
    /// acknowledgement.
    pub(crate) async fn request(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<(), RequestError> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut handle = self.handle.clone();
        let lost = || HostError::Incomplete {
            operation: operation.to_owned(),
        };
        let acknowledged = async {
            let mut answers = handle
                .request(message)
                .map_err(|_| RequestError::Lost(lost()))?;
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return Err(RequestError::Refused(error.to_io()));
                    }
                    _ => {}
                }
            }
            Err(RequestError::Lost(lost()))
        };
        within_deadline(operation, acknowledged)
            .await
            .map_err(RequestError::Lost)?
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl RequestError {
    /// The error of an `operation` such as "add route 10.0.0.0/8 dev privnet0".
    pub(crate) fn into_host(self, operation: String) -> HostError {
        match self {
            Self::Refused(source) => refused(operation, source),
            Self::Lost(error) => error,
        }
    }
}

pub(crate) fn refused(operation: String, source: io::Error) -> HostError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => HostError::NotPermitted { operation },
        _ => HostError::Netlink { operation, source },
    }
}

async fn within_deadline<T>(
    operation: &str,
    work: impl Future<Output = T>,
) -> Result<T, HostError> {
    let timed = tokio::time::timeout(DEADLINE, work).await;
    timed.map_err(|_| HostError::Timeout {
        operation: operation.to_owned(),
        deadline: DEADLINE,
    })
}
