//! Which page holds the keys and values of which prefix.
//!
//! A node is a page's worth of tokens after a parent node. Nodes are numbered and never reused, so that (parent, tokens)
//! names a prefix exactly, without a hash that could collide. Pages that no sequence holds are idle: they stay, in a list
//! ordered by when they were last used, until [`Prefixes::evict`] needs them.

use std::collections::HashMap;

use crate::runner::PAGE_TOKENS;
use crate::{PageId, TokenId};

/// A prefix of whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(u64);

/// The prefix without tokens.
pub const ROOT: NodeId = NodeId(0);

type Key = (NodeId, [TokenId; PAGE_TOKENS]);

/// End of the idle list.
const NONE: u32 = u32::MAX;

/// The prefixes of one arena.
#[derive(Debug)]
pub struct Prefixes {
    nodes: HashMap<Key, (NodeId, PageId)>,
    /// By page: its key, if it keeps a prefix.
    keys: Vec<Option<Key>>,
    /// By page, and one more for the list's ends: neighbours (older, newer) in the idle list.
    links: Vec<(u32, u32)>,
    n_idle: usize,
    next_node: u64,
}

impl Prefixes {
    /// None yet, of `n_page` pages.
    #[must_use]
    pub fn new(n_page: usize) -> Prefixes {
        let end = n_page as u32;
        let mut links = vec![(NONE, NONE); n_page];
        links.push((end, end));
        Prefixes { nodes: HashMap::with_capacity(n_page), keys: vec![None; n_page], links, n_idle: 0, next_node: 1 }
    }

    /// Pages that keep a prefix and that no sequence holds.
    #[must_use]
    pub fn n_idle(&self) -> usize {
        self.n_idle
    }

    /// Appends the pages of the longest known prefix of `tokens` and returns its node.
    pub fn find(&self, tokens: &[TokenId], pages: &mut Vec<PageId>) -> NodeId {
        let mut node = ROOT;
        for part in tokens.chunks_exact(PAGE_TOKENS) {
            let Some((next, page)) = self.nodes.get(&key(node, part)) else { break };
            node = *next;
            pages.push(*page);
        }
        node
    }

    /// Lets `page` keep `tokens` after `parent`, if no page does; returns the node of that prefix.
    pub fn insert(&mut self, parent: NodeId, tokens: &[TokenId], page: PageId) -> NodeId {
        let key = key(parent, tokens);
        if let Some((node, _)) = self.nodes.get(&key) {
            return *node;
        }
        let node = NodeId(self.next_node);
        self.next_node += 1;
        self.nodes.insert(key, (node, page));
        self.keys[page.0 as usize] = Some(key);
        node
    }

    /// Notes that no sequence holds `page` any more. Returns whether it keeps a prefix.
    pub fn idle(&mut self, page: PageId) -> bool {
        if self.keys[page.0 as usize].is_none() {
            return false;
        }
        let end = self.end();
        let newest = self.links[end].0;
        self.links[page.0 as usize] = (newest, end as u32);
        self.links[newest as usize].1 = page.0;
        self.links[end].0 = page.0;
        self.n_idle += 1;
        true
    }

    /// Notes that a sequence holds the idle `page` again.
    pub fn wake(&mut self, page: PageId) {
        let (older, newer) = std::mem::replace(&mut self.links[page.0 as usize], (NONE, NONE));
        self.links[older as usize].1 = newer;
        self.links[newer as usize].0 = older;
        self.n_idle -= 1;
    }

    /// Takes the page that was idle longest; its prefix is forgotten.
    pub fn evict(&mut self) -> Option<PageId> {
        let page = self.idle_pages().next()?;
        self.wake(page);
        let key = self.keys[page.0 as usize].take().expect("an idle page keeps a prefix");
        self.nodes.remove(&key);
        Some(page)
    }

    /// Idle pages, the one that was idle longest first.
    pub fn idle_pages(&self) -> impl Iterator<Item = PageId> + '_ {
        let end = self.end() as u32;
        let next = move |page: &u32| Some(self.links[*page as usize].1);
        std::iter::successors(Some(self.links[end as usize].1), next).take_while(move |page| *page != end).map(PageId)
    }

    fn end(&self) -> usize {
        self.links.len() - 1
    }
}

fn key(parent: NodeId, tokens: &[TokenId]) -> Key {
    (parent, tokens.try_into().expect("a page's worth of tokens"))
}
