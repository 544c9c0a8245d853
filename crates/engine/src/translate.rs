//! A draft model of another vocabulary: texts are its own tokens, in pages of its own.
//!
//! ```text
//! model   The| qu|ick| brown| fox| ju|mps        tokens of the sequence
//! draft   The| quick| bro|wn| fox| jump|s        what it reads; the part before `settled` is not translated again
//!                            ^ settled
//! ```
//! How a text ends decides how its last tokens are cut, so that the last few are translated anew with each step, from where
//! a word begins. What is read already stays as far as the new tokens agree with it. A draft is translated back as text that
//! goes on after the sequence's last token. Where one of these cuts differs from what the model would make of the whole text
//! the draft is worse, and no text is.

use std::collections::HashMap;

use crate::runner::PAGE_TOKENS;
use crate::{PageId, SeqId, TokenId};

/// The model's tokens that are translated anew with each step, at least.
const UNSETTLED: usize = 8;
/// Where no word begins for so many tokens the text is cut anywhere.
const MAX_UNSETTLED: usize = 64;

/// What two vocabularies have to do with each other. Tokens go from one to the other as text.
pub trait Translate: Send {
    /// Appends what begins a text of the draft model.
    fn begin(&self, out: &mut Vec<TokenId>);

    /// Whether a word begins with this token of the model.
    fn begins_word(&self, token: TokenId) -> bool;

    /// Appends what the model's `tokens` are to the draft model.
    fn to_draft(&self, tokens: &[TokenId], out: &mut Vec<TokenId>);

    /// Appends what the draft model's `tokens` are to the model.
    fn to_model(&self, tokens: &[TokenId], out: &mut Vec<TokenId>);
}

/// Sequences of a draft model in its own tokens.
pub(crate) struct Translated {
    translate: Box<dyn Translate>,
    own: HashMap<SeqId, Own>,
    free: Vec<PageId>,
    n_use: u64,
    /// Sequences used before it may lose their pages to others.
    since: u64,
}

/// A sequence in the draft model's tokens.
#[derive(Default)]
struct Own {
    tokens: Vec<TokenId>,
    /// The model's tokens and their translations that are settled.
    settled: (usize, usize),
    /// Tokens whose keys and values are stored.
    stored: Vec<TokenId>,
    pages: Vec<PageId>,
    used: u64,
}

/// What is to be read of a sequence.
pub(crate) struct Part<'a> {
    pub start: usize,
    pub tokens: &'a [TokenId],
    pub pages: &'a [PageId],
}

impl Translated {
    pub fn new(translate: Box<dyn Translate>, n_page: usize) -> Translated {
        let free = (0..n_page as u32).rev().map(PageId).collect();
        Translated { translate, own: HashMap::new(), free, n_use: 0, since: 0 }
    }

    /// What is used from now on keeps its pages until this is called again.
    pub fn begins(&mut self) {
        self.since = self.n_use;
    }

    /// Translates the sequence `id` of the model's `tokens`, which continue those of the last call. Returns what is to be
    /// read of it, the last token in any case, with pages for `n_more` tokens after it; `None` if it is empty or has no room
    /// among `n_ctx` tokens or the pages of sequences that are not in use.
    pub fn part(&mut self, id: SeqId, tokens: &[TokenId], (n_more, n_ctx): (usize, usize)) -> Option<Part<'_>> {
        let own = self.read(id, tokens);
        let end = own.tokens.len();
        let start = own.n_stored().min(end.checked_sub(1)?);
        self.store(id, (start, end), (end + n_more, n_ctx))
    }

    /// As [`Translated::part`], of a prompt that is being read: only what is settled, all of it unread; `None` if that is
    /// nothing.
    pub fn settled(&mut self, id: SeqId, tokens: &[TokenId], n_ctx: usize) -> Option<Part<'_>> {
        let own = self.read(id, tokens);
        let (start, end) = (own.n_stored().min(own.settled.1), own.settled.1);
        (start < end).then(|| self.store(id, (start, end), (end, n_ctx))).flatten()
    }

    /// Translates what the sequence has become.
    fn read(&mut self, id: SeqId, tokens: &[TokenId]) -> &Own {
        self.n_use += 1;
        let own = self.own.entry(id).or_default();
        own.used = self.n_use;
        own.read(self.translate.as_ref(), tokens);
        own
    }

    /// Notes that the tokens from `start` to `end` are stored, on pages for `n_token`; `None` if these have no room.
    fn store(&mut self, id: SeqId, (start, end): (usize, usize), (n_token, n_ctx): (usize, usize)) -> Option<Part<'_>> {
        if n_token > n_ctx || !self.place(id, n_token.div_ceil(PAGE_TOKENS)) {
            return None;
        }
        let own = self.own.get_mut(&id).expect("it was just used");
        own.stored.truncate(start);
        own.stored.extend_from_slice(&own.tokens[start..end]);
        Some(Part { start, tokens: &own.tokens[start..end], pages: &own.pages })
    }

    /// Another token after those that were read, drafted in this step.
    pub fn next(&mut self, id: SeqId, token: TokenId) -> Part<'_> {
        let own = self.own.get_mut(&id).expect("a draft was begun");
        let start = own.stored.len();
        own.stored.push(token);
        Part { start, tokens: &own.stored[start..], pages: &own.pages }
    }

    /// Tokens of a sequence of `n_token` that were not read, but for its last few.
    pub fn n_unread(&self, id: SeqId, n_token: usize) -> usize {
        let own = self.own.get(&id).filter(|own| !own.stored.is_empty());
        n_token.saturating_sub(own.map_or(0, |own| own.settled.0 + MAX_UNSETTLED))
    }

    /// Overwrites `out` with what the draft model's `tokens` are to the model.
    pub fn to_model(&self, tokens: &[TokenId], out: &mut Vec<TokenId>) {
        out.clear();
        self.translate.to_model(tokens, out);
    }

    /// Gives a sequence `n_page` pages.
    fn place(&mut self, id: SeqId, n_page: usize) -> bool {
        let n_need = n_page.saturating_sub(self.own[&id].pages.len());
        while self.free.len() < n_need {
            let since = self.since;
            let idle = self.own.iter_mut().filter(|(_, own)| own.used <= since && !own.pages.is_empty());
            let Some((_, last)) = idle.min_by_key(|(_, own)| own.used) else { return false };
            last.stored.clear();
            self.free.append(&mut last.pages);
        }
        let pages = self.free.split_off(self.free.len() - n_need);
        self.own.get_mut(&id).expect("the caller has it").pages.extend(pages);
        true
    }

    /// Frees a sequence's pages.
    pub fn forget(&mut self, id: SeqId) {
        if let Some(own) = self.own.remove(&id) {
            self.free.extend(own.pages);
        }
    }
}

impl Own {
    /// Tokens whose keys and values are stored as they are now.
    fn n_stored(&self) -> usize {
        self.stored.iter().zip(&self.tokens).take_while(|(a, b)| a == b).count()
    }

    /// Translates what is not settled, and settles what is far enough from the end.
    fn read(&mut self, translate: &dyn Translate, tokens: &[TokenId]) {
        self.tokens.truncate(self.settled.1);
        if self.settled == (0, 0) {
            translate.begin(&mut self.tokens);
        }
        let from = self.settled.0;
        let last = tokens.len().saturating_sub(UNSETTLED);
        let word = (from + 1..last).rev().find(|at| translate.begins_word(tokens[*at]));
        let anywhere = (tokens.len() - from > MAX_UNSETTLED).then(|| tokens.len() - MAX_UNSETTLED / 2);
        if let Some(at) = word.or(anywhere) {
            translate.to_draft(&tokens[from..at], &mut self.tokens);
            self.settled = (at, self.tokens.len());
        }
        translate.to_draft(&tokens[self.settled.0..], &mut self.tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The model's tokens are digits of the draft's in base 10, a token of the draft is two of them; 0 begins a word.
    struct Pairs;

    impl Translate for Pairs {
        fn begin(&self, out: &mut Vec<TokenId>) {
            out.push(1000);
        }

        fn begins_word(&self, token: TokenId) -> bool {
            token == 0
        }

        fn to_draft(&self, tokens: &[TokenId], out: &mut Vec<TokenId>) {
            out.extend(tokens.chunks(2).map(|pair| pair.iter().fold(0, |sum, digit| 10 * sum + digit)));
        }

        fn to_model(&self, tokens: &[TokenId], out: &mut Vec<TokenId>) {
            out.extend(tokens.iter().flat_map(|token| [token / 10, token % 10]));
        }
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let mut all = Translated::new(Box::new(Pairs), 8);
        let mut text: Vec<TokenId> = [0, 1, 2, 3, 4, 5].repeat(4);
        let part = all.part(SeqId(1), &text, (0, 100)).expect("room");
        assert_eq!((part.start, part.tokens.len(), part.pages.len()), (0, 13, 1));
        assert_eq!(part.tokens[..4], [1000, 1, 23, 45]);
        // A drafted token that comes true is not read again, but that the last one is always read.
        assert_eq!(all.next(SeqId(1), 1).start, 13);
        text.extend([0, 1, 2]);
        let part = all.part(SeqId(1), &text, (3, 100)).expect("room");
        assert_eq!((part.start, part.tokens), (14, &[2][..]));
        text.push(3);
        let part = all.part(SeqId(1), &text, (0, 100)).expect("room");
        assert_eq!((part.start, part.tokens), (14, &[23][..]));
        let mut back = Vec::new();
        all.to_model(&[45, 1], &mut back);
        assert_eq!(back, [4, 5, 0, 1]);
    }

    #[test]
    fn a_prompt_is_read_as_far_as_it_is_settled() {
        let mut all = Translated::new(Box::new(Pairs), 8);
        let text: Vec<TokenId> = [0, 1, 2, 3, 4, 5].repeat(6);
        let part = all.settled(SeqId(1), &text[..24], 100).expect("room");
        assert_eq!((part.start, part.tokens.len()), (0, 7), "the begin token and two words of three");
        assert!(all.settled(SeqId(1), &text[..26], 100).is_none());
        let part = all.part(SeqId(1), &text, (0, 100)).expect("room");
        assert_eq!((part.start, part.tokens.len()), (7, 12));
    }

    #[test]
    fn pages_go_to_those_that_draft() {
        let mut all = Translated::new(Box::new(Pairs), 4);
        let text: Vec<TokenId> = [0, 1, 2, 3, 4, 5].repeat(10);
        assert_eq!(all.part(SeqId(1), &text, (0, 100)).expect("room").pages.len(), 2);
        all.begins();
        assert_eq!(all.part(SeqId(2), &text, (4, 100)).expect("room").pages.len(), 3, "at the first one's cost");
        assert!(all.part(SeqId(3), &text, (0, 100)).is_none(), "the second one drafts");
        all.begins();
        assert!(all.part(SeqId(2), &text, (80, 100)).is_none(), "the context is full");
        all.begins();
        assert_eq!(all.part(SeqId(1), &text, (0, 100)).expect("room").start, 0, "it is read anew");
        [1, 2, 3].into_iter().for_each(|id| all.forget(SeqId(id)));
        assert_eq!(all.free.len(), 4);
    }
}
