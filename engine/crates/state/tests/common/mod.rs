//! What several tests need.

use std::path::Path;

/// A small file system in memory, unmounted at the end. `None` where mounting is not permitted.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn mount(bytes: u64) -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(directory.path());
        match command.output() {
            Ok(output) if output.status.success() => Some(SmallDisk(directory)),
            _ => {
                eprintln!("skipped: mounting a small file system is not permitted here");
                None
            }
        }
    }
}

impl SmallDisk {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}
