//! The state directory: whose it is, and that one process at a time has it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use streamjob_core::config::{JobConfig, KeyConfig};
use streamjob_core::journal::Incarnation;
use streamjob_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::{create_durably, file_error, replace};

/// Layout of the directory. A higher one is refused.
const FORMAT_VERSION: u32 = 1;

const MANIFEST: &str = "manifest.json";
const LOCK: &str = "lock";
const PID: &str = "pid";

/// What a start may leave behind before there is a manifest.
const BEFORE_MANIFEST: [&str; 4] = [LOCK, PID, "pid.tmp", "manifest.tmp"];

/// What must not change between two starts on the same directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobIdentity {
    pub job: String,
    pub shards: u16,
    /// `field NAME` or `constant TEXT`.
    pub key: String,
    /// Of names and types of the fields, in order: what rows in the journal look like.
    pub schema_fingerprint: u64,
}

impl JobIdentity {
    pub fn of(job: &JobConfig) -> JobIdentity {
        let key = match &job.schema.key {
            KeyConfig::Field(name) => format!("field {name}"),
            KeyConfig::Const(text) => format!("constant {text}"),
        };
        let fields = serde_json::to_string(&job.schema.columns()).expect("names and types of fields are JSON");
        let schema_fingerprint = xxh3_64(fields.as_bytes());
        JobIdentity { job: job.name.clone(), shards: job.shards, key, schema_fingerprint }
    }
}

/// What the directory says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format_version: u32,
    state_id: String,
    job: String,
    shards: u16,
    key: String,
    schema_fingerprint: String,
    /// Seconds since the epoch.
    created_s: u64,
    /// All shards have been created: from now on a missing one is a loss.
    shards_created: bool,
    /// Grows each time that the state turns out to be older than what its sinks hold.
    #[serde(default, skip_serializing_if = "is_zero")]
    output_incarnation: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The version alone, which is readable whatever else a newer format has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// An open state directory; no other process can open it as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    manifest: Manifest,
    output_incarnation: AtomicU32,
    /// Held by whoever writes the manifest: several sinks may find at once that the state is older than what they hold.
    writing: Mutex<()>,
    // Closing it gives the lock back.
    _lock: File,
}

impl StateDir {
    /// Opens the directory, or creates it where there is none or an empty one.
    ///
    /// Refused, with the reason and the way out: one that another process has, that is not StreamJob's, that belongs to
    /// another job or has other shards, key or fields, that a newer version wrote, that cannot be read.
    pub fn open(path: &Path, identity: &JobIdentity) -> Result<StateDir> {
        create_durably(path).map_err(|error| cannot_use(path, &error))?;
        let path = path.canonicalize().map_err(|error| cannot_use(path, &error))?;
        refuse_foreign(&path)?;
        let lock = take_lock(&path)?;
        let manifest = match read_manifest(&path)? {
            Some(manifest) => manifest,
            None => create_manifest(&path, identity)?,
        };
        refuse_other(&path, &manifest, identity)?;
        replace(&path.join(PID), format!("{}\n", std::process::id()).as_bytes())?;
        let output_incarnation = AtomicU32::new(manifest.output_incarnation);
        Ok(StateDir { path, manifest, output_incarnation, writing: Mutex::default(), _lock: lock })
    }

    /// Whether there is a state, of whichever job; nothing is opened.
    pub fn exists(path: &Path) -> bool {
        path.join(MANIFEST).exists()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the shards' stores are.
    pub fn shards_path(&self) -> PathBuf {
        self.path.join("shards")
    }

    /// Where the journal's files are.
    pub fn journal_path(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Distinguishes this state from any other, also of the same job.
    pub fn state_id(&self) -> &str {
        &self.manifest.state_id
    }

    /// When the state was created, microseconds since the epoch.
    pub fn created_us(&self) -> i64 {
        (self.manifest.created_s as i64).saturating_mul(1_000_000)
    }

    /// Whether all shards have been created; then a missing one must not be created empty.
    pub fn shards_created(&self) -> bool {
        self.manifest.shards_created
    }

    /// Writes down, durably, that all shards have been created.
    pub fn set_shards_created(&mut self) -> Result<()> {
        if !self.manifest.shards_created {
            let output_incarnation = self.output_incarnation();
            let manifest = Manifest { shards_created: true, output_incarnation, ..self.manifest.clone() };
            write_manifest(&self.path, &manifest)?;
            self.manifest = manifest;
        }
        Ok(())
    }

    /// Above 0 the state was restored from before what its sinks held, so many times: outputs may repeat since.
    pub fn output_incarnation(&self) -> u32 {
        self.output_incarnation.load(Ordering::Acquire)
    }

    /// Writes a new output incarnation down, durably, before anything of it is written; one that is not above the one that holds
    /// changes nothing.
    pub fn set_output_incarnation(&self, incarnation: u32) -> Result<()> {
        let _writing = self.writing.lock();
        if incarnation <= self.output_incarnation() {
            return Ok(());
        }
        write_manifest(&self.path, &Manifest { output_incarnation: incarnation, ..self.manifest.clone() })?;
        self.output_incarnation.store(incarnation, Ordering::Release);
        Ok(())
    }

    /// A name for this start's journal that was never used before, and that sorts behind those of earlier starts.
    ///
    /// Journals that several kills have left are replayed in the order of their names: a client's rows reach the
    /// statistics in the order in which it sent them only if that is the order of the starts, and each row is judged by the
    /// watermark that held when it first came only then. `after`: the newest that is there, which may be of a time when the clock
    /// was ahead.
    pub fn new_incarnation(after: Option<Incarnation>) -> Incarnation {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let [.., a, b, c, d, e, f, g, h, i, j] = uuid::Uuid::new_v4().into_bytes();
        Incarnation::of_start(since.as_millis() as u64, [a, b, c, d, e, f, g, h, i, j], after)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // The lock is what counts; a pid that stays is only a stale hint.
        let _ = fs::remove_file(self.path.join(PID));
    }
}

fn cannot_use(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => file_error("cannot open the state directory", path, error),
        _ => Error::user(format!(
            "the state directory {} cannot be used: {error}; make it readable and writable, or choose another with --state-dir",
            path.display()
        )),
    }
}

fn refuse_foreign(path: &Path) -> Result<()> {
    if path.join(MANIFEST).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(|error| cannot_use(path, &error))? {
        let name = entry.map_err(|error| cannot_use(path, &error))?.file_name();
        if !BEFORE_MANIFEST.iter().any(|known| name == *known) {
            return Err(Error::user(format!(
                "{} holds {name:?} and no {MANIFEST}: it is no state directory; choose an empty one with --state-dir",
                path.display()
            )));
        }
    }
    Ok(())
}

fn take_lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
    let file = file.map_err(|error| cannot_use(path, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(path.join(PID)).unwrap_or_default();
            let holder = match pid.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            Err(Error::user(format!(
                "the state directory {} is locked by {holder}: stop it first, or choose another with --state-dir",
                path.display()
            )))
        }
        Err(error) => Err(cannot_use(path, &error.into())),
    }
}

fn read_manifest(path: &Path) -> Result<Option<Manifest>> {
    let file = path.join(MANIFEST);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_use(&file, &error)),
    };
    let damaged = |error: serde_json::Error| {
        Error::damaged(format!(
            "{} cannot be read: {error}; restore it, or remove the state directory to start anew",
            file.display()
        ))
    };
    let version: Version = serde_json::from_str(&text).map_err(damaged)?;
    if version.format_version > FORMAT_VERSION {
        return Err(Error::user(format!(
            "the state directory {} has format {}, this version reads up to {FORMAT_VERSION}: start the newer version that wrote \
             it, or choose another directory with --state-dir",
            path.display(),
            version.format_version
        )));
    }
    serde_json::from_str(&text).map(Some).map_err(damaged)
}

fn create_manifest(path: &Path, identity: &JobIdentity) -> Result<Manifest> {
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        state_id: uuid::Uuid::new_v4().to_string(),
        job: identity.job.clone(),
        shards: identity.shards,
        key: identity.key.clone(),
        schema_fingerprint: format!("{:016x}", identity.schema_fingerprint),
        created_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()),
        shards_created: false,
        output_incarnation: 0,
    };
    write_manifest(path, &manifest)?;
    Ok(manifest)
}

fn write_manifest(path: &Path, manifest: &Manifest) -> Result<()> {
    let json = serde_json::to_string_pretty(manifest);
    let json = json.map_err(|error| Error::engine(format!("the manifest cannot be written as JSON: {error}")))?;
    replace(&path.join(MANIFEST), (json + "\n").as_bytes())
}

fn refuse_other(path: &Path, manifest: &Manifest, identity: &JobIdentity) -> Result<()> {
    let fingerprint = format!("{:016x}", identity.schema_fingerprint);
    let reason = if manifest.job != identity.job {
        format!("belongs to the job {:?}, not to {:?}", manifest.job, identity.job)
    } else if manifest.shards != identity.shards {
        format!("has {} shards, the job has {} (spec.shards cannot change)", manifest.shards, identity.shards)
    } else if manifest.key != identity.key {
        format!("was made with the key {:?}, the job has {:?} (spec.schema.key cannot change)", manifest.key, identity.key)
    } else if manifest.schema_fingerprint != fingerprint {
        "was made with other fields (spec.schema.fields cannot change)".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::user(format!(
        "the state directory {} {reason}: put the job back as it was, or choose another directory with --state-dir",
        path.display()
    )))
}
