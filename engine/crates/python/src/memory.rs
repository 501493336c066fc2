//! The C library's allocator, set for long-running threads that hand large buffers to each other.

use streamjob_core::table::set_block_hook;

/// A block of this many bytes is a mapping of its own, which goes back to the system when it is freed. Left alone, glibc raises the
/// threshold with what is freed, up to 32 MiB, and what commits and closing windows took once stays resident.
const MAPPED_BYTES: i32 = 256 << 10;
/// Free memory at the end of the heap goes back to the system from this many bytes on.
const TRIM_BYTES: i32 = 1 << 20;

/// Sets both for the process, and asks for huge pages behind the key tables; where it fails, or the system is another one, its
/// defaults hold.
pub fn tune() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes numbers and keeps no pointer; it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_BYTES);
    }
    #[cfg(target_os = "linux")]
    set_block_hook(|start, bytes| {
        let start = start.as_ptr().cast();
        // SAFETY: the block is whole pages of private memory, allocated, of which nobody uses anything yet: what is in them may be lost.
        unsafe {
            libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
            libc::madvise(start, bytes, libc::MADV_DONTNEED) == 0
        }
    });
}
