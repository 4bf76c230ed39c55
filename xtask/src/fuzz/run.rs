//! One target, started, waited for and asked what it did.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// By the clock on the wall, and no input takes a hundredth of it: a machine that is busy must not look like a finding.
const INPUT_SECONDS_MAX: u32 = 10;

const MEMORY_MIB_MAX: u32 = 2_048;

/// A target that was told to stop and has not by then is killed: starting and reading the corpus take their time.
const GRACE: Duration = Duration::from_secs(60);

/// A target that runs.
pub(super) struct Run {
    target: &'static str,
    child: Child,
    log: PathBuf,
    until: Instant,
}

/// What a target did.
pub(super) struct Report {
    target: &'static str,
    executions: u64,
    executions_per_s: u64,
    edges: u64,
    edges_all: u64,
    kept: usize,
    memory_mib: u64,
}

impl Run {
    /// Starts `binary` on a copy of its corpus in `folder`, which is emptied first.
    pub(super) fn start(
        target: &'static str,
        binary: &Path,
        sources: &Path,
        folder: &Path,
        seconds: u64,
    ) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let (corpus, found, log) =
            (folder.join("corpus"), folder.join("found"), folder.join("log"));
        fs::create_dir_all(&found)?;
        for name in ["corpus", "regressions"] {
            copy(&sources.join(name).join(target), &corpus)?;
        }
        let dictionary = sources.join("dictionaries").join(target).with_extension("dict");
        let output = File::create(&log)?;
        let child = Command::new(binary)
            .arg(&corpus)
            .arg(format!("-dict={}", dictionary.display()))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
            .args(["-print_final_stats=1", "-use_value_profile=0"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{} cannot be run", binary.display()))?;
        let until = Instant::now() + Duration::from_secs(seconds) + GRACE;
        Ok(Self { target, child, log, until })
    }

    /// Waits until it is over. It is a failure if the target found something, hangs, or did nothing.
    pub(super) fn finish(mut self) -> Result<Report> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > self.until {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{}: it does not stop; see {}", self.target, self.log.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        if !status.success() {
            let input = log.lines().find_map(|line| line.split("Test unit written to ").nth(1));
            let input = input.unwrap_or("no input: it did not get that far");
            bail!("{} found something: {input}\n{}", self.target, reason(&log));
        }
        self.read(&log).with_context(|| format!("{} is not what was expected", self.log.display()))
    }

    fn read(&self, log: &str) -> Result<Report> {
        let statistic = |name: &str| {
            let line = log.lines().find(|line| line.starts_with(&format!("stat::{name}:")));
            let number = line.and_then(|line| line.split_whitespace().next_back());
            number.and_then(|number| number.parse().ok()).with_context(|| format!("no {name}"))
        };
        let edges = log.lines().rev().find_map(|line| number_before(line, "cov: ", " "));
        let all = log.lines().filter_map(|line| number_before(line, "(", " inline 8-bit counters"));
        let executions = statistic("number_of_executed_units")?;
        anyhow::ensure!(executions > 0, "nothing was executed");
        Ok(Report {
            target: self.target,
            executions,
            executions_per_s: statistic("average_exec_per_sec")?,
            edges: edges.context("no coverage: are the targets instrumented?")?,
            edges_all: all.max().unwrap_or_default(),
            kept: log.lines().rev().find_map(|line| number_before(line, "corp: ", "/")).unwrap_or(0)
                as usize,
            memory_mib: statistic("peak_rss_mb")?,
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Nothing is left behind, whatever went wrong; one that is over cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    pub(super) const HEADING: &str =
        "target        executions   per s     edges    of all   corpus   MiB";
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, executions, executions_per_s, edges, edges_all, kept, memory_mib } =
            self;
        write!(
            f,
            "{target:<11} {executions:>12} {executions_per_s:>7} {edges:>9} {edges_all:>9} {kept:>8} {memory_mib:>5}"
        )
    }
}

/// The number in `line` between two texts.
fn number_before(line: &str, before: &str, after: &str) -> Option<u64> {
    let (_, rest) = line.split_once(before)?;
    let end = rest.find(after).unwrap_or(rest.len());
    rest[..end].trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

/// What libFuzzer and the panic said.
fn reason(log: &str) -> String {
    let lines = log
        .lines()
        .skip_while(|line| !line.contains("panicked") && !line.contains("ERROR: libFuzzer"));
    let lines: Vec<&str> = lines.take(12).collect();
    lines.join("\n")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    if !from.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
