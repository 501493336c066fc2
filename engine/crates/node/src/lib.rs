//! One engine process.

mod options;

pub use options::{NoUdfFactory, OnProgress, OnReady, Options, Totals, UdfFactory};

/// Runs a job until a signal, the time limit or the end of its sources.
pub fn run(options: Options) -> streamjob_core::Result<Totals> {
    let _ = options;
    unimplemented!("wired next")
}
