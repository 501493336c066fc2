//! How long to wait before another try: a pure function, with the randomness passed in.

use std::time::Duration;

/// Doubling waits with a cap, from which jitter takes a random part, so that many senders do not come back at the same moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The longest wait after the first failure.
    pub initial: Duration,
    /// The longest wait after any failure.
    pub max: Duration,
    /// The part of a wait that is random, 0 to 1: 0 waits exactly, 1 is "full jitter".
    pub jitter: f64,
}

/// Half of each wait is random: senders spread, and none comes back at once.
pub const DEFAULT_JITTER: f64 = 0.5;

impl Backoff {
    pub fn new(initial: Duration, max: Duration) -> Backoff {
        Backoff { initial, max, jitter: DEFAULT_JITTER }
    }

    /// The same from a job's settings, microseconds; below zero is zero.
    pub fn of_micros(initial_us: i64, max_us: i64) -> Backoff {
        let micros = |us: i64| Duration::from_micros(us.max(0) as u64);
        Backoff::new(micros(initial_us), micros(max_us))
    }

    /// The wait after the failure number `failures` (1 is the first); `random` is uniform in 0 to 1.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(u32::BITS - 1);
        let longest = self.initial.saturating_mul(1 << doublings).min(self.max);
        longest.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `mul_f64` rounds to the nanosecond.
    const ROUNDING: Duration = Duration::from_nanos(1);

    fn backoff() -> impl Strategy<Value = Backoff> {
        (0u64..10_000_000, 0u64..100_000_000, 0.0..=1.0).prop_map(|(initial, max, jitter)| Backoff {
            initial: Duration::from_micros(initial),
            max: Duration::from_micros(max),
            jitter,
        })
    }

    proptest! {
        #[test]
        fn a_wait_lies_between_its_fixed_part_and_the_cap(backoff in backoff(), failures: u32, random in 0.0..1.0) {
            let longest = backoff.delay(failures, 0.0);
            let wait = backoff.delay(failures, random);
            prop_assert!(wait <= longest && longest <= backoff.max);
            prop_assert!(wait + ROUNDING >= longest.mul_f64(1.0 - backoff.jitter));
        }

        #[test]
        fn waits_double_until_the_cap(backoff in backoff(), failures in 1u32..1000) {
            let (this, next) = (backoff.delay(failures, 0.0), backoff.delay(failures + 1, 0.0));
            prop_assert!(next == this.saturating_mul(2).min(backoff.max) || this == backoff.max || failures >= u32::BITS);
            prop_assert!(next >= this);
        }

        #[test]
        fn more_randomness_never_waits_longer(backoff in backoff(), failures: u32, a in 0.0..1.0, b in 0.0..1.0) {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(backoff.delay(failures, high) <= backoff.delay(failures, low));
        }
    }

    #[test]
    fn without_jitter_the_waits_are_exact() {
        let backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
        let waits: Vec<u128> = [1, 2, 3, 4, 5, 99, u32::MAX].map(|n| backoff.delay(n, 0.9).as_millis()).into();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000, 1000]);
    }
}
