//! Workers on CPUs of their own.

use rustix::thread::CpuSet;

use crate::shared::Shared;

/// Keeps the calling thread, which is a worker, on one CPU, where the job asks for it. A system that refuses is only warned of.
pub fn pin(shared: &Shared, worker: usize) {
    if !shared.plan.config.engine.pin_cores {
        return;
    }
    let pinned = rustix::thread::sched_getaffinity(None).and_then(|allowed| {
        let mut set = CpuSet::new();
        set.set(cpu_of(worker, &allowed));
        rustix::thread::sched_setaffinity(None, &set)
    });
    if let Err(error) = pinned {
        tracing::warn!("worker {worker} can't be pinned to a core: {error}");
    }
}

/// The CPU of a worker: of those that the process may use, which need not begin at 0, one after the other.
fn cpu_of(worker: usize, allowed: &CpuSet) -> usize {
    let cpus = || (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    cpus().nth(worker % cpus().count().max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_spread_over_the_cpus_that_are_allowed() {
        let mut allowed = CpuSet::new();
        for cpu in [4, 5, 9] {
            allowed.set(cpu);
        }
        let cpus: Vec<usize> = (0..7).map(|worker| cpu_of(worker, &allowed)).collect();
        assert_eq!(cpus, [4, 5, 9, 4, 5, 9, 4]);
        assert_eq!(cpu_of(3, &CpuSet::new()), 0);
    }
}
