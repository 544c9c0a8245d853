//! Prompt lookup: what followed the last time that a sequence said what it says now.
//!
//! Positions are chained by the hash of the [`GRAM`] tokens that end there, as in LZ77 compressors. Among the last few
//! places with the same hash, the one that agrees longest with the end of the sequence is continued. Where the
//! continuation reaches the end of the sequence it goes on with itself, so that repetitions are drafted whole.
//! Sources: Saxena, "Prompt lookup decoding", 2023; RFC 1951, section 4.

use crate::TokenId;

/// Tokens that must agree.
pub(crate) const GRAM: usize = 3;
/// Places looked at.
const N_PLACE: usize = 16;
/// Agreement beyond this makes no difference.
const MAX_AGREE: usize = 64;
/// Heads of chains, a power of two.
const N_HEAD: usize = 1 << 12;
const NONE: u32 = u32::MAX;

/// The index of one sequence.
#[derive(Debug)]
pub(crate) struct Lookup {
    head: Box<[u32]>,
    /// By position: the place before with the same hash.
    before: Vec<u32>,
}

impl Lookup {
    /// An index for a sequence of about `n_token` tokens.
    pub fn new(n_token: usize) -> Lookup {
        Lookup { head: vec![NONE; N_HEAD].into(), before: Vec::with_capacity(n_token) }
    }

    /// Overwrites `out` with at most `n` tokens that may follow `tokens`, which continue those of the last call.
    pub fn find(&mut self, tokens: &[TokenId], n: usize, out: &mut Vec<TokenId>) {
        out.clear();
        if tokens.len() < GRAM + 1 {
            return;
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
        let mut best = (GRAM - 1, 0);
        for _ in 0..N_PLACE {
            if place == NONE {
                break;
            }
            let at = place as usize;
            let pairs = tokens[..=at].iter().rev().zip(tokens.iter().rev()).take(MAX_AGREE);
            let agree = pairs.take_while(|(a, b)| a == b).count();
            if agree > best.0 {
                best = (agree, at + 1);
            }
            place = self.before[at];
        }
        if best.1 > 0 {
            for i in best.1..best.1 + n {
                let token = if i < tokens.len() { tokens[i] } else { out[i - tokens.len()] };
                out.push(token);
            }
        }
    }
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
    fn it_finds_the_same_however_the_sequence_grew() {
        let mut rng = Rng::new(3);
        let tokens: Vec<TokenId> = (0..400).map(|_| (rng.next_u64() % 4) as TokenId).collect();
        let mut grown = Lookup::new(400);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let (mut n, mut n_found) = (0, 0);
        while n < tokens.len() {
            n = (n + 1 + (rng.next_u64() % 5) as usize).min(tokens.len());
            grown.find(&tokens[..n], 6, &mut a);
            Lookup::new(0).find(&tokens[..n], 6, &mut b);
            assert_eq!(a, b, "{n} tokens");
            n_found += usize::from(a.len() == 6);
        }
        assert!(n_found > 80, "four letters repeat soon: {n_found}");
    }
}
