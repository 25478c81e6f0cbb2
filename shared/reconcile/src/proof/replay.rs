//! Which proofs were there before.
//!
//! Only whoever holds a tunnel's private key can send one through it, so what is
//! kept out here is a proof that was overheard within the instance and is used
//! again by somebody who has the tunnel's key and no longer the instance's role.

use std::collections::BTreeMap;

use jiff::Timestamp;
use privnet_model::key::PublicKey;

use super::{Checked, ProofError};

/// Proofs that one tunnel may send before the first of them expires: a spoke
/// tries again after 1, 2, 4 … 60 s when STS cannot be asked.
const MOST_EACH: usize = 16;

/// The proofs that are not yet too old to be used again, of each tunnel.
#[derive(Debug, Clone, Default)]
pub struct Replays {
    /// When each signature expires.
    used: BTreeMap<PublicKey, BTreeMap<String, Timestamp>>,
}

impl Replays {
    /// Takes note of a proof.
    ///
    /// # Errors
    /// It was there before, or this tunnel sends too many.
    pub fn admit(
        &mut self,
        spoke_key: &PublicKey,
        proof: &Checked,
        now: Timestamp,
    ) -> Result<(), ProofError> {
        self.used.retain(|_, used| {
            used.retain(|_, expires| *expires >= now);
            !used.is_empty()
        });
        let used = self.used.entry(*spoke_key).or_default();
        if used.contains_key(&proof.signature) {
            return Err(ProofError::Replayed);
        }
        if used.len() >= MOST_EACH {
            return Err(ProofError::TooMany);
        }
        used.insert(proof.signature.clone(), proof.expires);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use jiff::SignedDuration;

    use super::*;

    fn proof(signature: &str, expires: Timestamp) -> Checked {
        Checked {
            url: String::new(),
            headers: Vec::new(),
            body: "",
            signature: signature.to_owned(),
            expires,
            partition: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
    }

    #[test]
    fn a_proof_is_good_once_for_as_long_as_it_is_good_at_all() {
        let [one, other] = [[1; 32], [2; 32]].map(PublicKey::from_bytes);
        let mut replays = Replays::default();
        let first = proof("a", at(300));
        assert_eq!(replays.admit(&one, &first, at(0)), Ok(()));
        let again = replays.admit(&one, &first, at(300));
        assert_eq!(again, Err(ProofError::Replayed));
        // Another tunnel's is another's, and another proof another.
        assert_eq!(replays.admit(&other, &first, at(0)), Ok(()));
        assert_eq!(replays.admit(&one, &proof("b", at(310)), at(10)), Ok(()));
        // By then it is refused for its age.
        assert_eq!(replays.admit(&one, &first, at(301)), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded_for_each_tunnel_and_forgotten() {
        let [one, other] = [[1; 32], [2; 32]].map(PublicKey::from_bytes);
        let mut replays = Replays::default();
        for second in 0..MOST_EACH as i64 {
            let proof = proof(&second.to_string(), at(second + 300));
            assert_eq!(replays.admit(&one, &proof, at(second)), Ok(()));
        }
        let more = proof("more", at(320));
        assert_eq!(replays.admit(&one, &more, at(20)), Err(ProofError::TooMany));
        assert_eq!(replays.admit(&other, &more, at(20)), Ok(()));
        // The first is too old by then.
        assert_eq!(replays.admit(&one, &more, at(301)), Ok(()));
        replays
            .admit(&other, &proof("last", at(2000)), at(1000))
            .unwrap();
        assert_eq!(replays.used.len(), 1);
    }
}
