//! Merging adjacent symbols, best rank first: the heart of BPE, of SentencePiece's BPE and of tiktoken.
//!
//! ```text
//! symbols   l | o | w | e | r        pairs: (l,o) rank 3, (e,r) rank 1, ...
//!           l | o | w | er           the lowest rank merges first; equal ranks merge left to right
//!           lo | w | er
//! ```
//! The three kinds differ only in where ranks come from (`symbols.rs`). Short words scan for the best
//! pair; long ones keep a heap, so that `n` symbols cost O(n log n).
//! Source: Sennrich, Haddow, Birch 2016, arXiv:1508.07909.

use hashbrown::HashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Words up to this many symbols scan instead of keeping a heap: no allocation, few cache lines.
const SCAN_SYMBOLS: usize = 24;
const NONE: u32 = u32::MAX;

/// What two symbols become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower merges first.
    pub rank: u32,
    /// The symbol that replaces both.
    pub id: u32,
}

const NO_MERGE: Merge = Merge { rank: NONE, id: NONE };

/// All pairs that merge.
#[derive(Debug, Clone, Default)]
pub(super) struct MergeTable {
    pairs: HashMap<u64, Merge>,
}

/// A symbol of a word: its id and how many bytes of the word it covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    pub id: u32,
    pub len: u32,
}

/// Memory that successive words share, and the work done in it.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub symbols: Vec<Symbol>,
    links: Vec<(u32, u32)>,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    /// Pairs looked at so far. Tests bound it; it is the cost of encoding without the clock.
    pub work: u64,
}

impl MergeTable {
    pub fn with_capacity(pairs: usize) -> MergeTable {
        MergeTable { pairs: HashMap::with_capacity(pairs) }
    }

    /// Adds a pair unless it is present: the first merge of a pair stands.
    pub fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        self.pairs.entry(key(left, right)).or_insert(merge);
    }

    fn find(&self, left: u32, right: u32) -> Merge {
        self.pairs.get(&key(left, right)).copied().unwrap_or(NO_MERGE)
    }

    /// Merges `scratch.symbols` in place until no pair is in the table.
    pub fn merge(&self, scratch: &mut Scratch) {
        if scratch.symbols.len() <= SCAN_SYMBOLS {
            self.merge_by_scan(scratch);
        } else {
            self.merge_by_heap(scratch);
        }
    }

    fn merge_by_scan(&self, scratch: &mut Scratch) {
        let symbols = &mut scratch.symbols;
        let mut n = symbols.len();
        if n < 2 {
            return;
        }
        let mut merges = [NO_MERGE; SCAN_SYMBOLS];
        for i in 0..n - 1 {
            merges[i] = self.find(symbols[i].id, symbols[i + 1].id);
        }
        loop {
            scratch.work += n as u64;
            let (mut best, mut at) = (NO_MERGE, 0);
            for (i, &m) in merges[..n - 1].iter().enumerate() {
                if m.rank < best.rank {
                    (best, at) = (m, i);
                }
            }
            if best.rank == NONE {
                break;
            }
            symbols[at] = Symbol { id: best.id, len: symbols[at].len + symbols[at + 1].len };
            symbols.copy_within(at + 2..n, at + 1);
            merges.copy_within(at + 1..n - 1, at);
            n -= 1;
            if n < 2 {
                break;
            }
            if at > 0 {
                merges[at - 1] = self.find(symbols[at - 1].id, symbols[at].id);
            }
            if at + 1 < n {
                merges[at] = self.find(symbols[at].id, symbols[at + 1].id);
            }
        }
        symbols.truncate(n);
    }

    fn merge_by_heap(&self, scratch: &mut Scratch) {
        let Scratch { symbols, links, heap, work } = scratch;
        let n = symbols.len() as u32;
        links.clear();
        links.extend((0..n).map(|i| (i.wrapping_sub(1), if i + 1 < n { i + 1 } else { NONE })));
        heap.clear();
        let mut consider = |heap: &mut BinaryHeap<_>, symbols: &[Symbol], at: u32, next: u32| {
            *work += 1;
            let (left, right) = (symbols[at as usize].id, symbols[next as usize].id);
            let rank = self.find(left, right).rank;
            if rank != NONE {
                heap.push(Reverse((u64::from(rank) << 32 | u64::from(at), key(left, right))));
            }
        };
        for i in 0..n.saturating_sub(1) {
            consider(heap, symbols, i, i + 1);
        }
        while let Some(Reverse((order, pair))) = heap.pop() {
            let at = order as u32;
            let (before, next) = links[at as usize];
            // A symbol changes its id when it grows, and dies when it is swallowed: then the entry is old.
            if next == NONE || key(symbols[at as usize].id, symbols[next as usize].id) != pair {
                continue;
            }
            let Some(merge) = self.pairs.get(&pair) else { continue };
            symbols[at as usize].id = merge.id;
            symbols[at as usize].len += symbols[next as usize].len;
            symbols[next as usize] = Symbol { id: NONE, len: 0 };
            let after = links[next as usize].1;
            links[next as usize].1 = NONE;
            links[at as usize].1 = after;
            if after != NONE {
                links[after as usize].0 = at;
                consider(heap, symbols, at, after);
            }
            if before != NONE {
                consider(heap, symbols, before, at);
            }
        }
        symbols.retain(|s| s.len > 0);
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: find the lowest rank, leftmost, and merge it; repeat.
    fn naive(table: &MergeTable, mut ids: Vec<u32>) -> Vec<u32> {
        loop {
            let pairs = ids.windows(2).map(|w| table.find(w[0], w[1])).enumerate();
            let best = pairs.filter(|(_, m)| m.rank != NONE).min_by_key(|(i, m)| (m.rank, *i));
            let Some((at, merge)) = best else { return ids };
            ids[at] = merge.id;
            ids.remove(at + 1);
        }
    }

    #[test]
    fn scan_and_heap_agree_with_the_definition_on_random_tables() {
        let seed = 0x5eed_0001_u64;
        println!("seed {seed:#x}");
        let mut state = seed;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..300 {
            let mut table = MergeTable::default();
            for id in 4..40 {
                let (left, right) = (below(id) as u32, below(id) as u32);
                table.insert(left, right, Merge { rank: below(12) as u32, id: id as u32 });
            }
            let n = below(60) as usize;
            let ids: Vec<u32> = (0..n).map(|_| below(4) as u32).collect();
            let want = naive(&table, ids.clone());
            for by_heap in [false, true] {
                if !by_heap && n > SCAN_SYMBOLS {
                    continue;
                }
                let symbols = ids.iter().map(|&id| Symbol { id, len: 1 }).collect();
                let mut scratch = Scratch { symbols, ..Scratch::default() };
                if by_heap {
                    table.merge_by_heap(&mut scratch);
                } else {
                    table.merge_by_scan(&mut scratch);
                }
                let got: Vec<u32> = scratch.symbols.iter().map(|s| s.id).collect();
                assert_eq!(got, want, "heap {by_heap}, ids {ids:?}");
                assert_eq!(scratch.symbols.iter().map(|s| s.len).sum::<u32>(), n as u32);
            }
        }
    }
}
