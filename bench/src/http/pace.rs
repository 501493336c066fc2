//! When the next request is to be sent.

use std::time::{Duration, Instant};

/// The schedule of an open load, or none: then a request is due whenever a connection is free.
pub struct Pace {
    schedule: Option<Schedule>,
    end: Instant,
}

struct Schedule {
    start: Instant,
    interval: Duration,
    /// Requests that were taken, also the number of the next one.
    taken: u64,
}

impl Pace {
    /// `requests_per_s` is the open load's rate.
    pub fn new(requests_per_s: Option<f64>, start: Instant, end: Instant) -> Pace {
        let schedule = requests_per_s.map(|rate| Schedule { start, interval: Duration::from_secs_f64(1.0 / rate), taken: 0 });
        Pace { schedule, end }
    }

    /// The moment at which the next request should be sent; `None` after the end.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let next = match &self.schedule {
            // Not a sum of intervals, whose rounding would add up.
            Some(schedule) => schedule.start + schedule.interval.mul_f64(schedule.taken as f64),
            None => now,
        };
        (next < self.end).then_some(next)
    }

    /// Takes the next request if it is due.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let next = self.next(now).filter(|next| *next <= now)?;
        if let Some(schedule) = &mut self.schedule {
            schedule.taken += 1;
        }
        Some(next)
    }

    /// Requests that are due and not sent: how far an open load is behind.
    pub fn backlog(&self, now: Instant) -> u64 {
        let Some(schedule) = &self.schedule else { return 0 };
        let elapsed = now.min(self.end).saturating_duration_since(schedule.start);
        ((elapsed.as_secs_f64() / schedule.interval.as_secs_f64()) as u64).saturating_sub(schedule.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_load_keeps_its_schedule_however_late_it_is_asked() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1000.0), start, start + Duration::from_millis(10));
        assert_eq!(pace.take(start), Some(start));
        assert_eq!(pace.take(start), None);
        let late = start + Duration::from_secs(1);
        assert_eq!(pace.backlog(late), 9);
        for request in 1..10 {
            assert_eq!(pace.take(late), Some(start + Duration::from_millis(request)));
        }
        assert_eq!(pace.take(late), None);
    }

    #[test]
    fn a_closed_load_is_always_due_until_the_end() {
        let start = Instant::now();
        let mut pace = Pace::new(None, start, start + Duration::from_secs(1));
        let now = start + Duration::from_millis(999);
        assert_eq!((pace.take(now), pace.take(now), pace.backlog(now)), (Some(now), Some(now), 0));
        assert_eq!(pace.take(start + Duration::from_secs(1)), None);
    }
}
