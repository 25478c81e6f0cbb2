//! The metadata service asked as IMDSv1 did, without a session token: it must refuse.
//! The SDK's client cannot ask so, which is right; this is for the doctor alone.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock::{ToldTime, told};
use crate::imds::{Imds, ImdsError};

/// The service is on the host next door.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of an answer only its head counts.
const MOST_BYTES: u64 = 4096;

/// What the service says to who has no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokenless {
    /// Whether it answers what it is asked (IMDSv1 is on).
    pub answered: bool,
    /// What it says of the time.
    pub time: Option<ToldTime>,
}

impl Imds {
    /// Asks without a token, within 2 s.
    ///
    /// # Errors
    /// Nobody answers in HTTP, or the endpoint is one of HTTPS.
    pub async fn without_token(&self) -> Result<Tokenless, ImdsError> {
        let host = self.endpoint();
        let address = match host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
            _ => format!("{host}:80"),
        };
        let unreachable = |detail: String| ImdsError::Unreachable {
            endpoint: host.to_owned(),
            detail,
        };
        let asked = timeout(PATIENCE, ask(&address, host));
        let head = match asked.await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {PATIENCE:?}"))),
        };
        read(&head).ok_or_else(|| ImdsError::NotMetadata {
            endpoint: host.to_owned(),
            detail: "it does not speak HTTP".to_owned(),
        })
    }
}

async fn ask(address: &str, host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET /latest/meta-data/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut head).await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn read(head: &str) -> Option<Tokenless> {
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?;
    let status: u16 = status.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.map_while(|line| line.split_once(':'));
    let date = headers
        .filter(|(name, _)| name.eq_ignore_ascii_case("date"))
        .find_map(|(_, value)| told(value));
    Some(Tokenless {
        answered: (200..300).contains(&status),
        time: date,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn only_an_answer_is_an_answer() {
        let answered = |head| read(head).map(|found| found.answered);
        assert_eq!(answered("HTTP/1.1 200 OK\r\n\r\nami-id\n"), Some(true));
        assert_eq!(answered("HTTP/1.1 401 Unauthorized\r\n\r\n"), Some(false));
        assert_eq!(answered("HTTP/1.0 404 Not Found\r\n"), Some(false));
        for nonsense in ["", "SSH-2.0-OpenSSH", "HTTP/1.1", "HTTP/1.1 x y"] {
            assert_eq!(answered(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn the_time_is_among_the_headers() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let head = format!("HTTP/1.1 401 x\r\nServer: y\r\ndate: {date}\r\n\r\nDate: none\r\n");
        assert!(read(&head).unwrap().time.is_some());
        assert!(
            read("HTTP/1.1 401 x\r\n\r\nDate: x")
                .unwrap()
                .time
                .is_none()
        );
    }
}
