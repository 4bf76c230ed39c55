//! "Did you mean": the known word that a mistyped one is nearest to.

/// The most edits that still make a misspelling. More than that is another word.
const EDITS_MAX: usize = 3;

/// The longest word worth a guess: no name that we know is longer.
const WORD_MAX: usize = 64;

/// The candidate nearest to `word`, unless all are too far; the first of equals.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let word: Vec<char> = word.to_lowercase().chars().take(WORD_MAX + 1).collect();
    if word.is_empty() || word.len() > WORD_MAX {
        return None;
    }
    // A third of the word may be wrong, and of a very short one a single letter, but never all.
    let limit = (word.len() / 3).clamp(1, EDITS_MAX).min(word.len() - 1);
    let near = candidates.into_iter().filter_map(|candidate| {
        let letters: Vec<char> = candidate.to_lowercase().chars().collect();
        edits(&word, &letters, limit).map(|edits| (edits, candidate))
    });
    near.min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour to turn
/// one word into the other; `None` if more than `limit`.
fn edits(from: &[char], to: &[char], limit: usize) -> Option<usize> {
    if from.len().abs_diff(to.len()) > limit {
        return None;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = last[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        if row.iter().all(|edits| *edits > limit) {
            return None;
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().filter(|edits| *edits <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_finds_its_word_and_another_word_finds_nothing() {
        let kinds = ["BUILD", "DEPLOY", "TEST", "VALIDATE"];
        for (word, expected) in [
            ("BUIDL", Some("BUILD")),
            ("build", Some("BUILD")),
            ("DEPOY", Some("DEPLOY")),
            ("VALIDATION", Some("VALIDATE")),
            ("TEXT", Some("TEST")),
            ("PAINT", None),
            ("X", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, kinds), expected, "{word}");
        }
    }
}
