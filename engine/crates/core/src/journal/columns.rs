//! Numbers as byte planes: all lowest bytes together, then all second ones, which is what a byte compressor likes.
//!
//! A block is `[width u8][plane 0: n bytes]…[plane width-1]`. The width is at least 1, so that a value always costs a byte
//! of the body and a damaged count cannot make the decoder allocate more than eight times the bytes it was given.

use crate::{Error, Result};

/// Zigzag: small magnitudes of either sign become small numbers.
#[inline]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub(super) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Number of bytes that hold the largest of values whose bits were or-ed into `bits`, 1 to 8.
#[inline]
fn width_of(bits: u64) -> usize {
    (8 - (bits.leading_zeros() / 8) as usize).max(1)
}

/// Transposes 8 x 8 bytes: byte `b` of word `w` becomes byte `w` of word `b`.
#[inline(always)]
fn transpose(mut x: [u64; 8]) -> [u64; 8] {
    const PAIRS: u64 = 0x00ff_00ff_00ff_00ff;
    const QUADS: u64 = 0x0000_ffff_0000_ffff;
    const HALVES: u64 = 0x0000_0000_ffff_ffff;
    for i in [0, 2, 4, 6] {
        let swap = ((x[i] >> 8) ^ x[i + 1]) & PAIRS;
        x[i + 1] ^= swap;
        x[i] ^= swap << 8;
    }
    for i in [0, 1, 4, 5] {
        let swap = ((x[i] >> 16) ^ x[i + 2]) & QUADS;
        x[i + 2] ^= swap;
        x[i] ^= swap << 16;
    }
    for i in 0..4 {
        let swap = ((x[i] >> 32) ^ x[i + 4]) & HALVES;
        x[i + 4] ^= swap;
        x[i] ^= swap << 32;
    }
    x
}

/// Appends the block of `values`.
pub(super) fn write_planes(values: &[u64], out: &mut Vec<u8>) {
    let width = width_of(values.iter().fold(0, |bits, value| bits | value));
    let rows = values.len();
    out.push(width as u8);
    let start = out.len();
    out.resize(start + width * rows, 0);
    let planes = &mut out[start..];
    let (blocks, rest) = values.as_chunks::<8>();
    for (block, words) in blocks.iter().enumerate() {
        let transposed = transpose(*words);
        for (plane, bytes) in transposed[..width].iter().enumerate() {
            let at = plane * rows + block * 8;
            planes[at..at + 8].copy_from_slice(&bytes.to_le_bytes());
        }
    }
    for (row, value) in rest.iter().enumerate() {
        for plane in 0..width {
            planes[plane * rows + blocks.len() * 8 + row] = (value >> (8 * plane)) as u8;
        }
    }
}

/// Reads a block of `rows` values from the front of `input`.
pub(super) fn read_planes(input: &mut &[u8], rows: usize) -> Result<Vec<u64>> {
    let width = usize::from(take(input, 1)?[0]);
    if !(1..=8).contains(&width) {
        return Err(Error::damaged(format!("a column of {width} byte planes (1 to 8 are possible)")));
    }
    let planes = take(input, width.saturating_mul(rows))?;
    let mut values = vec![0u64; rows];
    let (blocks, rest) = values.as_chunks_mut::<8>();
    let block_rows = blocks.len() * 8;
    for (block, words) in blocks.iter_mut().enumerate() {
        let mut loaded = [0u64; 8];
        for (plane, word) in loaded[..width].iter_mut().enumerate() {
            let at = plane * rows + block * 8;
            let bytes: [u8; 8] = planes[at..at + 8].try_into().expect("a slice of eight bytes");
            *word = u64::from_le_bytes(bytes);
        }
        *words = transpose(loaded);
    }
    for (row, value) in rest.iter_mut().enumerate() {
        for plane in 0..width {
            *value |= u64::from(planes[plane * rows + block_rows + row]) << (8 * plane);
        }
    }
    Ok(values)
}

/// Appends `values` as differences between neighbours: rising times and counters become small.
pub(super) fn write_deltas(values: &[i64], scratch: &mut Vec<u64>, out: &mut Vec<u8>) {
    let first = values.first().copied().unwrap_or(0);
    out.extend_from_slice(&first.to_le_bytes());
    scratch.clear();
    let mut last = first;
    scratch.extend(values.iter().map(|&value| {
        let delta = zigzag(value.wrapping_sub(last));
        last = value;
        delta
    }));
    write_planes(scratch, out);
}

/// Reads what [`write_deltas`] wrote.
pub(super) fn read_deltas(input: &mut &[u8], rows: usize) -> Result<Vec<i64>> {
    let first: [u8; 8] = take(input, 8)?.try_into().expect("eight bytes were taken");
    let mut last = i64::from_le_bytes(first);
    let deltas = read_planes(input, rows)?;
    let values = deltas.into_iter().map(|delta| {
        last = last.wrapping_add(unzigzag(delta));
        last
    });
    Ok(values.collect())
}

/// Takes `count` bytes from the front of `input`.
pub(super) fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    if count > input.len() {
        return Err(Error::damaged(format!("{count} bytes are announced and {} are left", input.len())));
    }
    let (taken, rest) = input.split_at(count);
    *input = rest;
    Ok(taken)
}

/// Appends `value` in 7-bit groups, lowest first.
pub(super) fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a number written by [`write_varint`], refused above `max`.
pub(super) fn read_varint(input: &mut &[u8], what: &str, max: usize) -> Result<usize> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if value > max as u64 {
                return Err(Error::damaged(format!("{what} is {value}, above the bound of {max}")));
            }
            return Ok(value as usize);
        }
    }
    Err(Error::damaged(format!("{what} is not a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_and_deltas_round_trip_for_every_length_and_width() {
        for rows in 0..40usize {
            for shift in [0, 7, 8, 20, 40, 63] {
                let values: Vec<u64> = (0..rows as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (63 - shift)).collect();
                let mut out = Vec::new();
                write_planes(&values, &mut out);
                let mut input = out.as_slice();
                assert_eq!(read_planes(&mut input, rows).unwrap(), values);
                assert!(input.is_empty());
                let signed: Vec<i64> = values.iter().map(|&value| value as i64).collect();
                let mut out = Vec::new();
                write_deltas(&signed, &mut Vec::new(), &mut out);
                assert_eq!(read_deltas(&mut out.as_slice(), rows).unwrap(), signed);
            }
        }
    }

    #[test]
    fn varints_round_trip_and_are_bounded() {
        for value in [0usize, 1, 127, 128, 300, 1 << 20, usize::MAX] {
            let mut out = Vec::new();
            write_varint(value as u64, &mut out);
            assert_eq!(read_varint(&mut out.as_slice(), "x", usize::MAX).unwrap(), value);
        }
        let error = read_varint(&mut [0xff, 0x01].as_slice(), "rows", 100).unwrap_err();
        assert_eq!(error.message(), "rows is 255, above the bound of 100");
        assert!(read_varint(&mut [0xff; 20].as_slice(), "rows", 100).is_err());
    }
}
