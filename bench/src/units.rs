//! Values with units on the command line.

use std::time::Duration;

/// `250us`, `10ms`, `30s`, `5m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("write a unit: us, ms, s or m")?;
    let value: f64 = text[..split].parse().map_err(|_| "write a number and a unit, as 30s".to_owned())?;
    let unit = match &text[split..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        other => return Err(format!("{other} is no unit; write us, ms, s or m")),
    };
    Duration::try_from_secs_f64(value * unit).map_err(|error| error.to_string())
}

/// `10000`, `10k`, `4M`.
pub fn count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let value: f64 = digits.replace('_', "").parse().map_err(|_| "write a number, as 10000, 10k or 4M".to_owned())?;
    if !(0.0..9e15).contains(&value) {
        return Err("is out of range".to_owned());
    }
    Ok((value * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert!(duration("30").is_err() && duration("3h").is_err() && duration("s").is_err());
        assert_eq!(count("4M"), Ok(4_000_000));
        assert_eq!(count("0.2M"), Ok(200_000));
        assert_eq!(count("10_000"), Ok(10_000));
        assert!(count("").is_err() && count("-1").is_err() && count("x").is_err());
    }
}
