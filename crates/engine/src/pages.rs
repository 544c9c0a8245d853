//! Which pages of the arena are free, in use or kept for their prefix.
//!
//! ```text
//!            alloc                    release, registered as a prefix
//!   free  ----------->  in use (n)  ---------------------------------->  cached
//!         <-----------              <----------------------------------
//!           release                            match a prefix
//!         <-------------------------------------------------------------
//!                         evicted by alloc, least recently used first
//! ```
//! Each page is in exactly one of these states; [`Pages::check`] proves it.

use crate::prefix::{NodeId, Prefixes};
use crate::{PageId, TokenId};

/// The pages of one arena.
#[derive(Debug)]
pub struct Pages {
    /// Sequences that hold each page.
    n_holder: Vec<u32>,
    free: Vec<PageId>,
    prefixes: Prefixes,
}

impl Pages {
    /// An arena of free pages.
    #[must_use]
    pub fn new(n_page: usize) -> Pages {
        let free = (0..n_page as u32).rev().map(PageId).collect();
        Pages { n_holder: vec![0; n_page], free, prefixes: Prefixes::new(n_page) }
    }

    /// Pages that hold nothing.
    #[must_use]
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// Pages that keep a prefix and that no sequence holds.
    #[must_use]
    pub fn n_cached(&self) -> usize {
        self.prefixes.n_idle()
    }

    /// Pages that sequences hold.
    #[must_use]
    pub fn n_used(&self) -> usize {
        self.n_holder.len() - self.n_available()
    }

    /// Pages that [`Pages::alloc`] can give.
    #[must_use]
    pub fn n_available(&self) -> usize {
        self.n_free() + self.n_cached()
    }

    /// A page for one holder; evicts a cached one if none is free. `None` if all are in use.
    pub fn alloc(&mut self) -> Option<PageId> {
        let page = self.free.pop().or_else(|| self.prefixes.evict())?;
        self.n_holder[page.0 as usize] = 1;
        Some(page)
    }

    /// Gives up one hold of each page. Give a sequence's pages oldest first: the youngest are evicted first then, which
    /// keeps a prefix's beginning longest.
    pub fn release(&mut self, pages: &mut Vec<PageId>) {
        for page in pages.drain(..).rev() {
            let n = &mut self.n_holder[page.0 as usize];
            assert!(*n > 0, "page {} was released twice", page.0);
            *n -= 1;
            if *n == 0 && !self.prefixes.idle(page) {
                self.free.push(page);
            }
        }
    }

    /// Appends to `pages` those that keep the longest prefix of `tokens`, whole pages only, and holds them. Returns the
    /// last one's node.
    pub fn hold_prefix(&mut self, tokens: &[TokenId], pages: &mut Vec<PageId>) -> NodeId {
        let first = pages.len();
        let node = self.prefixes.find(tokens, pages);
        for page in &pages[first..] {
            let n = &mut self.n_holder[page.0 as usize];
            *n += 1;
            if *n == 1 {
                self.prefixes.wake(*page);
            }
        }
        node
    }

    /// Notes that `page`, which is in use, holds `tokens` (a whole page) after the prefix `parent`. If another page keeps
    /// the same prefix already, this one stays private. Returns the prefix's node.
    pub fn register(&mut self, parent: NodeId, tokens: &[TokenId], page: PageId) -> NodeId {
        self.prefixes.insert(parent, tokens, page)
    }

    /// Checks that each page is exactly one of free, in use and cached, and that `held` (page, for each hold) is what the
    /// sequences hold.
    ///
    /// # Panics
    /// If not.
    pub fn check(&self, held: impl Iterator<Item = PageId>) {
        let mut want = vec![0; self.n_holder.len()];
        held.for_each(|page| want[page.0 as usize] += 1);
        assert_eq!(self.n_holder, want, "holders of pages");
        let mut n_state: Vec<u32> = want.iter().map(|n| u32::from(*n > 0)).collect();
        self.free.iter().for_each(|page| n_state[page.0 as usize] += 1);
        self.prefixes.idle_pages().for_each(|page| n_state[page.0 as usize] += 1);
        let wrong = n_state.iter().position(|n| *n != 1);
        assert_eq!(wrong, None, "page is not exactly one of free, in use, cached");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::ROOT;
    use crate::runner::PAGE_TOKENS;

    #[test]
    fn pages_are_given_until_none_is_left_and_come_back() {
        let mut pages = Pages::new(3);
        let mut held: Vec<PageId> = (0..3).map(|_| pages.alloc().expect("free")).collect();
        assert_eq!((pages.alloc(), pages.n_used()), (None, 3));
        pages.check(held.iter().copied());
        pages.release(&mut held);
        assert_eq!((pages.n_free(), pages.n_used()), (3, 0));
        pages.check(std::iter::empty());
    }

    #[test]
    fn a_released_prefix_is_found_until_its_pages_are_needed() {
        let tokens: Vec<TokenId> = (0..40).collect();
        let mut pages = Pages::new(4);
        let mut held: Vec<PageId> = (0..3).map(|_| pages.alloc().expect("free")).collect();
        let node = pages.register(ROOT, &tokens[..PAGE_TOKENS], held[0]);
        pages.register(node, &tokens[PAGE_TOKENS..2 * PAGE_TOKENS], held[1]);
        let original = held.clone();
        pages.release(&mut held);
        assert_eq!((pages.n_free(), pages.n_cached(), pages.n_available()), (2, 2, 4));

        pages.hold_prefix(&tokens, &mut held);
        assert_eq!(held, original[..2]);
        let mut other = Vec::new();
        pages.hold_prefix(&tokens[..31], &mut other);
        assert_eq!(other, original[..1], "half a page is no match");
        pages.check(held.iter().chain(&other).copied());
        pages.release(&mut held);
        pages.release(&mut other);

        // The end of the prefix goes first.
        let mut taken: Vec<PageId> = (0..3).map(|_| pages.alloc().expect("available")).collect();
        assert_eq!(taken[2], original[1]);
        pages.hold_prefix(&tokens, &mut held);
        assert_eq!(held, original[..1]);
        pages.release(&mut held);
        pages.release(&mut taken);
        pages.check(std::iter::empty());
    }

    #[test]
    fn the_same_prefix_twice_is_kept_once() {
        let tokens: Vec<TokenId> = (0..16).collect();
        let mut pages = Pages::new(2);
        let mut held = vec![pages.alloc().expect("free"), pages.alloc().expect("free")];
        let node = pages.register(ROOT, &tokens, held[0]);
        assert_eq!(pages.register(ROOT, &tokens, held[1]), node);
        pages.release(&mut held);
        assert_eq!((pages.n_free(), pages.n_cached()), (1, 1));
    }
}
