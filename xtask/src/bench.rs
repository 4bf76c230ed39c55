//! How fast `hive up` starts and how much memory all its processes hold, on a release build; and what the layers of
//! `hive-security` cost, beside a rival.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 20;

/// One start, measured.
struct Sample {
    /// From just before exec to the line that says "all ready", seen from outside.
    ready_outside_ms: f64,
    /// The same, by the program's own clock, from `main`.
    ready_ms: f64,
    first_call_ms: f64,
    /// Sum over all processes, shared pages counted in each.
    resident_mib: f64,
    /// Sum over all processes, shared pages divided among those who share them.
    proportional_mib: f64,
}

/// Measures what is asked for: `hive up` by default.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        None => up(),
        Some((what, options)) if what == "layered" => layered(options),
        Some((what, _)) => bail!("there is no bench {what:?}: it is `layered`, or nothing"),
    }
}

/// See the top of crates/hive-security/benches/layered/main.rs.
fn layered(options: &[String]) -> Result<()> {
    let rival = crate::tools::directory()?.join("bin/rival-go");
    crate::interop::go_program(&crate::conformance::workspace()?.join("benches/rivals"), &rival)?;
    let bench = ["bench", "--locked", "--package", "hive-security", "--bench", "layered", "--"];
    let options = options.iter().map(String::as_str);
    crate::check::cargo(&bench.into_iter().chain(options).collect::<Vec<_>>(), &[])
}

fn up() -> Result<()> {
    crate::check::cargo(&["build", "--release", "--locked", "--package", "hive"], &[])?;
    let binary = crate::check::target_directory()?.join("release/hive");
    println!("`hive up`, release build, {RUNS} starts each; minimum, median, maximum");
    for postgres in ["off", "auto"] {
        let samples = (0..RUNS).map(|_| sample(&binary, postgres)).collect::<Result<Vec<_>>>()?;
        println!("\n--postgres {postgres}");
        row("ready, from outside", "ms", &samples, |sample| sample.ready_outside_ms);
        row("ready, from main", "ms", &samples, |sample| sample.ready_ms);
        row("first authenticated call", "ms", &samples, |sample| sample.first_call_ms);
        row("resident, all processes", "MiB", &samples, |sample| sample.resident_mib);
        row("proportional, all processes", "MiB", &samples, |sample| sample.proportional_mib);
    }
    Ok(())
}

fn row(name: &str, unit: &str, samples: &[Sample], of: impl Fn(&Sample) -> f64) {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let (minimum, median, maximum) =
        (values[0], values[values.len() / 2], values[values.len() - 1]);
    println!("  {name:<28} {minimum:8.1} {median:8.1} {maximum:8.1} {unit}");
}

fn sample(binary: &PathBuf, postgres: &str) -> Result<Sample> {
    let began = Instant::now();
    let mut child = Command::new(binary)
        .args(["up", "--json", "--postgres", postgres])
        .stdout(Stdio::piped())
        .spawn()
        .context("hive cannot be started")?;
    let outcome = observe(&mut child, began);
    stop(&mut child)?;
    outcome
}

fn observe(child: &mut Child, began: Instant) -> Result<Sample> {
    let stdout = child.stdout.take().context("the child was spawned with a pipe")?;
    for line in BufReader::new(stdout).lines() {
        let event: Value = serde_json::from_str(&line?).context("hive up --json prints JSON")?;
        if event["event"] != "ready" {
            continue;
        }
        let ready_outside_ms = began.elapsed().as_secs_f64() * 1_000.0;
        let processes = descendants(child.id());
        return Ok(Sample {
            ready_outside_ms,
            ready_ms: event["ready_ms"].as_f64().context("ready_ms")?,
            first_call_ms: event["first_call_ms"].as_f64().context("first_call_ms")?,
            resident_mib: memory(&processes, "Rss:")?,
            proportional_mib: memory(&processes, "Pss:")?,
        });
    }
    bail!("hive up ended before it was ready")
}

/// The process and everything below it.
fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let children = format!("/proc/{0}/task/{0}/children", found[next]);
        let children = std::fs::read_to_string(children).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        next += 1;
    }
    found
}

fn memory(processes: &[u32], field: &str) -> Result<f64> {
    let mut kib = 0.0;
    for pid in processes {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("the memory of process {pid} cannot be read"))?;
        let line = rollup.lines().find(|line| line.starts_with(field)).context("a rollup line")?;
        let number = line.split_whitespace().nth(1).context("a number of KiB")?;
        kib += number.parse::<f64>()?;
    }
    Ok(kib / 1_024.0)
}

fn stop(child: &mut Child) -> Result<()> {
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while killed.success() && Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    bail!("hive up did not stop when it was asked to")
}
