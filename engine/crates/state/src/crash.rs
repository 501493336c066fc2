//! Kills the process at a named step, as `STREAMJOB_CRASH_AT=step` or `step:n` (the n-th time) has it, or breaks what
//! `STREAMJOB_FAULT_AT` names, the n-th time that it could. For test builds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};
use streamjob_core::{Error, Result, crash};

/// Name of the environment variable that kills.
pub const CRASH_AT: &str = "STREAMJOB_CRASH_AT";
/// Name of the environment variable that breaks something.
pub const FAULT_AT: &str = "STREAMJOB_FAULT_AT";

struct Plan {
    step: String,
    left: AtomicU64,
}

static CRASH: OnceLock<Plan> = OnceLock::new();
static FAULT: OnceLock<Plan> = OnceLock::new();

/// Reads the environment once, when the process starts. The error says what is wrong with a variable.
pub fn arm() -> Result<()> {
    for (variable, plan) in [(CRASH_AT, &CRASH), (FAULT_AT, &FAULT)] {
        let Ok(value) = std::env::var(variable) else { continue };
        let (step, times) = value.split_once(':').unwrap_or((&value, "1"));
        let times = times.parse::<u64>().ok().filter(|&times| times > 0);
        let times = times.ok_or_else(|| Error::user(format!("{variable}={value}: write `step` or `step:n`, n from 1")))?;
        plan.get_or_init(|| Plan { step: step.to_owned(), left: AtomicU64::new(times) });
    }
    crash::set_hooks(passed, is_due_fault);
    Ok(())
}

fn is_due(plan: &OnceLock<Plan>, step: &str) -> bool {
    plan.get().filter(|plan| plan.step == step).is_some_and(|plan| plan.left.fetch_sub(1, Ordering::Relaxed) == 1)
}

fn is_due_fault(name: &str) -> bool {
    is_due(&FAULT, name)
}

fn passed(step: &str) {
    if is_due(&CRASH, step) {
        // SIGKILL leaves nothing behind to clean up, which is what is tested.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}
