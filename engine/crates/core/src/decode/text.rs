//! JSON tokens that the fast path reads by itself: whitespace, strings without escapes, values to skip.

use super::general::MAX_NESTING;
use super::number;

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH_BITS: u64 = ONES << 7;

/// Whether a line break is whitespace (one JSON document) or ends the row (NDJSON).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaks {
    Whitespace,
    EndRow,
}

/// The first position from `at` that is no whitespace.
#[inline(always)]
pub(super) fn skip_whitespace(bytes: &[u8], mut at: usize, breaks: Breaks) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' => at += 1,
            b'\n' if breaks == Breaks::Whitespace => at += 1,
            _ => break,
        }
    }
    at
}

/// The position of the quote that ends the string whose content begins at `at`. `None` if the string has an escape or
/// is no valid JSON in UTF-8.
#[inline(always)]
pub(super) fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        let special = specials(number::word(bytes, end));
        if special != 0 {
            end += (special.trailing_zeros() / 8) as usize;
            break;
        }
        end += 8;
    }
    match bytes.get(end) {
        Some(b'"') => Some(end),
        Some(0x80..) => unicode_string_end(bytes, at, end),
        _ => None,
    }
}

/// The high bit of each byte that is a quote, a backslash, a control character or not ASCII; above the lowest such
/// byte there may be false ones.
#[inline(always)]
fn specials(word: u64) -> u64 {
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero_bytes(word ^ (ONES * b'"' as u64));
    let backslash = zero_bytes(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control | word) & HIGH_BITS
}

#[cold]
fn unicode_string_end(bytes: &[u8], start: usize, from: usize) -> Option<usize> {
    let stops = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let end = from + bytes[from..].iter().position(stops)?;
    (bytes[end] == b'"' && std::str::from_utf8(&bytes[start..end]).is_ok()).then_some(end)
}

/// The position after the string, number, `true`, `false` or `null` at `at`. `None` if it is nested or unusual.
#[inline(always)]
pub(super) fn skip_scalar(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => string_end(bytes, at + 1).map(|end| end + 1),
        b'-' | b'0'..=b'9' => number::scan(bytes, at).map(|(_, end)| end),
        b't' => literal(bytes, at, b"true"),
        b'f' => literal(bytes, at, b"false"),
        b'n' => literal(bytes, at, b"null"),
        _ => None,
    }
}

/// The position after the object or array at `at`, which is inside of `outer` objects of a row, itself counted. `None` if
/// it is invalid, has escapes or is nested too deep for a row. A whole container is checked, as the general parser does.
#[inline(never)]
pub(super) fn skip_nested(bytes: &[u8], mut at: usize, breaks: Breaks, outer: usize) -> Option<usize> {
    // a bit for each open container, the innermost lowest: whether it is an object
    let mut objects = 0u64;
    let mut depth = outer;
    loop {
        if let opening @ (b'{' | b'[') = *bytes.get(at)? {
            let is_object = opening == b'{';
            depth += 1;
            if depth > MAX_NESTING {
                return None;
            }
            objects = objects << 1 | u64::from(is_object);
            at = skip_whitespace(bytes, at + 1, breaks);
            if !closes(*bytes.get(at)?, is_object) {
                at = if is_object { skip_name(bytes, at, breaks)? } else { at };
                continue;
            }
        } else {
            at = skip_whitespace(bytes, skip_scalar(bytes, at)?, breaks);
        }
        let mut is_object = objects & 1 == 1;
        while closes(*bytes.get(at)?, is_object) {
            depth -= 1;
            objects >>= 1;
            at += 1;
            if depth == outer {
                return Some(at);
            }
            is_object = objects & 1 == 1;
            at = skip_whitespace(bytes, at, breaks);
        }
        if bytes.get(at) != Some(&b',') {
            return None;
        }
        at = skip_whitespace(bytes, at + 1, breaks);
        at = if is_object { skip_name(bytes, at, breaks)? } else { at };
    }
}

/// The position after the element of an array that begins at `at` and is no valid JSON: that of the `,` or `]` behind it.
/// `None` if there is none, as where a string or a bracket is not closed, if it is empty, or if it is nested deeper than a row
/// may be.
pub(super) fn damaged_end(bytes: &[u8], at: usize) -> Option<usize> {
    // as in `skip_nested`
    let (mut objects, mut depth, mut end) = (0u64, 0, at);
    loop {
        match *bytes.get(end)? {
            b',' | b']' if depth == 0 => return (end > at).then_some(end),
            b'"' => end = damaged_string_end(bytes, end + 1)?,
            opening @ (b'{' | b'[') => {
                depth += 1;
                if depth > MAX_NESTING {
                    return None;
                }
                objects = objects << 1 | u64::from(opening == b'{');
            }
            closing @ (b'}' | b']') => {
                if depth == 0 || !closes(closing, objects & 1 == 1) {
                    return None;
                }
                depth -= 1;
                objects >>= 1;
            }
            _ => {}
        }
        end += 1;
    }
}

/// The position of the quote that ends the string whose content begins at `at`, whatever is in it.
fn damaged_string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes[at] {
            b'"' => return Some(at),
            _ => at += 2,
        }
    }
}

// one bit of `objects` for each level
const _: () = assert!(MAX_NESTING <= u64::BITS as usize);

fn closes(byte: u8, is_object: bool) -> bool {
    byte == if is_object { b'}' } else { b']' }
}

/// From a member's name to its value.
fn skip_name(bytes: &[u8], at: usize, breaks: Breaks) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let colon = skip_whitespace(bytes, string_end(bytes, at + 1)? + 1, breaks);
    (bytes.get(colon) == Some(&b':')).then(|| skip_whitespace(bytes, colon + 1, breaks))
}

/// The position after `text` if it is at `at`.
#[inline(always)]
pub(super) fn literal(bytes: &[u8], at: usize, text: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(text).then_some(at + text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_at_their_quote_wherever_it_lies() {
        for length in 0..40 {
            for behind in 0..10 {
                let text = format!("{}\"{}", "a".repeat(length), "b".repeat(behind));
                assert_eq!(string_end(text.as_bytes(), 0), Some(length));
            }
        }
        assert_eq!(string_end("äöü\"".as_bytes(), 0), Some(6));
        assert_eq!(string_end(b"\"", 0), Some(0));
        assert_eq!(string_end(b"a\x7f\"", 0), Some(2));
        for wrong in [
            &b""[..],
            b"abc",
            b"abcdefgh",
            b"a\\n\"",
            b"a\n\"",
            b"a\x00\"",
            b"\xff\"",
            "ä\\\"".as_bytes(),
            b"\xc3\"",
            b"a\x1f12345678\"",
        ] {
            assert_eq!(string_end(wrong, 0), None, "{wrong:?}");
        }
    }

    #[test]
    fn scalars_are_skipped() {
        for scalar in ["\"x\"", "-1.5e3", "0", "true", "false", "null", "1e999"] {
            assert_eq!(skip_scalar(scalar.as_bytes(), 0), Some(scalar.len()));
        }
        for other in ["[]", "{}", "nul", "tru", "", "\"\\n\"", "-"] {
            assert_eq!(skip_scalar(other.as_bytes(), 0), None, "{other}");
        }
    }

    #[test]
    fn damaged_elements_end_at_the_comma_or_bracket_of_their_array() {
        for element in ["NaN", "{\"x\":NaN}", "{,}", "{\"a\":[1,,2],}", "\"\\q,]\"", "{\"a\":\"\\\",\"}x", "\"\n\"", "-", "nul "]
        {
            for behind in [",1]", "]"] {
                assert_eq!(damaged_end(format!("{element}{behind}").as_bytes(), 0), Some(element.len()), "{element}");
            }
        }
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels) + ",";
        assert_eq!(damaged_end(deep(MAX_NESTING).as_bytes(), 0), Some(2 * MAX_NESTING));
        for wrong in ["", ",", "]", "x", "{]", "[1},", "}", "\"a,]", "\"\\\"]", "\"\\", "{\"a\":1,", &deep(MAX_NESTING + 1)] {
            assert_eq!(damaged_end(wrong.as_bytes(), 0), None, "{wrong}");
        }
    }

    #[test]
    fn containers_are_skipped_as_serde_reads_them() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let good =
            ["[]", "{}", "[1, 2 ,\"x\"]", "{\"a\":1,\"b\" : [{}, {\"c\":null}] }", "[[],[[]]]", "{\"a\":{}}", "[ ]", "{ }"];
        for text in good.map(String::from).into_iter().chain([nested(MAX_NESTING - 1)]) {
            assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
            assert_eq!(skip_nested(format!("{text},").as_bytes(), 0, Breaks::EndRow, 1), Some(text.len()), "{text}");
        }
        let wrong =
            ["[", "{", "[1,]", "[,1]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{1:1}", "[1}", "{]", "[1 2]", "[\"\\n\"]", "[\n]"];
        for text in wrong.map(String::from).into_iter().chain([nested(MAX_NESTING)]) {
            assert_eq!(skip_nested(text.as_bytes(), 0, Breaks::EndRow, 1), None, "{text}");
        }
        assert_eq!(skip_nested(b"[\n]", 0, Breaks::Whitespace, 1), Some(3));
        assert_eq!(skip_nested(nested(MAX_NESTING - 2).as_bytes(), 0, Breaks::EndRow, 3), None);
    }
}
