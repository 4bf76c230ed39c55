//! What came out of it.

use crate::Kind;
use crate::driver::Run;

pub(crate) fn print(kinds: &[Kind], runs: &[Vec<Run>]) {
    println!("\n{:<26} {:>10} {:>10} {:>10}", "", "median", "minimum", "maximum");
    for (kind, runs) in kinds.iter().zip(runs) {
        let row = |what: &str, of: &dyn Fn(&Run) -> f64| {
            spread(&format!("{} {what}", kind.name()), runs.iter().map(of).collect());
        };
        row("calls/s", &rate);
        row("p50 µs", &|run| run.p50_us);
        row("p99 µs", &|run| run.p99_us);
        row("server CPU µs/call", &|run| run.server_cpu_s * 1e6 / run.calls);
        row("client CPU µs/call", &|run| run.client_cpu_s * 1e6 / run.calls);
    }
    println!();
    // Each round is compared with itself, for a machine's speed changes from round to round.
    for (what, to) in [("throughput", &rate as &dyn Fn(&Run) -> f64), ("CPU per call", &cpu)] {
        for other in [Kind::Bare, Kind::Go] {
            let find = |wanted| kinds.iter().position(|kind| *kind == wanted).map(|at| &runs[at]);
            let (Some(ours), Some(theirs)) = (find(Kind::Layered), find(other)) else { continue };
            let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| to(ours) / to(theirs));
            spread(&format!("{what}, layered/{}", other.name()), ratios.collect());
        }
    }
}

fn rate(run: &Run) -> f64 {
    run.calls / run.seconds
}

fn cpu(run: &Run) -> f64 {
    (run.server_cpu_s + run.client_cpu_s) / run.calls
}

fn spread(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[0], values[values.len() - 1]);
    let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    let digits = if high < 100.0 { 3 } else { 0 };
    println!("{what:<26} {median:>10.digits$} {low:>10.digits$} {high:>10.digits$}");
}
