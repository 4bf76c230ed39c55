//! What came of an import: each refusal at once, the rest in numbers.

use super::source::shown;

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) imported: usize,
    pub(super) known: usize,
    pub(super) refused: usize,
    pub(super) vanished: usize,
    /// Identifiers in an index whose agent is gone.
    pub(super) stale: usize,
    pub(super) pheromones: usize,
    ignored: usize,
}

impl Tally {
    pub(super) fn refuse(&mut self, key: &[u8], why: &str) {
        self.refused += 1;
        eprintln!("hive: {}: {why}", shown(key));
    }

    /// A key that is no agent's.
    pub(super) fn ignore(&mut self, key: &[u8]) {
        self.ignored += 1;
        eprintln!("hive: {}: ignored, for it is no agent's key", shown(key));
    }

    pub(super) fn told(&self, dry_run: bool) -> String {
        let imported = if dry_run { "would be imported" } else { "imported" };
        let refused = if dry_run { "would be refused" } else { "refused" };
        let lines = [
            (self.imported, imported),
            (self.known, "known to the registry already, and left as they are"),
            (self.refused, refused),
            (self.vanished, "ended while they were read"),
            (self.stale, "index entries without an agent, ignored"),
            (self.pheromones, "pheromones, ignored: they count for nothing here"),
            (self.ignored, "other keys, ignored"),
        ];
        // That nothing was imported, or refused, is worth a line.
        let said = |(at, (count, _)): &(usize, (usize, &str))| *count > 0 || [0, 2].contains(at);
        let lines = lines.into_iter().enumerate().filter(said);
        lines.map(|(_, (count, what))| format!("{count:>8}  {what}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_happen_is_not_told_but_for_what_matters() {
        let tally = Tally { imported: 3, stale: 1, ..Tally::default() };
        let expected = "       3  imported\n       0  refused\n       1  index entries without an agent, ignored\n";
        assert_eq!(tally.told(false), expected);
        assert!(
            tally.told(true).starts_with("       3  would be imported\n       0  would be refused")
        );
    }
}
