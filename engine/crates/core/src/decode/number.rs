//! JSON numbers, read exactly: floats are the nearest to their decimal text, integers are never rounded.

use crate::config::TimeUnit;
use crate::event_time;

/// A number as JSON can spell it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Int(i64),
    /// Written with a point or an exponent (also `-0`). Infinite if it is beyond float64.
    Float(f64),
    /// An integer beyond int64, as the nearest float.
    BigInt(f64),
}

impl Number {
    /// As float64. `None` if it is out of range.
    #[inline(always)]
    pub fn to_f64(self) -> Option<f64> {
        match self {
            Number::Int(value) => Some(value as f64),
            Number::Float(value) | Number::BigInt(value) => value.is_finite().then_some(value),
        }
    }

    /// As int64: a float must have no fraction. `None` if it has one or is out of range.
    #[inline(always)]
    pub fn to_i64(self) -> Option<i64> {
        match self {
            Number::Int(value) => Some(value),
            Number::Float(value) if value.trunc() == value && (-I64_LIMIT..I64_LIMIT).contains(&value) => Some(value as i64),
            Number::Float(_) | Number::BigInt(_) => None,
        }
    }

    /// As an event time in microseconds. `None` if it is out of range.
    #[inline(always)]
    pub fn to_time_us(self, unit: TimeUnit) -> Option<i64> {
        match self {
            Number::Int(value) => event_time::from_integer(value, unit),
            Number::Float(value) | Number::BigInt(value) => event_time::from_float(value, unit),
        }
    }
}

/// The text of an integer key: its digits as they came. `None` if it is not written as an integer.
#[inline(always)]
pub(super) fn key_text(number: Number, text: &[u8]) -> Option<&[u8]> {
    match number {
        Number::Int(_) | Number::BigInt(_) => Some(text),
        Number::Float(_) => (text == b"-0").then_some(b"0"),
    }
}

/// 2^63: the first float that no `i64` holds.
const I64_LIMIT: f64 = 9_223_372_036_854_775_808.0;
/// Any decimal number of this many digits fits `u64`.
const MAX_U64_DIGITS: usize = 19;
/// Integers up to here are exact in float64.
const MAX_EXACT_MANTISSA: u64 = 1 << 53;
/// Powers of ten that are exact in float64.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21,
    1e22,
];
const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

const WORD: usize = 8;
/// Bytes that are looked at at once.
const WINDOW: usize = 2 * WORD;
const ZEROS: u64 = u64::from_le_bytes([b'0'; WORD]);
const HIGH_BITS: u64 = u64::from_le_bytes([0x80; WORD]);
/// Added to a byte, sets its high bit unless the byte is below 10.
const ABOVE_NINE: u64 = u64::from_le_bytes([0x76; WORD]);

/// Reads the number at `at`; gives it and the position after it. `None` if none is there by JSON's grammar. What follows
/// is not looked at.
#[inline(always)]
pub(super) fn scan(bytes: &[u8], at: usize) -> Option<(Number, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    let start = at + usize::from(negative);
    if let Some(window) = bytes.get(start..).and_then(<[u8]>::first_chunk::<WINDOW>)
        && let Some((number, length)) = scan_short(window, negative)
    {
        return Some((number, start + length));
    }
    scan_long(bytes, at, negative)
}

/// The usual numbers, from the bytes behind the sign: integers of less than sixteen digits, and decimal fractions of less than eight
/// bytes. Gives their length as well. `None` for all else, and for what is no number.
#[inline(always)]
fn scan_short(window: &[u8; WINDOW], negative: bool) -> Option<(Number, usize)> {
    let [head, tail] = [0, WORD].map(|at| u64::from_le_bytes(*window[at..].first_chunk().expect("two words")) ^ ZEROS);
    let others = no_digits(head);
    if others == 0 {
        let (more, count) = digits_of(tail);
        let starts_well = window[0] != b'0' && count < WORD && !matches!(window[WORD + count], b'.' | b'e' | b'E');
        let mantissa = eight_digits(head) * POWERS[count] + more;
        return starts_well.then(|| (Number::Int(signed(mantissa, negative)), WORD + count));
    }
    let whole = bytes_below(others);
    if whole == 0 || (whole > 1 && window[0] == b'0') {
        return None;
    }
    match window[whole] {
        b'.' => {
            // Those behind the point, which is the lowest.
            let others = others & (others - 1);
            let end = bytes_below(others);
            let fraction = end.wrapping_sub(whole + 1);
            if others == 0 || fraction == 0 || matches!(window[end], b'e' | b'E') {
                return None;
            }
            let before = (1u64 << (8 * whole)) - 1;
            let digits = (head & before) | ((head >> 8) & !before);
            // Both operands are exact, as below.
            let value = eight_digits(digits << (8 * (WORD + 1 - end))) as f64 / EXACT_POWERS[fraction];
            Some((Number::Float(if negative { -value } else { value }), end))
        }
        b'e' | b'E' => None,
        _ => match eight_digits(head << (8 * (WORD - whole))) {
            0 if negative => None,
            mantissa => Some((Number::Int(signed(mantissa, negative)), whole)),
        },
    }
}

#[inline(always)]
fn signed(mantissa: u64, negative: bool) -> i64 {
    if negative { -(mantissa as i64) } else { mantissa as i64 }
}

/// What [`scan_short`] leaves.
#[inline(never)]
fn scan_long(bytes: &[u8], at: usize, negative: bool) -> Option<(Number, usize)> {
    let start = at + usize::from(negative);
    let (mut mantissa, mut digits) = digits(bytes, start);
    if digits == 0 || (digits > 1 && bytes[start] == b'0') {
        return None;
    }
    let mut end = start + digits;
    while digits % WORD == 0 && digits < MAX_U64_DIGITS {
        let (more, count) = self::digits(bytes, end);
        if count == 0 {
            break;
        }
        mantissa = mantissa.wrapping_mul(POWERS[count]).wrapping_add(more);
        digits += count;
        end += count;
    }
    match bytes.get(end) {
        Some(b'.') => {}
        Some(b'e' | b'E' | b'0'..=b'9') => return scan_exotic(bytes, at),
        _ if digits > MAX_U64_DIGITS => return scan_exotic(bytes, at),
        _ => return integer(mantissa, negative).map_or_else(|| scan_exotic(bytes, at), |number| Some((number, end))),
    }
    let mut fraction = 0;
    end += 1;
    loop {
        let (more, count) = self::digits(bytes, end);
        mantissa = mantissa.wrapping_mul(POWERS[count]).wrapping_add(more);
        fraction += count;
        end += count;
        if count < WORD || fraction > MAX_U64_DIGITS {
            break;
        }
    }
    if fraction == 0 {
        return None;
    }
    let exact = digits + fraction <= MAX_U64_DIGITS && mantissa <= MAX_EXACT_MANTISSA;
    if !exact || matches!(bytes.get(end), Some(b'e' | b'E' | b'0'..=b'9')) {
        return scan_exotic(bytes, at);
    }
    // both operands are exact, so that the one rounding of the division is the right one (Clinger)
    let value = mantissa as f64 / EXACT_POWERS[fraction];
    Some((Number::Float(if negative { -value } else { value }), end))
}

#[inline(always)]
fn integer(mantissa: u64, negative: bool) -> Option<Number> {
    match i64::try_from(mantissa) {
        Ok(0) if negative => None,
        Ok(value) => Some(Number::Int(if negative { -value } else { value })),
        Err(_) => None,
    }
}

/// The value of up to eight digits at `at`, and how many there are.
#[inline(always)]
fn digits(bytes: &[u8], at: usize) -> (u64, usize) {
    digits_of(word(bytes, at) ^ ZEROS)
}

/// The same of a word from which [`ZEROS`] were taken.
#[inline(always)]
fn digits_of(word: u64) -> (u64, usize) {
    let count = bytes_below(no_digits(word));
    if count == 0 {
        return (0, 0);
    }
    // missing digits become leading zeros
    (eight_digits(word << (8 * (WORD - count))), count)
}

/// The high bit of each byte that is above nine. Bytes above one that is not ASCII may be wrong.
#[inline(always)]
fn no_digits(word: u64) -> u64 {
    (word.wrapping_add(ABOVE_NINE) | word) & HIGH_BITS
}

/// The number of the byte that the lowest bit belongs to; eight where there is none.
#[inline(always)]
fn bytes_below(bits: u64) -> usize {
    (bits.trailing_zeros() / 8) as usize
}

/// The number that eight digits make. Ones, tens, hundreds and so on are added pairwise.
#[inline(always)]
fn eight_digits(word: u64) -> u64 {
    let pairs = (word.wrapping_mul(10 * 0x100 + 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 * 0x1_0000 + 1) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 * 0x1_0000_0000 + 1) >> 32
}

/// Eight bytes at `at`, little endian; zeros behind the end.
#[inline(always)]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk::<WORD>) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => last_word(bytes, at),
    }
}

#[cold]
fn last_word(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    let mut chunk = [0; WORD];
    chunk[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(chunk)
}

/// Exponents, many digits, integers beyond int64, `-0`.
#[cold]
#[inline(never)]
fn scan_exotic(bytes: &[u8], at: usize) -> Option<(Number, usize)> {
    let digits_from = |from: usize| bytes[from.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let start = at + usize::from(bytes.get(at) == Some(&b'-'));
    let digits = digits_from(start);
    if digits == 0 || (digits > 1 && bytes[start] == b'0') {
        return None;
    }
    let mut end = start + digits;
    let mut is_integer = true;
    if bytes.get(end) == Some(&b'.') {
        let digits = digits_from(end + 1);
        if digits == 0 {
            return None;
        }
        end += 1 + digits;
        is_integer = false;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let exponent = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let digits = digits_from(exponent);
        if digits == 0 {
            return None;
        }
        end = exponent + digits;
        is_integer = false;
    }
    let text = std::str::from_utf8(&bytes[at..end]).expect("digits, points and signs are ASCII");
    if is_integer
        && text != "-0"
        && let Ok(value) = text.parse()
    {
        return Some((Number::Int(value), end));
    }
    let value: f64 = fast_float2::parse(text).expect("JSON's grammar of numbers is part of fast-float's");
    Some((if is_integer && text != "-0" { Number::BigInt(value) } else { Number::Float(value) }, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// With this behind it, the shortest number is read from a window.
    const BEHIND: &str = "1234567890123456";

    fn whole(text: &str) -> Option<Number> {
        scan(text.as_bytes(), 0).and_then(|(number, end)| (end == text.len()).then_some(number))
    }

    #[test]
    fn edges() {
        assert_eq!(whole("9223372036854775807"), Some(Number::Int(i64::MAX)));
        assert_eq!(whole("-9223372036854775808"), Some(Number::Int(i64::MIN)));
        assert_eq!(whole("9223372036854775808"), Some(Number::BigInt(I64_LIMIT)));
        assert_eq!(whole("-9223372036854775809").unwrap().to_i64(), None);
        assert_eq!(whole("12345678"), Some(Number::Int(12_345_678)));
        assert_eq!(whole("1234567812345678"), Some(Number::Int(1_234_567_812_345_678)));
        assert_eq!(whole("-0").unwrap().to_f64().unwrap().to_bits(), (-0.0f64).to_bits());
        assert_eq!(whole("-0.0").unwrap().to_f64().unwrap().to_bits(), (-0.0f64).to_bits());
        assert_eq!(whole("-0").unwrap().to_i64(), Some(0));
        assert_eq!(whole("3.0").unwrap().to_i64(), Some(3));
        assert_eq!(whole("3.5").unwrap().to_i64(), None);
        assert_eq!(whole("1e400").unwrap().to_f64(), None);
        assert_eq!(whole("1e18").unwrap().to_i64(), Some(1_000_000_000_000_000_000));
        assert_eq!(whole("9223372036854775808.0").unwrap().to_i64(), None);
        for wrong in ["", "-", "01", "-01", "1.", ".5", "1e", "1e+", "+1", "NaN", "Infinity", "0x1", "1.e5", "00", "00000000"] {
            assert_eq!(whole(wrong), None, "{wrong}");
        }
    }

    fn agrees(text: &str) -> Result<(), TestCaseError> {
        let reference: f64 = serde_json::from_str(text).unwrap_or(f64::INFINITY);
        let number = whole(text).ok_or_else(|| TestCaseError::fail(format!("{text} was not read")))?;
        prop_assert_eq!(number.to_f64().unwrap_or(f64::INFINITY).to_bits(), reference.to_bits(), "{}", text);
        if let Ok(integer) = text.parse::<i64>() {
            prop_assert_eq!(number.to_i64(), Some(integer));
        }
        // digits behind the number must not change it
        let (again, end) = scan(format!("{text},{BEHIND}").as_bytes(), 0).unwrap();
        prop_assert_eq!(end, text.len());
        prop_assert_eq!(again, number);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn numbers_are_exact(text in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?") {
            agrees(&text)?;
        }

        #[test]
        fn short_numbers_are_exact(text in "-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,9})?") {
            agrees(&text)?;
        }

        #[test]
        fn floats_of_all_sizes_are_exact(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            agrees(&serde_json::to_string(&value).unwrap())?;
        }

        #[test]
        fn only_json_is_read(text in "[-+0-9.eE]{0,12}") {
            let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(whole(&text).is_some(), is_json);
            let within = scan(format!("{text},{BEHIND}").as_bytes(), 0);
            prop_assert_eq!(within.is_some_and(|(_, end)| end == text.len()), is_json);
        }
    }
}
