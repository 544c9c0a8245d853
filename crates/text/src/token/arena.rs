//! Many byte strings in one allocation, and a hash table over them.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// Byte strings by index. 4 bytes of overhead a string.
#[derive(Debug, Clone)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    /// `[len + 1]`: string `i` is `bytes[ends[i]..ends[i + 1]]`.
    ends: Vec<u32>,
}

impl Default for Arena {
    fn default() -> Arena {
        Arena { bytes: Vec::new(), ends: vec![0] }
    }
}

impl Arena {
    /// Appends `text`; its index is the number of strings before.
    ///
    /// # Panics
    /// If the sum of lengths passes 4 GiB; `limits::MAX_VOCAB_BYTES` is checked before.
    pub fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(u32::try_from(self.bytes.len()).expect("MAX_VOCAB_BYTES is below 4 GiB"));
    }

    pub fn get(&self, index: u32) -> Option<&[u8]> {
        let start = *self.ends.get(index as usize)?;
        let end = *self.ends.get(index as usize + 1)?;
        Some(&self.bytes[start as usize..end as usize])
    }
}

/// Byte strings to ids. Keeps its own copy of the strings.
#[derive(Debug, Clone, Default)]
pub(super) struct TextMap {
    texts: Arena,
    ids: Vec<u32>,
    slots: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl TextMap {
    /// Enters `text` unless it is present: the first id stays. Returns the id that stands.
    pub fn insert(&mut self, text: &[u8], id: u32) -> u32 {
        if let Some(old) = self.get(text) {
            return old;
        }
        let slot = self.ids.len() as u32;
        self.texts.push(text);
        self.ids.push(id);
        self.longest = self.longest.max(text.len());
        let (texts, hasher) = (&self.texts, &self.hasher);
        let rehash = |&s: &u32| hasher.hash_one(texts.get(s).unwrap_or_default());
        self.slots.insert_unique(self.hasher.hash_one(text), slot, rehash);
        id
    }

    pub fn get(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        let same = |&s: &u32| self.texts.get(s) == Some(text);
        let slot = *self.slots.find(self.hasher.hash_one(text), same)?;
        self.ids.get(slot as usize).copied()
    }

    /// All entries, in order of insertion.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.ids.iter().enumerate().filter_map(|(i, &id)| Some((self.texts.get(i as u32)?, id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_id_of_a_text_stays_and_absent_texts_are_none() {
        let mut map = TextMap::default();
        for (text, id) in [("a", 7), ("", 8), ("ab", 9), ("a", 10)] {
            map.insert(text.as_bytes(), id);
        }
        assert_eq!(map.get(b"a"), Some(7));
        assert_eq!(map.get(b""), Some(8));
        assert_eq!(map.get(b"ab"), Some(9));
        assert_eq!(map.get(b"b"), None);
        assert_eq!(map.get(b"abc"), None);
        assert_eq!(map.iter().count(), 3);
    }
}
