//! The process's handlers of SIGINT and SIGTERM, lent to the engine for a run and given back.
//!
//! Tokio installs a handler once for the life of the process and calls the one that it found there too. Python's would
//! then raise KeyboardInterrupt after a run that a Ctrl-C had ended in good order, and after a run SIGTERM would end
//! nothing any more. So Tokio finds a signal that nobody handles, and its handler is put in place for runs alone.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use libc::{SIGINT, SIGTERM, c_int, sigaction};

const SIGNALS: [c_int; 2] = [SIGINT, SIGTERM];

struct Handlers {
    /// Runs under way; the first borrows the handlers and the last gives them back.
    runs: usize,
    /// What was there before.
    before: [Option<sigaction>; SIGNALS.len()],
    /// What Tokio installed, once it has.
    engine: [Option<sigaction>; SIGNALS.len()],
}

// `sigaction` is plain data: flags, a mask and the address of a function.
static HANDLERS: Mutex<Handlers> = Mutex::new(Handlers { runs: 0, before: [None; 2], engine: [None; 2] });

/// The handlers are the engine's while this lives.
pub struct Borrowed(());

impl Borrowed {
    pub fn new() -> Borrowed {
        let mut handlers = HANDLERS.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.runs += 1;
        if handlers.runs == 1 {
            for (number, signal) in SIGNALS.into_iter().enumerate() {
                handlers.before[number] = swap(signal, &handlers.engine[number].unwrap_or_else(ignoring));
            }
        }
        Borrowed(())
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut handlers = HANDLERS.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.runs -= 1;
        if handlers.runs > 0 {
            return;
        }
        for (number, signal) in SIGNALS.into_iter().enumerate() {
            let Some(before) = handlers.before[number].take() else { continue };
            // A run that failed early left the signal ignored: that is not Tokio's handler.
            let found = swap(signal, &before).filter(|found| found.sa_sigaction != libc::SIG_IGN);
            handlers.engine[number] = found.or(handlers.engine[number]);
        }
    }
}

fn ignoring() -> sigaction {
    // SAFETY: zero is a valid value of each of its members: no flags, an empty mask.
    let mut action: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = libc::SIG_IGN;
    action
}

/// Installs a handler; gives the one before, `None` if the system refuses, which it does for no signal used here.
fn swap(signal: c_int, action: &sigaction) -> Option<sigaction> {
    let mut before = MaybeUninit::<sigaction>::uninit();
    // SAFETY: both pointers are valid for the call, and the action came from the system or is SIG_IGN.
    let status = unsafe { libc::sigaction(signal, ptr::from_ref(action), before.as_mut_ptr()) };
    // SAFETY: on success the system has written the former action.
    (status == 0).then(|| unsafe { before.assume_init() })
}
