//! How many packets each rule of the policy denied, wherever it was enforced: the
//! data plane and nftables both count, and both begin anew when they are given other
//! rules, which a site that comes or goes is reason enough for. The sums go on as long
//! as the rule of that number says the same.

use std::collections::BTreeMap;

/// What the rules denied since the daemon started.
#[derive(Debug, Default)]
pub struct Denials {
    rules: Vec<Rule>,
    /// The words of the rules whose packets nftables counts: while other rules are on
    /// their way there, a number may mean another rule.
    in_force: Vec<String>,
    /// What nftables' counters said last; `None` until they were read once.
    last: Option<BTreeMap<u16, u64>>,
}

#[derive(Debug)]
struct Rule {
    words: String,
    /// All but what the data plane has counted under its present policy.
    denied: u64,
}

impl Denials {
    /// The policy is another one from now on. `by_data_plane` is what the data plane
    /// counted under the one before; it begins anew.
    pub fn renewed(&mut self, rules: &[String], by_data_plane: &[u64]) {
        let before = std::mem::take(&mut self.rules);
        let rules = rules.iter().enumerate().map(|(number, words)| {
            let same = before.get(number).filter(|rule| rule.words == *words);
            Rule {
                words: words.clone(),
                denied: same.map_or(0, |rule| rule.and(number, by_data_plane)),
            }
        });
        self.rules = rules.collect();
    }

    /// The policy is the same from now on, and its rules have these words: all that counts
    /// goes on.
    pub fn reworded(&mut self, rules: &[String]) {
        let before = std::mem::take(&mut self.rules);
        let mut before = before.into_iter();
        for (number, words) in rules.iter().enumerate() {
            let rule = before.next();
            // nftables has the rule as well, if it had that of the words before.
            if let (Some(rule), Some(enforced)) = (&rule, self.in_force.get_mut(number))
                && *enforced == rule.words
            {
                enforced.clone_from(words);
            }
            self.rules.push(Rule {
                words: words.clone(),
                denied: rule.map_or(0, |rule| rule.denied),
            });
        }
    }

    /// Takes what nftables' counters say, by the number of the rule. What they said at
    /// the first look was denied before the daemon started.
    pub fn read(&mut self, counters: BTreeMap<u16, u64>) {
        if let Some(last) = &self.last {
            for (number, count) in &counters {
                let before = last.get(number).copied().unwrap_or_default();
                // Fewer than before: somebody else had them begin anew.
                let more = count.checked_sub(before).unwrap_or(*count);
                let number = usize::from(*number);
                let enforced = self.in_force.get(number);
                let rule = self.rules.get_mut(number);
                if let Some(rule) = rule.filter(|rule| enforced == Some(&rule.words)) {
                    rule.denied = rule.denied.saturating_add(more);
                }
            }
        }
        self.last = Some(counters);
    }

    /// nftables' rules were loaded: its counters begin anew.
    pub fn loaded(&mut self) {
        self.last = Some(BTreeMap::new());
    }

    /// nftables has the rules of the present policy.
    pub fn are_in_force(&mut self) {
        let rules = self.rules.iter();
        self.in_force = rules.map(|rule| rule.words.clone()).collect();
    }

    /// Packets that each rule denied, by its number, with what the data plane has
    /// counted under its present policy.
    pub fn total(&self, by_data_plane: &[u64]) -> Vec<u64> {
        let rules = self.rules.iter().enumerate();
        rules
            .map(|(number, rule)| rule.and(number, by_data_plane))
            .collect()
    }
}

impl Rule {
    fn and(&self, number: usize, by_data_plane: &[u64]) -> u64 {
        let more = by_data_plane.get(number).copied().unwrap_or_default();
        self.denied.saturating_add(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &[u64] = &[];

    fn words(rules: &[&str]) -> Vec<String> {
        rules.iter().copied().map(str::to_owned).collect()
    }

    /// With these rules in force everywhere, freshly loaded.
    fn denials(rules: &[&str]) -> Denials {
        let mut denials = Denials::default();
        denials.renewed(&words(rules), NOTHING);
        denials.loaded();
        denials.are_in_force();
        denials
    }

    #[test]
    fn what_the_data_plane_and_nftables_denied_is_added_up() {
        let mut denials = denials(&["a", "b"]);
        denials.read([(1, 3)].into());
        assert_eq!(denials.total(&[5, 1]), [5, 4]);
        denials.read([(0, 2), (1, 3)].into());
        assert_eq!(denials.total(&[5, 1]), [7, 4]);
    }

    #[test]
    fn what_was_denied_before_the_daemon_started_does_not_count() {
        let mut denials = Denials::default();
        denials.renewed(&words(&["a"]), NOTHING);
        denials.read([(0, 100)].into());
        denials.are_in_force();
        assert_eq!(denials.total(NOTHING), [0]);
        denials.read([(0, 101)].into());
        assert_eq!(denials.total(NOTHING), [1]);
    }

    #[test]
    fn rules_that_are_loaded_again_count_on() {
        let mut denials = denials(&["a"]);
        denials.read([(0, 4)].into());
        denials.loaded();
        denials.are_in_force();
        // As many as before, and one more, of which all are new.
        denials.read([(0, 5)].into());
        assert_eq!(denials.total(NOTHING), [9]);
        // Somebody else flushed them, took them away, and put them back.
        denials.read([(0, 2)].into());
        assert_eq!(denials.total(NOTHING), [11]);
        denials.read(BTreeMap::new());
        denials.read([(0, 2)].into());
        assert_eq!(denials.total(NOTHING), [13]);
    }

    #[test]
    fn a_rule_that_says_the_same_counts_on_under_another_policy() {
        let mut denials = denials(&["a", "b", "no proof of identity"]);
        denials.read([(0, 1), (1, 1), (2, 1)].into());
        denials.renewed(
            &words(&["a", "c", "no proof of identity", "d"]),
            &[10, 10, 10],
        );
        assert_eq!(denials.total(NOTHING), [11, 0, 11, 0]);
        denials.renewed(&words(&["a"]), &[1]);
        assert_eq!(denials.total(&[1]), [13]);
    }

    #[test]
    fn a_rule_that_says_the_same_in_other_words_counts_on() {
        let mut denials = denials(&["a", "b"]);
        denials.read([(0, 1), (1, 1)].into());
        denials.reworded(&words(&["a", "the same as b"]));
        // The data plane goes on, too.
        assert_eq!(denials.total(&[10, 10]), [11, 11]);
        denials.read([(0, 2), (1, 3)].into());
        assert_eq!(denials.total(&[10, 10]), [12, 13]);
        // A site comes: the words are the same, and the data plane begins anew.
        denials.renewed(&words(&["a", "the same as b"]), &[10, 11]);
        assert_eq!(denials.total(NOTHING), [12, 14]);
    }

    #[test]
    fn other_words_make_no_rule_of_what_nftables_has_from_before() {
        let mut denials = denials(&["a"]);
        denials.renewed(&words(&["b"]), NOTHING);
        denials.reworded(&words(&["the same as b"]));
        denials.read([(0, 1)].into());
        assert_eq!(denials.total(NOTHING), [0]);
        denials.are_in_force();
        denials.read([(0, 2)].into());
        assert_eq!(denials.total(NOTHING), [1]);
    }

    #[test]
    fn rules_that_had_no_words_get_them() {
        let mut denials = denials(&[]);
        denials.reworded(&words(&["a", "b"]));
        assert_eq!(denials.total(&[3]), [3, 0]);
        denials.are_in_force();
        denials.read([(1, 2)].into());
        assert_eq!(denials.total(&[3]), [3, 2]);
        denials.reworded(&words(&["a"]));
        assert_eq!(denials.total(&[3]), [3]);
    }

    #[test]
    fn what_the_rules_before_denied_is_no_other_rules() {
        let mut denials = denials(&["a", "b"]);
        denials.renewed(&words(&["a", "c"]), NOTHING);
        // nftables has the rules before, until it has been given these.
        denials.read([(0, 1), (1, 1)].into());
        assert_eq!(denials.total(NOTHING), [1, 0]);
        denials.loaded();
        denials.are_in_force();
        denials.read([(1, 1)].into());
        assert_eq!(denials.total(NOTHING), [1, 1]);
        // More than there are rules.
        denials.read([(1, 1), (7, 1)].into());
        assert_eq!(denials.total(NOTHING), [1, 1]);
    }
}
