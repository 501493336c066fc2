//! Measures commits, reopening, reading and the steady state of the shards' stores.
//!
//! `cargo run --release --example commit_speed [DIRECTORY [STEADY_SECONDS [INTERVAL_MS]]]`; the directory must be on the disk that is
//! asked about, not in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamjob_core::store::{ShardStore, WriteSet};
use streamjob_state::{RocksShardStore, ShardStores, SharedResources, StoreOptions};

const SHARDS: u16 = 32;
const VALUE_BYTES: usize = 184;
const KEY_BYTES: usize = 16;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(|| std::env::temp_dir().join("commit-speed"), PathBuf::from);
    let seconds = arguments.next().map_or(60, |seconds| seconds.parse().expect("STEADY_SECONDS is a number"));
    let interval = arguments.next().map_or(5000, |interval| interval.parse().expect("INTERVAL_MS is a number"));
    for (name, small_commit_bytes) in [("files", 0), ("log", usize::MAX), ("mixed", 256 << 10)] {
        commits(&directory.join(name), name, small_commit_bytes);
    }
    reopen(&directory.join("reopen"));
    for files in [4, 8, 16] {
        steady(&directory.join("steady"), Duration::from_secs(seconds), Duration::from_millis(interval), files);
    }
    std::fs::remove_dir_all(&directory).expect("the directory was made here");
}

fn open(directory: &Path, small_commit_bytes: usize) -> Vec<Arc<RocksShardStore>> {
    open_with(directory, StoreOptions { small_commit_bytes, ..StoreOptions::default() })
}

fn open_with(directory: &Path, options: StoreOptions) -> Vec<Arc<RocksShardStore>> {
    let shared = SharedResources::new(options).expect("resources");
    ShardStores::open(directory, SHARDS, &shared, true).and_then(|stores| stores.all()).expect("stores")
}

/// `keys` of `total`, evenly spaced, with values that do not compress well.
fn writes(keys: usize, total: usize, round: u64) -> WriteSet {
    let mut writes = WriteSet::default();
    writes.begin(keys, keys * (KEY_BYTES + VALUE_BYTES));
    let mut random = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for key in 0..keys {
        let number = key * total / keys;
        writes.put_with(format!("k{number:015}").as_bytes(), |arena| {
            for _ in 0..VALUE_BYTES / 8 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                arena.extend_from_slice(&(random >> 20).to_le_bytes());
            }
        });
    }
    writes
}

/// Median and worst of `times`, in milliseconds.
fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("p50 {:6.2} ms  max {:6.2} ms", ms(times[times.len() / 2]), ms(times[times.len() - 1]))
}

fn commit_rounds(stores: &[Arc<RocksShardStore>], sizes: &[usize], rounds: u64) -> (Vec<Duration>, Duration) {
    let mut times = Vec::new();
    let started = Instant::now();
    for round in 0..rounds {
        for store in stores {
            let writes = writes(sizes[round as usize % sizes.len()], 15_000, round);
            let began = Instant::now();
            store.commit(&writes).expect("commit");
            times.push(began.elapsed());
        }
    }
    (times, started.elapsed() / rounds as u32)
}

fn commits(directory: &Path, name: &str, small_commit_bytes: usize) {
    let stores = open(directory, small_commit_bytes);
    let io = Io::now();
    for (what, sizes) in [("300", vec![300]), ("15,000", vec![15_000]), ("300 and 15,000 in turn", vec![300, 15_000])] {
        let (times, round) = commit_rounds(&stores, &sizes, 6);
        let l0: u64 = stores.iter().map(|store| store.stats().l0_files).sum();
        println!(
            "{name:>6}: {what:>23} puts  {}  all {SHARDS} shards {:4.0} ms  l0 {l0}",
            summary(times),
            round.as_secs_f64() * 1e3
        );
    }
    io.report(name, &stores);
}

fn reopen(directory: &Path) {
    let stores = open(directory, 256 << 10);
    for _ in 0..4 {
        for store in &stores {
            store.commit(&writes(31_250, 31_250, 7)).expect("commit");
        }
    }
    for store in &stores {
        store.commit(&writes(300, 31_250, 8)).expect("commit");
    }
    drop(stores);
    let began = Instant::now();
    let stores = open(directory, 256 << 10);
    println!("reopen: 32 shards, 1 M keys of 200 B: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    for pass in ["first", "second"] {
        let began = Instant::now();
        let (mut keys, mut bytes) = (0u64, 0);
        for store in &stores {
            let visit = &mut |key: &[u8], value: &[u8]| {
                keys += 1;
                bytes += key.len() + value.len();
                true
            };
            store.scan(b"k", b"l", visit).expect("scan");
        }
        let took = began.elapsed().as_secs_f64();
        println!(
            "{pass} scan: {keys} keys, {:.0} MB in {:.0} ms: {:.1} M keys/s",
            bytes as f64 / 1e6,
            took * 1e3,
            keys as f64 / took / 1e6
        );
    }
    let began = Instant::now();
    for number in 0..50_000 {
        let found = stores[number % 32].get(format!("k{:015}", number * 7919 % 31_250).as_bytes()).expect("get");
        assert!(found.is_some());
    }
    println!("get: {:.1} us", began.elapsed().as_secs_f64() * 1e6 / 5e4);
}

fn steady(directory: &Path, length: Duration, interval: Duration, compaction_files: u16) {
    let stores = open_with(directory, StoreOptions { compaction_files, ..StoreOptions::default() });
    let io = Io::now();
    let (cpu, started) = (cpu_time(), Instant::now());
    let (mut times, mut round) = (Vec::new(), 0u64);
    while started.elapsed() < length {
        let due = interval * round as u32;
        for (number, store) in stores.iter().enumerate() {
            // Staggered over the interval, as the engine does.
            let at = due + interval / u32::from(SHARDS) * number as u32;
            std::thread::sleep(at.saturating_sub(started.elapsed()));
            let writes = writes(15_000, 15_000, round);
            let began = Instant::now();
            store.commit(&writes).expect("commit");
            times.push(began.elapsed());
        }
        round += 1;
    }
    let busy = (cpu_time() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
    println!("steady: {round} rounds of 32 x 15,000 puts: {}  cpu {:.0} % of a core", summary(times), busy * 100.0);
    io.report("steady", &stores);
    drop(stores);
    std::fs::remove_dir_all(directory).expect("the directory was made here");
}

/// What the process has written to the disk.
struct Io(u64);

impl Io {
    fn now() -> Io {
        Io(proc_figure("/proc/self/io", "write_bytes:"))
    }

    fn report(&self, name: &str, stores: &[Arc<RocksShardStore>]) {
        let stats: Vec<_> = stores.iter().map(|store| store.stats()).collect();
        let total = |figure: fn(&streamjob_state::StoreStats) -> u64| stats.iter().map(figure).sum::<u64>() as f64;
        let written = (Io::now().0 - self.0) as f64;
        println!(
            "{name:>6}: written {:.0} MB for {:.0} MB committed ({:.2}x), sst {:.0} MB, memtables {:.1} MB, l0 files {}, \
             pending {:.0} MB, cache {:.0} MB, rss {:.0} MB (peak {:.0})\n",
            written / 1e6,
            total(|s| s.committed_bytes) / 1e6,
            written / total(|s| s.committed_bytes),
            total(|s| s.sst_bytes) / 1e6,
            total(|s| s.memtable_bytes) / 1e6,
            total(|s| s.l0_files),
            total(|s| s.pending_compaction_bytes) / 1e6,
            stats[0].block_cache_bytes as f64 / 1e6,
            proc_figure("/proc/self/status", "VmRSS:") as f64 / 1e3,
            proc_figure("/proc/self/status", "VmHWM:") as f64 / 1e3,
        );
    }
}

fn proc_figure(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// User and system time of all threads.
fn cpu_time() -> Duration {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
}
