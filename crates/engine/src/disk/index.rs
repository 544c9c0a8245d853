//! Which pages lie on the disk, and which go first.
//!
//! Pages that were used last together go deepest first: the end of a prefix is worth nothing without its beginning.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::disk::file::Maker;
use crate::prefix::PrefixHash;

/// A page on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What made it.
    pub maker: Maker,
    /// Its prefix.
    pub hash: PrefixHash,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    used: u64,
    depth: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    entries: HashMap<Key, Entry>,
    /// The first goes first.
    order: BTreeSet<(u64, Reverse<u32>, Key)>,
    bytes: u64,
}

impl Index {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a page is there.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// Pages before a page that is there.
    #[must_use]
    pub fn depth(&self, key: &Key) -> Option<u32> {
        self.entries.get(key).map(|entry| entry.depth)
    }

    /// Notes a file of a page that has `depth` pages before it; `used` is larger for later use.
    pub fn insert(&mut self, key: Key, bytes: u64, depth: u32, used: u64) {
        self.remove(&key);
        self.entries.insert(key, Entry { bytes, used, depth });
        self.order.insert((used, Reverse(depth), key));
        self.bytes += bytes;
    }

    /// Notes that a page was used.
    pub fn touch(&mut self, key: &Key, used: u64) {
        if let Some(Entry { bytes, depth, .. }) = self.entries.get(key).copied() {
            self.insert(*key, bytes, depth, used);
        }
    }

    /// Forgets a page; returns its depth if it was there.
    pub fn remove(&mut self, key: &Key) -> Option<u32> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&(entry.used, Reverse(entry.depth), *key));
        self.bytes -= entry.bytes;
        Some(entry.depth)
    }

    /// Forgets the page that goes first and returns it with its depth.
    pub fn pop(&mut self) -> Option<(Key, u32)> {
        let (_, Reverse(depth), key) = *self.order.first()?;
        self.remove(&key);
        Some((key, depth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_ends_before_beginnings() {
        let key = |i: u8| Key { maker: Maker([0; 32]), hash: PrefixHash([i; 32]) };
        let mut index = Index::default();
        // Two prefixes of three pages, one after the other, and a page that was used again.
        (0..3).for_each(|i| index.insert(key(i), 10, u32::from(i), 1));
        (3..6).for_each(|i| index.insert(key(i), 20, u32::from(i) - 3, 2));
        index.touch(&key(0), 3);
        index.insert(key(5), 25, 2, 2);
        assert_eq!((index.len(), index.bytes()), (6, 95));
        let order: Vec<u8> = std::iter::from_fn(|| index.pop()).map(|(key, _)| key.hash.0[0]).collect();
        assert_eq!((order, index.bytes()), (vec![2, 1, 5, 4, 3, 0], 0));
    }
}
