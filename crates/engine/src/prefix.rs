//! Which page holds the keys and values of which prefix, and which saved state continues it.
//!
//! A prefix of whole pages is named by a chain of hashes, so that the same tokens have the same name in every request,
//! process and file:
//!
//! ```text
//! root(salt) -> hash(root, page 0's tokens) -> hash(that, page 1's tokens) -> ...        SHA-256
//! ```
//! Pages that no sequence holds are idle: they stay until they are needed. Idle pages are in two lists, each ordered by
//! when they were last used. A page that was found again by a later request is *proven*; the others are *new*. New pages
//! go first, so that a flood of prompts that never come back does not push out what conversations come back to. Proven
//! pages are at most `PROVEN_PART` of all; the oldest beyond that become new again.
//! Sources: segmented LRU, Karedla et al., "Caching strategies to improve disk system performance", 1994; the chain,
//! vLLM `vllm/v1/core/kv_cache_utils.py`.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::runner::PAGE_TOKENS;
use crate::{PageId, StateId, TokenId};

/// The name of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixHash(pub [u8; 32]);

impl PrefixHash {
    /// The prefix without tokens. Sequences with different salts share nothing: a salt names all that changes keys and
    /// values besides tokens, such as an adapter or an image, and may keep clients apart.
    #[must_use]
    pub fn root(salt: &[u8]) -> PrefixHash {
        let mut hash = Sha256::new_with_prefix(b"mlxr prefix 1");
        hash.update((salt.len() as u64).to_le_bytes());
        hash.update(salt);
        PrefixHash(hash.finalize().into())
    }

    /// This prefix and a page's worth of tokens more.
    #[must_use]
    pub fn child(&self, tokens: &[TokenId]) -> PrefixHash {
        debug_assert_eq!(tokens.len(), PAGE_TOKENS);
        let mut hash = Sha256::new_with_prefix(self.0);
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        PrefixHash(hash.finalize().into())
    }
}

/// End of an idle list.
const NONE: u32 = u32::MAX;
/// Proven idle pages are at most this part of all, in percent.
const PROVEN_PART: usize = 75;

/// The two idle lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    New,
    Proven,
}

/// A prefix that is known.
#[derive(Debug, Clone, Copy)]
struct Node {
    page: PageId,
    state: Option<StateId>,
}

/// What a page keeps.
#[derive(Debug, Clone, Copy)]
struct Kept {
    hash: PrefixHash,
    /// Pages before it.
    depth: u32,
    is_proven: bool,
    /// The list that it is in while it is idle.
    list: List,
}

/// A page whose prefix was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// The page.
    pub page: PageId,
    /// The prefix whose last page it was.
    pub hash: PrefixHash,
    /// Pages before it.
    pub depth: u32,
}

/// The prefixes of one arena.
#[derive(Debug)]
pub struct Prefixes {
    nodes: HashMap<PrefixHash, Node>,
    /// By page: what it keeps, if it keeps a prefix.
    kept: Vec<Option<Kept>>,
    /// By page, and two more for the lists' ends: neighbours (older, newer) in an idle list.
    links: Vec<(u32, u32)>,
    n_idle: usize,
    n_proven_idle: usize,
    states: States,
}

/// Places for saved states.
#[derive(Debug)]
struct States {
    free: Vec<StateId>,
    /// By place: whose state it is, and when it was last used.
    owners: Vec<Option<(PrefixHash, u64)>>,
    clock: u64,
}

impl Prefixes {
    /// None yet, of `n_page` pages and `n_saved` places for recurrent states.
    #[must_use]
    pub fn new(n_page: usize, n_saved: usize) -> Prefixes {
        let mut links = vec![(NONE, NONE); n_page];
        links.extend([n_page as u32, n_page as u32 + 1].map(|end| (end, end)));
        let free = (0..n_saved as u32).rev().map(StateId).collect();
        let states = States { free, owners: vec![None; n_saved], clock: 0 };
        let nodes = HashMap::with_capacity(n_page);
        Prefixes { nodes, kept: vec![None; n_page], links, n_idle: 0, n_proven_idle: 0, states }
    }

    /// Pages that keep a prefix and that no sequence holds.
    #[must_use]
    pub fn n_idle(&self) -> usize {
        self.n_idle
    }

    /// The page that keeps a prefix's last tokens.
    #[must_use]
    pub fn page(&self, hash: &PrefixHash) -> Option<PageId> {
        self.nodes.get(hash).map(|node| node.page)
    }

    /// The saved state after a prefix.
    #[must_use]
    pub fn state(&self, hash: &PrefixHash) -> Option<StateId> {
        self.nodes.get(hash)?.state
    }

    /// Lets `page` keep a prefix, if no page does. Returns whether it now does.
    pub fn insert(&mut self, (hash, depth): (PrefixHash, u32), page: PageId) -> bool {
        if self.nodes.contains_key(&hash) || self.kept[page.0 as usize].is_some() {
            return false;
        }
        self.nodes.insert(hash, Node { page, state: None });
        self.kept[page.0 as usize] = Some(Kept { hash, depth, is_proven: false, list: List::New });
        true
    }

    /// The prefix that `page` keeps.
    #[must_use]
    pub fn kept(&self, page: PageId) -> Option<PrefixHash> {
        self.kept[page.0 as usize].map(|kept| kept.hash)
    }

    /// Notes that no sequence holds `page` any more. Returns whether it keeps a prefix.
    pub fn idle(&mut self, page: PageId) -> bool {
        let Some(kept) = &mut self.kept[page.0 as usize] else { return false };
        kept.list = if kept.is_proven { List::Proven } else { List::New };
        let list = kept.list;
        self.link(page, list);
        while self.n_proven_idle * 100 > self.kept.len() * PROVEN_PART {
            let oldest = PageId(self.links[self.end(List::Proven)].1);
            self.unlink(oldest, List::Proven);
            let kept = self.kept[oldest.0 as usize].as_mut().expect("an idle page keeps a prefix");
            (kept.is_proven, kept.list) = (false, List::New);
            self.link(oldest, List::New);
        }
        true
    }

    /// Notes that a sequence holds the idle `page` again: it has proven useful.
    pub fn wake(&mut self, page: PageId) {
        let kept = self.kept[page.0 as usize].as_mut().expect("an idle page keeps a prefix");
        kept.is_proven = true;
        let list = kept.list;
        self.unlink(page, list);
    }

    /// Notes that a page is worth as much as one that was found again.
    pub fn prove(&mut self, page: PageId) {
        if let Some(kept) = &mut self.kept[page.0 as usize] {
            kept.is_proven = true;
        }
    }

    /// Takes the idle page that is missed least; its prefix is forgotten, and named with its depth.
    pub fn evict(&mut self) -> Option<Evicted> {
        let page = self.idle_pages().next()?;
        let kept = self.kept[page.0 as usize].take().expect("an idle page keeps a prefix");
        self.unlink(page, kept.list);
        let node = self.nodes.remove(&kept.hash).expect("a kept prefix has its node");
        if let Some(state) = node.state {
            self.states.give_back(state);
        }
        Some(Evicted { page, hash: kept.hash, depth: kept.depth })
    }

    /// Idle pages in the order in which they are evicted.
    pub fn idle_pages(&self) -> impl Iterator<Item = PageId> + '_ {
        [List::New, List::Proven].into_iter().flat_map(move |list| {
            let end = self.end(list) as u32;
            let next = move |page: &u32| Some(self.links[*page as usize].1);
            std::iter::successors(next(&end), next).take_while(move |page| *page != end).map(PageId)
        })
    }

    /// A place for the state after a prefix that is known, at the cost of the state that was not used longest. `None` if
    /// the prefix has its state, is not known, or there are no places.
    pub fn place_state(&mut self, hash: &PrefixHash) -> Option<StateId> {
        if self.touch_state(hash).is_some() {
            return None;
        }
        self.nodes.get(hash)?;
        let state = match self.states.free.pop() {
            Some(state) => state,
            None => {
                let oldest = self.states.oldest()?;
                let owner = self.states.owners[oldest.0 as usize].take().expect("a place that is not free is owned").0;
                self.nodes.get_mut(&owner).expect("the owner of a state is known").state = None;
                oldest
            }
        };
        self.nodes.get_mut(hash).expect("it was found above").state = Some(state);
        self.states.own(state, *hash);
        Some(state)
    }

    /// The saved state after a prefix, which counts as used.
    pub fn touch_state(&mut self, hash: &PrefixHash) -> Option<StateId> {
        let state = self.nodes.get(hash)?.state?;
        self.states.own(state, *hash);
        Some(state)
    }

    /// Forgets the state after a prefix.
    pub fn drop_state(&mut self, hash: &PrefixHash) {
        if let Some(state) = self.nodes.get_mut(hash).and_then(|node| node.state.take()) {
            self.states.give_back(state);
        }
    }

    /// Checks that lists, nodes and states fit together.
    ///
    /// # Panics
    /// If not.
    pub fn check(&self) {
        let n_kept = self.kept.iter().flatten().count();
        assert_eq!(n_kept, self.nodes.len(), "each prefix has its page");
        for (page, kept) in self.kept.iter().enumerate() {
            let Some(kept) = kept else { continue };
            assert_eq!(self.page(&kept.hash), Some(PageId(page as u32)), "a page keeps what its node says");
        }
        let n_state = self.nodes.values().filter(|node| node.state.is_some()).count();
        assert_eq!(n_state + self.states.free.len(), self.states.owners.len(), "each state is free or owned");
        for (state, owner) in self.states.owners.iter().enumerate() {
            let Some((owner, _)) = owner else { continue };
            assert_eq!(self.state(owner), Some(StateId(state as u32)), "a state belongs to its owner");
        }
    }

    fn end(&self, list: List) -> usize {
        self.kept.len() + usize::from(list == List::Proven)
    }

    fn link(&mut self, page: PageId, list: List) {
        let end = self.end(list);
        let newest = self.links[end].0;
        self.links[page.0 as usize] = (newest, end as u32);
        self.links[newest as usize].1 = page.0;
        self.links[end].0 = page.0;
        self.n_idle += 1;
        self.n_proven_idle += usize::from(list == List::Proven);
    }

    fn unlink(&mut self, page: PageId, list: List) {
        let (older, newer) = std::mem::replace(&mut self.links[page.0 as usize], (NONE, NONE));
        self.links[older as usize].1 = newer;
        self.links[newer as usize].0 = older;
        self.n_idle -= 1;
        self.n_proven_idle -= usize::from(list == List::Proven);
    }
}

impl States {
    fn own(&mut self, state: StateId, owner: PrefixHash) {
        self.clock += 1;
        self.owners[state.0 as usize] = Some((owner, self.clock));
    }

    fn give_back(&mut self, state: StateId) {
        self.owners[state.0 as usize] = None;
        self.free.push(state);
    }

    fn oldest(&self) -> Option<StateId> {
        let owned = self.owners.iter().enumerate().filter_map(|(i, owner)| Some((owner.as_ref()?.1, i)));
        owned.min().map(|(_, i)| StateId(i as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_tokens_their_order_and_the_salt() {
        let (a, b): (Vec<TokenId>, Vec<TokenId>) = ((0..16).collect(), (1..17).collect());
        let root = PrefixHash::root(b"");
        let names = [
            root,
            PrefixHash::root(b"x"),
            root.child(&a),
            root.child(&b),
            root.child(&a).child(&b),
            root.child(&b).child(&a),
            PrefixHash::root(b"x").child(&a),
        ];
        for (i, name) in names.iter().enumerate() {
            assert_eq!(names.iter().position(|other| other == name), Some(i));
        }
        // Files keep these names: SHA-256 of the prefix's text and an empty salt, by Python's hashlib.
        let hex: String = root.0[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "d9f2d81a38eeaa1b");
    }

    #[test]
    fn pages_that_came_back_outlive_a_flood() {
        let mut prefixes = Prefixes::new(8, 0);
        let name = |i: u32| PrefixHash::root(&i.to_le_bytes());
        for i in 0..8 {
            assert!(prefixes.insert((name(i), 0), PageId(i)));
            assert!(prefixes.idle(PageId(i)));
        }
        prefixes.wake(PageId(2));
        prefixes.idle(PageId(2));
        prefixes.check();
        let order: Vec<u32> = std::iter::from_fn(|| prefixes.evict()).map(|evicted| evicted.page.0).collect();
        assert_eq!(order, [0, 1, 3, 4, 5, 6, 7, 2]);
        prefixes.check();
    }

    #[test]
    fn proven_pages_do_not_fill_the_arena() {
        let mut prefixes = Prefixes::new(8, 0);
        for i in 0..8 {
            prefixes.insert((PrefixHash::root(&[i as u8]), 0), PageId(i));
            prefixes.idle(PageId(i));
            prefixes.wake(PageId(i));
            prefixes.idle(PageId(i));
        }
        assert_eq!(prefixes.n_proven_idle, 6);
        prefixes.check();
        let order: Vec<u32> = std::iter::from_fn(|| prefixes.evict()).map(|evicted| evicted.page.0).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn states_go_with_their_page_or_when_their_place_is_needed() {
        let mut prefixes = Prefixes::new(4, 2);
        let names: Vec<PrefixHash> = (0..4u8).map(|i| PrefixHash::root(&[i])).collect();
        for i in 0..4 {
            prefixes.insert((names[i as usize], i), PageId(i));
            prefixes.idle(PageId(i));
        }
        let first = prefixes.place_state(&names[0]).expect("a place");
        let second = prefixes.place_state(&names[1]).expect("a place");
        assert_eq!(prefixes.place_state(&names[0]), None, "it has its state, which is used now");
        assert_eq!(prefixes.place_state(&names[2]), Some(second), "the one that was not used longest");
        assert_eq!((prefixes.state(&names[0]), prefixes.state(&names[1])), (Some(first), None));
        prefixes.check();
        prefixes.evict();
        assert_eq!(prefixes.place_state(&names[3]), Some(first), "its owner is gone");
        prefixes.drop_state(&names[3]);
        prefixes.check();
        assert_eq!(prefixes.place_state(&PrefixHash::root(b"unknown")), None);
    }
}
