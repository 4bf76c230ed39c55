//! What a rule of a policy asks of a call, besides the capability: parameters, and how long the answer is wrapped.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::clock::parse_duration;
use super::jwt_claims::glob;
use super::routes::{Call, Verb};

/// Any parameter.
const ANY: &str = "*";

/// Names, and the values they may have; none listed: any.
type Parameters = BTreeMap<String, Vec<Value>>;

/// What a call has to be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Limits {
    allowed: Parameters,
    denied: Parameters,
    required: Vec<String>,
    min_wrapping: Option<Duration>,
    max_wrapping: Option<Duration>,
}

impl Limits {
    /// Takes over a member of a rule; None if it is none of these, or cannot be read.
    pub(super) fn read(&mut self, key: &str, value: &Value) -> Option<()> {
        match key {
            "allowed_parameters" => self.allowed = parameters(value)?,
            "denied_parameters" => self.denied = parameters(value)?,
            "max_wrapping_ttl" => self.max_wrapping = Some(parse_duration(value)?),
            "min_wrapping_ttl" => self.min_wrapping = Some(parse_duration(value)?),
            "required_parameters" => {
                let names = value.as_array()?.iter().filter_map(Value::as_str);
                self.required = names.map(str::to_lowercase).collect();
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether no answer could be wrapped for long enough and not for too long.
    pub(super) fn contradict(&self) -> bool {
        let nonzero = |ttl: &Duration| !ttl.is_zero();
        let limits = self.min_wrapping.filter(nonzero).zip(self.max_wrapping.filter(nonzero));
        limits.is_some_and(|(min, max)| max < min)
    }

    /// Of two rules for the same path.
    pub(super) fn and(mut self, other: &Self) -> Self {
        join(&mut self.allowed, &other.allowed);
        join(&mut self.denied, &other.denied);
        self.required.extend(other.required.iter().cloned());
        let less = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        self.min_wrapping = less(self.min_wrapping, other.min_wrapping);
        self.max_wrapping = less(self.max_wrapping, other.max_wrapping);
        self
    }

    /// Whether a call is like that.
    pub(super) fn admit(&self, call: &Call) -> bool {
        self.admit_wrapping(call.wrap_ttl)
            && (!matches!(call.verb, Verb::Patch | Verb::Read | Verb::Write)
                || self.admit_body(&call.body))
    }

    fn admit_wrapping(&self, ttl: Option<Duration>) -> bool {
        let nonzero = |limit: &Duration| !limit.is_zero();
        let most = self.max_wrapping.filter(nonzero);
        let least = self.min_wrapping.filter(nonzero);
        most.is_none_or(|most| ttl.is_some_and(|ttl| ttl <= most))
            && least.is_none_or(|least| ttl.is_some_and(|ttl| ttl >= least))
    }

    fn admit_body(&self, body: &Map<String, Value>) -> bool {
        let given: BTreeMap<String, &Value> =
            body.iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        if !self.required.iter().all(|name| given.contains_key(name)) {
            return false;
        }
        if !given.is_empty() && self.denied.contains_key(ANY) {
            return false;
        }
        let is_denied = |(name, value): (&String, &&Value)| {
            self.denied.get(name).is_some_and(|all| holds(all, value))
        };
        if given.iter().any(is_denied) {
            return false;
        }
        self.allowed.is_empty()
            || given.iter().all(|(name, value)| match self.allowed.get(name) {
                Some(values) => holds(values, value),
                None => self.allowed.contains_key(ANY),
            })
    }
}

fn parameters(value: &Value) -> Option<Parameters> {
    let pair =
        |(name, values): (&String, &Value)| Some((name.to_lowercase(), values.as_array()?.clone()));
    value.as_object()?.iter().map(pair).collect()
}

/// A name without values allows any, whatever the other rule says.
fn join(own: &mut Parameters, other: &Parameters) {
    for (name, values) in other {
        match own.get_mut(name) {
            Some(known) if known.is_empty() || values.is_empty() => known.clear(),
            Some(known) => known.extend(values.iter().cloned()),
            None => drop(own.insert(name.clone(), values.clone())),
        }
    }
}

/// A value may be a pattern with `*` at its ends. A number of a policy is never that of a body: the real server reads the
/// two into different types.
fn holds(values: &[Value], value: &Value) -> bool {
    let is = |known: &Value| match (known.as_str(), value.as_str()) {
        (Some(pattern), Some(text)) => glob(pattern, text),
        _ => known == value && !known.is_number(),
    };
    values.is_empty() || values.iter().any(is)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(members: &Value) -> Limits {
        let mut limits = Limits::default();
        for (key, value) in members.as_object().unwrap() {
            limits.read(key, value).unwrap();
        }
        limits
    }

    fn admits(limits: &Limits, body: &Value) -> bool {
        limits.admit_body(body.as_object().unwrap())
    }

    #[test]
    fn a_denied_parameter_wins_over_an_allowed_one() {
        let both = limits(
            &json!({ "allowed_parameters": { "*": [] }, "denied_parameters": { "A": ["x*"] } }),
        );
        assert!(admits(&both, &json!({ "a": "y", "b": 1 })));
        assert!(!admits(&both, &json!({ "A": "xy" })));
    }

    #[test]
    fn what_is_not_allowed_or_missing_is_refused() {
        let own = limits(
            &json!({ "allowed_parameters": { "a": [], "b": ["1"] }, "required_parameters": ["a"] }),
        );
        assert!(admits(&own, &json!({ "a": [], "b": "1" })));
        for body in [json!({ "a": 1, "b": "2" }), json!({ "a": 1, "c": 1 }), json!({ "b": "1" })] {
            assert!(!admits(&own, &body), "{body}");
        }
    }

    #[test]
    fn an_answer_that_has_to_be_wrapped_is_wrapped_for_long_enough_and_not_for_too_long() {
        let own = limits(&json!({ "min_wrapping_ttl": "1m", "max_wrapping_ttl": "1h" }));
        let admits = |seconds| own.admit_wrapping(Some(Duration::from_secs(seconds)));
        assert_eq!([59, 60, 3600, 3601].map(admits), [false, true, true, false]);
        assert!(!own.admit_wrapping(None) && Limits::default().admit_wrapping(None));
    }
}
