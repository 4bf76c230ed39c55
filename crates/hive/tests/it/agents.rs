//! `hive agents`: the workers of a stack, as an operator sees them.

use crate::harness::{Place, Up, assert_status, signal, stderr, stdout, wait_until};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn ids(list: &str) -> BTreeSet<String> {
    list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn workers_are_listed_explained_and_watched_and_stay_who_they_are_when_they_restart() {
    let place = Place::new();
    let mut up = Up::start(&place, &["--postgres", "off", "--workers", "2"]);
    let listed = up.hive(&["agents", "list", "--capability", "BUILD"]);
    assert_status(&listed, 0);
    let list = stdout(&listed);
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.lines().all(|line| line.contains("  healthy  ")), "{list}");
    let nobody = up.hive(&["agents", "list", "--type", "guard"]);
    assert!(stdout(&nobody).starts_with("no agents"), "{nobody:?}");

    let explained = up.hive(&["agents", "explain", "BUILD", "--results", "1"]);
    assert_status(&explained, 0);
    let explained = stdout(&explained);
    assert!(explained.starts_with("  1. ") && explained.contains(" = 0.4 × health 1.00"));
    assert!(explained.contains("others are better or were drawn"), "{explained}");
    let wrong = up.hive(&["agents", "explain", "BUILD,TEST"]);
    assert_status(&wrong, 64);

    let first = ids(&list).into_iter().next().expect("there are two");
    wait_until("a worker takes what it is told", || {
        up.hive(&["agents", "notify", &first, "drain", "soon"]).status.success()
    });
    let nobody = up.hive(&["agents", "notify", "00000000-0000-4000-8000-000000000000", "drain"]);
    assert_status(&nobody, 1);
    assert!(stderr(&nobody).contains("was not reached: no agent"), "{nobody:?}");

    let mut watching = up.command(&["agents", "watch"]);
    let mut watching = watching.stdout(Stdio::piped()).spawn().expect("hive can be run");
    let lines = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    let told: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.starts_with("in sync")).collect();
    watching.kill().and_then(|()| watching.wait()).expect("it is ours");
    assert_eq!(ids(&told.join("\n")), ids(&list));

    signal("KILL", up.part("worker-1"));
    up.wait_for(|event| event["event"] == "service-ready" && event["name"] == "worker-1");
    let again = stdout(&up.hive(&["agents", "list"]));
    assert_eq!(ids(&again), ids(&list), "the same agents");
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}

#[test]
fn a_registry_that_lost_everything_is_told_again_who_is_alive() {
    let place = Place::new();
    let data = place.path().join("data");
    let path = data.to_str().expect("UTF-8");
    let mut up = Up::start(&place, &["--postgres", "off", "--workers", "1", "--data-dir", path]);
    let before = ids(&stdout(&up.hive(&["agents", "list"])));
    assert_eq!(before.len(), 1);
    let records = files(&data, "registry.sqlite");
    assert!(!records.is_empty(), "it keeps them in a file");
    records.iter().for_each(|file| std::fs::remove_file(file).expect("it is ours"));
    signal("KILL", up.part("registry"));
    up.wait_for(|event| event["event"] == "service-ready" && event["name"] == "registry");
    wait_until("the worker registers again", || {
        ids(&stdout(&up.hive(&["agents", "list"]))) == before
    });
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}

/// The files below a directory whose names begin so.
fn files(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("it can be read");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let named =
        |path: &Path| path.file_name().is_some_and(|own| own.to_string_lossy().starts_with(name));
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path, name),
            false => Some(path).filter(|path| named(path)).into_iter().collect(),
        })
        .collect()
}
