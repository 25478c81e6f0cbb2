//! What somebody may have meant: names that are nearly the one that was written.

/// More would not help.
const MOST: usize = 3;

/// The names nearest to a text, the nearest first.
pub(super) fn matches<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let text = text.to_lowercase();
    // A third of the letters may be wrong, and ids differ in few.
    let limit = (text.chars().count() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            if text.len() >= 3 && (lower.contains(&text) || text.contains(&lower)) {
                return Some((0, name));
            }
            let distance = distance(&text, &lower);
            (distance <= limit).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.truncate(MOST);
    near.into_iter().map(|(_, name)| name).collect()
}

/// How many letters must be put in, left out or changed (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_levenshteins() {
        for (a, b, expected) in [("", "abc", 3), ("kitten", "sitting", 3), ("dc", "dc", 0)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn nearly_right_is_found_and_nonsense_is_not() {
        let names = ["spoke-a", "spoke-b", "dc-east", "i-0123456789abcdef0"];
        assert_eq!(matches("spok-a", names), ["spoke-a", "spoke-b"]);
        assert_eq!(
            matches("i-0123456789abcdef1", names),
            ["i-0123456789abcdef0"]
        );
        assert_eq!(matches("DC", ["dc-east", "xx"]), [""; 0]);
        assert_eq!(matches("zebra", names), [""; 0]);
    }
}
