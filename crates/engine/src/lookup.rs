//! Prompt lookup: what followed the last time that a sequence said what it says now.
//!
//! Positions are chained by the hash of the [`GRAM`] tokens that end there, as in LZ77 compressors. Among the last few
//! places with the same hash, the one that agrees longest with the end of the sequence is continued. Where the
//! continuation reaches the end of the sequence it goes on with itself, so that repetitions are drafted whole. Where none
//! agrees, as after a word that was changed in a text that is said again, the place where the last continuation would be
//! now is taken, or one near it, if so much as the last token agrees there.
//! Sources: Saxena, "Prompt lookup decoding", 2023; RFC 1951, section 4.

use crate::TokenId;

/// Tokens that must agree.
pub(crate) const GRAM: usize = 3;
/// Places looked at.
const N_PLACE: usize = 16;
/// Agreement beyond this makes no difference.
const MAX_AGREE: usize = 64;
/// How far from the place of the last continuation its next one is looked for.
const NEAR: usize = 8;
/// Heads of chains, a power of two.
const N_HEAD: usize = 1 << 12;
const NONE: u32 = u32::MAX;

/// The index of one sequence.
#[derive(Debug)]
pub(crate) struct Lookup {
    head: Box<[u32]>,
    /// By position: the place before with the same hash.
    before: Vec<u32>,
    /// How far back the last continuation was found.
    back: Option<usize>,
    /// Where another continuation begins than the one found last, with another token.
    other: Option<usize>,
}

impl Lookup {
    /// An index for a sequence of about `n_token` tokens.
    pub fn new(n_token: usize) -> Lookup {
        Lookup { head: vec![NONE; N_HEAD].into(), before: Vec::with_capacity(n_token), back: None, other: None }
    }

    /// Overwrites `out` with at most `n` tokens that may follow `tokens`, which continue those of the last call. Returns how
    /// many tokens before them agree, at most [`MAX_AGREE`].
    pub fn find(&mut self, tokens: &[TokenId], n: usize, out: &mut Vec<TokenId>) -> usize {
        out.clear();
        self.other = None;
        if tokens.len() < GRAM + 1 {
            return 0;
        }
        // The end itself is no place to find.
        let last = tokens.len() - 1;
        for at in self.before.len()..last {
            let before = if at + 1 >= GRAM {
                std::mem::replace(&mut self.head[hash(&tokens[at + 1 - GRAM..=at])], at as u32)
            } else {
                NONE
            };
            self.before.push(before);
        }
        let mut place = self.head[hash(&tokens[tokens.len() - GRAM..])];
        let (mut best, mut found) = ((GRAM - 1, 0), [(0, 0); N_PLACE]);
        for found in &mut found {
            if place == NONE {
                break;
            }
            let at = place as usize;
            *found = (agreement(tokens, at), at + 1);
            if found.0 > best.0 {
                best = *found;
            }
            place = self.before[at];
        }
        let differs = |found: &&(usize, usize)| found.0 >= GRAM && tokens[found.1] != tokens[best.1];
        // The latest of those that agree longest.
        self.other = found.iter().rev().filter(differs).max_by_key(|found| found.0).map(|found| found.1);
        if best.1 == 0 {
            best = self.near(tokens).unwrap_or((0, 0));
        }
        let (agree, start) = best;
        if start > 0 {
            self.back = Some(tokens.len() - start);
            for i in start..start + n {
                let token = if i < tokens.len() { tokens[i] } else { out[i - tokens.len()] };
                out.push(token);
            }
        }
        agree
    }

    /// At most `n` tokens of another continuation than the one found last, which begins with another token.
    pub fn other<'a>(&self, tokens: &'a [TokenId], n: usize) -> &'a [TokenId] {
        let from = self.other.unwrap_or(tokens.len());
        &tokens[from..tokens.len().min(from + n)]
    }

    /// The place near that of the last continuation at which most agrees, the nearest of those: `(agreement, what follows)`.
    fn near(&self, tokens: &[TokenId]) -> Option<(usize, usize)> {
        let last = tokens.len() - 1;
        let middle = last.checked_sub(self.back?)?;
        let places = (0..=NEAR).flat_map(|i| [middle.checked_sub(i), Some(middle + i)]).flatten();
        let agreements = places.filter(|at| *at < last).map(|at| (agreement(tokens, at), at + 1));
        let best = agreements.fold((0, 0), |best, found| if found.0 > best.0 { found } else { best });
        (best.0 > 0).then_some(best)
    }
}

/// How many tokens up to the place `at` agree with the last ones.
fn agreement(tokens: &[TokenId], at: usize) -> usize {
    let pairs = tokens[..=at].iter().rev().zip(tokens.iter().rev()).take(MAX_AGREE);
    pairs.take_while(|(a, b)| a == b).count()
}

fn hash(gram: &[TokenId]) -> usize {
    let mixed = gram.iter().fold(0u64, |hash, token| (hash ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (mixed >> 40) as usize % N_HEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Rng;

    #[test]
    fn the_longest_agreement_is_continued() {
        let rows: [(&[TokenId], &[TokenId]); 6] = [
            (&[1, 2, 3, 4, 5, 9, 1, 2, 3], &[4, 5, 9, 1]),
            (&[1, 2], &[]),
            (&[1, 2, 3, 4], &[]),
            // Two places agree in three tokens, one of them in four.
            (&[7, 1, 2, 3, 5, 8, 1, 2, 3, 6, 7, 1, 2, 3], &[5, 8, 1, 2]),
            // The last of places that agree alike.
            (&[1, 2, 3, 5, 1, 2, 3, 6, 1, 2, 3], &[6, 1, 2, 3]),
            // A repetition goes on.
            (&[1, 2, 1, 2, 1, 2], &[1, 2, 1, 2]),
        ];
        for (tokens, want) in rows {
            let mut found = Vec::new();
            Lookup::new(0).find(tokens, 4, &mut found);
            assert_eq!(found, want, "{tokens:?}");
        }
    }

    #[test]
    fn another_continuation_begins_with_another_token() {
        let rows: [(&[TokenId], &[TokenId], &[TokenId]); 4] = [
            // The one found is the latest of those that agree alike, the other one the next that differs.
            (&[1, 2, 3, 5, 9, 1, 2, 3, 6, 8, 1, 2, 3, 6, 7, 1, 2, 3], &[6, 7], &[5, 9]),
            // One that agrees longer is found, however long ago.
            (&[7, 1, 2, 3, 5, 8, 1, 2, 3, 6, 7, 1, 2, 3], &[5, 8], &[6, 7]),
            (&[1, 2, 3, 5, 1, 2, 3, 5, 1, 2, 3], &[5, 1], &[]),
            (&[1, 2, 3, 4], &[], &[]),
        ];
        for (tokens, want, other) in rows {
            let (mut lookup, mut found) = (Lookup::new(0), Vec::new());
            lookup.find(tokens, 2, &mut found);
            assert_eq!((&found[..], lookup.other(tokens, 2)), (want, other), "{tokens:?}");
        }
    }

    #[test]
    fn after_a_change_the_copy_goes_on() {
        let text: Vec<TokenId> = (100..140).collect();
        let changed = |with: &[TokenId], n: usize| [&text[..], &[9], &text[..10], with, &text[11..11 + n]].concat();
        // What stands for token 110, how many tokens were said after it, tokens that agree, what is expected next.
        let rows: [(&[TokenId], usize, usize, &[TokenId]); 5] = [
            (&[7], 1, 1, &[112, 113]),
            (&[7, 8, 9], 1, 1, &[112, 113]),
            (&[], 2, 2, &[113, 114]),
            (&[7], 3, 3, &[114, 115]),
            (&[7], 0, 0, &[]),
        ];
        for (with, n, agree, want) in rows {
            let tokens = changed(with, n);
            let (mut lookup, mut found) = (Lookup::new(0), Vec::new());
            lookup.find(&tokens[..51], 2, &mut found);
            assert_eq!(found, [110, 111]);
            assert_eq!((lookup.find(&tokens, 2, &mut found), &found[..]), (agree, want), "{with:?} and {n} tokens");
        }
    }

    #[test]
    fn it_finds_the_same_however_the_sequence_grew() {
        let mut rng = Rng::new(3);
        let tokens: Vec<TokenId> = (0..400).map(|_| (rng.next_u64() % 4) as TokenId).collect();
        let mut grown = Lookup::new(400);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let (mut n, mut n_found) = (0, 0);
        while n < tokens.len() {
            n = (n + 1 + (rng.next_u64() % 5) as usize).min(tokens.len());
            let agree = grown.find(&tokens[..n], 6, &mut a);
            // A new index knows no last place to look near.
            if Lookup::new(0).find(&tokens[..n], 6, &mut b) > 0 {
                assert_eq!(a, b, "{n} tokens");
            }
            assert!(agree == 0 || tokens[..n].ends_with(&tokens[n - agree..n]));
            n_found += usize::from(a.len() == 6);
        }
        assert!(n_found > 80, "four letters repeat soon: {n_found}");
    }
}
