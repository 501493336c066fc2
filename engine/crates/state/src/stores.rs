//! The stores of all shards, opened by threads of their own: who reads a shard goes on as soon as its store is there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::process::Resource;
use streamjob_core::{Error, Result};

use crate::disk::{create_durably, file_error, sync_directory};
use crate::resources::SharedResources;
use crate::shard::RocksShardStore;

/// Threads that open stores: opening waits for the disk more than for a core.
const OPENING_THREADS: usize = 16;

/// The stores of shards `0..shards`, each there once it is open.
pub struct ShardStores {
    opening: Arc<Opening>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Opening {
    directory: PathBuf,
    shared: Arc<SharedResources>,
    create: bool,
    /// The next shard that no thread has.
    next: AtomicUsize,
    /// By shard.
    stores: Vec<OnceLock<Result<Arc<RocksShardStore>>>>,
}

impl ShardStores {
    /// Begins to open the stores under `directory` (`00000`, `00001`, …).
    ///
    /// `create`: one that is not there is created empty, and all are there when this returns; otherwise that is an error, since its
    /// state would be lost unseen.
    ///
    /// # Errors
    /// No thread could be started, or a store not be created.
    pub fn open(directory: &Path, shards: u16, shared: &Arc<SharedResources>, create: bool) -> Result<ShardStores> {
        raise_open_files();
        if create {
            create_durably(directory).map_err(|error| file_error("cannot create the shards' directory", directory, &error))?;
        }
        let opening = Arc::new(Opening {
            directory: directory.to_owned(),
            shared: shared.clone(),
            create,
            next: AtomicUsize::new(0),
            stores: (0..shards).map(|_| OnceLock::new()).collect(),
        });
        let stores = ShardStores { opening: opening.clone(), threads: Mutex::default() };
        for _ in 0..OPENING_THREADS.min(usize::from(shards)) {
            let opening = opening.clone();
            let thread = std::thread::Builder::new().name("opening".into()).spawn(move || opening.open_some());
            let thread = thread.map_err(|error| Error::outside(format!("can't start a thread that opens stores: {error}")))?;
            stores.threads.lock().push(thread);
        }
        if create {
            stores.all()?;
            // Once for all: their names are to be there before it is written down that they are.
            sync_directory(directory)?;
        }
        Ok(stores)
    }

    /// The store of a shard; waits until it is open.
    ///
    /// # Errors
    /// It could not be opened.
    pub fn get(&self, shard: u16) -> Result<&Arc<RocksShardStore>> {
        self.opening.stores[usize::from(shard)].wait().as_ref().map_err(Clone::clone)
    }

    /// All stores, by shard; waits until they are open.
    ///
    /// # Errors
    /// One could not be opened.
    pub fn all(&self) -> Result<Vec<Arc<RocksShardStore>>> {
        (0..self.opening.stores.len()).map(|shard| self.get(shard as u16).cloned()).collect()
    }

    /// Says why a store could not be opened, as far as that is known by now.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<()> {
        let failed = self.opening.stores.iter().find_map(|store| store.get()?.as_ref().err());
        failed.map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Waits for the threads that open stores to end.
    pub fn settle(&self) {
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }

    /// Those that are open by now.
    pub fn opened(&self) -> impl Iterator<Item = &Arc<RocksShardStore>> {
        self.opening.stores.iter().filter_map(|store| store.get()?.as_ref().ok())
    }
}

impl Drop for ShardStores {
    /// Nothing is opened after this: whoever owns the directory may give it back.
    fn drop(&mut self) {
        self.opening.next.store(self.opening.stores.len(), Ordering::Relaxed);
        self.settle();
    }
}

impl Opening {
    fn open_some(&self) {
        loop {
            let shard = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(store) = self.stores.get(shard) else { return };
            let path = self.directory.join(format!("{shard:05}"));
            // Somebody waits for it, whatever happens.
            let opened = catch_unwind(AssertUnwindSafe(|| RocksShardStore::open(&path, &self.shared, self.create)));
            let opened = opened.unwrap_or_else(|_| Err(Error::engine(format!("opening {} panicked", path.display()))));
            let _ = store.set(opened.map(Arc::new));
        }
    }
}

/// All stores together have more files open than the usual soft limit of a process; the hard limit is what it may take.
fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}
