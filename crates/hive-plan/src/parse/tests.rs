use serde_json::json;

use super::*;
use crate::ticket::TicketKind;

pub(super) const GOOD: &str = "\
plan: release
description: Build it, then put it where it runs.
deadline: 10m
tickets:
  - name: build
    kind: BUILD
    timeout: 2m
    with:
      source: ./src
      command: [make, \"all\"]
      artifact: out/hello
  - name: deploy
    kind: DEPLOY
    needs: [build]
    attempts: 3
    backoff: 500ms
    credentials:
      - { name: signing-key, path: secret/data/release }
      - { name: ledger, path: database/creds/releases, optional: true }
    with:
      artifact: ${build.artifact}
      file: ${build.file}
      into: /srv/hello
      release: hello-1.2.0
      seal: signing-key
      ledger: ledger
";

/// A plan around these tickets; the first stands on line 3.
pub(super) fn around(tickets: &str) -> String {
    format!("plan: p\ntickets:\n{tickets}")
}

/// Asserts that exactly these mistakes are found, written as `line:column: message`.
pub(super) fn assert_mistakes(source: &str, expected: &[&str]) {
    let mistakes = plan(source).err().map(|mistakes| mistakes.to_string());
    assert_eq!(mistakes.unwrap_or_default(), expected.join("\n"), "in\n{source}");
}

#[test]
fn a_good_plan_is_read_whole() {
    let plan = plan(GOOD).expect("no mistakes");
    assert_eq!(plan.name(), "release");
    assert_eq!(plan.description(), "Build it, then put it where it runs.");
    assert_eq!(plan.deadline(), Duration::from_secs(600));
    let [build, deploy] = plan.tickets() else { panic!("two tickets") };
    assert_eq!((build.name.as_str(), build.kind), ("build", TicketKind::Build));
    assert_eq!(build.timeout, Duration::from_secs(120));
    assert_eq!((build.attempts, build.backoff), (1, Duration::from_secs(1)));
    assert_eq!(build.parameters["command"], json!(["make", "all"]));
    assert_eq!(deploy.needs, std::slice::from_ref(&build.name));
    assert_eq!((deploy.attempts, deploy.backoff), (3, Duration::from_millis(500)));
    assert_eq!(deploy.timeout, Duration::from_secs(60));
    assert_eq!(deploy.parameters["artifact"], "${build.artifact}");
    let credentials: Vec<_> =
        deploy.credentials.iter().map(|c| (c.name.as_str(), c.path.as_str(), c.optional)).collect();
    assert_eq!(
        credentials,
        [
            ("signing-key", "secret/data/release", false),
            ("ledger", "database/creds/releases", true)
        ]
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let windows = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    assert_eq!(plan(&windows), plan(GOOD));
}

#[test]
fn every_mistake_is_reported_with_its_place_in_one_go() {
    let source = "\
plan: Release
deadlin: 10m
tickets:
  - name: build
    kind: BUIDL
    timeout: 2 minutes
  - name: build
    kind: TEST
    atempts: 2
    attempts: 0
    with: { source: 7, command: [] }
  - kind: EXECUTE
    needs: [biuld, build, build]
    with:
      command: [echo, \"${build.x}\"]
      comand: 1
";
    let lower = "use lower-case letters, digits and hyphens, and start with a letter or digit";
    assert_mistakes(
        source,
        &[
            &format!("1:7: `Release` is not a name: {lower}"),
            "2:1: unknown key `deadlin`; did you mean `deadline`?",
            "5:11: unknown kind `BUIDL`; did you mean `BUILD`?",
            "6:14: `2 minutes` is not a duration: write a whole number and its unit, such as \
             500ms, 30s, 5m or 2h",
            "7:11: duplicate ticket name `build`: it is already on line 4",
            "9:5: unknown key `atempts`; did you mean `attempts`?",
            "10:15: expected a whole number from 1 to 10, found 0",
            "11:21: expected text in quotes, found a number",
            "11:33: a command needs at least its program",
            "12:5: a ticket needs the key `name`",
            "13:13: unknown ticket `biuld`; did you mean `build`?",
            "13:27: `build` is needed twice: remove one",
            "16:7: unknown key `comand`; did you mean `command`?",
        ],
    );
}

#[test]
fn what_is_no_plan_at_all_is_said_so() {
    let empty = "the file holds no plan: begin with `plan: <name>` and `tickets:`";
    let tags = "tags are not part of a plan file: remove `tag:yaml.org,2002:str`";
    for (source, expected) in [
        ("", vec![format!("1:1: {empty}")]),
        ("# nothing\n", vec![format!("1:1: {empty}")]),
        ("---\n", vec![format!("2:1: {empty}")]),
        ("[]", vec!["1:1: a plan is a map, found a list".to_owned()]),
        ("plan", vec!["1:1: a plan is a map, found text".to_owned()]),
        (
            "{}",
            vec![
                "1:1: a plan needs the key `plan`".to_owned(),
                "1:1: a plan needs the key `tickets`".to_owned(),
            ],
        ),
        ("!!str x", vec!["1:1: a plan is a map, found text".to_owned(), format!("1:1: {tags}")]),
        ("plan: p\ntickets: []\n", vec!["2:10: a plan needs at least one ticket".to_owned()]),
        ("plan: p\ntickets: 5\n", vec!["2:10: expected a list, found a number".to_owned()]),
        ("plan: p\ntickets: [5]\n", vec!["2:11: a ticket is a map, found a number".to_owned()]),
    ] {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert_mistakes(source, &expected);
    }
}

#[test]
fn what_yaml_allows_and_a_plan_does_not_is_refused() {
    let ticket = "  - { name: a, kind: QUERY }\n";
    for (source, expected) in [
        (
            format!("{}---\nplan: q\n", around(ticket)),
            "4:1: a plan file holds one document: remove this one",
        ),
        (
            around("  - &a { name: a, kind: QUERY }\n"),
            "3:5: anchors are not part of a plan file: remove the `&…`",
        ),
        (
            around("  - { name: a, kind: QUERY, with: { ? [x] : 1 } }\n"),
            "3:39: a key must be text, and this is a list; put it in quotes",
        ),
        (
            around("  - { name: a, kind: QUERY, with: { 1: x } }\n"),
            "3:37: a key must be text, and this is a number; put it in quotes",
        ),
        (
            around("  - { name: a, kind: QUERY, with: { x: .inf } }\n"),
            "3:40: the number `.inf` is too large; put text in quotes",
        ),
        (
            around("  - { name: a, kind: QUERY, name: b }\n"),
            "3:29: duplicate key `name`: it is already on line 3",
        ),
        (
            format!("plan: q\n{}", around(ticket)),
            "2:1: duplicate key `plan`: it is already on line 1",
        ),
        (
            around("  - { name: a, kind: QUERY, with: { x: 1, \"x\": 2 } }\n"),
            "3:43: duplicate key `x`: it is already on line 3",
        ),
        (format!("{}# \0\n", around(ticket)), "4:3: control character U+0000: remove it"),
        (
            around("  - {"),
            "4:1: not YAML: while parsing a node, did not find expected node content",
        ),
    ] {
        assert_mistakes(&source, &[expected]);
    }
}

#[test]
fn an_alias_is_refused_and_breaks_nothing_else() {
    assert_mistakes(
        &around("  - { name: &n a, kind: QUERY }\n  - { name: *n, kind: QUERY, needs: *n }\n"),
        &[
            "3:13: anchors are not part of a plan file: remove the `&…`",
            "4:13: aliases are not part of a plan file: write the value here again",
            "4:37: aliases are not part of a plan file: write the value here again",
        ],
    );
}

#[test]
fn needs_must_exist_and_never_lead_back() {
    let open = |name: &str, needs: &str| {
        format!("  - {{ name: {name}, kind: QUERY, needs: [{needs}] }}\n")
    };
    for (tickets, expected) in [
        (vec![open("a", "a")], vec!["3:37: `a` needs itself"]),
        (
            vec![open("a", "c"), open("b", "a"), open("c", "b")],
            vec!["4:37: these tickets need one another in a circle: a → c → b → a"],
        ),
        (
            vec![open("a", "b"), open("b", "a"), open("c", "d"), open("d", "c, a")],
            vec![
                "4:37: these tickets need one another in a circle: a → b → a",
                "6:37: these tickets need one another in a circle: c → d → c",
            ],
        ),
        (
            vec![open("alpha", ""), open("b", "alhpa, zzz")],
            vec![
                "4:37: unknown ticket `alhpa`; did you mean `alpha`?",
                "4:44: unknown ticket `zzz`; known: alpha, b",
            ],
        ),
        (vec![open("a", ""), open("b", "a"), open("c", "a, b")], vec![]),
        (vec![open("d", "b, c"), open("b", "a"), open("c", "a"), open("a", "")], vec![]),
    ] {
        assert_mistakes(&around(&tickets.concat()), &expected);
    }
}

#[test]
fn a_long_cycle_is_cut_in_the_middle() {
    let ticket =
        |n: usize| format!("  - {{ name: t{n}, kind: QUERY, needs: [t{}] }}\n", (n + 1) % 100);
    let source = around(&(0..100).map(ticket).collect::<String>());
    let mistakes = plan(&source).expect_err("a cycle").to_string();
    assert!(mistakes.ends_with("t12 → t13 → … → t0"), "{mistakes}");
}

#[test]
fn a_reference_must_be_to_an_output_that_is_there_by_then() {
    let build =
        "  - { name: build, kind: BUILD, with: { source: s, command: [c], artifact: a } }\n";
    let run = "  - { name: run, kind: EXECUTE, with: { command: [c] } }\n";
    let middle = "  - { name: middle, kind: QUERY, needs: [build] }\n";
    let user = |needs: &str, text: &str| {
        let with = format!("{{ command: [c, '{text}'] }}");
        format!(
            "{build}{run}{middle}  - {{ name: u, kind: EXECUTE, needs: [{needs}], with: {with} }}\n"
        )
    };
    let advice = "write ${ticket.output}, or $${ for a literal ${";
    for (tickets, expected) in [
        (user("build", "${build.artifact}"), None),
        (user("middle", "x${build.file}y${build.size_bytes}"), None),
        (user("", "$${build.artifact}"), None),
        (
            user("run", "${build.file}"),
            Some(
                "`${build.file}`: add `build` to `needs`, or it may not be done by then".to_owned(),
            ),
        ),
        (
            user("build", "${biuld.file}"),
            Some("unknown ticket in a reference `biuld`; did you mean `build`?".to_owned()),
        ),
        (
            user("build", "${build.fil}"),
            Some("unknown output of `build` (BUILD): `fil`; did you mean `file`?".to_owned()),
        ),
        (
            user("build", "${build.colour}"),
            Some(
                "unknown output of `build` (BUILD): `colour`; known: artifact, file, size_bytes"
                    .to_owned(),
            ),
        ),
        (user("run", "${run.x}"), Some("`run` (EXECUTE) puts nothing out".to_owned())),
        (user("build", "${build}"), Some(format!("`${{build}}` is not a reference: {advice}"))),
        (
            user("build", "${build.file"),
            Some(format!("`${{build.file` is not a reference: {advice}")),
        ),
    ] {
        let mistakes = plan(&around(&tickets)).err();
        let messages: Vec<_> =
            mistakes.iter().flat_map(|m| m.iter().map(|m| m.message.clone())).collect();
        assert_eq!(messages, expected.into_iter().collect::<Vec<_>>(), "in\n{tickets}");
    }
}

#[test]
fn references_are_found_at_any_depth_of_any_kind() {
    let source = around(
        "  - { name: v, kind: VALIDATE, with: { policy: p, input: { a: [{ b: '${x.y}' }] } } }\n  \
         - { name: q, kind: QUERY, with: { deep: [['${v.y}']] } }\n",
    );
    assert_mistakes(
        &source,
        &[
            "3:69: unknown ticket in a reference `x`; known: q, v",
            "4:45: `${v.y}`: add `v` to `needs`, or it may not be done by then",
            "4:45: `v` (VALIDATE) puts nothing out",
        ],
    );
}

#[test]
fn parameters_are_held_against_their_kind() {
    let ticket =
        |kind: &str, with: &str| format!("  - {{ name: t, kind: {kind}, with: {with} }}\n");
    for (tickets, expected) in [
        (ticket("QUERY", "{ anything: [1, { at: all }] }"), vec![]),
        (ticket("QUERY", "[]"), vec!["`with` is a map, found a list"]),
        (
            "  - { name: t, kind: TEST }\n".to_owned(),
            vec!["`with` needs the key `command`", "`with` needs the key `source`"],
        ),
        (
            ticket("COMPENSATE", "{}"),
            vec![
                "COMPENSATE cannot be asked for: when a plan fails, what was done is undone \
                 without it",
            ],
        ),
        (
            ticket("BUILD", "{ source: s, command: [c], artifact: ../a }"),
            vec!["`../a` will not do: write a relative path, without `..`"],
        ),
        (
            ticket("DEPLOY", "{ artifact: a, file: a/b, into: i, release: .. }"),
            vec![
                "`a/b` will not do: write one name, without `/`",
                "`..` will not do: write one name, without `/`",
            ],
        ),
        (
            ticket("DEPLOY", "{ artifact: a, file: f, into: i, release: r, seal: key }"),
            vec!["this ticket's `credentials` list no credential `key`"],
        ),
        (
            ticket("EXECUTE", "{ command: make all, expect: '' }"),
            vec!["expected a list, found text", "this text must not be empty"],
        ),
        (
            ticket("EXECUTE", "{ command: [sleep, 5], undo: [''] }"),
            vec!["expected text in quotes, found a number", "this text must not be empty"],
        ),
        (ticket("VALIDATE", "{ policy: p, input: x }"), vec!["this is a map, found text"]),
    ] {
        let mistakes = plan(&around(&tickets)).err();
        let messages: Vec<_> =
            mistakes.iter().flat_map(|m| m.iter().map(|m| m.message.as_str())).collect();
        assert_eq!(messages, expected, "in\n{tickets}");
    }
}

#[test]
fn settings_stay_within_their_limits() {
    let ticket = |setting: &str| around(&format!("  - {{ name: t, kind: QUERY, {setting} }}\n"));
    for setting in ["timeout: 1s", "timeout: 24h", "attempts: 10", "backoff: 0s", "backoff: 1m"] {
        assert_mistakes(&ticket(setting), &[]);
    }
    let forms = "a whole number and its unit, such as 500ms, 30s, 5m or 2h";
    for (setting, expected) in [
        ("timeout: 999ms", "3:38: `999ms` is out of range: from 1s to 24h".to_owned()),
        ("timeout: 25h", "3:38: `25h` is out of range: from 1s to 24h".to_owned()),
        ("timeout: 30", format!("3:38: `30` is not a duration: write {forms}")),
        ("timeout: 1.5h", format!("3:38: `1.5h` is not a duration: write {forms}")),
        ("timeout: -5s", format!("3:38: `-5s` is not a duration: write {forms}")),
        ("timeout: [5s]", "3:38: expected a duration such as 30s, found a list".to_owned()),
        (
            "timeout: 99999999999999999999h",
            format!("3:38: `99999999999999999999h` is not a duration: write {forms}"),
        ),
        ("attempts: 11", "3:39: expected a whole number from 1 to 10, found 11".to_owned()),
        ("attempts: 1.5", "3:39: expected a whole number from 1 to 10, found 1.5".to_owned()),
        ("attempts: -1", "3:39: expected a whole number from 1 to 10, found -1".to_owned()),
        ("attempts: many", "3:39: expected a whole number, found text".to_owned()),
        ("backoff: 61s", "3:38: `61s` is out of range: from 0ms to 1m".to_owned()),
        ("needs: a", "3:36: expected a list, found text".to_owned()),
        ("needs:", "3:34: expected a list, found nothing".to_owned()),
    ] {
        assert_mistakes(&ticket(setting), &[&expected]);
    }
}

#[test]
fn credentials_are_checked() {
    let ticket =
        |list: &str| around(&format!("  - {{ name: t, kind: QUERY, credentials: [{list}] }}\n"));
    for (list, expected) in [
        ("{ name: a, path: secret/data/x, optional: true }", vec![]),
        ("{ name: a }", vec!["a credential needs the key `path`"]),
        (
            "{ name: a, path: b, optinal: true }",
            vec!["unknown key `optinal`; did you mean `optional`?"],
        ),
        ("{ name: a, path: b, optional: yes }", vec!["expected true or false, found text"]),
        (
            "{ name: a, path: b }, { name: a, path: c }",
            vec!["duplicate credential name `a`: choose another"],
        ),
        ("{ name: a, path: /v1/b }", vec![credentials::VAULT_PATH_RULE]),
        ("{ name: ../a, path: b }", vec![credentials::FILE_NAME_RULE]),
        ("5", vec!["a credential is a map, found a number"]),
    ] {
        let mistakes = plan(&ticket(list)).err();
        let messages: Vec<_> =
            mistakes.iter().flat_map(|m| m.iter().map(|m| m.message.as_str())).collect();
        assert_eq!(messages, expected, "in {list}");
    }
}

#[test]
fn mistakes_are_written_as_compilers_do() {
    let mistakes = plan("plan: p\n").expect_err("no tickets");
    let written = mistakes.with_file("release.yaml").to_string();
    assert_eq!(written, "release.yaml:1:1: a plan needs the key `tickets`");
}

#[test]
fn a_plan_written_down_reads_back_the_same() {
    let plan = plan(GOOD).expect("no mistakes");
    let written = serde_json::to_string(&plan).expect("a plan is JSON");
    assert_eq!(super::plan(&written), Ok(plan));
}
