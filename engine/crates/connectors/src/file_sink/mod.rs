//! Exactly-once files: each shard's output is cut into segments that become visible whole, once, and only after the commit
//! that made them final.
//!
//! The order is what makes it exact (I8):
//! 1. rows stream into a temporary file, whose name begins with a dot: [`SegmentWriter`];
//! 2. at the commit: [`SegmentWriter::seal`], [`SealedSegment::sync`], [`SegmentDirectory::sync`] (the name must be durable too);
//! 3. the shard commits that its segments below some sequence are final;
//! 4. [`SealedSegment::publish`] renames the file. A crash between 3 and 4 is made good by [`SegmentDirectory::recover`].
//!
//! A temporary file of a sequence that was never committed is deleted at recovery and written again by the replay.

mod names;
mod owner;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use streamjob_core::{Error, Result};

use crate::os::{explain, explain_sync};
use names::SegmentName;
pub use owner::OWNER_FILE;
pub use writer::{BUFFER_BYTES, SealedSegment, SegmentWriter, WRITEBACK_BYTES};

/// A directory of segments that belongs to one state directory. Cheap to clone; all methods take `&self` and may run at once.
#[derive(Debug, Clone)]
pub struct SegmentDirectory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// The open directory, for its fsync.
    handle: File,
    /// Holds the lock that keeps a second writer out; released by the kernel however the process ends.
    _lock: File,
    incarnation: AtomicU32,
    /// What was found at the start, by shard, until that shard is recovered: one listing instead of one a shard.
    found: Mutex<HashMap<u16, Found>>,
}

/// The segments of one shard in the directory.
#[derive(Debug, Default)]
struct Found {
    temporary: Vec<SegmentName>,
    published: Vec<SegmentName>,
}

/// What a recovery did, in segments.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Committed before the crash and made visible now.
    pub published: u64,
    /// Not committed, deleted; the replay writes their rows again.
    pub deleted: u64,
    /// Set if segments at or past the committed end are visible already, so that the state is older than the output (it was
    /// restored): outputs may repeat, and [`SegmentDirectory::begin_incarnation`] comes before the first writer.
    pub next_incarnation: Option<u32>,
}

impl SegmentDirectory {
    /// Opens or creates the directory `path` for the state directory with the id `owner_id`, and locks it.
    ///
    /// `incarnation` becomes part of new names where it is not 0.
    ///
    /// # Errors
    /// `user` if the directory belongs to another state directory, holds other files, or is in use; each with the way out.
    pub fn open(path: &Path, owner_id: &str, incarnation: u32) -> Result<SegmentDirectory> {
        create_durably(path)?;
        let lock = owner::claim(path, owner_id)?;
        let handle = File::open(path).map_err(|error| explain("opening the output directory", path, error))?;
        let found = Mutex::new(list(path)?);
        let inner = Inner { path: path.to_owned(), handle, _lock: lock, incarnation: incarnation.into(), found };
        let directory = SegmentDirectory { inner: Arc::new(inner) };
        directory.sync()?;
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    fn incarnation(&self) -> u32 {
        self.inner.incarnation.load(Ordering::Acquire)
    }

    /// New names have this incarnation from now on. Called between recovery and the first writer.
    pub fn begin_incarnation(&self, incarnation: u32) {
        self.inner.incarnation.store(incarnation, Ordering::Release);
    }

    /// Begins the segment `seq` of `shard`; what an earlier, uncommitted attempt left under its temporary name is truncated.
    ///
    /// A sequence is used for one segment with content: see [`SegmentWriter::discard`] for an empty one.
    ///
    /// # Errors
    /// `damaged` if the segment is already visible: the state is older than the output ([`Recovered::next_incarnation`]).
    pub fn writer(&self, shard: u16, seq: u64) -> Result<SegmentWriter> {
        let name = SegmentName { shard, seq, incarnation: self.incarnation() };
        let published = self.inner.path.join(name.published());
        if published.try_exists().map_err(|error| explain("looking for", &published, error))? {
            return Err(already_visible(&published));
        }
        Ok(SegmentWriter::new(self.clone(), name))
    }

    /// Makes names durable (fsync of the directory): wanted after [`SealedSegment::sync`] and before the commit.
    ///
    /// # Errors
    /// `damaged`: the process must end, as nothing says which names the disk has.
    pub fn sync(&self) -> Result<()> {
        self.inner.handle.sync_all().map_err(|error| explain_sync(&self.inner.path, error))
    }

    /// Brings the directory to what `shard` committed, at its start and before its first writer.
    ///
    /// `committed.end` is the first sequence that is not committed. Segments from `committed.start` up to it must exist, under
    /// their temporary or their final name; earlier ones may have been taken away by whoever reads them.
    ///
    /// # Errors
    /// `damaged` if a committed segment is missing; nothing is changed then. `outside` if a rename or deletion fails.
    pub fn recover(&self, shard: u16, committed: Range<u64>) -> Result<Recovered> {
        let listed = self.inner.found.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
        let found = match listed {
            Some(found) => found,
            None => list(&self.inner.path)?.remove(&shard).unwrap_or_default(),
        };
        self.check_complete(shard, &committed, &found)?;
        let mut recovered = Recovered { next_incarnation: self.next_incarnation(committed.end, &found), ..Recovered::default() };
        for name in &found.temporary {
            if name.seq < committed.end {
                self.publish(name)?;
                recovered.published += 1;
            } else {
                let orphan = self.inner.path.join(name.temporary());
                fs::remove_file(&orphan).map_err(|error| explain("deleting the uncommitted segment", &orphan, error))?;
                recovered.deleted += 1;
            }
        }
        if !found.temporary.is_empty() {
            self.sync()?;
        }
        Ok(recovered)
    }

    fn check_complete(&self, shard: u16, committed: &Range<u64>, found: &Found) -> Result<()> {
        let present: BTreeMap<u64, ()> = (found.temporary.iter().chain(&found.published))
            .filter(|name| committed.contains(&name.seq))
            .map(|name| (name.seq, ()))
            .collect();
        let wanted = committed.end.saturating_sub(committed.start);
        let missing = wanted - present.len() as u64;
        if missing == 0 {
            return Ok(());
        }
        let first = committed.clone().find(|seq| !present.contains_key(seq)).unwrap_or(committed.start);
        Err(Error::damaged(format!(
            "{}: {missing} of the segments that shard {shard} committed are missing, the first is {}; put the files back if they \
             were moved while the job was down, else their rows are lost: start with a new state and output directory",
            self.inner.path.display(),
            SegmentName { shard, seq: first, incarnation: self.incarnation() }.published(),
        )))
    }

    /// Visible segments past the commit are known already if they are of an earlier incarnation than this one.
    fn next_incarnation(&self, committed_end: u64, found: &Found) -> Option<u32> {
        let newest = found.published.iter().filter(|name| name.seq >= committed_end).map(|name| name.incarnation).max()?;
        (newest >= self.incarnation()).then_some(newest + 1)
    }

    /// Makes a synced temporary file visible. Never replaces a file.
    fn publish(&self, name: &SegmentName) -> Result<()> {
        let temporary = self.inner.path.join(name.temporary());
        let published = self.inner.path.join(name.published());
        match rename_no_replace(&temporary, &published) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(already_visible(&published)),
            outcome => outcome.map_err(|error| explain("publishing the segment", &temporary, error)),
        }
    }
}

fn already_visible(published: &Path) -> Error {
    Error::damaged(format!(
        "{} exists already and is never overwritten: the state is older than the output, or a file was put there by hand; \
         move it away, or start with a new state and output directory",
        published.display()
    ))
}

/// Creates the directory with its parents; the names of those it creates are made durable.
fn create_durably(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_durably(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        outcome => outcome.map_err(|error| explain("creating the output directory", path, error))?,
    }
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent).and_then(|handle| handle.sync_all()).map_err(|error| explain_sync(parent, error))
}

fn list(path: &Path) -> Result<HashMap<u16, Found>> {
    let failed = |error| explain("listing the output directory", path, error);
    let mut shards: HashMap<u16, Found> = HashMap::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.file_name();
        let Some(entry) = entry.to_str() else { continue };
        if let Some(name) = SegmentName::parse_temporary(entry) {
            shards.entry(name.shard).or_default().temporary.push(name);
        } else if let Some(name) = SegmentName::parse_published(entry) {
            shards.entry(name.shard).or_default().published.push(name);
        }
    }
    for found in shards.values_mut() {
        found.temporary.sort_unstable();
    }
    Ok(shards)
}

fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems (NFS, older FUSE) can't. The lock keeps others out, so that looking first is enough.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if to.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::rename(from, to),
        outcome => Ok(outcome?),
    }
}
