//! Which pages of the arena are free, in use or kept for their prefix.
//!
//! ```text
//!            alloc                    release, registered as a prefix
//!   free  ----------->  in use (n)  ---------------------------------->  cached
//!         <-----------              <----------------------------------
//!           release                            hold a prefix
//!         <-------------------------------------------------------------
//!                         evicted by alloc, the least missed first
//! ```
//! Each page is in exactly one of these states; [`Pages::check`] proves it.

use crate::prefix::{Evicted, PrefixHash, Prefixes};
use crate::runner::PAGE_TOKENS;
use crate::{PageId, StateId};

/// The pages of one arena.
#[derive(Debug)]
pub struct Pages {
    /// Sequences that hold each page.
    n_holder: Vec<u32>,
    free: Vec<PageId>,
    prefixes: Prefixes,
    evicted: Option<Evicted>,
}

/// What of a prefix is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Pages at its start that are not needed: all of its tokens are out of every later token's sight.
    n_unseen: usize,
    /// Pages, the unseen ones included.
    pub n_page: usize,
}

impl Pages {
    /// An arena of free pages, with `n_saved` places for recurrent states.
    #[must_use]
    pub fn new(n_page: usize, n_saved: usize) -> Pages {
        let free = (0..n_page as u32).rev().map(PageId).collect();
        Pages { n_holder: vec![0; n_page], free, prefixes: Prefixes::new(n_page, n_saved), evicted: None }
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
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                self.evicted = self.prefixes.evict();
                self.evicted?.page
            }
        };
        self.n_holder[page.0 as usize] = 1;
        Some(page)
    }

    /// The prefix that the last [`Pages::alloc`] forgot, if it did; its page's bytes are still there until a step writes.
    pub fn take_evicted(&mut self) -> Option<Evicted> {
        self.evicted.take()
    }

    /// Gives up one hold of each page. Give a sequence's pages oldest first: the youngest are evicted first then, which
    /// keeps a prefix's beginning longest.
    pub fn release(&mut self, pages: impl DoubleEndedIterator<Item = PageId>) {
        for page in pages.rev() {
            let n = &mut self.n_holder[page.0 as usize];
            assert!(*n > 0, "page {} was released twice", page.0);
            *n -= 1;
            if *n == 0 && !self.prefixes.idle(page) {
                self.free.push(page);
            }
        }
    }

    /// Holds pages once more that are in use: two sequences share them.
    pub fn share(&mut self, pages: &[PageId]) {
        for page in pages {
            let n = &mut self.n_holder[page.0 as usize];
            assert!(*n > 0, "page {} is shared but not in use", page.0);
            *n += 1;
        }
    }

    /// Whether more than one sequence holds `page`, so that none may write to it.
    #[must_use]
    pub fn is_shared(&self, page: PageId) -> bool {
        self.n_holder[page.0 as usize] > 1
    }

    /// The longest known prefix among `hashes`, each the prefix of a page more. Where a token sees at most `window`
    /// tokens, pages before those need not be there.
    #[must_use]
    pub fn known(&self, hashes: &[PrefixHash], window: Option<usize>) -> Known {
        let (mut first, mut best) = (0, Known::default());
        for (i, hash) in hashes.iter().enumerate() {
            if self.prefixes.page(hash).is_none() {
                if window.is_none() {
                    break;
                }
                first = i + 1;
                continue;
            }
            let n_unseen = n_unseen((i + 1) * PAGE_TOKENS, window);
            if first <= n_unseen {
                best = Known { n_unseen, n_page: i + 1 };
            }
        }
        best
    }

    /// The longest part of a known prefix after which a state is saved.
    #[must_use]
    pub fn known_state(&self, hashes: &[PrefixHash], known: Known) -> Known {
        let n_page = (0..known.n_page).rev().find(|i| self.prefixes.state(&hashes[*i]).is_some()).map_or(0, |i| i + 1);
        Known { n_unseen: 0, n_page }
    }

    /// Appends the pages of a known prefix that are needed to `pages`, and holds them. Returns how many are not needed.
    pub fn hold(&mut self, hashes: &[PrefixHash], known: Known, pages: &mut Vec<PageId>) -> usize {
        for hash in &hashes[known.n_unseen..known.n_page] {
            let page = self.prefixes.page(hash).expect("what is known has its page");
            let n = &mut self.n_holder[page.0 as usize];
            *n += 1;
            if *n == 1 {
                self.prefixes.wake(page);
            }
            pages.push(page);
        }
        known.n_unseen
    }

    /// Notes that `page`, which is in use, holds the last page of a prefix, with `depth` pages before it. If another page
    /// keeps that prefix already, this one stays private.
    pub fn register(&mut self, hash: PrefixHash, depth: usize, page: PageId) {
        self.prefixes.insert((hash, depth as u32), page);
    }

    /// As [`Pages::register`], for a page that comes from elsewhere because it is wanted.
    pub fn adopt(&mut self, hash: PrefixHash, depth: usize, page: PageId) {
        self.register(hash, depth, page);
        self.prefixes.prove(page);
    }

    /// The page that keeps the last page of a prefix.
    #[must_use]
    pub fn find(&self, hash: &PrefixHash) -> Option<PageId> {
        self.prefixes.page(hash)
    }

    /// The saved state after a prefix.
    #[must_use]
    pub fn state(&self, hash: &PrefixHash) -> Option<StateId> {
        self.prefixes.state(hash)
    }

    /// A place to save the state after a known prefix; see [`Prefixes::place_state`].
    pub fn place_state(&mut self, hash: &PrefixHash) -> Option<StateId> {
        self.prefixes.place_state(hash)
    }

    /// The saved state after a prefix, which counts as used.
    pub fn use_state(&mut self, hash: &PrefixHash) -> Option<StateId> {
        self.prefixes.touch_state(hash)
    }

    /// Forgets the state after a prefix.
    pub fn drop_state(&mut self, hash: &PrefixHash) {
        self.prefixes.drop_state(hash);
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
        assert!(self.free.iter().all(|page| self.prefixes.kept(*page).is_none()), "a free page keeps a prefix");
        self.prefixes.check();
    }
}

/// Pages at the start of a sequence that no token from `next` on sees.
#[must_use]
pub fn n_unseen(next: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (next + 1).saturating_sub(window) / PAGE_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenId;

    fn hashes(tokens: &[TokenId]) -> Vec<PrefixHash> {
        let mut hash = PrefixHash::root(b"");
        let next = |part: &[TokenId]| {
            hash = hash.child(part);
            hash
        };
        tokens.chunks_exact(PAGE_TOKENS).map(next).collect()
    }

    fn hold(pages: &mut Pages, tokens: &[TokenId]) -> Vec<PageId> {
        let (hashes, mut held) = (hashes(tokens), Vec::new());
        let known = pages.known(&hashes, None);
        pages.hold(&hashes, known, &mut held);
        held
    }

    #[test]
    fn pages_are_given_until_none_is_left_and_come_back() {
        let mut pages = Pages::new(3, 0);
        let mut held: Vec<PageId> = (0..3).map(|_| pages.alloc().expect("free")).collect();
        assert_eq!((pages.alloc(), pages.n_used()), (None, 3));
        pages.check(held.iter().copied());
        pages.release(held.drain(..));
        assert_eq!((pages.n_free(), pages.n_used()), (3, 0));
        pages.check(std::iter::empty());
    }

    #[test]
    fn a_released_prefix_is_found_until_its_pages_are_needed() {
        let tokens: Vec<TokenId> = (0..40).collect();
        let mut pages = Pages::new(4, 0);
        let original: Vec<PageId> = (0..3).map(|_| pages.alloc().expect("free")).collect();
        hashes(&tokens)
            .into_iter()
            .zip(&original)
            .enumerate()
            .for_each(|(i, (hash, page))| pages.register(hash, i, *page));
        pages.release(original.iter().copied());
        assert_eq!((pages.n_free(), pages.n_cached(), pages.n_available()), (2, 2, 4));

        let held = hold(&mut pages, &tokens);
        assert_eq!(held, original[..2]);
        let other = hold(&mut pages, &tokens[..31]);
        assert_eq!(other, original[..1], "half a page is no match");
        assert!(pages.is_shared(original[0]) && !pages.is_shared(original[1]));
        pages.check(held.iter().chain(&other).copied());
        pages.release(held.into_iter());
        pages.release(other.into_iter());

        // The end of the prefix goes first.
        let taken: Vec<PageId> = (0..3).map(|_| pages.alloc().expect("available")).collect();
        let evicted = Evicted { page: original[1], hash: hashes(&tokens)[1], depth: 1 };
        assert_eq!((taken[2], pages.take_evicted()), (original[1], Some(evicted)));
        let held = hold(&mut pages, &tokens);
        assert_eq!(held, original[..1]);
        pages.release(held.into_iter());
        pages.release(taken.into_iter());
        pages.check(std::iter::empty());
    }

    #[test]
    fn the_same_prefix_twice_is_kept_once() {
        let name = hashes(&(0..16).collect::<Vec<_>>())[0];
        let mut pages = Pages::new(2, 0);
        let held = [pages.alloc().expect("free"), pages.alloc().expect("free")];
        held.iter().for_each(|page| pages.register(name, 0, *page));
        assert_eq!(pages.find(&name), Some(held[0]));
        pages.release(held.into_iter());
        assert_eq!((pages.n_free(), pages.n_cached()), (1, 1));
    }

    #[test]
    fn a_window_needs_the_end_of_a_prefix_only() {
        let tokens: Vec<TokenId> = (0..96).collect();
        let names = hashes(&tokens);
        let mut pages = Pages::new(6, 0);
        let held: Vec<PageId> = (0..6).map(|_| pages.alloc().expect("free")).collect();
        [0, 3, 4].iter().for_each(|i| pages.register(names[*i], *i, held[*i]));
        // The next token at 80 sees 48 and later with a window of 33: pages 3 and 4, and not with one of 34.
        let rows = [(None, (0, 1)), (Some(33), (3, 5)), (Some(34), (0, 1)), (Some(1), (5, 5))];
        for (window, (n_unseen, n_page)) in rows {
            assert_eq!(pages.known(&names, window), Known { n_unseen, n_page }, "{window:?}");
        }
    }
}
