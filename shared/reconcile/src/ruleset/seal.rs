//! Whether what the kernel holds is what we want: two fingerprints that the
//! kernel keeps for us in the name of an empty set, the *seal*: that of the text
//! that was loaded, and that of nft's own listing right after.
//!
//! The listing is only ever compared with an earlier listing, so it does not
//! matter how this or that version of nft spells a rule; and a restarted daemon
//! knows its table again without a state file, so counters and flows go on.

use std::fmt;

use super::TABLE;

/// What the kernel holds of our table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadedRuleset {
    /// As it was loaded, from the text with this fingerprint.
    Intact(Fingerprint),
    /// There, but not as it was loaded: changed by hand, or its loading was cut
    /// off before the seal.
    Altered,
}

/// A 64-bit FNV-1a hash. It finds accidents and hand-made changes; who wants to
/// deceive it has `CAP_NET_ADMIN` and needs no deception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

const SEAL: &str = "seal_";

/// The input for `nft -f -` that seals the table just loaded from `text` and
/// listed as `listing`.
pub fn seal(text: Fingerprint, listing: &str) -> String {
    let listing = Fingerprint::of(listing);
    format!("add set {TABLE} {SEAL}{text}_{listing} {{ type mark; }}\n")
}

/// What nft's listing of our table (`nft --stateless list table inet privnet`)
/// says about it.
pub fn inspect(listing: &str) -> LoadedRuleset {
    let Some((seal, rest)) = split_seal(listing) else {
        return LoadedRuleset::Altered;
    };
    let Some((text, sealed)) = seal.split_once('_') else {
        return LoadedRuleset::Altered;
    };
    match (Fingerprint::parse(text), Fingerprint::parse(sealed)) {
        (Some(text), Some(sealed)) if sealed == Fingerprint::of(&rest) => {
            LoadedRuleset::Intact(text)
        }
        (Some(_) | None, Some(_) | None) => LoadedRuleset::Altered,
    }
}

/// The seal's name without its prefix, and the listing without the seal:
/// what the listing was before the seal was added.
fn split_seal(listing: &str) -> Option<(&str, String)> {
    let head = format!("\tset {SEAL}");
    let start = match listing.find(&format!("\n{head}")) {
        Some(newline) => newline + 1,
        None => return None,
    };
    let name_start = start + head.len();
    let name_end = name_start + listing.get(name_start..)?.find(" {")?;
    // nft puts an empty line between the objects of a table.
    let end = ["\n\t}\n\n", "\n\t}\n"].iter().find_map(|closing| {
        let at = listing.get(name_end..)?.find(closing)?;
        Some(name_end + at + closing.len())
    })?;
    let rest = format!("{}{}", listing.get(..start)?, listing.get(end..)?);
    Some((listing.get(name_start..name_end)?, rest))
}

impl Fingerprint {
    /// The fingerprint of a text. Empty lines do not count: a table's last
    /// object has none behind it, until the seal follows it.
    pub fn of(text: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            for byte in line.bytes().chain([b'\n']) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Self(hash)
    }

    fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "table inet privnet {}\n";

    /// As nft 1.0.6 lists a table.
    const LISTING: &str = "table inet privnet {\n\tset a {\n\t\ttype mark\n\t}\n\n\tchain c {\n\t\tip saddr 10.0.0.1 drop\n\t}\n}\n";

    fn sealed(name: &str) -> String {
        let block = format!("\n\tset {name} {{\n\t\ttype mark\n\t}}\n");
        LISTING.replacen("\n\n\tchain", &format!("\n{block}\n\tchain"), 1)
    }

    fn seal_name() -> String {
        let text = seal(Fingerprint::of(TEXT), LISTING);
        text.split(' ').nth(4).unwrap().to_owned()
    }

    #[test]
    fn a_sealed_table_is_intact_and_names_the_text_it_came_from() {
        assert_eq!(
            inspect(&sealed(&seal_name())),
            LoadedRuleset::Intact(Fingerprint::of(TEXT))
        );
    }

    #[test]
    fn a_table_without_a_seal_or_changed_under_it_is_altered() {
        assert_eq!(inspect(LISTING), LoadedRuleset::Altered);
        assert_eq!(inspect(""), LoadedRuleset::Altered);
        let changed = sealed(&seal_name()).replace("10.0.0.1", "10.0.0.2");
        assert_eq!(inspect(&changed), LoadedRuleset::Altered);
        let gone = sealed(&seal_name()).replace("\t\tip saddr 10.0.0.1 drop\n", "");
        assert_eq!(inspect(&gone), LoadedRuleset::Altered);
        assert_eq!(inspect(&sealed("seal_nonsense")), LoadedRuleset::Altered);
        assert_eq!(inspect(&sealed("seal_1_2")), LoadedRuleset::Altered);
    }

    proptest! {
        #[test]
        fn any_listing_can_be_inspected(listing in "(?s).{0,200}|(\t|\n|set seal_| \\{|\\}|[0-9a-f_]){0,60}") {
            let _ = inspect(&listing);
        }
    }
}
