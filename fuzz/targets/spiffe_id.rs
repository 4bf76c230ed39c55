//! SPIFFE IDs, trust domains and patterns: what parses is what the standard allows, prints itself, and is matched as
//! a slower reader would.

#![no_main]

use hive_security::{IdPattern, SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

/// SPIFFE-ID.md §2.3. Whole SPIFFE IDs have no such limit: 2048 bytes is what must be supported.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let id = spiffe_id(first);
    trust_domain(first);
    let pattern = pattern(second);
    if let (Some(id), Some(pattern)) = (&id, &pattern) {
        compare(pattern, id);
    }
    if let Some(id) = &id {
        let exact = IdPattern::exactly(id);
        assert!(exact.matches(id));
        assert_eq!(
            IdPattern::parse(&exact.to_string()).is_ok_and(|again| again == exact),
            !id.path().is_empty()
        );
    }
});

fn spiffe_id(text: &str) -> Option<SpiffeId> {
    let parsed = SpiffeId::parse(text).ok();
    assert_eq!(parsed.is_some(), is_spiffe_id(text), "{text:?}");
    let id = parsed?;
    let printed = id.to_string();
    assert!(text.eq_ignore_ascii_case(&printed), "{text:?} became {printed:?}");
    assert!(text.ends_with(id.path()), "a path is read as it is");
    assert_eq!(SpiffeId::parse(&printed).ok().as_ref(), Some(&id));
    let joined = SpiffeId::in_trust_domain(&id.trust_domain(), id.path());
    assert_eq!(joined.ok().as_ref(), Some(&id));
    Some(id)
}

/// SPIFFE-ID.md §2, read once more. Scheme and trust domain are written in small letters here.
fn is_spiffe_id(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    scheme.eq_ignore_ascii_case("spiffe")
        && is_trust_domain(&name.to_ascii_lowercase())
        && (path.is_empty() || path[1..].split('/').all(is_segment))
}

fn is_trust_domain(name: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (1..=TRUST_DOMAIN_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
}

fn trust_domain(text: &str) {
    let Ok(name) = TrustDomain::parse(text) else { return };
    assert!(is_trust_domain(name.as_str()), "{text:?} became {name}");
    assert_eq!(name.to_string(), name.as_str());
    assert_eq!(TrustDomain::parse(name.as_str()).ok().as_ref(), Some(&name));
    let own = SpiffeId::in_trust_domain(&name, "").expect("a trust domain has an ID");
    assert_eq!((own.trust_domain(), own.path()), (name, ""));
}

fn pattern(text: &str) -> Option<IdPattern> {
    let pattern = IdPattern::parse(text).ok()?;
    let printed = pattern.to_string();
    assert!(text.eq_ignore_ascii_case(&printed), "{text:?} became {printed:?}");
    assert_eq!(IdPattern::parse(&printed).ok().as_ref(), Some(&pattern));
    Some(pattern)
}

fn compare(pattern: &IdPattern, id: &SpiffeId) {
    let (pattern_text, id_text) = (pattern.to_string(), id.to_string());
    let wanted: Vec<&str> = pattern_text.split('/').skip(2).collect();
    let given: Vec<&str> = id_text.split('/').skip(2).collect();
    let matches = pattern.matches(id);
    assert_eq!(
        matches,
        wanted[0] == given[0] && covers(&wanted[1..], &given[1..]),
        "{pattern} on {id}"
    );
    let elsewhere = TrustDomain::parse("elsewhere.example").expect("it is a name");
    if elsewhere != id.trust_domain() && matches {
        let moved = SpiffeId::in_trust_domain(&elsewhere, id.path());
        assert!(
            !moved.is_ok_and(|moved| pattern.matches(&moved)),
            "{pattern} crosses trust domains"
        );
    }
}

fn covers(wanted: &[&str], given: &[&str]) -> bool {
    match (wanted, given) {
        (["**"], _) | ([], []) => true,
        ([first, wanted @ ..], [other, given @ ..]) => {
            (*first == "*" || first == other) && covers(wanted, given)
        }
        _ => false,
    }
}
