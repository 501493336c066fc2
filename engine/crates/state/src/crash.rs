//! Kills the process at a named step, as `STREAMJOB_CRASH_AT=step` or `step:n` (the n-th time) has it. For test builds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};
use streamjob_core::{Error, Result, crash};

/// Name of the environment variable.
pub const CRASH_AT: &str = "STREAMJOB_CRASH_AT";

struct Plan {
    step: String,
    left: AtomicU64,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

/// Reads the environment once, when the process starts. The error says what is wrong with the variable.
pub fn arm() -> Result<()> {
    let Ok(value) = std::env::var(CRASH_AT) else { return Ok(()) };
    let (step, times) = value.split_once(':').unwrap_or((&value, "1"));
    let times = times.parse::<u64>().ok().filter(|&times| times > 0);
    let times = times.ok_or_else(|| Error::user(format!("{CRASH_AT}={value}: write `step` or `step:n`, n from 1")))?;
    PLAN.get_or_init(|| Plan { step: step.to_owned(), left: AtomicU64::new(times) });
    crash::set_hook(passed);
    Ok(())
}

fn passed(step: &str) {
    let Some(plan) = PLAN.get().filter(|plan| plan.step == step) else {
        return;
    };
    if plan.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // SIGKILL leaves nothing behind to clean up, which is what is tested.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}
