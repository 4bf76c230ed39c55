//! What a scalar without quotes means: the YAML 1.2 core schema, as far as JSON can say it.

use serde_json::Number;

/// The value of a scalar without quotes.
#[derive(Clone, Debug, PartialEq)]
pub enum Plain {
    /// A truth value.
    Bool(bool),
    /// Nothing.
    Null,
    /// A number.
    Number(Number),
    /// The text as it is written.
    Text,
    /// A number that JSON cannot hold, such as `.inf`.
    Unrepresentable,
}

/// Reads one by the core schema of YAML 1.2 (§10.3).
pub fn core_schema(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Plain::Null,
        "true" | "True" | "TRUE" => Plain::Bool(true),
        "false" | "False" | "FALSE" => Plain::Bool(false),
        _ => number(text),
    }
}

fn number(text: &str) -> Plain {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Plain::Unrepresentable;
    }
    let radix = match text.get(..2) {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        _ => None,
    };
    match radix {
        Some(radix) if text.len() > 2 && text[2..].chars().all(|c| c.is_digit(radix)) => {
            u64::from_str_radix(&text[2..], radix)
                .map_or(Plain::Unrepresentable, |value| Plain::Number(value.into()))
        }
        _ if is_decimal(unsigned) => decimal(text, unsigned),
        _ => Plain::Text,
    }
}

fn decimal(text: &str, unsigned: &str) -> Plain {
    let number = if unsigned.bytes().all(|c| c.is_ascii_digit()) {
        let text = text.strip_prefix('+').unwrap_or(text);
        text.parse::<i64>()
            .map(Number::from)
            .or_else(|_| text.parse::<u64>().map(Number::from))
            .ok()
    } else {
        text.parse::<f64>().ok().and_then(Number::from_f64)
    };
    number.map_or(Plain::Unrepresentable, Plain::Number)
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`, from YAML 1.2.2 §10.3.2.
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    let some_digits = |text: &str| !text.is_empty() && digits(text);
    let mantissa_is_decimal = match mantissa.split_once('.') {
        Some(("", fraction)) => some_digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => some_digits(mantissa),
    };
    let exponent_is_decimal =
        |exponent: &str| some_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    mantissa_is_decimal && exponent.is_none_or(exponent_is_decimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_yaml_1_2_says() {
        let int = |value: i64| Plain::Number(value.into());
        let float = |value: f64| Plain::Number(Number::from_f64(value).expect("finite"));
        for (text, expected) in [
            ("", Plain::Null),
            ("~", Plain::Null),
            ("true", Plain::Bool(true)),
            ("yes", Plain::Text),
            ("0", int(0)),
            ("+7", int(7)),
            ("-12", int(-12)),
            ("0x1F", int(31)),
            ("0o17", int(15)),
            ("0x", Plain::Text),
            ("18446744073709551615", Plain::Number(u64::MAX.into())),
            ("18446744073709551616", Plain::Unrepresentable),
            ("1.5", float(1.5)),
            ("1.", float(1.0)),
            (".5", float(0.5)),
            ("1e3", float(1000.0)),
            ("1e999", Plain::Unrepresentable),
            ("-.inf", Plain::Unrepresentable),
            (".nan", Plain::Unrepresentable),
            ("1.2.3", Plain::Text),
            ("1e", Plain::Text),
            (".", Plain::Text),
            ("5m", Plain::Text),
            ("-", Plain::Text),
            ("é", Plain::Text),
        ] {
            assert_eq!(core_schema(text), expected, "{text:?}");
        }
    }
}
