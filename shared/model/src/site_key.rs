//! The preshared key of a static site, and how copies of such keys stand in a file: one a
//! line, with the tunnel's kind and the site's name before it.

use zeroize::Zeroizing;

use crate::ipsec::IkeSecret;
use crate::key::PresharedKey;

/// A static site's preshared key, by what its tunnel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteKey {
    /// WireGuard's.
    Wireguard(PresharedKey),
    /// IKE's.
    Ipsec(IkeSecret),
}

const WIREGUARD: &str = "wireguard";
const IPSEC: &str = "ipsec";
/// The kind, a name of 64 bytes, a key of 512, and what separates them.
const MOST_BYTES: usize = 600;

impl SiteKey {
    /// The line of this site's key, with its end. A site's name has no spaces.
    pub fn to_line(&self, site: &str) -> Zeroizing<String> {
        let (kind, key) = match self {
            Self::Wireguard(key) => (WIREGUARD, key.to_hex()),
            Self::Ipsec(key) => {
                let text = String::from_utf8_lossy(key.as_bytes());
                (IPSEC, Zeroizing::new(text.into_owned()))
            }
        };
        // Enough from the start: growing would leave copies behind.
        let mut line = Zeroizing::new(String::with_capacity(MOST_BYTES));
        for part in [kind, " ", site, " ", &key, "\n"] {
            line.push_str(part);
        }
        line
    }

    /// The site's name and its key of such a line; `None` if it is another.
    pub fn from_line(line: &str) -> Option<(String, Self)> {
        let (kind, rest) = line.split_once(' ')?;
        // The key may have spaces.
        let (site, key) = rest.split_once(' ')?;
        let key = match kind {
            WIREGUARD => Self::Wireguard(PresharedKey::from_hex(key).ok()?),
            IPSEC => Self::Ipsec(IkeSecret::new(key).ok()?),
            _ => return None,
        };
        Some((site.to_owned(), key))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_line_as_it_was() {
        let longest = "x".repeat(512);
        for key in [
            SiteKey::Wireguard(PresharedKey::from_bytes([7; 32])),
            SiteKey::Ipsec(IkeSecret::new("two  words and a space ").unwrap()),
            SiteKey::Ipsec(IkeSecret::new(&longest).unwrap()),
        ] {
            let site = "dc-east.1";
            let line = key.to_line(site);
            assert!(line.len() <= MOST_BYTES && line.ends_with('\n'));
            assert_eq!(line.lines().count(), 1);
            let read = SiteKey::from_line(line.trim_end_matches('\n'));
            assert_eq!(read, Some((site.to_owned(), key)));
        }
    }

    #[test]
    fn other_lines_hold_no_key_and_a_key_does_not_show() {
        for line in [
            "",
            "ipsec",
            "ipsec dc",
            "ipsec dc short",
            "wireguard dc 07",
            "x dc 0000000000",
        ] {
            assert_eq!(SiteKey::from_line(line), None, "{line}");
        }
        let (_, key) = SiteKey::from_line("ipsec dc correct horse battery").unwrap();
        assert!(!format!("{key:?}").contains("horse"));
    }
}
