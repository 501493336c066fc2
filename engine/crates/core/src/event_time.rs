//! Event time: reading it from numbers and texts, and writing it as RFC 3339. Inside, time is always an `i64` of
//! microseconds since 1970-01-01T00:00:00Z, negative before it.

mod strptime;

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, TimeZone};
use chrono_tz::Tz;

use crate::config::{TimeFieldConfig, TimeUnit};
use crate::{Error, Result};

use strptime::{Moment, Strptime};

pub use strptime::MAX_FORMAT_BYTES;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
const MICROS_PER_DAY: i64 = SECONDS_PER_DAY * MICROS_PER_SECOND;
/// More fractional digits are below a microsecond and cut off.
const FRACTION_DIGITS: usize = 6;

/// The earliest and the latest event time: those that RFC 3339 can write, years 0000 to 9999. Others are refused, so that no
/// row has a time that means something else ([`NO_TIME`](crate::progress::NO_TIME)), and no difference of two times overflows.
pub const EARLIEST_US: i64 = -62_167_219_200_000_000;
pub const LATEST_US: i64 = 253_402_300_799_999_999;

/// Why a value is no event time: a reason for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TimeError(String);

/// Reads the time field of a job. Cheap to call, made once.
#[derive(Debug, Clone)]
pub struct TimeParser {
    rule: Rule,
}

#[derive(Debug, Clone)]
enum Rule {
    Number(TimeUnit),
    Rfc3339 { zone: Tz },
    Strptime { format: String, pattern: Strptime, zone: Tz },
}

impl TimeParser {
    /// Checks unit, format and time zone. `format` is `rfc3339` or a pattern as Python's `strptime` reads it. A text without an
    /// offset is in the time zone.
    ///
    /// # Errors
    /// A user error for an unknown zone, a format that cannot be read, or unless exactly one of unit and format is set.
    pub fn new(config: &TimeFieldConfig) -> Result<TimeParser> {
        let rule = match (config.unit, config.format.as_deref()) {
            (Some(unit), None) => Rule::Number(unit),
            (None, Some("rfc3339")) => Rule::Rfc3339 { zone: zone_of(config)? },
            (None, Some(format)) => {
                let pattern = Strptime::new(format)
                    .map_err(|reason| Error::user(format!("spec.schema.time.format: {reason} (got \"{format}\")")))?;
                Rule::Strptime { format: format.to_string(), pattern, zone: zone_of(config)? }
            }
            _ => return Err(Error::user("spec.schema.time: set exactly one of unit and format")),
        };
        Ok(TimeParser { rule })
    }

    /// The unit, where times are numbers.
    pub fn unit(&self) -> Option<TimeUnit> {
        match self.rule {
            Rule::Number(unit) => Some(unit),
            _ => None,
        }
    }

    /// What a value must be, for messages: `a number of milliseconds`.
    pub fn expected(&self) -> String {
        match &self.rule {
            Rule::Number(TimeUnit::S) => "a number of seconds".to_string(),
            Rule::Number(TimeUnit::Ms) => "a number of milliseconds".to_string(),
            Rule::Number(TimeUnit::Us) => "a number of microseconds".to_string(),
            Rule::Number(TimeUnit::Ns) => "a number of nanoseconds".to_string(),
            Rule::Rfc3339 { .. } => "an RFC 3339 time".to_string(),
            Rule::Strptime { format, .. } => format!("a time as \"{format}\""),
        }
    }

    /// Reads a text. Between two equal local times (clocks set back) the earlier is meant; one that clocks skipped is an error.
    ///
    /// # Errors
    /// If times are numbers or the text is not of the format.
    pub fn parse_text(&self, text: &str) -> Result<i64, TimeError> {
        let parsed = match &self.rule {
            Rule::Number(_) => None,
            Rule::Rfc3339 { zone } => parse_rfc3339(text).or_else(|| parse_without_offset(text, *zone)),
            Rule::Strptime { pattern, zone, .. } => match pattern.parse(text) {
                Some(Moment::Local(local)) => in_zone(local, *zone),
                Some(Moment::At(micros)) => Some(micros),
                None => None,
            },
        };
        parsed.and_then(in_range).ok_or_else(|| TimeError(format!("expected {}", self.expected())))
    }
}

#[inline]
fn in_range(micros: i64) -> Option<i64> {
    (EARLIEST_US..=LATEST_US).contains(&micros).then_some(micros)
}

/// Microseconds of an integer time, exactly; nanoseconds are floored to whole microseconds. `None` if out of range.
#[inline]
pub fn from_integer(value: i64, unit: TimeUnit) -> Option<i64> {
    let micros = match unit {
        TimeUnit::S => value.checked_mul(MICROS_PER_SECOND)?,
        TimeUnit::Ms => value.checked_mul(1_000)?,
        TimeUnit::Us => value,
        TimeUnit::Ns => value.div_euclid(1_000),
    };
    in_range(micros)
}

/// Microseconds of a float time, rounded to the nearest (ties away from zero). `None` if out of range or not finite.
#[inline]
pub fn from_float(value: f64, unit: TimeUnit) -> Option<i64> {
    let micros = match unit {
        TimeUnit::S => value * 1e6,
        TimeUnit::Ms => value * 1e3,
        TimeUnit::Us => value,
        TimeUnit::Ns => value / 1e3,
    }
    .round();
    // the cast saturates, and NaN becomes a time: it is asked for first
    if micros.is_nan() { None } else { in_range(micros as i64) }
}

/// Microseconds of an RFC 3339 time; digits below a microsecond are cut off. `None` if it is none.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    if let Some(micros) = parse_rfc3339_usual(text.as_bytes()) {
        return Some(micros);
    }
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
}

/// `YYYY-MM-DDTHH:MM:SS[.frac](Z|+hh:mm)`; everything else (leap seconds, lower case) is left to chrono.
fn parse_rfc3339_usual(text: &[u8]) -> Option<i64> {
    let (head, mut rest) = text.split_at_checked(19)?;
    if head[4] != b'-' || head[7] != b'-' || head[10] != b'T' || head[13] != b':' || head[16] != b':' {
        return None;
    }
    let year = i64::from(two_digits(head, 0)? * 100 + two_digits(head, 2)?);
    let (month, day) = (two_digits(head, 5)?, two_digits(head, 8)?);
    let (hour, minute, second) = (two_digits(head, 11)?, two_digits(head, 14)?, two_digits(head, 17)?);
    if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut micros = 0;
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        micros = fraction_micros(&fraction[..digits]);
        rest = &fraction[digits..];
    }
    let offset_minutes = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (two_digits(rest, 1)?, two_digits(rest, 4)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            i64::from(hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = i64::from(hour * 3600 + minute * 60 + second) - offset_minutes * 60;
    Some((days_from_civil(year, month, day) * SECONDS_PER_DAY + seconds) * MICROS_PER_SECOND + micros)
}

fn two_digits(text: &[u8], at: usize) -> Option<u32> {
    let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| u32::from(tens) * 10 + u32::from(ones))
}

fn fraction_micros(digits: &[u8]) -> i64 {
    (0..FRACTION_DIGITS).fold(0, |micros, i| micros * 10 + digits.get(i).map_or(0, |digit| i64::from(digit - b'0')))
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a Gregorian date: years begin in March, so that the leap day comes last.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The Gregorian date of a day since 1970-01-01: (year, month, day).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// What RFC 3339 asks for but for the offset, as Python's `datetime.isoformat` writes a time without a zone.
fn parse_without_offset(text: &str, zone: Tz) -> Option<i64> {
    let local_us = parse_rfc3339(&format!("{text}Z"))?;
    in_zone(DateTime::from_timestamp_micros(local_us)?.naive_utc(), zone)
}

/// The moment of a local time; the earlier of two, none where clocks skipped it.
fn in_zone(local: NaiveDateTime, zone: Tz) -> Option<i64> {
    if zone == Tz::UTC {
        return Some(local.and_utc().timestamp_micros());
    }
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(time) | MappedLocalTime::Ambiguous(time, _) => Some(time.timestamp_micros()),
        MappedLocalTime::None => None,
    }
}

fn zone_of(config: &TimeFieldConfig) -> Result<Tz> {
    config.timezone.parse().map_err(|_| {
        Error::user(format!(
            "spec.schema.time.timezone: no such time zone (got \"{}\"; use an IANA name such as Europe/Berlin)",
            config.timezone
        ))
    })
}

/// Appends `micros` as RFC 3339 in UTC: `2013-12-02T21:15:00Z`, with up to six fractional digits where there are any.
pub fn write_rfc3339(micros: i64, out: &mut Vec<u8>) {
    let (days, of_day) = (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
    let (year, month, day) = civil_from_days(days);
    let seconds = (of_day / MICROS_PER_SECOND) as u32;
    if (0..=9999).contains(&year) {
        push_two_digits(out, year as u32 / 100);
        push_two_digits(out, year as u32 % 100);
    } else {
        // beyond RFC 3339; as ISO 8601's expanded years
        out.extend_from_slice(format!("{year:+05}").as_bytes());
    }
    let mut text = *b"-00-00T00:00:00";
    for (at, value) in [(1, month), (4, day), (7, seconds / 3600), (10, seconds / 60 % 60), (13, seconds % 60)] {
        text[at] += (value / 10) as u8;
        text[at + 1] += (value % 10) as u8;
    }
    out.extend_from_slice(&text);
    let mut fraction = (of_day % MICROS_PER_SECOND) as u32;
    if fraction != 0 {
        let mut digits = *b".000000";
        for digit in digits[1..].iter_mut().rev() {
            *digit += (fraction % 10) as u8;
            fraction /= 10;
        }
        let end = digits.iter().rposition(|digit| *digit != b'0').expect("the fraction is not zero");
        out.extend_from_slice(&digits[..=end]);
    }
    out.push(b'Z');
}

fn push_two_digits(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&[b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parser(unit: Option<TimeUnit>, format: Option<&str>, timezone: &str) -> Result<TimeParser> {
        TimeParser::new(&TimeFieldConfig {
            field: "t".into(),
            path: None,
            unit,
            format: format.map(Into::into),
            timezone: timezone.into(),
        })
    }

    fn strftime(format: &str, zone: &str, text: &str) -> Option<String> {
        parser(None, Some(format), zone).unwrap().parse_text(text).ok().map(written)
    }

    fn written(micros: i64) -> String {
        let mut out = Vec::new();
        write_rfc3339(micros, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integers_are_exact_and_overflow_is_seen() {
        assert_eq!(from_integer(1_700_000_000_123, TimeUnit::Ms), Some(1_700_000_000_123_000));
        assert_eq!(from_integer(-1, TimeUnit::S), Some(-1_000_000));
        assert_eq!(from_integer(-1, TimeUnit::Ns), Some(-1));
        assert_eq!(from_integer(1_999, TimeUnit::Ns), Some(1));
        assert_eq!(from_integer(i64::MAX, TimeUnit::Ns), Some(i64::MAX / 1000));
        assert_eq!(from_integer(i64::MAX, TimeUnit::Us), None);
        assert_eq!(from_integer(i64::MAX, TimeUnit::Ms), None);
        assert_eq!(from_integer(i64::MIN / 1000, TimeUnit::S), None);
    }

    #[test]
    fn floats_are_rounded_to_the_nearest_microsecond() {
        assert_eq!(from_float(1_700_000_000.123, TimeUnit::S), Some(1_700_000_000_123_000));
        assert_eq!(from_float(0.000_000_6, TimeUnit::S), Some(1));
        assert_eq!(from_float(-1.5, TimeUnit::S), Some(-1_500_000));
        assert_eq!(from_float(1.4, TimeUnit::Us), Some(1));
        assert_eq!(from_float(1e300, TimeUnit::S), None);
        assert_eq!(from_float(f64::NAN, TimeUnit::S), None);
        assert_eq!(from_float(f64::INFINITY, TimeUnit::Us), None);
        assert_eq!(from_float(i64::MIN as f64, TimeUnit::Us), None);
    }

    #[test]
    fn times_that_rfc3339_cannot_write_are_refused() {
        assert_eq!(
            (written(EARLIEST_US).as_str(), written(LATEST_US).as_str()),
            ("0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")
        );
        for inside in [EARLIEST_US, LATEST_US] {
            assert_eq!(from_integer(inside, TimeUnit::Us), Some(inside));
        }
        for outside in [EARLIEST_US - 1, LATEST_US + 1, i64::MIN, i64::MAX] {
            assert_eq!(from_integer(outside, TimeUnit::Us), None);
            assert_eq!(from_float(outside as f64 * 2.0, TimeUnit::Us), None);
        }
        let parser = parser(None, Some("rfc3339"), "UTC").unwrap();
        assert!(parser.parse_text("0000-01-01T00:00:00+00:01").is_err());
        assert!(parser.parse_text("0000-01-01T00:00:00Z").is_ok());
        assert_eq!(strftime("%s", "UTC", "-9223372036854"), None);
    }

    #[test]
    fn strftime_reads_what_python_reads() {
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S", "UTC", "2013-12-02 21:15:00").unwrap(), "2013-12-02T21:15:00Z");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S", "Europe/Berlin", "2013-12-02 21:15:00").unwrap(), "2013-12-02T20:15:00Z");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S.%f", "UTC", "2013-12-02 21:15:00.25").unwrap(), "2013-12-02T21:15:00.25Z");
        assert_eq!(strftime("%Y-%m-%dT%H:%M:%S%z", "UTC", "2013-12-02T21:15:00+0100").unwrap(), "2013-12-02T20:15:00Z");
        assert_eq!(strftime("%Y-%m-%dT%H:%M:%S%z", "Asia/Tokyo", "2013-12-02T21:15:00Z").unwrap(), "2013-12-02T21:15:00Z");
        assert_eq!(strftime("%d.%m.%Y", "Europe/Berlin", "02.12.2013").unwrap(), "2013-12-01T23:00:00Z");
        assert_eq!(strftime("%s", "Europe/Berlin", "1000000000").unwrap(), "2001-09-09T01:46:40Z");
        assert_eq!(strftime("%Y-%m-%d %H:%M", "UTC", "2013-12-02 21:15").unwrap(), "2013-12-02T21:15:00Z");
        assert_eq!(strftime("%Y-%m-%d %H", "Europe/Berlin", "2013-12-02 21").unwrap(), "2013-12-02T20:00:00Z");
        assert_eq!(strftime("%y-%m-%d %H:%M:%S,%f", "UTC", "69-12-02 21:15:00,25").unwrap(), "1969-12-02T21:15:00.25Z");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S", "UTC", "2013-12-02 21:15:00 "), None);
        assert_eq!(strftime("%Y-%m-%d", "UTC", "2013-02-30"), None);
    }

    #[test]
    fn a_text_without_an_offset_is_in_the_time_zone() {
        let read = |zone, text| strftime("rfc3339", zone, text);
        assert_eq!(read("UTC", "2024-07-01T12:00:00.5").unwrap(), "2024-07-01T12:00:00.5Z");
        assert_eq!(read("Europe/Berlin", "2024-07-01T12:00:00").unwrap(), "2024-07-01T10:00:00Z");
        assert_eq!(read("Europe/Berlin", "2024-07-01T12:00:00Z").unwrap(), "2024-07-01T12:00:00Z");
        assert_eq!(read("Europe/Berlin", "2024-07-01T12:00:00+05:00").unwrap(), "2024-07-01T07:00:00Z");
        for wrong in ["2021-03-28T02:30:00", "2024-07-01", "2024-07-01T12:00:00+", "2024-7-1T12:00:00", "2024-07-01T12:00:00z "] {
            assert_eq!(read("Europe/Berlin", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn changes_of_the_clock_are_decided() {
        let format = "%Y-%m-%d %H:%M:%S";
        assert_eq!(strftime(format, "Europe/Berlin", "2021-10-31 02:30:00").unwrap(), "2021-10-31T00:30:00Z");
        assert_eq!(strftime(format, "Europe/Berlin", "2021-03-28 02:30:00"), None);
    }

    #[test]
    fn wrong_settings_are_named() {
        assert!(parser(None, Some("%Y-%Q"), "UTC").unwrap_err().message().contains("%Y-%Q"));
        assert!(parser(None, Some("%Y %Z"), "UTC").unwrap_err().message().contains("use %z, or time.timezone"));
        assert!(parser(None, Some("%Y"), "Mars/Base").unwrap_err().message().contains("Mars/Base"));
        assert!(parser(None, None, "UTC").is_err());
        assert!(parser(Some(TimeUnit::S), Some("rfc3339"), "UTC").is_err());
        let number = parser(Some(TimeUnit::Ms), None, "UTC").unwrap();
        assert_eq!(number.parse_text("1").unwrap_err().to_string(), "expected a number of milliseconds");
    }

    #[test]
    fn rfc3339_examples() {
        assert_eq!(written(parse_rfc3339("2013-12-02T21:15:00Z").unwrap()), "2013-12-02T21:15:00Z");
        assert_eq!(written(parse_rfc3339("1969-12-31T23:59:59.9999999+00:00").unwrap()), "1969-12-31T23:59:59.999999Z");
        assert_eq!(written(parse_rfc3339("2024-02-29T00:00:00.120-01:30").unwrap()), "2024-02-29T01:30:00.12Z");
        for wrong in
            ["2023-02-29T00:00:00Z", "2023-01-01T24:00:00Z", "2023-01-01T00:00:00", "2023-01-01T00:00:00.Z", "", "2023-01-01"]
        {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
        assert_eq!(written(i64::MAX), "+294247-01-10T04:00:54.775807Z");
        assert_eq!(written(i64::MIN), "-290308-12-21T19:59:05.224192Z");
    }

    proptest! {
        #[test]
        fn the_usual_path_agrees_with_chrono(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000, offset in -1439i32..1440, digits in 0usize..10) {
            let zone = chrono::FixedOffset::east_opt(offset * 60).unwrap();
            let time = DateTime::from_timestamp_micros(micros).unwrap().with_timezone(&zone);
            let fraction = if digits == 0 { String::new() } else { format!(".{}", &format!("{:09}", time.timestamp_subsec_nanos())[..digits]) };
            let text = format!("{}{}{}", time.format("%Y-%m-%dT%H:%M:%S"), fraction, time.format("%:z"));
            let expected = DateTime::parse_from_rfc3339(&text).map(|time| time.timestamp_micros());
            if let Ok(expected) = expected {
                prop_assert_eq!(parse_rfc3339_usual(text.as_bytes()), Some(expected));
            }
        }

        #[test]
        fn nothing_is_read_that_chrono_refuses(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-6][0-9])") {
            if let Some(micros) = parse_rfc3339_usual(text.as_bytes()) {
                prop_assert_eq!(Some(micros), DateTime::parse_from_rfc3339(&text).ok().map(|time| time.timestamp_micros()));
            }
        }

        #[test]
        fn what_is_written_is_read_back(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
            prop_assert_eq!(parse_rfc3339(&written(micros)), Some(micros));
        }
    }
}
