//! Named places where a test may kill the process, or break something.
//!
//! Only the feature `crash-points` makes them do anything, and then only after [`set_hooks`]: what happens there is I/O and
//! belongs to who sets it.

#[cfg(feature = "crash-points")]
static HOOKS: std::sync::OnceLock<(fn(&str), fn(&str) -> bool)> = std::sync::OnceLock::new();

/// Calls `point` with the name of each place that is passed from now on, and `fault` with each that may fail. The first hooks
/// stay.
#[cfg(feature = "crash-points")]
pub fn set_hooks(point: fn(&str), fault: fn(&str) -> bool) {
    HOOKS.get_or_init(|| (point, fault));
}

/// Marks a place, for instance `commit-before-ingest`.
#[cfg(feature = "crash-points")]
pub fn point(step: &str) {
    if let Some((point, _)) = HOOKS.get() {
        point(step);
    }
}

/// Marks a place, for instance `commit-before-ingest`.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_step: &str) {}

/// Whether a test wants this to break now, for instance `topic-reader-stalls`.
#[cfg(feature = "crash-points")]
pub fn fault(name: &str) -> bool {
    HOOKS.get().is_some_and(|(_, fault)| fault(name))
}

/// Whether a test wants this to break now, for instance `topic-reader-stalls`.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn fault(_name: &str) -> bool {
    false
}
