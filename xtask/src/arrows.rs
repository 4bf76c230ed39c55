//! Which crate may depend on which. The table is the architecture; what is not in it is a mistake.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Production arrows, from a crate to the crates of ours that it may use. See ARCHITECTURE.md.
const ALLOWED: [(&str, &[&str]); 12] = [
    (
        "hive",
        &[
            "hive-api",
            "hive-dev",
            "hive-orchestrator",
            "hive-plan",
            "hive-registry",
            "hive-runtime",
            "hive-security",
            "hive-worker",
        ],
    ),
    ("hive-api", &["hive-plan"]),
    ("hive-dev", &["hive-api", "hive-lease", "hive-runtime", "hive-security"]),
    ("hive-lease", &[]),
    ("hive-orchestrator", &["hive-api", "hive-plan", "hive-runtime", "hive-security"]),
    ("hive-plan", &["hive-yaml"]),
    ("hive-registry", &["hive-api", "hive-runtime", "hive-security"]),
    ("hive-runtime", &[]),
    ("hive-security", &["hive-lease", "hive-yaml"]),
    ("hive-worker", &["hive-api", "hive-plan", "hive-runtime", "hive-security"]),
    ("hive-yaml", &[]),
    ("xtask", &[]),
];

/// What a crate that decides without I/O must not even be able to reach.
const IMPURE: [&str; 7] = ["rand", "reqwest", "rustix", "socket2", "sqlx", "tokio", "tonic"];
const PURE: [&str; 3] = ["hive-lease", "hive-plan", "hive-yaml"];

pub(crate) fn check() -> Result<()> {
    let metadata = metadata()?;
    let arrows = arrows(&metadata)?;
    let mut wrong = forbidden(&arrows);
    wrong.extend(impurities(&arrows));
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{}\nthe arrows that are allowed stand in xtask/src/arrows.rs and ARCHITECTURE.md",
        wrong.join("\n")
    )
}

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn metadata() -> Result<Value> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--no-deps"])
        .output()
        .context("cargo cannot be run")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

/// Every production dependency (not dev, not build) of every crate of ours.
fn arrows(metadata: &Value) -> Result<Arrows> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    Ok(packages.iter().map(|package| (text(&package["name"]), dependencies(package))).collect())
}

fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|one| one["kind"].is_null()).map(|one| text(&one["name"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn forbidden(arrows: &Arrows) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    let mut wrong = Vec::new();
    for (from, targets) in arrows {
        let Some(allowed) = allowed.get(from.as_str()) else {
            wrong.push(format!("{from} is a new crate: say what it may depend on"));
            continue;
        };
        let ours = targets.iter().filter(|target| arrows.contains_key(*target));
        let bad = ours.filter(|target| !allowed.contains(&target.as_str()));
        wrong.extend(bad.map(|target| format!("{from} must not depend on {target}")));
    }
    wrong
}

fn impurities(arrows: &Arrows) -> Vec<String> {
    let of = |name: &&str| arrows.get(*name).cloned().unwrap_or_default();
    PURE.iter()
        .flat_map(|name| of(name).into_iter().map(move |target| (name, target)))
        .filter(|(_, target)| IMPURE.contains(&target.as_str()))
        .map(|(name, target)| format!("{name} decides without I/O and must not depend on {target}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows_of(pairs: &[(&str, &[&str])]) -> Arrows {
        let set = |targets: &[&str]| targets.iter().map(|target| (*target).to_owned()).collect();
        pairs.iter().map(|(from, targets)| ((*from).to_owned(), set(targets))).collect()
    }

    #[test]
    fn an_arrow_that_points_back_is_found() {
        let arrows = arrows_of(&[("hive-plan", &["hive-api"]), ("hive-api", &["hive-plan"])]);
        assert_eq!(forbidden(&arrows), ["hive-plan must not depend on hive-api"]);
    }

    #[test]
    fn a_crate_that_nobody_placed_is_found() {
        assert_eq!(forbidden(&arrows_of(&[("hive-new", &[])])).len(), 1);
    }

    #[test]
    fn a_pure_crate_that_could_do_io_is_found() {
        assert_eq!(impurities(&arrows_of(&[("hive-lease", &["tokio"])])).len(), 1);
    }
}
