//! What the README promises: plans from identity to outcome.

use crate::harness::{Place, Up, assert_status, stdout, story};
use std::path::Path;

const DONE: &str = "\
plan release  done
├─ build     done
├─ test      done
├─ validate  done
├─ deploy    done
└─ verify    done";

fn current(examples: &Path) -> Option<String> {
    let target = std::fs::read_link(examples.join("releases/current")).ok()?;
    Some(target.file_name().expect("a release").to_str().expect("UTF-8").to_owned())
}

#[test]
fn the_release_plan_builds_tests_validates_deploys_and_verifies() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off"]);
    let examples = place.examples();
    let output = up.run_plan(&examples.join("release.yaml"));
    assert_status(&output, 0);
    assert_eq!(story(&output), DONE);
    let program = examples.join("releases/current/hello");
    let said = std::process::Command::new(program).arg("--version").output().expect("it runs");
    assert_eq!(stdout(&said).trim(), "hello 1.2.0");
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}

const BROKEN: &str = "\
plan release-broken  failed: verify: printed \"hello 1.2.0\", expected \"hello 1.2.1\"
├─ build     done  nothing to undo
├─ test      done  nothing to undo
├─ validate  done  nothing to undo
├─ deploy    done → undone
└─ verify    failed  printed \"hello 1.2.0\", expected \"hello 1.2.1\"";

#[test]
fn a_release_that_fails_its_verification_is_undone_and_the_previous_one_is_back() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off"]);
    let examples = place.examples();
    let first = up.run_plan(&examples.join("release-broken.yaml"));
    assert_status(&first, 2);
    assert_eq!(story(&first), BROKEN);
    assert_eq!(current(&examples), None, "there was no release before");

    assert_status(&up.run_plan(&examples.join("release.yaml")), 0);
    let before = current(&examples);
    assert!(before.is_some());
    assert_status(&up.run_plan(&examples.join("release-broken.yaml")), 2);
    assert_eq!(current(&examples), before, "the previous release is back");

    let list = stdout(&up.hive(&["plan", "list"]));
    assert_eq!(list.lines().count(), 3, "{list}");
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}

#[test]
fn a_cancelled_plan_undoes_what_was_done_and_tells_why() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off"]);
    let marks = place.path().join("marks");
    std::fs::create_dir(&marks).expect("a directory");
    let plan = place.path().join("slow.yaml");
    std::fs::write(
        &plan,
        "plan: slow
tickets:
  - name: first
    kind: EXECUTE
    with: { command: [sh, -c, 'true'], undo: [sh, -c, 'exit 0'] }
  - name: second
    kind: EXECUTE
    needs: [first]
    timeout: 10m
    with: { command: [sleep, '600'] }
",
    )
    .expect("a file");
    let submitted = stdout(&up.hive(&["plan", "submit", plan.to_str().expect("UTF-8")]));
    let id =
        submitted.lines().next().and_then(|line| line.split_whitespace().last()).expect("an id");
    crate::harness::wait_until("the second ticket runs", || {
        stdout(&up.hive(&["plan", "show", id])).contains("second  running")
    });
    assert_status(&up.hive(&["plan", "cancel", id, "--reason", "the test says so"]), 0);
    let watched = up.hive(&["plan", "watch", id]);
    assert_status(&watched, 2);
    let told = story(&watched);
    assert!(told.contains("the test says so"), "{told}");
    assert!(told.contains("first   done → undone"), "{told}");
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}

#[test]
fn two_stacks_live_side_by_side_and_a_command_runs_inside_one() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off"]);
    let inside = place
        .hive(&[
            "up",
            "--postgres",
            "off",
            "--workers",
            "1",
            "--",
            "sh",
            "-c",
            "hive plan list; exit 7",
        ])
        .output()
        .expect("hive can be run");
    assert_status(&inside, 7);
    assert!(stdout(&inside).contains("no plans yet"), "{}", stdout(&inside));
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}
