//! Tables of policies and calls, of files and mistakes, and whatever chance makes up.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::IdPattern;

fn pattern(text: &str) -> IdPattern {
    IdPattern::parse(text).unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{path}")).unwrap()
}

fn mistakes(text: &str) -> Vec<String> {
    MethodPolicy::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// A file of one rule with this `who`.
fn whoever(who: &str) -> String {
    format!("allow:\n  - methods: /a.B/C\n    who: {who}\n")
}

const GOOD: &str = "
allow:
  - methods: [/a.B/C, /a.D/*]
    who: { any: [spiffe://td/ns/*/sa/workers/**, { all: [spiffe://td/x/**, { not: spiffe://td/x/y }] }] }
  # The second rule.
  - methods: /a.B/*
    who: spiffe://td/admin
";

#[test]
fn what_no_rule_allows_is_denied() {
    let policy = MethodPolicy::new()
        .allow("/a.B/C", pattern("spiffe://td/one"))
        .allow("/a.D/*", pattern("spiffe://td/two/**"))
        .allow("/a.D/E", pattern("spiffe://td/one"));
    let table = [
        ("/a.B/C", "one", true),
        ("/a.B/C", "two", false),
        ("/a.B/c", "one", false),
        ("/a.B/CC", "one", false),
        ("/a.D/X", "two/x", true),
        ("/a.D/X", "one", false),
        ("/a.D/E", "one", true),
        ("/a.D/E", "two", true),
        ("/a.DD/E", "two", false),
        ("/a.D/E/F", "two", false),
        ("/a.D/", "two", false),
        ("/a.D", "two", false),
        ("a.B/C", "one", false),
        ("", "one", false),
    ];
    for (method, caller, expected) in table {
        let decision = policy.evaluate(method, &id(&format!("td/{caller}")));
        assert_eq!(decision.allowed, expected, "{method} by {caller}");
    }
    assert!(!MethodPolicy::new().evaluate("/a.B/C", &id("td/one")).allowed);
}

#[test]
fn a_file_says_the_same_as_a_program_and_names_its_lines() {
    let policy = MethodPolicy::parse(GOOD).unwrap();
    let table = [
        ("/a.B/C", "td/ns/p/sa/workers/w", "allowed by rule 1 (line 3)"),
        ("/a.D/X", "td/x/z", "allowed by rule 1 (line 3)"),
        ("/a.D/X", "td/x/y", "denied: no rule allows it"),
        ("/a.D/X", "other/x/z", "denied: no rule allows it"),
        ("/a.B/X", "td/admin", "allowed by rule 2 (line 6)"),
        ("/a.B/C", "td/admin", "allowed by rule 2 (line 6)"),
        ("/a.D/X", "td/admin", "denied: no rule allows it"),
        ("/a.B/X", "td/x/z", "denied: no rule allows it"),
    ];
    for (method, caller, expected) in table {
        let decision = policy.evaluate(method, &id(caller));
        assert_eq!(decision.to_string(), expected, "{method} by {caller}");
        assert_eq!(decision.allowed, expected.starts_with("allowed"));
    }
    let built = MethodPolicy::new().allow("/a.B/*", pattern("spiffe://td/admin"));
    let decision = built.evaluate("/a.B/X", &id("td/admin"));
    assert_eq!(decision.to_string(), "allowed by rule 1");
}

#[test]
fn combinations_mean_what_they_say() {
    let (a, b) = ("spiffe://td/a/**", "spiffe://td/*/b");
    let table = [
        (format!("{{ any: [{a}, {b}] }}"), [true, true, true, false]),
        (format!("{{ all: [{a}, {b}] }}"), [false, true, false, false]),
        (format!("{{ not: {a} }}"), [false, false, true, true]),
        (format!("{{ not: {{ not: {a} }} }}"), [true, true, false, false]),
        (format!("{{ all: [{a}, {{ not: {b} }}] }}"), [true, false, false, false]),
        (format!("{{ not: {{ any: [{a}, {b}] }} }}"), [false, false, false, true]),
        (format!("{{ any: [{a}, {{ not: {b} }}] }}"), [true, true, false, true]),
    ];
    for (who, expected) in table {
        let policy = MethodPolicy::parse(&whoever(&who)).unwrap();
        let callers = ["td/a/x", "td/a/b", "td/c/b", "td/c/c"];
        let allowed = callers.map(|caller| policy.evaluate("/a.B/C", &id(caller)).allowed);
        assert_eq!(allowed, expected, "{who}");
    }
    assert!(!Who::All(Vec::new()).matches(&id("td/a")), "nothing was said, so nobody is meant");
    assert!(!Who::Any(Vec::new()).matches(&id("td/a")));
}

#[test]
fn paths_of_plain_http_are_matched_segment_by_segment_and_by_verb() {
    let caller = pattern("spiffe://td/one");
    let policy = MethodPolicy::new()
        .allow("GET /orders/*", caller.clone())
        .allow("PUT /files/**", caller.clone())
        .allow("/any/verb", caller.clone())
        .allow("GET /", caller);
    let table = [
        ("GET /orders/1", true),
        ("POST /orders/1", false),
        ("get /orders/1", false),
        ("/orders/1", false),
        ("GET /orders", false),
        ("GET /orders/", false),
        ("GET /orders/1/lines", false),
        ("GET /orders/..", false),
        ("GET /orders/%2E%2e", false),
        ("GET /orders/1%2F2", false),
        ("GET /orders/1%5c2", false),
        ("GET /orders/a\\b", false),
        ("GET /orders/caf%C3%A9", true),
        ("PUT /files", true),
        ("PUT /files/a/b", true),
        ("PUT /files/a/../../orders", false),
        ("PUT /files//a", false),
        ("DELETE /any/verb", true),
        ("/any/verb", true),
        ("GET /", true),
        ("GET //", false),
        ("GET ", false),
    ];
    for (method, expected) in table {
        let allowed = policy.evaluate(method, &id("td/one")).allowed;
        assert_eq!(allowed, expected, "{method}");
    }
}

#[test]
#[should_panic(expected = "it must be /pkg.Service/Method")]
fn a_rule_that_could_never_match_is_a_mistake_of_the_programmer() {
    let _ = MethodPolicy::new().allow("a.B/C", pattern("spiffe://td/one"));
}

#[test]
fn every_mistake_has_its_line_and_column() {
    let text = "\
alow: []
allow:
  - methods: [a.B/C, /a.B/C*, /a.B/**/x, 'get /x', /a.B/C]
    who: spiffe://td
    who: spiffe://td/a
  - method: /a.B/C
  - methods: []
    who: { all: [], of: 1 }
  - methods: { }
    who: { any: spiffe://td/a, not: spiffe://td/b }
  - just text
  - methods: /a.B/C
    who: { not: https://td/a }
";
    let expected = [
        "1:1: unknown key `alow`; known: allow",
        "3:15: `a.B/C`: it must be /pkg.Service/Method",
        "3:22: `/a.B/C*`: segment \"C*\" must be",
        "3:31: `/a.B/**/x`: segment \"**\" must be",
        "3:42: `get /x`: before the space, it must have an HTTP verb in capitals",
        "4:10: `spiffe://td` is not a SPIFFE ID pattern: it must have a path",
        "5:5: duplicate key `who`: it is already on line 4",
        "6:5: a rule needs the key `methods`",
        "6:5: a rule needs the key `who`",
        "6:5: unknown key `method`; known: methods, who",
        "7:14: a rule needs at least one method",
        "8:17: this list must not be empty",
        "8:21: unknown key `of`; known: all, any, not",
        "9:14: a method is text such as /pkg.Service/Method, and this is a map",
        "10:17: `all` and `any` take a list, and this is text",
        "10:32: `not` beside `any`: write one inside the other",
        "11:5: a rule is a map, and this is text",
        "13:17: `https://td/a` is not a SPIFFE ID pattern: it must start with spiffe://",
    ];
    let found = mistakes(text);
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_file_that_is_no_policy_says_so() {
    let table = [
        ("", "1:1: the file holds no policy"),
        ("# nothing\n", "1:1: the file holds no policy"),
        ("~", "1:1: the file holds no policy"),
        ("[]", "1:1: a policy is a map, and this is a list"),
        ("{}", "1:1: a policy needs the key `allow`"),
        ("allow:", "1:6: `allow` is a list of rules, and this is nothing"),
        ("allow: []\n---\nallow: []\n", "2:1: a policy file holds one document"),
        ("allow: &a []", "1:8: anchors are not part of a policy file"),
        ("allow: !x []", "1:8: tags are not part of a policy file: remove `!x`"),
        ("allow: *a", "1:8: not YAML: while parsing node, found unknown anchor"),
        ("allow: [\n", "2:1: not YAML"),
        ("allow: []\n\0", "2:1: control character U+0000"),
    ];
    for (text, expected) in table {
        let found = mistakes(text);
        assert!(found[0].starts_with(expected), "{text:?}: {found:?}");
    }
    assert_eq!(MethodPolicy::parse("allow: []"), Ok(MethodPolicy::new()), "denies everything");
}

#[test]
fn a_strangers_file_is_bounded_in_every_way() {
    let nested = |depth: usize| {
        whoever(&format!("{}spiffe://td/a{}", "{ not: ".repeat(depth), " }".repeat(depth)))
    };
    assert!(MethodPolicy::parse(&nested(13)).is_ok());
    assert_eq!(mistakes(&nested(14)), ["3:101: nested deeper than 16 levels"]);
    assert_eq!(mistakes(&nested(200)), ["3:101: nested deeper than 16 levels"]);
    let rule = "  - { methods: /a.B/C, who: spiffe://td/a }\n";
    assert!(MethodPolicy::parse(&format!("allow:\n{}", rule.repeat(1_000))).is_ok());
    let many = format!("allow:\n{}", rule.repeat(1_001));
    assert_eq!(mistakes(&many), ["1002:5: 1001 rules are too many: at most 1000"]);
    let long = format!("allow: [] #{}", "x".repeat(256 * 1024));
    assert_eq!(mistakes(&long), ["1:1: 262155 bytes are too many: at most 262144"]);
    let wrong = format!("allow:\n{}", "  - { a: 1 }\n".repeat(900));
    let wrong = mistakes(&wrong);
    assert_eq!(wrong.len(), 101);
    assert!(wrong[100].ends_with("2600 more mistakes are not listed"), "{}", wrong[100]);
    let segments = format!("allow:\n  - {{ methods: {}, who: spiffe://td/a }}", "/x".repeat(40));
    assert!(mistakes(&segments)[0].ends_with("it has more than 32 segments"));
}

#[test]
fn a_reload_with_a_mistake_keeps_the_old_policy() {
    let handle = PolicyHandle::new(MethodPolicy::parse(&whoever("spiffe://td/one")).unwrap());
    let same = handle.clone();
    let allowed = |caller: &str| same.current().evaluate("/a.B/C", &id(caller)).allowed;
    assert!(handle.reload("allow: [ {} ]").is_err());
    assert!(allowed("td/one") && !allowed("td/two"));
    handle.reload(&whoever("spiffe://td/two")).unwrap();
    assert!(!allowed("td/one") && allowed("td/two"), "every clone sees the new one");
}

/// Pieces of policies, and what stands between them.
fn rubble() -> impl Strategy<Value = String> {
    let pieces = [
        "allow:",
        "methods:",
        "who:",
        "all:",
        "any:",
        "not:",
        "/a.B/C",
        "/a.B/*",
        "GET /x/**",
        "spiffe://td/a",
        "spiffe://td/**",
        " ",
        "  ",
        "\n",
        "\n  ",
        "- ",
        "{ ",
        " }",
        "[",
        "]",
        ", ",
        "? ",
        ": ",
        "&a ",
        "*a",
        "!t ",
        "'",
        "\"",
        "|\n",
        ">-\n",
        "#",
        "---\n",
        "...\n",
        "\t",
        "\r\n",
        "~",
        "é",
        "\u{feff}",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..60)
        .prop_map(|pieces| pieces.concat())
}

/// Whoever a combination means, said once more in the plainest way.
fn naive(who: &Who, id: &SpiffeId) -> bool {
    match who {
        Who::All(several) => !several.is_empty() && !several.iter().any(|who| !naive(who, id)),
        Who::Any(several) => several.iter().filter(|who| naive(who, id)).count() > 0,
        Who::Not(who) => !naive(who, id),
        Who::One(pattern) => pattern.matches(id),
    }
}

fn any_who() -> impl Strategy<Value = (Who, String)> {
    let leaf = prop::sample::select(vec!["spiffe://td/a", "spiffe://td/a/**", "spiffe://td/*"])
        .prop_map(|text| (Who::One(pattern(text)), text.to_owned()));
    leaf.prop_recursive(4, 24, 4, |inner| {
        let several = || prop::collection::vec(inner.clone(), 1..4);
        let list = |(who, texts): (Vec<Who>, Vec<String>), key: &str| {
            let text = format!("{{ {key}: [{}] }}", texts.join(", "));
            (if key == "all" { Who::All(who) } else { Who::Any(who) }, text)
        };
        prop_oneof![
            several().prop_map(move |items| list(items.into_iter().unzip(), "all")),
            several().prop_map(move |items| list(items.into_iter().unzip(), "any")),
            inner.prop_map(|(who, text)| (Who::Not(Box::new(who)), format!("{{ not: {text} }}"))),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![rubble(), any::<String>()]) {
        match MethodPolicy::parse(&text) {
            Ok(policy) => { policy.evaluate("/a.B/C", &id("td/a")); }
            Err(mistakes) => {
                prop_assert!(mistakes.iter().count() > 0);
                prop_assert!(mistakes.iter().all(|one| one.line > 0 && one.column > 0));
            }
        }
    }

    #[test]
    fn no_method_makes_the_evaluation_panic(method in any::<String>()) {
        let policy = MethodPolicy::parse(GOOD).unwrap();
        prop_assert!(!policy.evaluate(&method, &id("td/stranger")).allowed);
    }

    #[test]
    fn what_a_file_says_is_what_is_evaluated(
        (who, text) in any_who(),
        path in prop::sample::select(vec!["td/a", "td/a/b", "td/b", "other/a"]),
    ) {
        let policy = MethodPolicy::parse(&whoever(&text)).unwrap();
        prop_assert_eq!(&policy.rules[0].who, &who);
        let allowed = policy.evaluate("/a.B/C", &id(path)).allowed;
        prop_assert_eq!(allowed, naive(&who, &id(path)));
    }
}

#[test]
fn a_mistake_at_the_end_of_a_file_stands_inside_it() {
    for text in ["allow: [", "allow:\n- methods: [/a", "allow: \"a", "{"] {
        let mistakes = MethodPolicy::parse(text).unwrap_err();
        let lines: Vec<&str> = text.split('\n').collect();
        for mistake in &mistakes {
            assert!(mistake.line <= lines.len(), "{text:?}: {mistake}");
            assert!(mistake.column <= lines[mistake.line - 1].len() + 1, "{text:?}: {mistake}");
        }
    }
}
