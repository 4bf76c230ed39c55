//! The table of what the SPIFFE standards ask for, and which test shows it.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CATALOGUE: &str = "conformance/spiffe.json";

/// What a row can bind, in the order of the columns.
const ROLES: [(&str, &str); 4] = [
    ("a", "validator"),
    ("b", "Workload API server and issuer"),
    ("c", "Workload API client"),
    ("f", "federation"),
];

/// One clause of a standard.
#[derive(Debug)]
struct Row {
    id: String,
    requirement: String,
    /// The standard and its section.
    place: String,
    /// The names of the tests for each role that it binds.
    tests: BTreeMap<String, Vec<String>>,
}

/// The tests that `cargo test --workspace` runs, and those that it skips.
#[derive(Debug, Default)]
struct Existing {
    run: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// Prints the table, and fails where a clause has no test, or one that does not exist or is not run.
pub(crate) fn run() -> Result<()> {
    let path = workspace()?.join(CATALOGUE);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let catalogue: Value = serde_json::from_str(&text).context(CATALOGUE)?;
    let rows = rows(&catalogue)?;
    let existing = existing_tests()?;
    print_rows(&rows);
    print_counts(&rows);
    for later in catalogue["later"].as_array().into_iter().flatten() {
        println!("not yet: {} {}", text_of(later, "id")?, text_of(later, "requirement")?);
    }
    let wrong = mistakes(&rows, &existing);
    if wrong.is_empty() {
        Ok(())
    } else {
        bail!("the catalogue is wrong:\n  {}", wrong.join("\n  "))
    }
}

fn print_rows(rows: &[Row]) {
    let width = rows.iter().map(|row| row.place.len()).max().unwrap_or_default();
    println!("tests for each role that a clause binds: {}", ROLES.map(|(_, name)| name).join(", "));
    println!(
        "{:<4} {:>3} {:>3} {:>3} {:>3}  {:<width$}  requirement",
        "row", "a", "b", "c", "f", "standard"
    );
    for row in rows {
        let cell = |role: &str| match row.tests.get(role).map(Vec::len) {
            None => ".".to_owned(),
            Some(0) => "NO".to_owned(),
            Some(tests) => tests.to_string(),
        };
        let [a, b, c, f] = ROLES.map(|(role, _)| cell(role));
        println!(
            "{:<4} {a:>3} {b:>3} {c:>3} {f:>3}  {:<width$}  {}",
            row.id, row.place, row.requirement
        );
    }
}

fn print_counts(rows: &[Row]) {
    println!();
    for (role, name) in ROLES {
        let bound = rows.iter().filter_map(|row| row.tests.get(role));
        let (mut clauses, mut covered, mut tests) = (0, 0, BTreeSet::new());
        for named in bound {
            clauses += 1;
            covered += usize::from(!named.is_empty());
            tests.extend(named);
        }
        println!(
            "{role}  {covered:>2} of {clauses:>2} clauses covered, by {:>2} tests: {name}",
            tests.len()
        );
    }
}

fn mistakes(rows: &[Row], existing: &Existing) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut seen = BTreeSet::new();
    for row in rows {
        if !seen.insert(&row.id) {
            mistakes.push(format!("{}: it is there twice", row.id));
        }
        for (role, named) in &row.tests {
            if named.is_empty() {
                mistakes.push(format!("{}: role {role} is covered by nothing", row.id));
            }
            for name in named {
                if existing.ignored.contains(name) {
                    mistakes.push(format!("{}: the test {name} is ignored", row.id));
                } else if !existing.run.contains(name) {
                    mistakes.push(format!("{}: there is no test {name}", row.id));
                }
            }
        }
    }
    mistakes
}

fn rows(catalogue: &Value) -> Result<Vec<Row>> {
    catalogue["rows"].as_array().context("the catalogue has rows")?.iter().map(row).collect()
}

/// `tests` has a list for each role, or is one list that shows all of them.
fn row(value: &Value) -> Result<Row> {
    let id = text_of(value, "id")?;
    let roles = texts(&value["roles"]);
    anyhow::ensure!(!roles.is_empty(), "{id} binds no role");
    let tests_of = |role: &String| match &value["tests"] {
        Value::Object(by_role) => by_role.get(role).map(texts).unwrap_or_default(),
        list => texts(list),
    };
    if let Value::Object(by_role) = &value["tests"]
        && let Some(odd) = by_role.keys().find(|role| !roles.contains(role))
    {
        bail!("{id} has tests for the role {odd}, which it does not bind");
    }
    if let Some(odd) = roles.iter().find(|role| ROLES.iter().all(|(known, _)| known != role)) {
        bail!("{id}: there is no role {odd}");
    }
    Ok(Row {
        requirement: text_of(value, "requirement")?,
        place: format!("{} {}", text_of(value, "spec")?, text_of(value, "section")?),
        tests: roles.iter().map(|role| (role.clone(), tests_of(role))).collect(),
        id,
    })
}

fn text_of(value: &Value, name: &str) -> Result<String> {
    let text = value[name].as_str().with_context(|| format!("{value} has no {name}"))?;
    Ok(text.to_owned())
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Asks the programs that `cargo test --workspace` runs, so nothing is built that a test run would not use.
fn existing_tests() -> Result<Existing> {
    let mut existing = Existing::default();
    for (package, program) in test_programs()? {
        let prefixed = |name: String| format!("{package}::{name}");
        let ignored = list(&program, &["--list", "--ignored"])?;
        existing.ignored.extend(ignored.into_iter().map(prefixed));
        existing.run.extend(list(&program, &["--list"])?.into_iter().map(prefixed));
    }
    existing.run = &existing.run - &existing.ignored;
    Ok(existing)
}

/// The test programs of the workspace, each with the name of its package.
fn test_programs() -> Result<Vec<(String, PathBuf)>> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(["test", "--workspace", "--locked", "--no-run", "--message-format=json"])
        .args(crate::check::FEATURES)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    if !output.status.success() {
        bail!("the tests cannot be built");
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages are text")?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(messages.filter_map(|message| test_program(&message)).collect())
}

fn test_program(message: &Value) -> Option<(String, PathBuf)> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let program = message["executable"].as_str()?;
    Some((package_name(message["package_id"].as_str()?).to_owned(), program.into()))
}

/// `path+file:///…/name#1.2.3`, or `path+file:///…#name@1.2.3` where the folder has another name.
fn package_name(id: &str) -> &str {
    let (place, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next().unwrap_or(place),
    }
}

fn list(program: &Path, arguments: &[&str]) -> Result<Vec<String>> {
    let name = || program.display().to_string();
    let output = Command::new(program).args(arguments).output().with_context(name)?;
    anyhow::ensure!(output.status.success(), "{} does not list its tests", name());
    let text = String::from_utf8(output.stdout).with_context(name)?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

pub(crate) fn workspace() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask stands in the workspace")?.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn existing() -> Existing {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Existing { run: names(&["p::runs"]), ignored: names(&["p::sleeps"]) }
    }

    fn judge(tests: &Value) -> Vec<String> {
        let value = json!({
            "id": "X1", "requirement": "r", "spec": "S", "section": "1", "roles": ["a", "b"], "tests": tests,
        });
        mistakes(&[row(&value).expect("a row")], &existing())
    }

    #[test]
    fn a_row_is_covered_by_tests_that_run_for_each_of_its_roles() {
        assert!(judge(&json!(["p::runs"])).is_empty());
        assert!(judge(&json!({ "a": ["p::runs"], "b": ["p::runs"] })).is_empty());
        for (tests, expected) in [
            (json!({ "a": ["p::runs"] }), "role b is covered by nothing"),
            (json!({ "a": ["p::runs"], "b": [] }), "role b is covered by nothing"),
            (json!({ "a": ["p::runs"], "b": ["p::sleeps"] }), "the test p::sleeps is ignored"),
            (json!({ "a": ["p::gone"], "b": ["p::runs"] }), "there is no test p::gone"),
        ] {
            assert_eq!(judge(&tests), [format!("X1: {expected}")]);
        }
    }

    #[test]
    fn a_package_is_known_by_either_spelling_of_its_id() {
        assert_eq!(package_name("path+file:///w/crates/hive-dev#0.1.0"), "hive-dev");
        assert_eq!(package_name("path+file:///w/crates/dev#hive-dev@0.1.0"), "hive-dev");
    }
}
