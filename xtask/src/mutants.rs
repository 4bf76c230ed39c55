//! Whether the tests notice: breaks the code in one place after another, in a copy, and demands that a test fails for
//! each.

use crate::conformance::workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const MUTATIONS: &str = "conformance/mutations.json";

/// A mutation that has not failed by then is one that hangs, and hanging is failing.
const DEADLINE: Duration = Duration::from_secs(300);

/// What is copied; the rest is not needed to build the crate and its tests.
const SOURCES: [&str; 6] =
    ["Cargo.toml", "Cargo.lock", "clippy.toml", "rust-toolchain.toml", "crates", "xtask"];

/// Some of its tests need the development servers. Where they do not, nothing but the crate itself is built for each
/// mutation.
const MANIFEST: &str = "crates/hive-security/Cargo.toml";
const LEFT_OUT: [&str; 2] = ["hive-dev.workspace", "hive-security = { path = \".\""];
const NEED_SERVERS: [&str; 1] = ["rotation"];

struct Mutation {
    name: String,
    file: String,
    search: String,
    replace: String,
    /// Whose tests have to notice; they may be of another crate than what is broken.
    package: String,
    /// Where the tests are that have to notice: `lib`, or a file in `tests`.
    program: String,
    /// What their names contain.
    filter: String,
}

#[derive(Debug, PartialEq)]
enum Fate {
    Caught,
    DoesNotCompile,
    Survived,
}

/// Tries every mutation whose name contains `only`, or all.
pub(crate) fn run(only: Option<&str>) -> Result<()> {
    let mut mutations = mutations()?;
    mutations.retain(|mutation| only.is_none_or(|only| mutation.name.contains(only)));
    // From one program to another a crate is built with other features, or with other crates.
    mutations.sort_by_cached_key(|mutation| (mutation.package.clone(), mutation.program.clone()));
    let copy = Copy::make()?;
    for ((package, program), filters) in filters_by_program(&mutations) {
        if copy.test(package, program, &filters)? != Fate::Survived {
            bail!("a test of {package}, {program}, fails before anything was broken");
        }
    }
    let mut escaped = Vec::new();
    for mutation in &mutations {
        let began = Instant::now();
        let fate = copy.with(mutation)?;
        println!(
            "{:<16} {:>4} s  {}",
            format!("{fate:?}"),
            began.elapsed().as_secs(),
            mutation.name
        );
        if fate != Fate::Caught {
            escaped.push(mutation.name.as_str());
        }
    }
    if escaped.is_empty() { Ok(()) } else { bail!("not caught: {}", escaped.join(", ")) }
}

fn filters_by_program(mutations: &[Mutation]) -> BTreeMap<(&str, &str), Vec<&str>> {
    let mut filters: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for mutation in mutations {
        let of = (mutation.package.as_str(), mutation.program.as_str());
        filters.entry(of).or_default().insert(&mutation.filter);
    }
    filters.into_iter().map(|(program, filters)| (program, filters.into_iter().collect())).collect()
}

/// The sources, and a target directory of their own that is kept for the next time.
struct Copy {
    sources: PathBuf,
    target: PathBuf,
    /// With the development servers, and without them.
    manifests: [String; 2],
}

impl Copy {
    fn make() -> Result<Self> {
        let workspace = workspace()?;
        let sources = std::env::temp_dir().join(format!("hive-mutants-{}", std::process::id()));
        std::fs::create_dir_all(&sources)?;
        for name in SOURCES {
            let from = workspace.join(name);
            if from.exists() {
                // With the time of now: what the last run built, from something broken, is older than that.
                let status = Command::new("cp").arg("-R").arg(from).arg(&sources).status()?;
                anyhow::ensure!(status.success(), "{name} cannot be copied");
            }
        }
        let whole = std::fs::read_to_string(sources.join(MANIFEST))?;
        let mut without = whole.clone();
        for beginning in LEFT_OUT {
            let line = whole.lines().find(|line| line.starts_with(beginning));
            let line = line.with_context(|| format!("{MANIFEST} has no line {beginning:?}"))?;
            without = without.replace(line, "");
        }
        Ok(Self { sources, target: workspace.join("target/mutants"), manifests: [whole, without] })
    }

    fn with(&self, mutation: &Mutation) -> Result<Fate> {
        let path = self.sources.join(&mutation.file);
        let original =
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let found = original.matches(&mutation.search).count();
        if found != 1 {
            bail!("{}: its search text is found {found} times in {}", mutation.name, mutation.file);
        }
        std::fs::write(&path, original.replacen(&mutation.search, &mutation.replace, 1))?;
        let fate = self.test(&mutation.package, &mutation.program, &[&mutation.filter]);
        std::fs::write(&path, original)?;
        fate
    }

    fn test(&self, package: &str, program: &str, filters: &[&str]) -> Result<Fate> {
        let target = match program {
            "lib" => vec!["--lib"],
            program => vec!["--test", program],
        };
        let target = [&["--package", package], &target[..], features(package)].concat();
        let [whole, without] = &self.manifests;
        let manifest = if NEED_SERVERS.contains(&program) { whole } else { without };
        std::fs::write(self.sources.join(MANIFEST), manifest)?;
        if !self.cargo(&[&target[..], &["--no-run"]].concat(), DEADLINE * 6)?.success() {
            return Ok(Fate::DoesNotCompile);
        }
        let status = self.cargo(&[&target[..], &["--"], filters].concat(), DEADLINE)?;
        Ok(if status.success() { Fate::Survived } else { Fate::Caught })
    }

    fn cargo(&self, arguments: &[&str], deadline: Duration) -> Result<ExitStatus> {
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut child = Command::new(program)
            .args(["test", "--quiet"])
            .args(arguments)
            .current_dir(&self.sources)
            .env("CARGO_TARGET_DIR", &self.target)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cargo cannot be run")?;
        wait(&mut child, deadline)
    }
}

/// What the tests of a crate need beside what it builds by itself.
fn features(package: &str) -> &'static [&'static str] {
    match package {
        "hive-security" => &["--all-features"],
        _ => &[],
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It stands in the temporary directory, so a failure leaves nothing that matters.
        let _ = std::fs::remove_dir_all(&self.sources);
    }
}

fn wait(child: &mut std::process::Child, deadline: Duration) -> Result<ExitStatus> {
    let until = Instant::now() + deadline;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // With the test that hangs: it would go on, and may eat memory as it does.
    let group = format!("-{}", child.id());
    Command::new("kill").args(["-KILL", "--", &group]).status()?;
    Ok(child.wait()?)
}

fn mutations() -> Result<Vec<Mutation>> {
    let path: &Path = &workspace()?.join(MUTATIONS);
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let list: Value = serde_json::from_str(&text).context(MUTATIONS)?;
    let mutations = list["mutations"].as_array().context("the file has mutations")?;
    mutations.iter().map(mutation).collect()
}

fn mutation(value: &Value) -> Result<Mutation> {
    let field = |name: &str| {
        let text = value[name].as_str().with_context(|| format!("{value} has no {name}"))?;
        Ok::<_, anyhow::Error>(text.to_owned())
    };
    let text = |name: &str, default: &str| value[name].as_str().unwrap_or(default).to_owned();
    Ok(Mutation {
        name: field("name")?,
        file: field("file")?,
        search: field("search")?,
        replace: field("replace")?,
        // Most of them break the verifier.
        package: text("package", "hive-security"),
        program: text("program", "lib"),
        filter: text("filter", "spiffe::verify"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Running them takes an hour or two; that none has lost its place shows at once.
    #[test]
    fn every_mutation_has_exactly_one_place_in_the_code() {
        for mutation in mutations().unwrap() {
            let path = workspace().unwrap().join(&mutation.file);
            let found = std::fs::read_to_string(path).unwrap().matches(&mutation.search).count();
            assert_eq!(found, 1, "{} in {}", mutation.name, mutation.file);
        }
    }

    #[test]
    fn whatever_hangs_is_ended_with_all_that_it_started() {
        let mut shell = Command::new("sh");
        let mut child =
            shell.args(["-c", "sleep 1000 & wait"]).process_group(0).spawn().expect("a shell");
        let group = format!("-{}", child.id());
        let status = wait(&mut child, Duration::from_millis(200)).expect("it is ended");
        assert!(!status.success());
        let left = || Command::new("kill").args(["-0", "--", &group]).status().expect("kill runs");
        let until = Instant::now() + Duration::from_secs(10);
        while left().success() {
            assert!(Instant::now() < until, "something is left of it");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
