//! Named places where a test may kill the process.
//!
//! Only the feature `crash-points` makes them do anything, and then only after [`set_hook`]: what happens there is I/O and
//! belongs to who sets it.

#[cfg(feature = "crash-points")]
static HOOK: std::sync::OnceLock<fn(&str)> = std::sync::OnceLock::new();

/// Calls `hook` with the name of each place that is passed from now on. The first hook stays.
#[cfg(feature = "crash-points")]
pub fn set_hook(hook: fn(&str)) {
    HOOK.get_or_init(|| hook);
}

/// Marks a place, for instance `commit-before-ingest`.
#[cfg(feature = "crash-points")]
pub fn point(step: &str) {
    if let Some(hook) = HOOK.get() {
        hook(step);
    }
}

/// Marks a place, for instance `commit-before-ingest`.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_step: &str) {}
