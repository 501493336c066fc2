//! Time, as this process and the receiver share it.

use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the epoch (CLOCK_REALTIME), the clock that the generator and the receiver share.
pub fn wall_us() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970");
    since_epoch.as_micros() as i64
}

/// One moment on both clocks; taken anew often, as they drift apart.
#[derive(Clone, Copy)]
pub struct Moment {
    pub instant: Instant,
    wall_us: i64,
}

impl Moment {
    pub fn now() -> Moment {
        Moment { instant: Instant::now(), wall_us: wall_us() }
    }

    /// The wall clock's microseconds at `then`, which is not later than this moment.
    pub fn wall_us_at(&self, then: Instant) -> i64 {
        self.wall_us - self.instant.saturating_duration_since(then).as_micros() as i64
    }
}

/// Processor time that this process has used, in user and kernel.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
