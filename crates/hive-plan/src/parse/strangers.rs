//! What a stranger may send: bytes that are no text, files that are too large, too deep or too many,
//! and whatever chance makes up.

use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::tests::{GOOD, around, assert_mistakes};
use super::*;

#[test]
fn bytes_that_are_not_text_are_placed() {
    for (bytes, expected) in [
        (&b"plan: p\nticket\xff"[..], "2:7: not UTF-8: byte 14 is 0xff"),
        (&b"\xc3"[..], "1:1: not UTF-8: byte 0 is 0xc3"),
        (&b"a\r\n\xc3\xa9\xc3"[..], "2:2: not UTF-8: byte 5 is 0xc3"),
    ] {
        assert_eq!(plan_bytes(bytes).expect_err("not text").to_string(), expected);
    }
    assert_eq!(plan_bytes(GOOD.as_bytes()), plan(GOOD));
}

#[test]
fn a_strangers_file_is_bounded_in_every_way() {
    let many_tickets: String =
        (0..TICKETS_MAX + 100).map(|n| format!("  - {{ name: t{n}, kind: QUERY }}\n")).collect();
    assert_mistakes(&around(&many_tickets), &["1003:5: 1100 tickets are too many: at most 1000"]);
    let too_long = format!("plan: {}", "p".repeat(SOURCE_BYTES_MAX));
    assert_mistakes(&too_long, &["1:1: 1048582 bytes are too many: at most 1048576"]);
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let ticket = format!("  - {{ name: a, kind: QUERY, with: {{ x: {deep} }}, attempts: 0 }}\n");
    assert_mistakes(
        &around(&format!("{ticket}  - {{ name: b, kind: QUERY, attempts: 0 }}\n")),
        &[
            "3:68: nested deeper than 32 levels",
            "3:135: expected a whole number from 1 to 10, found 0",
            "4:39: expected a whole number from 1 to 10, found 0",
        ],
    );
    let mistakes = plan(&around(&"  - { a: 1 }\n".repeat(900))).expect_err("three in each");
    assert_eq!(mistakes.len(), 1_001);
    let last = mistakes.iter().last().map(|mistake| mistake.message.as_str());
    assert_eq!(last, Some("1700 more mistakes are not listed"));
}

#[test]
fn a_hostile_file_takes_no_time_worth_mentioning() {
    let full = |unit: &str| unit.repeat(SOURCE_BYTES_MAX / unit.len());
    let bomb: String = (1..20).map(|n| format!("a{n}: &a{n} [*a{}]\n", n - 1)).collect();
    let dense: String = (0..700)
        .map(|n| {
            let needs: Vec<String> = (0..700).step_by(2).map(|m| m.to_string()).collect();
            format!("- {{name: \"{n}\", needs: [\"{}\"]}}\n", needs.join("\",\""))
        })
        .collect();
    for source in [
        full("["),
        full("- "),
        full("? "),
        full("{a: "),
        full("a: [\n"),
        full("!!str "),
        full("&a "),
        full("\"\\x41"),
        full("a,"),
        full("- a\n"),
        full("a: b\n"),
        full("- ${"),
        format!("a0: &a0 x\n{bomb}"),
        format!("plan: p\ntickets:\n{}", &dense[..dense.len().min(SOURCE_BYTES_MAX - 100)]),
    ] {
        let start = Instant::now();
        assert!(plan(&source).is_err());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?} for {:?}…", source.get(..20));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = plan_bytes(&bytes);
    }

    #[test]
    fn no_text_made_of_yamls_own_letters_makes_the_reader_panic(
        text in "[-\\[\\]{}:,?&*!|>'\"%@`#$. \n\tab0~<=é]{0,200}"
    ) {
        let _ = plan(&text);
    }

    #[test]
    fn no_change_to_a_good_plan_makes_the_reader_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6)
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (index, byte, how) in edits {
            let at = index.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, b"[]{}:-,\n $&*!'\"#"[usize::from(byte) % 16]),
                _ => { bytes.remove(at); }
            }
        }
        if let Err(mistakes) = plan_bytes(&bytes) {
            prop_assert!(mistakes.iter().all(|mistake| mistake.line > 0 && mistake.column > 0));
            prop_assert!(mistakes.iter().is_sorted());
        }
    }

    #[test]
    fn any_parameters_read_back_the_same(value in json_value(), text in "\\PC*") {
        let plan = plan(GOOD).expect("no mistakes");
        let file = json!({
            "plan": "p",
            "description": text,
            "tickets": [{ "name": "q", "kind": "QUERY", "with": { "x": value } }],
        });
        let read = super::plan(&file.to_string()).expect("JSON is YAML");
        prop_assert_eq!(&read.tickets()[0].parameters["x"], &value);
        prop_assert_eq!(read.description(), text);
        let written = serde_json::to_string(&read).expect("a plan is JSON");
        prop_assert_eq!(super::plan(&written), Ok(read));
        drop(plan);
    }
}

/// JSON of a plan's depth, with texts that hold no reference.
fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Into::into),
        any::<String>().prop_map(|text| text.replace("${", "$").into()),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[a-z:# ]{0,6}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}
