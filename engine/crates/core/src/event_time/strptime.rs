//! Times by a pattern, as Python's `datetime.strptime` reads them in the C locale: the same widths, the same values for what
//! is absent, the same precedence. Differences: `%s` (seconds since the epoch) and the short forms `%F %T %R %D %h` are read
//! as well, a pattern without a year is refused, and so is what has no single meaning here (`%Z`, `%U`, `%W`, `%c`, `%x`, `%X`).

use chrono::{NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Weekday};

use super::{FRACTION_DIGITS, MICROS_PER_SECOND};

/// A longer pattern is refused; matching goes as deep as it has parts.
pub const MAX_FORMAT_BYTES: usize = 256;

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const HALVES: [&str; 2] = ["AM", "PM"];
/// Letters of a short name.
const SHORT: usize = 3;

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// Any case of its ASCII letters.
    Literal(Vec<u8>),
    /// One whitespace or more.
    Space,
    /// The letter behind the `%`.
    Directive(u8),
}

/// A pattern that was checked.
#[derive(Debug, Clone)]
pub(super) struct Strptime {
    items: Vec<Item>,
}

/// What a text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Microseconds since the epoch.
    At(i64),
    /// In the job's time zone.
    Local(NaiveDateTime),
}

impl Strptime {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn new(format: &str) -> Result<Strptime, String> {
        if format.len() > MAX_FORMAT_BYTES {
            return Err(format!("longer than {MAX_FORMAT_BYTES} bytes"));
        }
        let items = items_of(format)?;
        let has =
            |directives: &[u8]| items.iter().any(|item| matches!(item, Item::Directive(known) if directives.contains(known)));
        let twice = items.iter().enumerate().find(|(at, item)| matches!(item, Item::Directive(_)) && items[..*at].contains(item));
        if let Some((_, Item::Directive(directive))) = twice {
            return Err(format!("%{} is there twice", char::from(*directive)));
        }
        if !has(b"YyGs") {
            return Err("it has no year, and every event would be of the year 1900; write %Y".to_string());
        }
        if has(b"GV") && !(has(b"G") && has(b"V") && has(b"uwaA") && !has(b"Yymdbj")) {
            return Err("%G and %V go together with %u, %w, %a or %A, and without another date".to_string());
        }
        Ok(Strptime { items })
    }

    /// The moment that a text of this pattern means; `None` if it is not of the pattern or no date.
    pub fn parse(&self, text: &str) -> Option<Moment> {
        let mut fields = Fields::default();
        let is_whole = matches(&self.items, text.as_bytes(), &mut fields) && fields.left == 0;
        is_whole.then(|| fields.moment()).flatten()
    }
}

fn items_of(format: &str) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut rest = format.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'%' => {
                let (directive, behind) = rest.split_first().ok_or("a % at the end means nothing; write %% for the character")?;
                rest = behind;
                push_directive(&mut items, *directive)?;
            }
            _ if byte.is_ascii_whitespace() => {
                if items.last() != Some(&Item::Space) {
                    items.push(Item::Space);
                }
            }
            _ => push_literal(&mut items, *byte),
        }
    }
    Ok(items)
}

fn push_literal(items: &mut Vec<Item>, byte: u8) {
    match items.last_mut() {
        Some(Item::Literal(text)) => text.push(byte),
        _ => items.push(Item::Literal(vec![byte])),
    }
}

fn push_directive(items: &mut Vec<Item>, directive: u8) -> Result<(), String> {
    let long = match directive {
        b'%' => {
            push_literal(items, b'%');
            return Ok(());
        }
        b'F' => "%Y-%m-%d",
        b'T' => "%H:%M:%S",
        b'R' => "%H:%M",
        b'D' => "%m/%d/%y",
        b'h' => "%b",
        b'Z' => return Err("%Z is no offset: names of zones have several; use %z, or time.timezone".to_string()),
        b'Y' | b'y' | b'm' | b'd' | b'j' | b'H' | b'I' | b'M' | b'S' | b'f' | b'p' | b'z' | b'a' | b'A' | b'b' | b'B' | b'w'
        | b'u' | b'G' | b'V' | b's' => {
            items.push(Item::Directive(directive));
            return Ok(());
        }
        _ => return Err(format!("%{} is not read", char::from(directive))),
    };
    for item in items_of(long)? {
        match item {
            Item::Literal(text) => text.into_iter().for_each(|byte| push_literal(items, byte)),
            other => items.push(other),
        }
    }
    Ok(())
}

/// Values of a text's parts; what is absent is as in Python.
struct Fields {
    year: i64,
    month: i64,
    day: i64,
    day_of_year: Option<i64>,
    iso: Option<i64>,
    week: i64,
    /// From Monday, 0.
    weekday: i64,
    hour: Hour,
    afternoon: bool,
    minute: i64,
    second: i64,
    micros: i64,
    offset_seconds: Option<i64>,
    epoch: Option<i64>,
    /// Bytes of the text behind what matched.
    left: usize,
}

/// Of two the last counts.
enum Hour {
    Of24(i64),
    Of12(i64),
}

impl Default for Fields {
    fn default() -> Fields {
        Fields {
            year: 1900,
            month: 1,
            day: 1,
            day_of_year: None,
            iso: None,
            week: 0,
            weekday: 0,
            hour: Hour::Of24(0),
            afternoon: false,
            minute: 0,
            second: 0,
            micros: 0,
            offset_seconds: None,
            epoch: None,
            left: 0,
        }
    }
}

impl Fields {
    fn set(&mut self, directive: u8, value: i64) {
        match directive {
            b'Y' => self.year = value,
            b'y' => self.year = value + if value <= 68 { 2000 } else { 1900 },
            b'm' | b'b' | b'B' => self.month = value,
            b'd' => self.day = value,
            b'j' => self.day_of_year = Some(value),
            b'G' => self.iso = Some(value),
            b'V' => self.week = value,
            b'u' => self.weekday = value - 1,
            b'w' => self.weekday = (value + 6) % 7,
            b'a' | b'A' => self.weekday = value - 1,
            b'H' => self.hour = Hour::Of24(value),
            b'I' => self.hour = Hour::Of12(value),
            b'p' => self.afternoon = value == 2,
            b'M' => self.minute = value,
            b'S' => self.second = value,
            _ => self.micros = value,
        }
    }

    fn date(&self) -> Option<NaiveDate> {
        if let Some(year) = self.iso {
            let weekday = Weekday::try_from(self.weekday as u8).ok()?;
            return NaiveDate::from_isoywd_opt(year as i32, self.week as u32, weekday);
        }
        match self.day_of_year {
            Some(day) => NaiveDate::from_ymd_opt(self.year as i32, 1, 1)?.checked_add_signed(TimeDelta::days(day - 1)),
            None => NaiveDate::from_ymd_opt(self.year as i32, self.month as u32, self.day as u32),
        }
    }

    fn moment(&self) -> Option<Moment> {
        if let Some(seconds) = self.epoch {
            return Some(Moment::At(seconds.checked_mul(MICROS_PER_SECOND)?.checked_add(self.micros)?));
        }
        let hour = match self.hour {
            Hour::Of24(hour) => hour,
            Hour::Of12(hour) => hour % 12 + if self.afternoon { 12 } else { 0 },
        };
        let time = NaiveTime::from_hms_micro_opt(hour as u32, self.minute as u32, self.second as u32, self.micros as u32)?;
        let local = self.date()?.and_time(time);
        match self.offset_seconds {
            None => Some(Moment::Local(local)),
            Some(offset) => Some(Moment::At(local.and_utc().timestamp_micros() - offset * MICROS_PER_SECOND)),
        }
    }
}

/// Whether the text begins as the items say. As a regular expression does, each part takes as much as it can, and less where the
/// rest would not match otherwise; how often that happens is bounded, as each directive is there once.
fn matches(items: &[Item], text: &[u8], fields: &mut Fields) -> bool {
    let Some((item, items)) = items.split_first() else {
        fields.left = text.len();
        return true;
    };
    match item {
        Item::Literal(literal) => match text.split_at_checked(literal.len()) {
            Some((head, rest)) => head.eq_ignore_ascii_case(literal) && matches(items, rest, fields),
            None => false,
        },
        Item::Space => {
            let spaces = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            spaces > 0 && matches(items, &text[spaces..], fields)
        }
        Item::Directive(directive) => match_directive(*directive, items, text, fields),
    }
}

fn match_directive(directive: u8, items: &[Item], text: &[u8], fields: &mut Fields) -> bool {
    // at least and at most so many digits, and the values
    let (least, most, low, high) = match directive {
        b'Y' | b'G' => (4, 4, 0, 9999),
        b'y' => (2, 2, 0, 99),
        b'm' => (1, 2, 1, 12),
        b'd' => (1, 2, 1, 31),
        b'j' => (1, 3, 1, 366),
        b'H' => (1, 2, 0, 23),
        b'I' => (1, 2, 1, 12),
        b'M' => (1, 2, 0, 59),
        // a leap second is matched, and is no time
        b'S' => (1, 2, 0, 61),
        b'V' => (1, 2, 0, 53),
        b'w' => (1, 1, 0, 6),
        b'u' => (1, 1, 1, 7),
        b'f' => return match_fraction(items, text, fields),
        b'z' => return match_offset(items, text, fields),
        b's' => return match_epoch(items, text, fields),
        _ => return match_name(directive, items, text, fields),
    };
    let mut try_digits = |text: &[u8], most: usize| {
        (least..=digits(text, most)).rev().any(|width| {
            let value = number(&text[..width]);
            fields.set(directive, value);
            (low..=high).contains(&value) && matches(items, &text[width..], fields)
        })
    };
    // days alone may be padded with a space
    try_digits(text, most) || matches!((directive, text), (b'd', [b' ', rest @ ..]) if try_digits(rest, 1))
}

/// Digits at the beginning, at most `most`.
fn digits(text: &[u8], most: usize) -> usize {
    text.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count()
}

fn number(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'))
}

fn match_fraction(items: &[Item], text: &[u8], fields: &mut Fields) -> bool {
    (1..=digits(text, FRACTION_DIGITS)).rev().any(|width| {
        fields.set(b'f', super::fraction_micros(&text[..width]));
        matches(items, &text[width..], fields)
    })
}

/// `+HHMM`, `+HH:MM`, both also with seconds, or `Z`.
fn match_offset(items: &[Item], text: &[u8], fields: &mut Fields) -> bool {
    if let [b'Z', rest @ ..] = text {
        fields.offset_seconds = Some(0);
        return matches(items, rest, fields);
    }
    let [sign @ (b'+' | b'-'), rest @ ..] = text else { return false };
    let colon = rest.get(2) == Some(&b':');
    let pair = |text: &[u8], at: usize| (digits(text.get(at..)?, 2) == 2).then(|| number(&text[at..at + 2]));
    let (minutes_at, width) = if colon { (3, 5) } else { (2, 4) };
    let (Some(hours @ 0..=23), Some(minutes @ 0..=59)) = (pair(rest, 0), pair(rest, minutes_at)) else { return false };
    let sign = if *sign == b'-' { -1 } else { 1 };
    let whole_minutes = hours * 3600 + minutes * 60;
    let seconds_at = width + usize::from(colon);
    let seconds = pair(rest, seconds_at).filter(|seconds| *seconds <= 59 && (!colon || rest[width] == b':'));
    if let Some(seconds) = seconds {
        fields.offset_seconds = Some(sign * (whole_minutes + seconds));
        if matches(items, &rest[seconds_at + 2..], fields) {
            return true;
        }
    }
    fields.offset_seconds = Some(sign * whole_minutes);
    matches(items, &rest[width..], fields)
}

fn match_epoch(items: &[Item], text: &[u8], fields: &mut Fields) -> bool {
    let sign = usize::from(text.first() == Some(&b'-'));
    let end = sign + digits(&text[sign..], text.len());
    fields.epoch = std::str::from_utf8(&text[..end]).ok().and_then(|text| text.parse().ok());
    fields.epoch.is_some() && matches(items, &text[end..], fields)
}

fn match_name(directive: u8, items: &[Item], text: &[u8], fields: &mut Fields) -> bool {
    let (names, is_short) = match directive {
        b'a' => (&DAYS[..], true),
        b'A' => (&DAYS[..], false),
        b'b' => (&MONTHS[..], true),
        b'B' => (&MONTHS[..], false),
        _ => (&HALVES[..], false),
    };
    let found = names
        .iter()
        .map(|name| if is_short { &name[..SHORT] } else { name })
        .enumerate()
        .find(|(_, name)| text.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name.as_bytes())));
    let Some((index, name)) = found else { return false };
    fields.set(directive, index as i64 + 1);
    matches(items, &text[name.len()..], fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Datelike, Timelike};
    use proptest::prelude::*;

    fn local(format: &str, text: &str) -> Option<String> {
        match Strptime::new(format).unwrap().parse(text)? {
            Moment::Local(local) => Some(local.to_string()),
            Moment::At(micros) => Some(format!("@{micros}")),
        }
    }

    #[test]
    fn what_is_absent_is_as_in_python() {
        for (format, text, expected) in [
            ("%Y-%m-%d %H", "2024-02-03 04", "2024-02-03 04:00:00"),
            ("%Y", "2024", "2024-01-01 00:00:00"),
            ("%Y-%m", "2024-2", "2024-02-01 00:00:00"),
            ("%Y %M", "2024 7", "2024-01-01 00:07:00"),
            ("%Y %I", "2024 12", "2024-01-01 00:00:00"),
            ("%Y %p", "2024 pm", "2024-01-01 00:00:00"),
            ("%Y %I%p", "2024 12PM", "2024-01-01 12:00:00"),
            ("%p %I %Y", "pM 1 2024", "2024-01-01 13:00:00"),
            ("%y", "69", "1969-01-01 00:00:00"),
            ("%y", "68", "2068-01-01 00:00:00"),
            ("%Y-%j", "2023-366", "2024-01-01 00:00:00"),
            ("%d%m%Y", " 1112024", "2024-11-01 00:00:00"),
            ("%d%m%Y", "1112024", "2024-01-11 00:00:00"),
            ("%A, %d. %B %Y", "MONDAY, 2. january 2024", "2024-01-02 00:00:00"),
            ("%G-W%V-%u", "2020-W53-7", "2021-01-03 00:00:00"),
        ] {
            assert_eq!(local(format, text).as_deref(), Some(expected), "{format} of {text}");
        }
    }

    #[test]
    fn fractions_have_one_to_six_digits_behind_anything() {
        for (format, text, micros) in [
            ("%Y %S,%f", "2024 1,5", 500_000),
            ("%Y %S.%f", "2024 1.000001", 1),
            ("%Y %S%f", "2024 0142", 420_000),
            ("%Y %S:%f", "2024 1:12", 120_000),
        ] {
            let Some(Moment::Local(local)) = Strptime::new(format).unwrap().parse(text) else { panic!("{format} of {text}") };
            assert_eq!((local.second(), local.nanosecond() / 1000), (1, micros), "{format} of {text}");
        }
        assert_eq!(local("%Y %S.%f", "2024 1."), None);
        assert_eq!(local("%Y %S.%f", "2024 1.1234567"), None);
    }

    #[test]
    fn offsets_and_seconds_of_the_epoch() {
        assert_eq!(local("%F %T%z", "1970-01-01 01:00:00+0100").unwrap(), "@0");
        assert_eq!(local("%F %T%z", "1970-01-01 01:00:00+01:00").unwrap(), "@0");
        assert_eq!(local("%F %T%z", "1970-01-01 00:00:00-00:00:01").unwrap(), "@1000000");
        assert_eq!(local("%F %T %z", "1970-01-01 00:00:01 Z").unwrap(), "@1000000");
        assert_eq!(local("%s.%f", "-5.5").unwrap(), "@-4500000");
        for wrong in ["+1", "+01", "+24:00", "+01:60", "z", "+01:0030", ""] {
            assert_eq!(local("%Y%z", &format!("2024{wrong}")), None, "{wrong}");
        }
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for (format, text) in [
            ("%Y-%m-%d", "24-1-1"),
            ("%Y-%m-%d", "2024-13-01"),
            ("%Y-%m-%d", "2023-02-29"),
            ("%Y-%m-%d", "2024-1-1 "),
            ("%Y %S", "2024 60"),
            ("%Y %b", "2024 January"),
            ("%Y %B", "2024 Jan"),
            ("%Y %H", "2024 24"),
            ("%Y %H", "2024"),
            ("%G %V %u", "2021 53 1"),
        ] {
            assert_eq!(local(format, text), None, "{format} of {text}");
        }
    }

    #[test]
    fn patterns_without_a_meaning_are_refused() {
        for (format, reason) in [
            ("%Y %Z", "use %z, or time.timezone"),
            ("%m-%d", "no year"),
            ("%Y %U %w", "%U is not read"),
            ("%Y %F", "%Y is there twice"),
            ("%G", "go together"),
            ("%Y-%V-%u", "go together"),
            ("%Y %", "write %%"),
            ("%c", "%c is not read"),
        ] {
            let error = Strptime::new(format).unwrap_err();
            assert!(error.contains(reason), "{format}: {error}");
        }
        assert!(Strptime::new(&"x".repeat(MAX_FORMAT_BYTES + 1)).is_err());
    }

    /// Each of a pair of parts, in any order, behind any separators.
    fn format() -> impl Strategy<Value = String> {
        let date = prop::sample::select(vec!["%Y-%m-%d", "%d %b %y", "%B %d, %Y", "%Y%m%d", "%Y/%j", "%a %d.%m.%Y", "%G-%V-%u"]);
        let time = prop::sample::select(vec!["", "%H", "%H:%M", "%H%M%S", "%I:%M:%S %p", "%H:%M:%S.%6f", "%S,%6f %H %M"]);
        let between = prop::sample::select(vec![" ", "T", "  ", " at "]);
        (date, between, time).prop_map(|(date, between, time)| format!("{date}{between}{time}"))
    }

    proptest! {
        /// chrono writes what is read here; years are those that two digits can tell.
        #[test]
        fn what_a_pattern_writes_it_reads(format in format(), micros in 0i64..3_124_224_000_000_000) {
            let time = DateTime::from_timestamp_micros(micros).unwrap().naive_utc();
            let text = time.format(&format).to_string();
            let read = Strptime::new(&format.replace("%6f", "%f")).unwrap().parse(&text);
            let has = |directive: &str| format.contains(directive);
            let kept = |is_there: bool, value: u32| if is_there { value } else { 0 };
            let expected = time.date().and_hms_micro_opt(
                kept(has("%H") || has("%I"), time.hour()),
                kept(has("%M"), time.minute()),
                kept(has("%S"), time.second()),
                kept(has("%6f"), time.nanosecond() / 1000),
            ).unwrap();
            prop_assert!(time.year() < 2069);
            prop_assert_eq!(read, Some(Moment::Local(expected)), "{} of {}", format, text);
        }

        #[test]
        fn no_pattern_and_no_text_make_it_panic(format in "[%YmdHMSfzsjIp :,.a]{0,20}", text in "[0-9+-:. aA-Z]{0,30}") {
            if let Ok(pattern) = Strptime::new(&format) {
                pattern.parse(&text);
            }
        }
    }
}
