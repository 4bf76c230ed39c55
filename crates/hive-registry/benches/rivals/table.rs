//! What was measured in all rounds, side by side.

use std::collections::BTreeMap;
use std::fmt;

use crate::calls::Times;
use crate::driver::processor_s;
use crate::vitals::Sample;

/// What, whose, and a row for each round.
#[derive(Default)]
pub(crate) struct Table {
    calls: BTreeMap<(usize, String, String), Vec<Row>>,
    /// Resident, in MiB, with all agents.
    memory: BTreeMap<String, Vec<f64>>,
}

struct Row {
    rate: f64,
    p50: f64,
    p99: f64,
    /// What a call cost the server of a processor.
    server_us: f64,
}

/// A server whose calls are measured.
pub(crate) struct Measured<'a> {
    pub(crate) whose: &'a str,
    pub(crate) pid: u32,
    pub(crate) table: &'a mut Table,
}

impl Measured<'_> {
    /// Rows are printed in the order of `place`.
    pub(crate) async fn measure(
        &mut self,
        place: usize,
        what: &str,
        calls: impl Future<Output = Times>,
    ) {
        let pid = self.pid.to_string();
        let before = processor_s(&pid);
        let times = calls.await;
        let server_us = (processor_s(&pid) - before) / times.count() as f64 * 1e6;
        self.table.add(place, what, self.whose, &times, server_us);
    }

    /// Memory with all agents.
    pub(crate) fn weigh(&mut self) {
        let mib = Sample::of(self.pid).resident_mib();
        println!("  {}, resident with all agents: {mib:.0} MiB", self.whose);
        self.table.memory.entry(self.whose.to_owned()).or_default().push(mib);
    }
}

impl Table {
    fn add(&mut self, place: usize, what: &str, whose: &str, times: &Times, server_us: f64) {
        times.print(&format!("  {whose}, {what}"), 1);
        println!("    of a processor, for each call: the server {server_us:.1} µs");
        let (rate, p50, p99) = (times.rate(1), times.at(0.5), times.at(0.99));
        let row = Row { rate, p50, p99, server_us };
        self.calls.entry((place, what.to_owned(), whose.to_owned())).or_default().push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24} {:<8}{:>26}{:>26}{:>28}{:>18}",
            "", "", "calls/s", "p50 ms", "p99 ms", "server µs/call"
        )?;
        for ((_, what, whose), rows) in &self.calls {
            let of = |value: fn(&Row) -> f64, digits| spread(rows.iter().map(value), digits);
            let (rate, p50) = (of(|row| row.rate, 0), of(|row| row.p50, 2));
            let (p99, server_us) = (of(|row| row.p99, 2), of(|row| row.server_us, 0));
            writeln!(f, "{what:<24} {whose:<8}{rate:>26}{p50:>26}{p99:>28}{server_us:>18}")?;
        }
        for (whose, mib) in &self.memory {
            let mib = spread(mib.iter().copied(), 0);
            writeln!(f, "{:<24} {whose:<8}{mib:>26}", "resident MiB, agents")?;
        }
        Ok(())
    }
}

/// The middle, and from where to where.
fn spread(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    let middle = values[values.len() / 2];
    format!("{middle:.digits$} ({least:.digits$} – {most:.digits$})")
}
