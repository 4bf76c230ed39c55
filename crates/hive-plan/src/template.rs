//! References inside parameters: `${ticket.output}`, and `$${` for a literal `${`.

use serde_json::Value;

/// A piece of a parameter's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'t> {
    /// Text that stands for itself.
    Literal(&'t str),
    /// `${…}` around something that is not `ticket.output`, or without its `}`.
    Malformed(&'t str),
    /// What another ticket puts out.
    Output { ticket: &'t str, output: &'t str },
}

/// Splits a text at its references.
pub(crate) fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            parts.extend([Part::Literal(before), Part::Literal("${")]);
            rest = &reference[2..];
        } else {
            let (part, after) = reference_part(reference);
            parts.extend([Part::Literal(before), part]);
            rest = after;
        }
    }
    parts.push(Part::Literal(rest));
    parts.retain(|part| *part != Part::Literal(""));
    parts
}

/// Replaces every reference in every text of `value`, at any depth.
pub(crate) fn resolve<'o>(value: &Value, lookup: &impl Fn(&str, &str) -> Option<&'o str>) -> Value {
    match value {
        Value::String(text) => Value::String(resolve_text(text, lookup)),
        Value::Array(items) => items.iter().map(|item| resolve(item, lookup)).collect(),
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| (key.clone(), resolve(value, lookup))).collect()
        }
        _ => value.clone(),
    }
}

/// Visits every reference in every text of `value`, at any depth.
pub(crate) fn each_reference(value: &Value, visit: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => {
            for part in parts(text) {
                if let Part::Output { ticket, output } = part {
                    visit(ticket, output);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_reference(item, visit)),
        Value::Object(entries) => entries.values().for_each(|item| each_reference(item, visit)),
        _ => {}
    }
}

/// `reference` begins with `${`.
fn reference_part(reference: &str) -> (Part<'_>, &str) {
    let Some(end) = reference.find('}') else {
        return (Part::Malformed(reference), "");
    };
    let (whole, after) = reference.split_at(end + 1);
    let part = match whole[2..end].split_once('.') {
        Some((ticket, output)) if is_word(ticket) && is_word(output) => {
            Part::Output { ticket, output }
        }
        _ => Part::Malformed(whole),
    };
    (part, after)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
}

fn resolve_text<'o>(text: &str, lookup: &impl Fn(&str, &str) -> Option<&'o str>) -> String {
    let resolved = parts(text).into_iter().map(|part| match part {
        Part::Literal(text) | Part::Malformed(text) => text,
        Part::Output { ticket, output } => lookup(ticket, output).unwrap_or_default(),
    });
    resolved.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_split_at_its_references() {
        let build = Part::Output { ticket: "build", output: "artifact" };
        for (text, expected) in [
            ("", vec![]),
            ("plain $ text } {", vec![Part::Literal("plain $ text } {")]),
            ("${build.artifact}", vec![build]),
            ("a${build.artifact}b", vec![Part::Literal("a"), build, Part::Literal("b")]),
            ("${build.artifact}${build.artifact}", vec![build, build]),
            ("$${x}", vec![Part::Literal("${"), Part::Literal("x}")]),
            ("$$${x}", vec![Part::Literal("$"), Part::Literal("${"), Part::Literal("x}")]),
            ("${", vec![Part::Malformed("${")]),
            ("é${build}", vec![Part::Literal("é"), Part::Malformed("${build}")]),
            ("${.a}", vec![Part::Malformed("${.a}")]),
            ("${a.b.c}", vec![Part::Malformed("${a.b.c}")]),
            ("${ a.b }", vec![Part::Malformed("${ a.b }")]),
            ("${a${b.c}}", vec![Part::Malformed("${a${b.c}"), Part::Literal("}")]),
        ] {
            assert_eq!(parts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn references_are_replaced_at_any_depth_and_once() {
        let value = json!({ "a": ["x ${b.c}", 1, { "d": "$${b.c}" }], "${b.c}": null });
        let resolved = resolve(&value, &|ticket, output| {
            assert_eq!((ticket, output), ("b", "c"));
            Some("${b.c}")
        });
        let expected = json!({ "a": ["x ${b.c}", 1, { "d": "${b.c}" }], "${b.c}": null });
        assert_eq!(resolved, expected);
    }
}
