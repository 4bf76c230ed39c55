//! What a JWT must say: times, issuer, audience, subject, and the claims that a role is bound to.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::clock;

/// Clocks differ; the real server allows as much.
const SKEW: i64 = 60;
/// A token that lacks a beginning or an end gets one this far from the other.
const SPAN: i64 = 150;

pub(super) type Claims = Map<String, Value>;

/// What is allowed beside the times of a token. Zero is as above, less is nothing; in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leeway {
    pub(super) skew: i64,
    pub(super) expiration: i64,
    pub(super) not_before: i64,
}

/// What is demanded of a token; an empty list or text demands nothing.
pub(super) struct Demands<'a> {
    pub(super) issuer: &'a str,
    pub(super) subject: &'a str,
    pub(super) audiences: &'a [String],
    pub(super) algorithms: &'a [String],
    pub(super) leeway: Leeway,
}

/// In the order of the real server, with its words.
pub(super) fn check(
    claims: &Claims,
    algorithm: &str,
    demands: &Demands<'_>,
    now: SystemTime,
) -> Result<(), String> {
    let says = |claim: &str, expected: &str| {
        expected.is_empty() || claims.get(claim).and_then(Value::as_str) == Some(expected)
    };
    if !says("iss", demands.issuer) {
        return Err("invalid issuer (iss) claim".to_owned());
    }
    if !says("sub", demands.subject) {
        return Err("invalid subject (sub) claim".to_owned());
    }
    let given = audiences(claims);
    if !demands.audiences.is_empty() && !given.iter().any(|one| demands.audiences.contains(one)) {
        return Err(
            "invalid audience (aud) claim: audience claim does not match any expected audience"
                .to_owned(),
        );
    }
    if !demands.algorithms.is_empty() && !demands.algorithms.iter().any(|own| own == algorithm) {
        return Err(
            "invalid algorithm (alg) header parameter: token signed with unexpected algorithm"
                .to_owned(),
        );
    }
    check_times(claims, demands.leeway, now)
}

fn check_times(claims: &Claims, leeway: Leeway, now: SystemTime) -> Result<(), String> {
    let time = |name: &str| claims.get(name).and_then(Value::as_f64).map(|at| at as i64);
    let (issued, begins, ends) = (time("iat"), time("nbf"), time("exp"));
    if issued.is_none() && begins.is_none() && ends.is_none() {
        let text = "no issued at (iat), not before (nbf), or expiration time (exp) claims in token";
        return Err(text.to_owned());
    }
    let or = |set: i64, default: i64| if set == 0 { default } else { set.max(0) };
    let last = || issued.unwrap_or(i64::MIN).max(begins.unwrap_or(i64::MIN));
    let ends = ends.unwrap_or_else(|| last().saturating_add(or(leeway.expiration, SPAN)));
    let begins =
        begins.or(issued).unwrap_or_else(|| ends.saturating_sub(or(leeway.not_before, SPAN)));
    let now = i64::try_from(clock::unix(now)).unwrap_or(i64::MAX);
    let skew = or(leeway.skew, SKEW);
    if now.saturating_add(skew) < begins {
        return Err("invalid not before (nbf) claim: token not yet valid".to_owned());
    }
    if now.saturating_sub(skew) > ends {
        return Err("invalid expiration time (exp) claim: token is expired".to_owned());
    }
    Ok(())
}

/// One or many.
pub(super) fn audiences(claims: &Claims) -> Vec<String> {
    match claims.get("aud") {
        Some(Value::Array(given)) => given.iter().map(super::fields::shown).collect(),
        Some(Value::String(given)) => vec![given.clone()],
        _ => Vec::new(),
    }
}

/// Whether the claims are those that a role is bound to; the values of a claim are alternatives.
pub(super) fn check_bound(bound: &Claims, globs: bool, claims: &Claims) -> Result<(), String> {
    for (name, expected) in bound {
        let given = find(claims, name).ok_or_else(|| format!("claim {name:?} is missing"))?;
        let fits = |given: &Value| many(expected).any(|expected| matches(expected, given, globs));
        if !many(given).any(fits) {
            return Err(format!("claim {name:?} does not match any associated bound claim values"));
        }
    }
    Ok(())
}

fn matches(expected: &Value, given: &Value, globs: bool) -> bool {
    match (expected.as_str(), given.as_str()) {
        (Some(pattern), Some(text)) if globs => glob(pattern, text),
        _ => expected == given,
    }
}

fn many(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map_or_else(|| std::slice::from_ref(value).iter(), |values| values.iter())
}

/// By name, or by JSON pointer.
pub(super) fn find<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    let Some(pointer) = name.strip_prefix('/') else { return claims.get(name) };
    let (first, rest) = pointer.split_once('/').map_or((pointer, None), |(a, b)| (a, Some(b)));
    let found = claims.get(first)?;
    rest.map_or(Some(found), |rest| found.pointer(&format!("/{rest}")))
}

/// `*` stands for anything, slashes too: that is how Vault's bound claims of type `glob` work.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::*;

    #[test]
    fn a_glob_crosses_slashes_and_is_anchored() {
        let table = [
            ("spiffe://d/ns/*/sa/app", "spiffe://d/ns/a/b/sa/app", true),
            ("spiffe://d/ns/*/sa/app", "spiffe://d/ns/a/sa/apple", false),
            ("spiffe://d/w/*", "spiffe://d/w/one", true),
            ("spiffe://d/w/*", "spiffe://e/w/one", false),
            ("spiffe://d/w", "spiffe://d/w", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_claim_fits_by_any_of_its_values() {
        let claims = |json: Value| super::super::tokens::object(json);
        let given =
            claims(json!({ "groups": ["x", "y"], "sub": "a/b", "n": 1, "deep": { "k": "v" } }));
        let table = [
            (json!({ "groups": ["y", "z"] }), false, true),
            (json!({ "groups": "z" }), false, false),
            (json!({ "sub": "a*" }), true, true),
            (json!({ "sub": "a*" }), false, false),
            (json!({ "n": 1 }), true, true),
            (json!({ "/deep/k": "v" }), false, true),
            (json!({ "email": "v" }), false, false),
        ];
        for (bound, globs, expected) in table {
            let bound = claims(bound);
            assert_eq!(check_bound(&bound, globs, &given).is_ok(), expected, "{bound:?}");
        }
    }

    #[test]
    fn times_are_checked_with_a_minute_of_leeway() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        let table = [
            (json!({ "exp": 9_940 }), true),
            (json!({ "exp": 9_939 }), false),
            (json!({ "exp": 20_000, "nbf": 10_060 }), true),
            (json!({ "exp": 20_000, "nbf": 10_061 }), false),
            // Without a beginning it began 150 seconds before its end.
            (json!({ "exp": 10_210 }), true),
            (json!({ "exp": 10_211 }), false),
            (json!({ "iat": 9_790 }), true),
            (json!({ "iat": 9_789 }), false),
            (json!({}), false),
        ];
        for (claims, expected) in table {
            let claims = super::super::tokens::object(claims);
            let checked = check_times(&claims, Leeway::default(), now);
            assert_eq!(checked.is_ok(), expected, "{claims:?}: {checked:?}");
        }
    }
}
