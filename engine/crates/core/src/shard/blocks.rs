//! Blocks of keys: what a commit of all keys of a shard writes instead of a record for each, so that a start reads few long
//! records.
//!
//! ```text
//!  key:    `j` │ hash and text of the block's last key
//!  value:  format │ hash, length of the text, length of the state, text, state │ … sorted by hash and text
//! ```
//!
//! Invariant: a key's record of its own is newer than what a block has of it. The commit that writes blocks forgets all records
//! and blocks of before, and later commits write records.

use super::keys;
use crate::store::{ShardStore, WriteSet};
use crate::{Error, Result};

/// Version of a block.
const BLOCK_FORMAT: u8 = 1;
/// A block ends with the key that makes it longer than this, so that a reader of one key has little to read.
pub const BLOCK_BYTES: usize = 16 << 10;
/// Hash, length of the text, length of the state.
const ENTRY_HEAD_BYTES: usize = 16;

/// A key, its hash and its state within a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub hash: u64,
    pub key: &'a [u8],
    pub state: &'a [u8],
}

/// Puts keys together to blocks, in the order of hash and text.
#[derive(Debug)]
pub(super) struct BlockWriter {
    block: Vec<u8>,
    /// A block that is longer ends.
    most_bytes: usize,
}

impl BlockWriter {
    pub fn new(most_bytes: usize) -> BlockWriter {
        BlockWriter { block: vec![BLOCK_FORMAT], most_bytes }
    }

    /// Adds a key whose state is written in place. A block that is full becomes a put.
    pub fn push(&mut self, hash: u64, key: &[u8], state: impl FnOnce(&mut Vec<u8>), writes: &mut WriteSet) {
        let block = &mut self.block;
        block.extend_from_slice(&hash.to_le_bytes());
        block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        let length_at = block.len();
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(key);
        let state_at = block.len();
        state(block);
        let length = (block.len() - state_at) as u32;
        block[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        if block.len() > self.most_bytes {
            self.end(hash, key, writes);
        }
    }

    /// Puts the block, of which this is the last key, if there is one.
    pub fn end(&mut self, hash: u64, key: &[u8], writes: &mut WriteSet) {
        if self.block.len() > 1 {
            writes.put(&keys::block_key(hash, key), &self.block);
            self.block.truncate(1);
        }
    }
}

/// Visits a block's keys in order, until `visit` returns false.
pub(super) fn visit<'a>(block: &'a [u8], visit: &mut dyn FnMut(Entry<'a>) -> bool) -> Result<()> {
    let (format, mut rest) = block.split_first().ok_or_else(damaged)?;
    if *format != BLOCK_FORMAT {
        return Err(damaged());
    }
    while !rest.is_empty() {
        let (entry, behind) = next(rest).ok_or_else(damaged)?;
        if !visit(entry) {
            break;
        }
        rest = behind;
    }
    Ok(())
}

fn next(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(ENTRY_HEAD_BYTES)?;
    let hash = u64::from_le_bytes(head[..8].try_into().ok()?);
    let key_len = u32::from_le_bytes(head[8..12].try_into().ok()?);
    let state_len = u32::from_le_bytes(head[12..].try_into().ok()?);
    let (key, rest) = rest.split_at_checked(key_len as usize)?;
    let (state, rest) = rest.split_at_checked(state_len as usize)?;
    Some((Entry { hash, key, state }, rest))
}

/// The state of a key as the blocks have it.
pub(super) fn find(store: &dyn ShardStore, hash: u64, key: &[u8]) -> Result<Option<Vec<u8>>> {
    // Blocks are named by their last key: the first that is not before this one is the only one that may have it.
    let Some(block) = store.first(&keys::block_key(hash, key), keys::BLOCKS_TO)? else { return Ok(None) };
    let mut found = None;
    visit(&block, &mut |entry| {
        if (entry.hash, entry.key) == (hash, key) {
            found = Some(entry.state.to_vec());
        }
        (entry.hash, entry.key) < (hash, key)
    })?;
    Ok(found)
}

fn damaged() -> Error {
    Error::damaged("a block of keys in the store is damaged; restore the state directory from a backup")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::MemoryStore;

    /// Keys with their hashes and states, as blocks of a store.
    fn stored(entries: &[(u64, Vec<u8>, Vec<u8>)]) -> MemoryStore {
        let (mut writes, mut blocks) = (WriteSet::default(), BlockWriter::new(BLOCK_BYTES));
        for (hash, key, state) in entries {
            blocks.push(*hash, key, |out| out.extend_from_slice(state), &mut writes);
        }
        if let Some((hash, key, _)) = entries.last() {
            blocks.end(*hash, key, &mut writes);
        }
        let store = MemoryStore::new();
        store.commit(&writes).expect("memory");
        store
    }

    type Block = Vec<(u64, Vec<u8>, Vec<u8>)>;

    fn all(store: &MemoryStore) -> Vec<Block> {
        let mut blocks = Vec::new();
        let scanned = store.scan(keys::BLOCKS_FROM, keys::BLOCKS_TO, &mut |_, block| {
            let mut entries = Vec::new();
            visit(block, &mut |entry| {
                entries.push((entry.hash, entry.key.to_vec(), entry.state.to_vec()));
                true
            })
            .expect("it is whole");
            blocks.push(entries);
            true
        });
        scanned.expect("memory");
        blocks
    }

    proptest! {
        #[test]
        fn each_key_is_found_and_no_other(
            keys in prop::collection::btree_map((0u64..6, "[ab]{0,3}"), 0usize..6000, 0..60),
            absent in (0u64..7, "[abc]{0,3}"),
        ) {
            let entries: Vec<_> = keys
                .iter()
                .map(|((hash, key), len)| (*hash << 61, key.clone().into_bytes(), vec![*hash as u8; *len]))
                .collect();
            let store = stored(&entries);
            prop_assert_eq!(all(&store).concat(), entries.clone());
            for (hash, key, state) in &entries {
                prop_assert_eq!(find(&store, *hash, key).expect("memory"), Some(state.clone()));
            }
            if !keys.contains_key(&absent) {
                prop_assert_eq!(find(&store, absent.0 << 61, absent.1.as_bytes()).expect("memory"), None);
            }
        }
    }

    #[test]
    fn blocks_have_a_bounded_length() {
        let entries: Vec<_> = (0..1000u64).map(|hash| (hash, b"device".to_vec(), vec![7; 200])).collect();
        let blocks = all(&stored(&entries));
        let longest = blocks.iter().map(|block| block.len() * (ENTRY_HEAD_BYTES + 6 + 200)).max();
        assert!(longest.is_some_and(|bytes| bytes <= BLOCK_BYTES + 300), "{longest:?} bytes");
        assert!(blocks.len() < 20, "{} blocks", blocks.len());
    }

    #[test]
    fn a_block_that_is_cut_off_is_damaged() {
        let store = stored(&[(1, b"a".to_vec(), vec![5; 9]), (2, b"b".to_vec(), vec![6; 9])]);
        let block = store.get(&keys::block_key(2, b"b")).expect("memory").expect("one block");
        let ends = [1, 1 + ENTRY_HEAD_BYTES + 10];
        for len in 0..block.len() {
            let outcome = visit(&block[..len], &mut |_| true);
            assert_eq!(outcome.is_ok(), ends.contains(&len), "{len} bytes");
        }
        assert!(visit(&[BLOCK_FORMAT + 1], &mut |_| true).is_err());
    }
}
