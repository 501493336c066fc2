//! Events as JSON lines of fixed width, so that devices, times and values are changed in place.

/// A permutation of the devices, so that neighbours in the stream are no neighbours in any table.
pub struct Devices {
    count: u32,
    step: u32,
    next: u32,
}

/// Close to the golden ratio, whose multiples spread most evenly.
const STEP_PER_DEVICE: f64 = 0.618_033_988_749_895;

impl Devices {
    pub fn new(count: u32) -> Devices {
        let mut step = ((f64::from(count) * STEP_PER_DEVICE) as u32).max(1);
        while greatest_common_divisor(step, count) != 1 {
            step += 1;
        }
        Devices { count, step: step % count.max(1), next: 0 }
    }

    /// Each device comes once before any comes again.
    #[inline]
    pub fn next(&mut self) -> u32 {
        let device = self.next;
        self.next += self.step;
        if self.next >= self.count {
            self.next -= self.count;
        }
        device
    }

    /// Moves on by `places` without returning them.
    pub fn skip(&mut self, places: u64) {
        let moved = u64::from(self.next) + u64::from(self.step) * (places % u64::from(self.count));
        self.next = (moved % u64::from(self.count)) as u32;
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The shape of a row and where its changing parts lie.
pub struct RowLayout {
    template: Vec<u8>,
    device: Place,
    time: Place,
    temperature: Place,
    humidity: Place,
    sent: Option<Place>,
    integers: bool,
}

#[derive(Clone, Copy)]
struct Place {
    at: usize,
    digits: usize,
}

/// Room for at least a million devices, as `device-000123`.
const MIN_DEVICE_DIGITS: usize = 6;

impl RowLayout {
    /// `sent_us` adds a member of that name, for the moment at which the row should have been sent.
    pub fn new(devices: u32, integers: bool, sent_us: bool) -> RowLayout {
        let digits = (devices.max(1) - 1).to_string().len().max(MIN_DEVICE_DIGITS);
        let mut template = Vec::new();
        let mut place = |before: &str, digits: usize, fraction: usize| {
            template.extend_from_slice(before.as_bytes());
            let at = template.len();
            template.resize(at + digits, b'1');
            if fraction > 0 {
                template[at + digits - fraction - 1] = b'.';
            }
            Place { at, digits }
        };
        let device = place("{\"device_id\":\"device-", digits, 0);
        let time = place("\",\"timestamp\":", 13, 0);
        let temperature = if integers { place(",\"temperature\":", 2, 0) } else { place(",\"temperature\":", 5, 2) };
        let humidity = if integers { place(",\"humidity\":", 2, 0) } else { place(",\"humidity\":", 4, 1) };
        let sent = sent_us.then(|| place(",\"sent_us\":", 16, 0));
        place("}\n", 0, 0);
        RowLayout { template, device, time, temperature, humidity, sent, integers }
    }

    /// A row with its newline, all digits 1.
    pub fn template(&self) -> &[u8] {
        &self.template
    }

    pub fn len(&self) -> usize {
        self.template.len()
    }

    #[inline]
    pub fn set_device(&self, row: &mut [u8], device: u32) {
        if self.device.digits == MIN_DEVICE_DIGITS {
            // The usual case without a loop: it is most of what a row costs.
            let place: &mut [u8; MIN_DEVICE_DIGITS] =
                (&mut row[self.device.at..self.device.at + MIN_DEVICE_DIGITS]).try_into().expect("the slice has that length");
            place[..3].copy_from_slice(&TRIPLES[(device / 1000 % 1000) as usize]);
            place[3..].copy_from_slice(&TRIPLES[(device % 1000) as usize]);
            return;
        }
        write_digits(&mut row[self.device.at..self.device.at + self.device.digits], u64::from(device));
    }

    /// `digits` are the time in milliseconds, by [`milliseconds`]: converted once for many rows.
    #[inline]
    pub fn set_time(&self, row: &mut [u8], digits: &[u8; 13]) {
        row[self.time.at..self.time.at + 13].copy_from_slice(digits);
    }

    /// In hundredths from 10.00 to 99.99; whole ones where the layout has integers.
    #[inline]
    pub fn set_temperature(&self, row: &mut [u8], hundredths: u16) {
        let at = self.temperature.at;
        write_digits(&mut row[at..at + 2], u64::from(hundredths / 100));
        if !self.integers {
            write_digits(&mut row[at + 3..at + 5], u64::from(hundredths % 100));
        }
    }

    /// In tenths from 10.0 to 99.9; whole ones where the layout has integers.
    #[inline]
    pub fn set_humidity(&self, row: &mut [u8], tenths: u16) {
        let at = self.humidity.at;
        write_digits(&mut row[at..at + 2], u64::from(tenths / 10));
        if !self.integers {
            row[at + 3] = b'0' + (tenths % 10) as u8;
        }
    }

    #[inline]
    pub fn set_sent(&self, row: &mut [u8], digits: &[u8; 16]) {
        if let Some(sent) = self.sent {
            row[sent.at..sent.at + 16].copy_from_slice(digits);
        }
    }
}

/// All numbers of three digits.
static TRIPLES: [[u8; 3]; 1000] = {
    let mut triples = [[b'0'; 3]; 1000];
    let mut number = 0;
    while number < 1000 {
        triples[number] = [b'0' + (number / 100) as u8, b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    triples
};

/// Writes the lowest digits of `value` that fit, with leading zeros.
#[inline]
fn write_digits(place: &mut [u8], mut value: u64) {
    let mut end = place.len();
    while end >= 3 {
        place[end - 3..end].copy_from_slice(&TRIPLES[(value % 1000) as usize]);
        value /= 1000;
        end -= 3;
    }
    place[..end].copy_from_slice(&TRIPLES[(value % 1000) as usize][3 - end..]);
}

/// Milliseconds since the epoch, 13 digits from 2001 to 2286.
pub fn milliseconds(ms: i64) -> [u8; 13] {
    digits(ms)
}

/// Microseconds since the epoch, 16 digits in the same years.
pub fn microseconds(us: i64) -> [u8; 16] {
    digits(us)
}

fn digits<const N: usize>(value: i64) -> [u8; N] {
    let mut digits = [0; N];
    write_digits(&mut digits, value as u64);
    digits
}

/// A deterministic stream of numbers that look random: splitmix64.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(seed)
    }

    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A number below `bound` from 32 random bits.
#[inline]
pub fn below(bits: u32, bound: u16) -> u16 {
    ((u64::from(bits) * u64::from(bound)) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_row_is_json_with_the_values_set() {
        let layout = RowLayout::new(10_000, false, true);
        let mut row = layout.template().to_vec();
        layout.set_device(&mut row, 123);
        layout.set_time(&mut row, &milliseconds(1_700_000_000_123));
        layout.set_temperature(&mut row, 2153);
        layout.set_humidity(&mut row, 402);
        layout.set_sent(&mut row, &microseconds(1_700_000_000_123_456));
        let expected = "{\"device_id\":\"device-000123\",\"timestamp\":1700000000123,\"temperature\":21.53,\"humidity\":40.2,\
                        \"sent_us\":1700000000123456}\n";
        assert_eq!(String::from_utf8(row).unwrap(), expected);
    }

    #[test]
    fn integer_rows_have_whole_values_and_many_devices_more_digits() {
        let layout = RowLayout::new(10_000_000, true, false);
        let mut row = layout.template().to_vec();
        layout.set_device(&mut row, 9_876_543);
        layout.set_time(&mut row, &milliseconds(1_700_000_000_000));
        layout.set_temperature(&mut row, 2153);
        layout.set_humidity(&mut row, 402);
        let expected = "{\"device_id\":\"device-9876543\",\"timestamp\":1700000000000,\"temperature\":21,\"humidity\":40}\n";
        assert_eq!(String::from_utf8(row).unwrap(), expected);
    }

    #[test]
    fn each_device_comes_once_a_round() {
        for count in [1, 2, 3, 10, 1000, 9973, 10_000] {
            let mut devices = Devices::new(count);
            for _ in 0..3 {
                let round: HashSet<u32> = (0..count).map(|_| devices.next()).collect();
                assert_eq!(round.len(), count as usize);
                assert!(round.iter().all(|device| *device < count));
            }
        }
    }

    #[test]
    fn skipping_is_like_taking() {
        let (mut a, mut b) = (Devices::new(1000), Devices::new(1000));
        a.skip(2345);
        for _ in 0..2345 {
            b.next();
        }
        assert_eq!(a.next(), b.next());
    }
}
