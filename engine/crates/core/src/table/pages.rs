//! Memory of slots: pages cut from large blocks, which the system may back with huge pages.
//!
//! A row touches a slot that nobody has touched for long, so that each access is also a look-up of an address: with pages of 4 KiB
//! the tables for that are as cold as the slots are. Blocks are shared by all tables of the process, since a block for each of
//! many small shards would be mostly empty.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Slot;

/// Slots of one page; a power of two.
pub(super) const PAGE_SLOTS: usize = 256;
/// A block begins at a multiple of this, and is as large: the size of a huge page.
const BLOCK_BYTES: usize = 2 << 20;
/// Slots of whole cache lines begin with one.
const LINE_BYTES: usize = 64;

/// What is told of each new block: where it begins, and how many bytes it has. Nobody uses it yet. Says whether each byte of it is zero
/// now: memory that comes fresh from the system need not be cleared once more.
pub type BlockHook = fn(NonNull<u8>, usize) -> bool;

static HOOK: OnceLock<BlockHook> = OnceLock::new();

/// Sets what is told of new blocks, once for the process; this crate knows no system that could be asked for huge pages.
pub fn set_block_hook(hook: BlockHook) {
    let _ = HOOK.set(hook);
}

/// The block that new pages are cut from, and how much of it is used.
static OPEN: Mutex<Option<(Arc<Block>, usize)>> = Mutex::new(None);

/// Memory of some pages; it lives as long as any of them.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    layout: Layout,
    is_zero: bool,
}

// SAFETY: a block itself only frees its memory; each byte of it belongs to at most one page.
unsafe impl Send for Block {}
unsafe impl Sync for Block {}

impl Block {
    fn new(bytes: usize) -> Arc<Block> {
        let layout =
            Layout::from_size_align(bytes.next_multiple_of(BLOCK_BYTES), BLOCK_BYTES).expect("a page is far below the limit");
        // SAFETY: the size is not 0.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let is_zero = HOOK.get().is_some_and(|hook| hook(start, layout.size()));
        Arc::new(Block { start, layout, is_zero })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and no page is left that has a part of it.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Cuts a page of so many bytes, all zero.
fn cut(bytes: usize) -> (NonNull<u64>, Arc<Block>) {
    let bytes = bytes.next_multiple_of(LINE_BYTES);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (block, used) = match open.take() {
        Some((block, used)) if used + bytes <= block.layout.size() => (block, used),
        _ => (Block::new(bytes), 0),
    };
    // SAFETY: the part from `used` on is within the block and belongs to nobody else: `used` only grows. It is aligned for u64, as
    // both the block and all pages are multiples of a cache line.
    let page = unsafe {
        let page = block.start.add(used);
        if !block.is_zero {
            page.write_bytes(0, bytes);
        }
        page.cast::<u64>()
    };
    *open = Some((block.clone(), used + bytes));
    (page, block)
}

/// The slots of one table.
#[derive(Debug)]
pub(super) struct SlotPages {
    /// Where each page begins: `PAGE_SLOTS * stride` words that this alone has.
    starts: Vec<NonNull<u64>>,
    /// Keeps the pages' memory.
    blocks: Vec<Arc<Block>>,
    /// Words of a slot.
    stride: usize,
}

// SAFETY: the pages belong to this table alone.
unsafe impl Send for SlotPages {}
unsafe impl Sync for SlotPages {}

impl SlotPages {
    pub fn new(stride: usize) -> SlotPages {
        SlotPages { starts: Vec::new(), blocks: Vec::new(), stride }
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Number of slots that there is memory for.
    pub fn slots(&self) -> usize {
        self.starts.len() * PAGE_SLOTS
    }

    pub fn memory_bytes(&self) -> usize {
        self.slots() * self.stride * 8
    }

    /// Adds a page of slots whose words are zero.
    pub fn add(&mut self) {
        let (start, block) = cut(PAGE_SLOTS * self.stride * 8);
        self.starts.push(start);
        if !self.blocks.last().is_some_and(|last| Arc::ptr_eq(last, &block)) {
            self.blocks.push(block);
        }
    }

    #[inline]
    fn start_of(&self, slot: Slot) -> NonNull<u64> {
        let page = self.starts[slot as usize / PAGE_SLOTS];
        // SAFETY: a page has PAGE_SLOTS slots.
        unsafe { page.add(slot as usize % PAGE_SLOTS * self.stride) }
    }

    /// The words of a slot.
    #[inline]
    pub fn words(&self, slot: Slot) -> &[u64] {
        // SAFETY: the slot is within its page, whose words were set to zero and are this table's; they are borrowed with it.
        unsafe { std::slice::from_raw_parts(self.start_of(slot).as_ptr(), self.stride) }
    }

    /// The words of a slot, to change.
    #[inline]
    pub fn words_mut(&mut self, slot: Slot) -> &mut [u64] {
        // SAFETY: as for `words`; nobody else has them while the table is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start_of(slot).as_ptr(), self.stride) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_apart_zero_and_aligned_over_many_blocks() {
        let (mut small, mut large) = (SlotPages::new(8), SlotPages::new(3000));
        for round in 0..150u64 {
            for pages in [&mut small, &mut large] {
                pages.add();
                let first = (pages.slots() - PAGE_SLOTS) as Slot;
                for slot in [first, first + PAGE_SLOTS as Slot - 1] {
                    assert!(pages.words(slot).iter().all(|word| *word == 0));
                    assert_eq!(pages.words(slot).as_ptr() as usize % LINE_BYTES, 0);
                    pages.words_mut(slot).fill(round + 1);
                }
            }
        }
        for pages in [&small, &large] {
            for round in 0..150u64 {
                let slot = round as Slot * PAGE_SLOTS as Slot;
                assert!(pages.words(slot).iter().all(|word| *word == round + 1));
            }
        }
    }

    #[test]
    fn memory_lives_as_long_as_a_page_of_it() {
        let mut kept = SlotPages::new(1);
        {
            let mut gone = SlotPages::new(1);
            gone.add();
            kept.add();
        }
        kept.words_mut(7)[0] = 5;
        let mut other = SlotPages::new(BLOCK_BYTES / 8 / PAGE_SLOTS);
        other.add();
        assert_eq!((kept.words(7)[0], other.words(7)[0]), (5, 0));
    }
}
