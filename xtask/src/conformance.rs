//! The table of what the SPIFFE standards ask for, and which test shows it.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const CATALOGUE: &str = "conformance/spiffe.json";

/// Prints the table, and fails where it names a test that does not exist or leaves a row unexplained.
pub(crate) fn run() -> Result<()> {
    let rows = rows()?;
    let tests = existing_tests(&rows)?;
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    println!("{:<5} {:<6} {:<8} {:<5} requirement", "row", "roles", "status", "tests");
    for row in &rows {
        let field = |name| row[name].as_str().unwrap_or_default();
        let named = named(row);
        println!(
            "{:<5} {:<6} {:<8} {:<5} {}",
            field("id"),
            roles(row).join(" "),
            field("status"),
            named.len(),
            field("requirement")
        );
        for role in roles(row) {
            counts.entry(role).or_default()[usize::from(field("status") == "covered")] += 1;
        }
        wrong.extend(mistakes(row, &tests));
    }
    println!();
    for (role, [absent, covered]) in counts {
        println!("role {role}: {covered} of {} covered", absent + covered);
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        bail!("the catalogue is wrong:\n  {}", wrong.join("\n  "))
    }
}

fn mistakes(row: &Value, tests: &BTreeSet<String>) -> Vec<String> {
    let id = row["id"].as_str().unwrap_or("a row without id");
    let named = named(row);
    let mut mistakes: Vec<String> = named
        .iter()
        .filter(|name| !tests.contains(**name))
        .map(|name| format!("{id}: there is no test {name}"))
        .collect();
    match row["status"].as_str() {
        Some("covered") if named.is_empty() => mistakes.push(format!("{id}: covered by nothing")),
        Some("covered") => {}
        Some("absent") if row["reason"].is_string() => {}
        _ => mistakes.push(format!("{id}: neither covered, nor absent with a reason")),
    }
    mistakes
}

fn rows() -> Result<Vec<Value>> {
    let path = workspace()?.join(CATALOGUE);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let catalogue: Value = serde_json::from_str(&text).context(CATALOGUE)?;
    catalogue["rows"].as_array().cloned().context("the catalogue has rows")
}

/// Every test of the crates that the rows name.
fn existing_tests(rows: &[Value]) -> Result<BTreeSet<String>> {
    let crates: BTreeSet<&str> =
        rows.iter().flat_map(named).filter_map(|name| name.split("::").next()).collect();
    let mut tests = BTreeSet::new();
    for package in crates {
        tests.extend(list(package)?);
    }
    Ok(tests)
}

/// As `cargo test -- --list` prints them, behind the name of the crate.
fn list(package: &str) -> Result<Vec<String>> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(["test", "--package", package, "--lib", "--tests", "--", "--list"])
        .output()
        .context("cargo cannot be run")?;
    if !output.status.success() {
        bail!(
            "the tests of {package} cannot be listed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = String::from_utf8(output.stdout).context("a list of tests is text")?;
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(|name| format!("{package}::{name}")).collect())
}

fn named(row: &Value) -> Vec<&str> {
    texts(&row["tests"])
}

fn roles(row: &Value) -> Vec<&str> {
    texts(&row["roles"])
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(crate) fn workspace() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask stands in the workspace")?.to_path_buf())
}
