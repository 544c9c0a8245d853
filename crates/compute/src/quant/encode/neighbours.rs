//! Which vectors of a codebook can be the best for some weights.
//!
//! A vector has a level for each of its weights, and its error is a sum over the weights, each convex in the level. So
//! rounding every weight by itself gives the levels `u` of the least error, in the codebook or not, and a weight's error
//! never falls as its level moves away from there. A vector can only be the best of the codebook if no other lies between
//! it and `u` in all weights at once. Which those are depends on `u` alone, not on weights, importance or scale: they are
//! listed once for every `u` that occurs. There are about a dozen where the codebook has hundreds.
//!
//! With a level in unary (0, 1, 11, 111, ...) the bits in which `u` and a vector differ are the steps between them, and
//! "between" is a subset of bits.

use std::sync::OnceLock;

/// Candidates that are looked at together.
pub(super) const WIDTH: usize = 8;
/// Most steps between two vectors: eights of three levels have 16, fours of eight levels 28.
const MAX_STEPS: usize = 28;

/// A vector of the codebook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub code: u16,
    /// Where the errors of its two halves stand in tables of both, as [`Neighbours::new`] was told.
    pub halves: [u8; 2],
}

/// Candidates; the last [`WIDTH`] are filled up with the first.
type List = Box<[[Candidate; WIDTH]]>;

/// A codebook's vectors, and the candidates for what was asked so far.
pub(super) struct Neighbours {
    n_level: usize,
    dims: usize,
    vectors: Vec<(u32, Candidate)>,
    lists: Box<[OnceLock<List>]>,
}

impl Neighbours {
    /// Of vectors with levels `0..n_level`; `halves` says where the errors of a vector's halves stand.
    pub(super) fn new(n_level: usize, vectors: &[Vec<usize>], halves: impl Fn(&[usize]) -> [u8; 2]) -> Neighbours {
        let dims = vectors[0].len();
        let entry = |(code, levels): (usize, &Vec<usize>)| {
            (unary(n_level, levels), Candidate { code: code as u16, halves: halves(levels) })
        };
        let vectors = vectors.iter().enumerate().map(entry).collect();
        let lists = (0..n_level.pow(dims as u32)).map(|_| OnceLock::new()).collect();
        Neighbours { n_level, dims, vectors, lists }
    }

    /// The candidates for rounded levels `u`, digits of `rounded` in base `n_level`, the first the lowest. The last
    /// [`WIDTH`] are filled up with the first.
    #[inline(always)]
    pub(super) fn of(&self, rounded: usize) -> &[[Candidate; WIDTH]] {
        self.lists[rounded].get_or_init(|| self.list(rounded))
    }

    /// The vector of a code.
    #[inline(always)]
    pub(super) fn vector(&self, code: u16) -> Candidate {
        self.vectors[usize::from(code)].1
    }

    #[inline(never)]
    fn list(&self, rounded: usize) -> List {
        let levels: Vec<usize> = (0..self.dims).map(|j| rounded / self.n_level.pow(j as u32) % self.n_level).collect();
        let from = unary(self.n_level, &levels);
        // The nearer come first, so that what lies between is in the list already.
        let mut by_distance = [const { Vec::new() }; MAX_STEPS + 1];
        for (vector, candidate) in &self.vectors {
            let steps = from ^ vector;
            by_distance[steps.count_ones() as usize].push((steps, *candidate));
        }
        let (mut kept, mut list) = (Vec::<u32>::new(), Vec::new());
        for (steps, candidate) in by_distance.into_iter().flatten() {
            if !kept.iter().any(|nearer| nearer & !steps == 0) {
                kept.push(steps);
                list.push(candidate);
            }
        }
        list.resize(list.len().next_multiple_of(WIDTH), list[0]);
        list.as_chunks::<WIDTH>().0.into()
    }
}

/// Levels in unary, one after another.
fn unary(n_level: usize, levels: &[usize]) -> u32 {
    levels.iter().rev().fold(0, |bits, level| bits << (n_level - 1) | ((1 << level) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Random;

    /// A list's vectors, each once.
    fn codes(list: &[[Candidate; WIDTH]]) -> Vec<u16> {
        let mut codes: Vec<u16> = list.as_flattened().iter().map(|candidate| candidate.code).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    #[test]
    fn what_is_between_hides_what_is_beyond() {
        let vectors = [vec![0, 0], vec![2, 0], vec![1, 2], vec![2, 2]];
        let neighbours = Neighbours::new(3, &vectors, |levels| [levels[0] as u8, levels[1] as u8]);
        let check = |levels: [usize; 2], expect: &[u16]| {
            assert_eq!(codes(neighbours.of(levels[0] + 3 * levels[1])), expect, "{levels:?}");
        };
        check([0, 0], &[0]);
        check([1, 1], &[0, 1, 2]);
        check([2, 1], &[1, 3]);
        check([0, 2], &[0, 2]);
        check([1, 2], &[2]);
    }

    #[test]
    fn the_best_of_all_is_in_the_list() {
        for (n_level, dims, n) in [(3usize, 8u32, 300usize), (8, 4, 200)] {
            let mut random = Random::new(n as u64);
            let all = n_level.pow(dims);
            let digits = |i: usize| (0..dims).map(|j| i / n_level.pow(j) % n_level).collect::<Vec<usize>>();
            let mut taken: Vec<usize> = (0..n).map(|_| random.below(all)).collect();
            taken.sort_unstable();
            taken.dedup();
            let vectors: Vec<Vec<usize>> = taken.iter().map(|i| digits(*i)).collect();
            let neighbours = Neighbours::new(n_level, &vectors, |_| [0, 0]);
            for _ in 0..500 {
                let x: Vec<f32> = (0..dims).map(|_| random.normal().abs() * n_level as f32 / 2.0).collect();
                let w: Vec<f32> = (0..dims).map(|_| random.normal().powi(2)).collect();
                let error = |levels: &[usize]| -> f32 {
                    levels.iter().zip(&x).zip(&w).map(|((level, x), w)| w * (*level as f32 - x).powi(2)).sum()
                };
                let round = |x: &f32| (x.round() as usize).min(n_level - 1);
                let rounded = x.iter().rev().fold(0, |index, x| index * n_level + round(x));
                let list = codes(neighbours.of(rounded));
                let least = |codes: &mut dyn Iterator<Item = usize>| {
                    codes.map(|code| error(&vectors[code])).fold(f32::INFINITY, f32::min)
                };
                let found = least(&mut list.iter().map(|code| usize::from(*code)));
                assert_eq!(found, least(&mut (0..vectors.len())), "{x:?} {w:?}");
                assert!(list.len() < vectors.len() / 2, "{} candidates", list.len());
            }
        }
    }
}
