//! Sealed messages over a TCP connection.

use std::io;
use std::time::Duration;

use privnet_model::connection::channel::{ChannelError, MOST_FRAME, Opener, Sealer};
use privnet_model::connection::wire::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

/// How long the far end may take nothing.
const STALLED: Duration = Duration::from_secs(5);
/// Bytes a second at most, so that a list of everything is no burst: 200,000 connections
/// take 0.4 s.
const RATE: u64 = 8 << 20;

/// Reads.
pub(super) struct Reading {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
}

/// Writes.
pub(super) struct Writing {
    pub(super) stream: OwnedWriteHalf,
    pub(super) seal: Sealer,
}

impl Reading {
    pub(super) fn new(stream: OwnedReadHalf) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(MOST_FRAME + 2),
        }
    }

    /// Waits for more bytes. Cancel-safe.
    pub(super) async fn more(&mut self) -> io::Result<()> {
        if self.buffer.len() > 2 * MOST_FRAME {
            return Err(invalid("more than a frame"));
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// What came so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// These have been dealt with.
    pub(super) fn consume(&mut self, count: usize) {
        self.buffer.drain(..count.min(self.buffer.len()));
    }

    /// The next whole frame. Cancel-safe.
    pub(super) async fn frame(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some((length, rest)) = self.buffer.split_first_chunk() {
                let length = usize::from(u16::from_be_bytes(*length));
                if length > MOST_FRAME {
                    return Err(invalid("a frame that is too long"));
                }
                if let Some(frame) = rest.get(..length) {
                    let frame = frame.to_vec();
                    self.consume(2 + length);
                    return Ok(frame);
                }
            }
            self.more().await?;
        }
    }

    /// The next message. Cancel-safe.
    pub(super) async fn message(&mut self, open: &mut Opener) -> io::Result<Message> {
        let frame = self.frame().await?;
        let bytes = open.open(&frame).map_err(refused)?;
        Message::parse(&bytes).map_err(invalid)
    }
}

impl Writing {
    pub(super) async fn say(&mut self, message: &Message) -> io::Result<()> {
        let frame = self.seal.seal(&message.to_bytes());
        write(&mut self.stream, &frame).await?;
        if frame.len() > 1000 {
            sleep(
                Duration::from_secs(1) * u32::try_from(frame.len()).unwrap_or(u32::MAX)
                    / u32::try_from(RATE).unwrap_or(u32::MAX),
            )
            .await;
        }
        Ok(())
    }
}

/// Writes all of it, if the far end takes it.
pub(super) async fn write(stream: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    match timeout(STALLED, stream.write_all(bytes)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

pub(super) fn refused(error: ChannelError) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, error)
}

pub(super) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
