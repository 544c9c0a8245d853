//! What a draft model has read of each sequence, and of which it reads the prompt.
//!
//! Reading a prompt takes a part of the time that the large model takes for it, and is lost where no draft pays. A model that
//! reads tokens reads nothing before it drafts, and then from the sequence's account: the last [`WINDOW`] tokens, as if the
//! sequence began with them, and all of it once its drafts have saved more than that takes.
//!
//! ```text
//! tokens   0 .. n_skipped .. n_stored .. n      places of a draft model begin at n_skipped, in the page of that token
//!                |- read -----|- to be read
//! ```
//! What reads hidden states, or tokens of another vocabulary, reads prompts along with the large model: where the last
//! sequences of a kind have saved more than it costs, else from a purse that a hundredth of all sequences' time fills.

use std::collections::HashMap;
use std::time::Duration;

use crate::accept::{Kind, N_KIND};
use crate::account::Account;
use crate::runner::PAGE_TOKENS;
use crate::times::Least;
use crate::{PageId, SeqId};

/// Sequences that are read before anything is known.
const FIRST: u32 = 2;
/// What a purse holds at most: readings of the sequence in question.
const PURSE: f64 = 4.0;
/// Weight of what a sequence saved.
const WEIGHT: f64 = 0.1;
/// Tokens of a pass that tells how long reading takes.
const ENOUGH: usize = 8;
/// What a token takes that is read with others, as is supposed before it is measured: a part of one that is read alone.
const SUPPOSED: f64 = 0.25;
/// The part of all sequences' time that goes to a purse.
const INCOME: f64 = 0.01;
/// Tokens of which a model that has not read a sequence reads the last ones. Of a prompt's next 16 tokens the built-in pair agrees
/// on 10 to 12 after 16 of several hundred, and on 12 after 32; chats are often shorter.
pub(crate) const WINDOW: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    own: HashMap<SeqId, Own>,
    /// By page of the large model: whether keys and values of all its tokens are stored.
    whole: Vec<bool>,
    /// By kind.
    records: [Record; N_KIND],
    /// Of a token that is read with others, and of one alone.
    token: Least,
    pass: Least,
    /// Whether the model was used before.
    is_warm: bool,
}

/// What was read of a sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    /// Tokens whose keys and values are stored, but for the first `n_skipped`.
    pub n_stored: usize,
    /// Tokens that were left out: places are counted from there.
    pub n_skipped: usize,
    /// Whether its prompt is read along.
    pub follows: bool,
}

impl Own {
    /// Tokens of which whole pages are stored at their own places.
    pub fn n_whole(&self) -> usize {
        if self.n_skipped == 0 { self.n_stored } else { 0 }
    }
}

/// What drafting has saved of late.
#[derive(Debug, Default)]
struct Record {
    /// Seconds a sequence.
    saved: f64,
    n_seq: u32,
    /// Seconds for reading sequences that may not be worth it.
    purse: f64,
}

impl Reading {
    /// Nothing read, of `n_page` pages.
    pub fn new(n_page: usize) -> Reading {
        Reading { whole: vec![false; n_page], ..Reading::default() }
    }

    /// A sequence of `n_token` tokens of which those before `start` lie in `pages`. Decides about one that is new.
    pub fn own(&mut self, (id, kind): (SeqId, Kind), (start, n_token): (usize, usize), pages: &[PageId]) -> &mut Own {
        let each = self.token_seconds();
        let Reading { own, whole, records, .. } = self;
        own.entry(id).or_insert_with(|| {
            let is_whole = |page: &&PageId| whole.get(page.0 as usize).copied().unwrap_or(false);
            let n_stored = (pages.iter().take_while(is_whole).count() * PAGE_TOKENS).min(start);
            let n_unread = n_token - n_stored.min(n_token);
            let follows = records[kind as usize].follows(n_unread as f64 * each);
            Own { n_stored, n_skipped: 0, follows }
        })
    }

    /// As it is known.
    pub fn known(&self, id: SeqId) -> Option<Own> {
        self.own.get(&id).copied()
    }

    /// Seconds to read `n` tokens, of which each takes no more than a pass of one.
    pub fn seconds(&self, n: usize) -> f64 {
        n as f64 * self.token_seconds()
    }

    fn token_seconds(&self) -> f64 {
        match (self.token.seconds, self.pass.seconds) {
            (token, pass) if token > 0.0 && pass > 0.0 => token.min(pass),
            (token, pass) => token.max(SUPPOSED * pass),
        }
    }

    /// Seconds of a pass of a token; 0 before there is one.
    pub fn pass_seconds(&self) -> f64 {
        self.pass.seconds
    }

    /// Learns how long a pass of a token took.
    pub fn passed(&mut self, took: Duration) {
        self.pass.learn(took);
    }

    /// Learns how long reading `n_tok` tokens took. The first time says nothing: weights are read from the disk, and memory is
    /// taken. It took fifty times as long as others, so that prompts seemed too dear to be read ever again.
    pub fn took(&mut self, n_tok: usize, took: Duration) {
        if std::mem::replace(&mut self.is_warm, true) && n_tok >= ENOUGH {
            self.token.learn(took / n_tok as u32);
        }
    }

    /// Notes that tokens `start..end` of a sequence, of which `n_stored` are stored, were written to its `pages`.
    pub fn wrote(&mut self, (start, end): (usize, usize), n_stored: usize, pages: &[PageId]) {
        let (first, last) = (start / PAGE_TOKENS, end.div_ceil(PAGE_TOKENS));
        for (page, after) in pages[first..last].iter().zip(first + 1..) {
            self.set_whole(*page, after * PAGE_TOKENS <= n_stored);
        }
    }

    /// Whether keys and values of all of a page's tokens are stored.
    pub fn is_whole(&self, page: PageId) -> bool {
        self.whole.get(page.0 as usize).copied().unwrap_or(false)
    }

    /// Notes that page `to` is now as page `from` is.
    pub fn copied(&mut self, from: PageId, to: PageId) {
        self.set_whole(to, self.is_whole(from));
    }

    /// Notes whether keys and values of all of a page's tokens are stored.
    pub fn set_whole(&mut self, page: PageId, is_whole: bool) {
        if let Some(whole) = self.whole.get_mut(page.0 as usize) {
            *whole = is_whole;
        }
    }

    /// Notes that of a sequence `n_token` tokens are right.
    pub fn verified(&mut self, id: SeqId, n_token: usize) {
        if let Some(own) = self.own.get_mut(&id) {
            own.n_stored = own.n_stored.min(n_token);
        }
    }

    /// The large model computes a prompt's tokens from `start` on: what is stored of them is not of these.
    pub fn restarts(&mut self, id: SeqId, start: usize) {
        if let Some(own) = self.own.get_mut(&id) {
            own.n_stored = own.n_stored.min(start);
            if own.n_stored <= own.n_skipped {
                (own.n_skipped, own.n_stored) = (0, 0);
            }
        }
    }

    /// Forgets a sequence, after what the account of its drafts says, if it has one.
    pub fn forget(&mut self, (id, kind): (SeqId, Kind), account: Option<&Account>) {
        let own = self.own.remove(&id);
        let Some(account) = account else { return };
        let record = &mut self.records[kind as usize];
        record.purse += INCOME * account.plain();
        if own.is_some_and(|own| own.follows) {
            record.learn(account.saved_by_model());
        }
    }
}

impl Record {
    /// Whether to read a sequence, which takes so many seconds.
    fn follows(&mut self, seconds: f64) -> bool {
        if self.n_seq < FIRST || self.saved > seconds {
            return true;
        }
        self.purse = self.purse.min(PURSE * seconds);
        let is_covered = self.purse >= seconds;
        if is_covered {
            self.purse -= seconds;
        }
        is_covered
    }

    fn learn(&mut self, saved: f64) {
        self.n_seq = self.n_seq.saturating_add(1);
        self.saved += WEIGHT.max(1.0 / f64::from(self.n_seq)) * (saved - self.saved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::By;

    const KIND: Kind = Kind::Greedy;

    #[test]
    fn sequences_are_read_while_that_pays_and_else_from_a_hundredth_of_all_time() {
        // Of each sequence: tokens of the prompt, seconds that drafts saved, steps of 10 ms.
        let read = |n_token: usize, saved: f64, n_step: usize, n: u64| {
            let mut reading = Reading::new(8);
            reading.took(100, Duration::from_secs(10));
            reading.took(100, Duration::from_millis(100));
            let follows = |i| {
                let follows = reading.own((SeqId(i), KIND), (0, n_token), &[]).follows;
                let mut account = Account::new(0.0);
                (0..n_step).for_each(|_| account.step(0.01));
                account.spend(By::Model, -saved);
                reading.forget((SeqId(i), KIND), Some(&account));
                usize::from(follows)
            };
            (0..n).map(follows).sum::<usize>()
        };
        // Reading takes 200 ms each.
        assert_eq!((read(200, 0.3, 10, 200), read(20, 0.03, 10, 200)), (200, 200));
        for (n_step, want) in [(100, 10..14), (1000, 100..104), (4000, 198..201)] {
            let tried = read(200, -0.01, n_step, 200);
            assert!(want.contains(&tried), "{tried} of 200, with {n_step} steps each");
        }
    }

    #[test]
    fn pages_of_which_the_end_alone_was_read_are_not_whole() {
        let mut reading = Reading::new(8);
        let pages: Vec<PageId> = (0..4).map(PageId).collect();
        reading.wrote((0, 48), 48, &pages);
        let own = reading.own((SeqId(1), KIND), (60, 61), &pages);
        assert_eq!((own.n_stored, own.n_skipped, own.n_whole()), (48, 0, 48));
        // Places of what is read begin in the third page.
        (own.n_skipped, own.n_stored) = (45, 61);
        let n_whole = own.n_whole();
        reading.wrote((45, 61), n_whole, &pages);
        assert_eq!([0, 1, 2, 3].map(|page| reading.is_whole(PageId(page))), [true, true, false, false]);
        // The large model computes the sequence anew: first what was read, then what was left out.
        for (start, want) in [(50, (50, 45)), (20, (0, 0))] {
            reading.restarts(SeqId(1), start);
            assert_eq!(reading.known(SeqId(1)).map(|own| (own.n_stored, own.n_skipped)), Some(want));
        }
    }

    #[test]
    fn pages_count_as_read_as_far_as_they_are_whole() {
        let mut reading = Reading::new(8);
        let pages: Vec<PageId> = (0..4).map(PageId).collect();
        reading.wrote((0, 40), 40, &pages);
        assert_eq!(reading.own((SeqId(1), KIND), (40, 41), &pages).n_stored, 32);
        // The large model went on alone, and came to the end of the third page.
        reading.wrote((40, 50), 40, &pages);
        reading.copied(PageId(1), PageId(6));
        assert_eq!(reading.own((SeqId(2), KIND), (48, 60), &pages).n_stored, 32);
        assert_eq!(reading.own((SeqId(3), KIND), (48, 60), &[PageId(0), PageId(6), PageId(2)]).n_stored, 32);
        // Another sequence took the first page.
        reading.wrote((0, 5), 0, &pages);
        assert_eq!(reading.own((SeqId(4), KIND), (48, 60), &pages).n_stored, 0);
        reading.verified(SeqId(1), 7);
        assert_eq!(reading.known(SeqId(1)).map(|own| own.n_stored), Some(7));
    }
}
