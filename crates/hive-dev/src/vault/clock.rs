//! Times and durations as Vault writes them.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-24T10:00:00.123456789Z`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ((year, month, day), (hour, minute, second)) = civil(since.as_secs());
    let fraction = format!(".{:09}", since.subsec_nanos());
    // As Go writes it: no zeros at the end, and no point without a fraction.
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Without the fraction of a second.
pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    let past = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(past.as_secs())
}

/// `2026-11-24 10:00:00+0000`, for `VALID UNTIL`.
pub(super) fn sql(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ((year, month, day), (hour, minute, second)) = civil(since.as_secs());
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}+0000")
}

/// `1h`, `1m30s`: as Vault prints a duration, without what is zero.
pub(super) fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if minutes > 0 {
        let _ = write!(text, "{minutes}m");
    }
    if rest > 0 || text.is_empty() {
        let _ = write!(text, "{rest}s");
    }
    text
}

/// A whole number of seconds, or text such as `90s`, `15m`, `1h30m`, `2d`.
pub(super) fn parse_duration(value: &serde_json::Value) -> Option<Duration> {
    if let Some(seconds) = value.as_u64() {
        return Some(Duration::from_secs(seconds));
    }
    let text = value.as_str()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        total = total.checked_add(duration_of(number.parse().ok()?, unit)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

fn duration_of(number: u64, unit: &str) -> Option<Duration> {
    let factor = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(factor).map(Duration::from_secs)
}

/// `1h0m0s`, `0s`: as Go prints a duration.
pub(super) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

type Triple = (u64, u64, u64);

/// Howard Hinnant's `civil_from_days`, for the years after 1970.
fn civil(unix_seconds: u64) -> (Triple, Triple) {
    let (days, rest) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    ((year, month, day), (rest / 3600, rest / 60 % 60, rest % 60))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        let table = [
            (0, "1970-01-01 00:00:00+0000"),
            (951_782_400, "2000-02-29 00:00:00+0000"),
            (1_709_251_199, "2024-02-29 23:59:59+0000"),
            (1_795_514_400, "2026-11-24 10:00:00+0000"),
            (4_107_542_400, "2100-03-01 00:00:00+0000"),
        ];
        for (seconds, text) in table {
            assert_eq!(sql(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn durations_are_read_and_written_as_in_vault() {
        let table = [
            (json!(30), 30, "30s"),
            (json!("90s"), 90, "1m30s"),
            (json!("1h"), 3600, "1h"),
            (json!("0s"), 0, "0s"),
            (json!("1h30m"), 5400, "1h30m"),
            (json!("1d"), 86_400, "24h"),
        ];
        for (given, seconds, text) in table {
            let duration = Duration::from_secs(seconds);
            assert_eq!(
                (parse_duration(&given), duration_text(duration)),
                (Some(duration), text.to_owned())
            );
        }
        assert!(
            [json!("1x"), json!(-1), json!(""), json!("-1h"), json!("h"), json!(null)]
                .iter()
                .all(|odd| parse_duration(odd).is_none())
        );
    }
}
