//! Calm beside rotation, over all rounds.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::work::Outcomes;

/// What the rounds of one sort came to, by kind of client.
#[derive(Default)]
pub(crate) struct Totals(BTreeMap<&'static str, Total>);

#[derive(Default)]
struct Total {
    /// Operations a second, of each round.
    rates: Vec<f64>,
    /// The 99th percentile of each round, in milliseconds.
    p99: Vec<f64>,
    done: u64,
    failed: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, (outcomes, lasted): (Outcomes, Duration)) {
        for (kind, outcome) in outcomes {
            let total = self.0.entry(kind).or_default();
            total.rates.push(outcome.done as f64 / lasted.as_secs_f64());
            total.p99.push(outcome.percentile(0.99));
            total.done += outcome.done;
            total.failed += outcome.failed.values().sum::<u64>();
        }
    }

    /// Prints what rotation costs: median (least to most) of each figure.
    pub(crate) fn compare(calm: &Self, rotating: &Self) {
        for (kind, with) in &rotating.0 {
            let Some(without) = calm.0.get(kind) else { continue };
            let throughput = ratios(&with.rates, &without.rates);
            let p99 = ratios(&with.p99, &without.p99);
            println!(
                "{kind:<12} {} done and {} failed while rotating; throughput × {throughput}, p99 × {p99}",
                with.done, with.failed
            );
        }
    }
}

fn ratios(with: &[f64], without: &[f64]) -> String {
    let mut ratios: Vec<f64> =
        with.iter().zip(without).map(|(with, without)| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
    let (least, most) = (ratios.first().copied(), ratios.last().copied());
    format!("{median:.3} ({:.3} to {:.3})", least.unwrap_or_default(), most.unwrap_or_default())
}
