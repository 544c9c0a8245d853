//! Which tokens a constraint allows.

use crate::TokenId;

/// A bit for each token of a vocabulary: set if the token may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u64>,
    n_vocab: usize,
}

impl Mask {
    /// A mask that allows nothing.
    #[must_use]
    pub fn nothing(n_vocab: usize) -> Mask {
        Mask { words: vec![0; n_vocab.div_ceil(64)], n_vocab }
    }

    /// Tokens that the mask speaks of.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Allows `token`; one outside the vocabulary is left out.
    pub fn allow(&mut self, token: TokenId) {
        if (token as usize) < self.n_vocab {
            self.words[token as usize / 64] |= 1 << (token % 64);
        }
    }

    /// Forbids all, keeping the memory.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Overwrites the mask with bits in words of 32, the first token lowest; what they do not reach is forbidden.
    pub fn set_bits(&mut self, bits: &[u32]) {
        self.words.fill(0);
        for (word, pair) in self.words.iter_mut().zip(bits.chunks(2)) {
            *word = u64::from(pair[0]) | pair.get(1).map_or(0, |high| u64::from(*high) << 32);
        }
        if let (Some(last), rest @ 1..) = (self.words.last_mut(), self.n_vocab % 64) {
            *last &= (1 << rest) - 1;
        }
    }

    /// The bits in words of 64, the first token lowest.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether `token` is allowed.
    #[must_use]
    pub fn allows(&self, token: TokenId) -> bool {
        (token as usize) < self.n_vocab && self.words[token as usize / 64] >> (token % 64) & 1 == 1
    }

    /// How many tokens are allowed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The allowed tokens in order.
    pub fn tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            let bits = std::iter::successors(Some(word), |rest| Some(rest & rest.wrapping_sub(1)));
            bits.take_while(|rest| *rest != 0).map(move |rest| i as u32 * 64 + rest.trailing_zeros())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_lists_what_it_allows() {
        let mut mask = Mask::nothing(130);
        let want = [0, 63, 64, 127, 129];
        want.iter().for_each(|&token| mask.allow(token));
        mask.allow(130);
        assert_eq!(mask.tokens().collect::<Vec<_>>(), want);
        assert_eq!(mask.count(), 5);
        assert!(mask.allows(63) && !mask.allows(62) && !mask.allows(130));
        mask.set_bits(&[1, 1 << 31, 0, 2, 0xff]);
        assert_eq!(mask.tokens().collect::<Vec<_>>(), [0, 63, 97, 128, 129]);
        mask.set_bits(&[4]);
        assert_eq!(mask.tokens().collect::<Vec<_>>(), [2]);
    }
}
