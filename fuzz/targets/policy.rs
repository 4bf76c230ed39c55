//! Policy files: nothing is allowed that the file does not name, and a mistake is where the file says so.

#![no_main]

use std::sync::LazyLock;

use hive_fuzz::policy::{self, CALLERS, CALLS, allows};
use hive_security::SpiffeId;
use hive_security::serve::{MethodPolicy, Mistakes};
use libfuzzer_sys::fuzz_target;
use serde_yaml::Value;

/// An input that begins so is a recipe for a policy file; else it is the file.
const RECIPE: u8 = 1;

/// No file names these, unless by a wildcard.
const UNNAMED: [&str; 3] = ["/zq.Unnamed/Zz", "GET /zq", "/zq/Zz/zq"];

static CALLING: LazyLock<Vec<SpiffeId>> = LazyLock::new(|| {
    CALLERS.iter().map(|text| SpiffeId::parse(text).expect("it is a SPIFFE ID")).collect()
});

fuzz_target!(|input: &[u8]| {
    if let Some((&RECIPE, mut recipe)) = input.split_first() {
        let text = policy::write(&mut recipe);
        let policy = MethodPolicy::parse(&text).expect("it is a policy file");
        let file = serde_yaml::from_str(&text).expect("it is YAML");
        return compare(&policy, &file, &text, true);
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    match MethodPolicy::parse(text) {
        Ok(policy) => judge(&policy, text),
        Err(mistakes) => positions(&mistakes, text),
    }
});

fn judge(policy: &MethodPolicy, text: &str) {
    let may_be_wildcard = text.contains(['*', '\\']);
    for method in UNNAMED {
        for caller in CALLING.iter() {
            let allowed = policy.evaluate(method, caller).allowed;
            assert!(
                !allowed || may_be_wildcard,
                "{method} is allowed and nobody said so: {text:?}"
            );
        }
    }
    if let Ok(file) = serde_yaml::from_str::<Value>(text) {
        compare(policy, &file, text, false);
    }
}

/// Holds the policy against what another YAML reader and a slower matcher make of the same file.
fn compare(policy: &MethodPolicy, file: &Value, text: &str, must_be_read: bool) {
    let mut named = Vec::new();
    policy::texts(file, &mut named);
    let concrete = named.iter().take(16).map(|text| text.replace("**", "zq/Zz").replace('*', "zq"));
    let calls: Vec<String> =
        CALLS.iter().chain(&UNNAMED).map(|call| (*call).to_owned()).chain(concrete).collect();
    for call in &calls {
        for caller in CALLING.iter() {
            let decision = policy.evaluate(call, caller);
            let wanted = allows(file, call, &caller.to_string());
            assert!(wanted.is_some() || !must_be_read);
            if let Some(wanted) = wanted {
                assert_eq!(decision.allowed, wanted, "{caller} on {call:?} by {text:?}");
            }
        }
    }
}

/// A place in the file, or just behind a line of it.
fn positions(mistakes: &Mistakes, text: &str) {
    let text =
        text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    assert!(mistakes.iter().next().is_some(), "a file was refused without a reason");
    for mistake in mistakes {
        let length = lines.get(mistake.line.wrapping_sub(1));
        let length = length.unwrap_or_else(|| panic!("{mistake} is on no line of {text:?}"));
        assert!(
            (1..=length + 1).contains(&mistake.column),
            "{mistake} is in no column of {text:?}"
        );
        assert!(mistake.message.len() < 2_048, "a mistake is a sentence");
    }
}
