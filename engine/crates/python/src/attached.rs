//! Threads of the engine that call Python again and again.

use std::cell::Cell;

use pyo3::ffi;

thread_local! {
    static KEPT: Cell<Option<Kept>> = const { Cell::new(None) };
}

/// What the interpreter knows of a thread. It makes that when a thread that it does not know takes its lock, and throws it
/// away when the thread lets go, which costs more than the rest of a call; one that is kept is found again.
struct Kept {
    state: *mut ffi::PyThreadState,
    lock: ffi::PyGILState_STATE,
}

/// Makes the interpreter remember this thread until it ends. The thread waits for the interpreter's lock here and at its
/// end, and must end before the interpreter does.
pub fn keep_this_thread() {
    KEPT.with(|kept| {
        let known = kept.take();
        kept.set(Some(known.unwrap_or_else(|| {
            // SAFETY: the interpreter runs: its functions were loaded. The thread has the lock after the first call, which
            // the second gives back without forgetting the thread.
            unsafe {
                let lock = ffi::PyGILState_Ensure();
                Kept { state: ffi::PyEval_SaveThread(), lock }
            }
        })));
    });
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: the same thread takes its own state back and lets it go, in reverse order of the calls that made it.
        unsafe {
            ffi::PyEval_RestoreThread(self.state);
            ffi::PyGILState_Release(self.lock);
        }
    }
}
