//! The shard's store on real RocksDB.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use streamjob_core::store::{MemoryStore, ShardStore, WriteSet};
use streamjob_core::{Actor, Result};
use streamjob_state::{RocksShardStore, ShardStores, SharedResources, StoreOptions};

use common::SmallDisk;

fn options(small_commit_bytes: usize) -> StoreOptions {
    StoreOptions { small_commit_bytes, ..StoreOptions::default() }
}

fn open(directory: &Path, small_commit_bytes: usize) -> RocksShardStore {
    let shared = SharedResources::new(options(small_commit_bytes)).unwrap();
    RocksShardStore::open(directory, &shared, true).unwrap()
}

fn puts(entries: &[(&str, &str)]) -> WriteSet {
    let mut writes = WriteSet::default();
    for (key, value) in entries {
        writes.put(key.as_bytes(), value.as_bytes());
    }
    writes
}

fn all(store: &dyn ShardStore) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut entries = BTreeMap::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        assert!(entries.last_key_value().is_none_or(|(last, _): (&Vec<u8>, _)| last.as_slice() < key), "in key order");
        entries.insert(key.to_vec(), value.to_vec());
        true
    };
    store.scan(b"", &[0xff; 8], visit).unwrap();
    entries
}

/// Random commits of both kinds, mixed, against the store in memory; with a reopening between.
#[test]
fn commits_of_both_kinds_do_what_the_store_in_memory_does() {
    let directory = tempfile::tempdir().unwrap();
    let model = MemoryStore::new();
    let mut random = 7u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut store = open(directory.path(), 2000);
    for round in 0..200u64 {
        let mut writes = WriteSet::default();
        let range = below(90);
        writes.forget.push((format!("g{range:03}").into_bytes(), format!("g{:03}", range + below(9)).into_bytes()));
        let density = below(10);
        for key in 0..100 {
            match below(10) {
                n if n < density => writes.put(format!("k{key:03}").as_bytes(), &[round as u8; 40]),
                n if n == density => writes.deletes.push(format!("k{key:03}").into_bytes()),
                _ => {}
            }
        }
        model.commit(&writes).unwrap();
        store.commit(&writes).unwrap();
        if round % 37 == 36 {
            drop(store);
            store = open(directory.path(), 2000);
        }
        assert_eq!(all(&store), all(&model), "round {round}");
    }
    let stats = store.stats();
    assert!(stats.commits > 0 && stats.committed_bytes > 0 && stats.sst_bytes > 0 && stats.last_commit_us > 0, "{stats:?}");
}

#[test]
fn point_reads_and_bounded_scans() {
    for small in [0, usize::MAX] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), small);
        store.commit(&puts(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")])).unwrap();
        assert_eq!(store.get(b"b").unwrap().as_deref(), Some(b"2".as_slice()));
        assert_eq!(store.get(b"bb").unwrap(), None);
        let scanned = |from: &str, to: &str, limit: usize| {
            let mut keys = Vec::new();
            let visit = &mut |key: &[u8], _: &[u8]| {
                keys.push(String::from_utf8(key.to_vec()).unwrap());
                keys.len() < limit
            };
            store.scan(from.as_bytes(), to.as_bytes(), visit).unwrap();
            keys.concat()
        };
        assert_eq!(scanned("b", "d", 9), "bc");
        assert_eq!(scanned("a", "z", 2), "ab");
        assert_eq!(scanned("d", "b", 9), "");
        store.commit(&WriteSet::default()).unwrap();
        assert_eq!(store.stats().commits, 1, "nothing to write is no commit");
    }
}

#[test]
fn forgetting_spares_what_the_same_commit_puts() {
    for small in [0, usize::MAX] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), small);
        store.commit(&puts(&[("h1", "old"), ("h2", "old"), ("h3", "old")])).unwrap();
        let mut writes = puts(&[("h2", "new")]);
        writes.forget.push((b"h1".to_vec(), b"h3".to_vec()));
        writes.forget.push((b"x".to_vec(), b"x".to_vec()));
        store.commit(&writes).unwrap();
        let entries = all(&store);
        assert_eq!(entries.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"h2".as_slice(), b"h3"]);
        assert_eq!(entries[b"h2".as_slice()], b"new");
    }
}

#[test]
fn all_shards_open_in_parallel_and_a_missing_one_is_never_created_empty() {
    let directory = tempfile::tempdir().unwrap();
    let shared = SharedResources::new(StoreOptions::default()).unwrap();
    let stores = ShardStores::open(directory.path(), 9, &shared, true).unwrap().all().unwrap();
    for (shard, store) in stores.iter().enumerate() {
        store.commit(&puts(&[("shard", &shard.to_string())])).unwrap();
    }
    drop(stores);
    let stores = ShardStores::open(directory.path(), 9, &shared, false).unwrap().all().unwrap();
    for (shard, store) in stores.iter().enumerate() {
        assert_eq!(store.get(b"shard").unwrap().unwrap(), shard.to_string().into_bytes());
    }
    drop(stores);
    std::fs::remove_dir_all(directory.path().join("00004")).unwrap();
    let stores = ShardStores::open(directory.path(), 9, &shared, false).unwrap();
    assert_eq!(stores.get(3).unwrap().get(b"shard").unwrap().unwrap(), b"3", "the others are there");
    let error = stores.all().err().unwrap();
    assert_eq!(stores.get(4).err(), Some(error.clone()));
    assert_eq!(stores.check().err(), Some(error.clone()));
    assert!(error.message().contains("00004") && error.message().contains("is missing"), "{error}");
    assert!(!error.retryable());
}

#[test]
fn an_opening_that_is_given_up_leaves_no_store_open() {
    let directory = tempfile::tempdir().unwrap();
    let shared = SharedResources::new(StoreOptions::default()).unwrap();
    drop(ShardStores::open(directory.path(), 24, &shared, true).unwrap());
    for _ in 0..5 {
        drop(ShardStores::open(directory.path(), 24, &shared, false).unwrap());
    }
    let stores = ShardStores::open(directory.path(), 24, &shared, false).unwrap();
    assert_eq!(stores.all().unwrap().len(), 24, "nobody else has one");
    assert_eq!(stores.opened().count(), 24);
    stores.settle();
    stores.check().unwrap();
}

#[test]
fn files_of_commits_that_never_happened_are_removed_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), 0));
    std::fs::write(directory.path().join("ingest-3.sst"), b"half of it").unwrap();
    std::fs::write(directory.path().join("note.txt"), b"mine").unwrap();
    let store = open(directory.path(), 0);
    assert!(!directory.path().join("ingest-3.sst").exists());
    assert!(directory.path().join("note.txt").exists());
    store.commit(&puts(&[("a", "1")])).unwrap();
}

#[test]
fn a_checkpoint_is_a_store_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"), 100);
    let copy = directory.path().join("copy");
    store.commit(&puts(&[("small", "1")])).unwrap();
    store.commit(&puts(&[("large", &"2".repeat(200))])).unwrap();
    store.checkpoint(&copy).unwrap();
    store.commit(&puts(&[("later", "3")])).unwrap();
    let copied = open(&copy, 100);
    assert_eq!(all(&copied).len(), 2);
    assert_eq!(all(&store).len(), 3);
    assert!(store.checkpoint(&copy).is_err(), "it exists");
}

#[test]
fn a_reader_sees_a_commit_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path(), 10_000));
    let commit = |number: u32| {
        let mut writes = WriteSet::default();
        // Every other commit is small enough for the log.
        let padding = if number.is_multiple_of(2) { 0 } else { 1000 };
        for key in 0..20u8 {
            writes.put_with(&[key], |arena| {
                arena.extend_from_slice(&number.to_le_bytes());
                arena.resize(arena.len() + padding, 0);
            });
        }
        store.commit(&writes)
    };
    commit(0).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..2000 {
                let mut seen = Vec::new();
                let visit = &mut |_: &[u8], value: &[u8]| {
                    seen.push(u32::from_le_bytes(value[..4].try_into().unwrap()));
                    true
                };
                store.scan(&[0], &[255], visit).unwrap();
                assert!(seen.len() == 20 && seen.iter().all(|number| *number == seen[0]), "{seen:?}");
            }
        });
        for number in 1..100 {
            commit(number).unwrap();
        }
        reader.join().unwrap();
    });
}

#[test]
fn a_damaged_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), 0));
    std::fs::write(directory.path().join("CURRENT"), b"MANIFEST-999999\n").unwrap();
    let shared = SharedResources::new(options(0)).unwrap();
    let error = RocksShardStore::open(directory.path(), &shared, false).err().unwrap();
    assert_eq!(error.actor(), Actor::Outside, "{error}");
}

fn fill(number: u64) -> WriteSet {
    let mut writes = WriteSet::default();
    for key in 0..2000u64 {
        writes.put(format!("k{number:03}{key:08}").as_bytes(), &[number as u8; 200]);
    }
    writes
}

#[test]
fn a_full_disk_loses_nothing_and_commits_go_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(24 << 20) else { return };
    for small in [0, usize::MAX] {
        let ballast = disk.path().join("ballast");
        std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
        let directory = disk.path().join(format!("store-{small}"));
        let store = open(&directory, small);
        let mut done = 0;
        let error = loop {
            match store.commit(&fill(done)) {
                Ok(()) => done += 1,
                Err(error) => break error,
            }
            assert!(done < 1000, "the disk never fills");
        };
        assert!(error.message().contains("disk is full") && error.actor() == Actor::Outside, "{error}");
        assert!(done > 2 && error.retryable());
        let count = |store: &RocksShardStore| all(store).len() as u64;
        assert_eq!(count(&store), done * 2000);
        std::fs::remove_file(&ballast).unwrap();
        let retried = retry(|| store.commit(&fill(done)));
        let store = match retried {
            Ok(()) => store,
            // After a failed write of its log RocksDB may want a new start, which the engine does too.
            Err(_) => {
                drop(store);
                let store = open(&directory, small);
                store.commit(&fill(done)).unwrap();
                store
            }
        };
        assert_eq!(count(&store), (done + 1) * 2000);
        drop(store);
        assert_eq!(count(&open(&directory, small)), (done + 1) * 2000);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

/// RocksDB notices in the background that there is room again.
fn retry(mut action: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..20 {
        if action().is_ok() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    action()
}
