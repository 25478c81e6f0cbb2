//! The guard over a sequence of pages: EC2 says by a token whether there is a
//! next one, and a server that repeats itself must not send us in circles. How
//! many there may be is bounded by [`crate::budget`].

use std::collections::HashSet;

use crate::error::Reason;

/// The tokens of the pages read so far.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    seen: HashSet<String>,
}

impl Pages {
    /// The token of the next page, `None` after the last one.
    pub(crate) fn next(&mut self, token: Option<&str>) -> Result<Option<String>, Reason> {
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Ok(None);
        };
        if !self.seen.insert(token.to_owned()) {
            return Err(Reason::RepeatedPage);
        }
        Ok(Some(token.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_empty_token_ends_the_pages() {
        assert_eq!(Pages::default().next(None), Ok(None));
        assert_eq!(Pages::default().next(Some("")), Ok(None));
    }

    #[test]
    fn a_token_seen_before_is_an_error_wherever_it_comes_again() {
        let mut pages = Pages::default();
        assert_eq!(pages.next(Some("a")), Ok(Some("a".to_owned())));
        assert_eq!(pages.next(Some("b")), Ok(Some("b".to_owned())));
        assert_eq!(pages.next(Some("a")), Err(Reason::RepeatedPage));
    }
}
