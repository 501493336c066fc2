//! Subjects that rows are published under: a template with members of the row.

use std::borrow::Cow;
use std::fmt::Write;

use streamjob_core::{Error, Result};

use crate::rows::{key_bytes, member};

/// The longest subject; servers take lines of 4 KiB.
pub const MAX_SUBJECT_BYTES: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Member(String),
}

/// `readings.{key}`: text, and in braces the members whose values stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubjectTemplate(Vec<Part>);

impl SubjectTemplate {
    pub fn parse(text: &str) -> Result<SubjectTemplate> {
        let wrong = |why: &str| Error::user(format!("subject: {why} (got {text}); write for example readings.{{key}}"));
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or_else(|| wrong("a brace is not closed"))?;
            parts.extend([Part::Text(before.to_owned()), Part::Member(name.to_owned())]);
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        let template = SubjectTemplate(parts);
        let plain = template.write(|_, out| out.push('x'));
        if plain.split('.').any(|token| token.is_empty() || !token.bytes().all(is_plain_or_percent)) {
            return Err(wrong("a subject is tokens with dots between them, of visible ASCII without * and >"));
        }
        Ok(template)
    }

    /// What every subject of the template matches.
    pub fn wildcard(&self) -> String {
        let text = self.write(|_, out| out.push('*'));
        text.split('.').map(|token| if token.contains('*') { "*" } else { token }).collect::<Vec<_>>().join(".")
    }

    /// The subject of a row. `None` where it is longer than servers take.
    pub fn of(&self, row: &str) -> Option<String> {
        let subject = self.write(|name, out| {
            let value = member(row, name).map_or(Cow::Borrowed(&b""[..]), key_bytes);
            write_token(out, &value);
        });
        (subject.len() <= MAX_SUBJECT_BYTES).then_some(subject)
    }

    fn write(&self, mut value: impl FnMut(&str, &mut String)) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Member(name) => value(name, &mut out),
            }
        }
        out
    }
}

/// What a token may hold as it is.
fn is_plain(byte: u8) -> bool {
    (b'!'..=b'~').contains(&byte) && !matches!(byte, b'.' | b'*' | b'>' | b'%')
}

fn is_plain_or_percent(byte: u8) -> bool {
    is_plain(byte) || byte == b'%'
}

/// A value as a part of a token: what has a meaning in subjects, and what is not visible ASCII, as `%` and its bytes in
/// hexadecimal, as in URLs. Nothing at all is a `%` alone.
fn write_token(out: &mut String, value: &[u8]) {
    if value.is_empty() {
        out.push('%');
    }
    for byte in value {
        match is_plain(*byte) {
            true => out.push(char::from(*byte)),
            false => write!(out, "%{byte:02X}").expect("a string takes everything"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(value: &[u8]) -> String {
        let mut out = String::new();
        write_token(&mut out, value);
        out
    }

    /// What a consumer does to get the value back.
    fn read_token(token: &str) -> Vec<u8> {
        let (mut value, mut rest) = (Vec::new(), token);
        if token == "%" {
            return value;
        }
        while let Some(first) = rest.chars().next() {
            let (byte, length) = match first {
                '%' => (u8::from_str_radix(&rest[1..3], 16).expect("hexadecimal"), 3),
                plain => (plain as u8, 1),
            };
            value.push(byte);
            rest = &rest[length..];
        }
        value
    }

    proptest! {
        #[test]
        fn any_value_is_one_token_and_is_read_back(value in prop::collection::vec(any::<u8>(), 0..40)) {
            let token = token(&value);
            prop_assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(!token.contains(['.', '*', '>']));
            prop_assert_eq!(read_token(&token), value);
        }

        #[test]
        fn subjects_of_a_template_match_its_wildcard(key in ".*", site in ".*") {
            let template = SubjectTemplate::parse("a.{site}.x-{key}").expect("a template");
            let row = serde_json::json!({"key": key, "site": site}).to_string();
            if let Some(subject) = template.of(&row) {
                let tokens: Vec<&str> = subject.split('.').collect();
                prop_assert!(tokens.len() == 3 && tokens[0] == "a" && tokens[2].starts_with("x-"));
            }
            prop_assert_eq!(template.wildcard(), "a.*.*");
        }
    }

    #[test]
    fn a_template_takes_values_of_the_row() {
        let template = SubjectTemplate::parse("readings.{key}.{n}").expect("a template");
        assert_eq!(template.of(r#"{"key":"a.b c","n":-1.5}"#).as_deref(), Some("readings.a%2Eb%20c.-1%2E5"));
        assert_eq!(template.of(r#"{"key":null}"#).as_deref(), Some("readings.%.%"));
        let long = format!(r#"{{"key":"{}"}}"#, "x".repeat(MAX_SUBJECT_BYTES));
        assert_eq!(template.of(&long), None);
        assert_eq!(SubjectTemplate::parse("plain").expect("no member").wildcard(), "plain");
    }

    #[test]
    fn what_is_no_subject_is_refused() {
        for text in ["", "a..b", ".a", "a.{key", "a.*", "a.>", "a b", "ä"] {
            assert!(SubjectTemplate::parse(text).is_err(), "{text}");
        }
    }
}
