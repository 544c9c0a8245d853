//! Scales and codes of the types whose codes are vectors of a codebook: IQ1, IQ2 and IQ3.
//!
//! A group of 8 (or 4) weights `x` gets the vector `v` and the scale `d` with the least `sum w (x - d v)^2`. But for a
//! constant that is `d (d q - 2 p)` with `p = sum w x v` and `q = sum w v^2`. Both are sums over *quarters* of the group,
//! which take few values: two weights of three levels have 9 pairs, one weight of eight levels has 8. So `p` and `q` are
//! computed once for each quarter's values; under a scale, the errors of each half are a table of 81 or 64 sums, and the
//! error of a vector is the sum of two entries. Only the candidates of [`super::neighbours`] are looked at: the search is
//! as good as one through the whole codebook.
//!
//! Scales are `d * unit * (2 s + 1)` with one f16 `d` a super-block and an integer `s` a sub-block. Each sub-block tries
//! several scales. What it finds under each has an error that is a parabola of the scale, and the least of its parabolas
//! is close to what a search under any scale would find; by them `d` and the integers are chosen together. Then codes are
//! found for these, and `d` is solved for anew with the codes held. Source of the formats: [`crate::quant::iq2`],
//! [`crate::quant::iq1`].

use super::super::float::Half;
use super::neighbours::{Candidate, WIDTH};
use super::search::inverse;
use super::vectors::{Codebook, Signs};

/// Scales around the best that are tried after signs have changed.
const AROUND: [f32; 3] = [0.93, 1.0, 1.08];
/// Most parabolas of a sub-block.
const MAX_CURVES: usize = 12;
/// Scales of the super-block that are tried together.
const LANES: usize = 16;
/// The first of these and the step to the next: by what the largest sub-block's own scale is multiplied.
const STEPS: [f32; 2] = [0.80, 0.026];
/// The same when codes are there.
const FINE_STEPS: [f32; 2] = [0.955, 0.006];
/// Times that codes are found for the scales that were chosen.
const ROUNDS: usize = 2;
/// Most sub-blocks of a super-block.
const MAX_SUBS: usize = 16;

/// A number for each scale that is tried.
type Lanes = [f32; LANES];

/// `p` and `q` of a group for every value of each quarter.
#[derive(Clone, Copy)]
struct Group<const ROW: usize> {
    p: [[f32; ROW]; 4],
    q: [[f32; ROW]; 4],
}

/// Errors of sub-blocks as parabolas of their scale: the least of `scale * (scale * q - 2 p)`.
#[derive(Clone, Copy)]
struct Curves {
    n: usize,
    p: [f32; MAX_CURVES],
    q: [f32; MAX_CURVES],
}

impl Curves {
    const NONE: Curves = Curves { n: 0, p: [0.0; MAX_CURVES], q: [0.0; MAX_CURVES] };

    /// Adds one, in the place of the last where all are taken.
    #[inline(always)]
    fn add(&mut self, [p, q]: [f32; 2]) {
        let place = self.n.min(MAX_CURVES - 1);
        (self.p[place], self.q[place], self.n) = (p, q, place + 1);
    }

    /// The scale of the lowest point, or 0 where all is lowest there.
    #[inline(always)]
    fn lowest(&self) -> f32 {
        let (mut scale, mut gain) = (0.0, 0.0);
        for (p, q) in self.p[..self.n].iter().zip(&self.q) {
            let found = p * inverse(*q);
            if found > 0.0 && found * p > gain {
                (scale, gain) = (found, found * p);
            }
        }
        scale
    }

    #[inline(always)]
    fn errors(&self, scales: &Lanes) -> Lanes {
        let mut least = [f32::INFINITY; LANES];
        for (p, q) in self.p[..self.n].iter().zip(&self.q) {
            for l in 0..LANES {
                let error = scales[l] * (scales[l] * q - 2.0 * p);
                least[l] = if error < least[l] { error } else { least[l] };
            }
        }
        least
    }
}

/// What [`Search::run`] finds.
pub(super) struct Found {
    pub d: Half,
    /// `s` of each sub-block.
    pub scales: [u8; MAX_SUBS],
    /// Code of each vector.
    pub codes: [u16; 64],
    /// Signs of each eight weights: bit k set, weight k is negative.
    pub signs: [u8; 32],
    /// Whether each vector is moved down.
    pub down: [bool; 32],
}

/// What is kept from super-block to super-block.
pub(super) struct Tables<const ROW: usize> {
    /// `[group][shift]`.
    groups: Vec<[Group<ROW>; 2]>,
    /// Errors of the values of both halves.
    halves: [[f32; 256]; 2],
}

impl<const ROW: usize> Tables<ROW> {
    pub(super) fn new() -> Self {
        let none = Group { p: [[0.0; ROW]; 4], q: [[0.0; ROW]; 4] };
        Tables { groups: vec![[none; 2]; 64], halves: [[0.0; 256]; 2] }
    }
}

/// One super-block's search.
pub(super) struct Search<'a, const DIMS: usize, const LEVELS: usize, const ROW: usize> {
    book: &'a Codebook<DIMS, LEVELS, ROW>,
    tables: &'a mut Tables<ROW>,
    /// Weights; magnitudes where signs are apart, then negative where the sign had to be changed.
    x: [f32; 256],
    w: [f32; 256],
    found: Found,
}

impl<'a, const DIMS: usize, const LEVELS: usize, const ROW: usize> Search<'a, DIMS, LEVELS, ROW> {
    #[inline(always)]
    pub(super) fn new(
        (book, tables): (&'a Codebook<DIMS, LEVELS, ROW>, &'a mut Tables<ROW>),
        x: &[f32; 256],
        w: &[f32; 256],
    ) -> Self {
        let found =
            Found { d: Half::new(0.0), scales: [0; MAX_SUBS], codes: [0; 64], signs: [0; 32], down: [false; 32] };
        let mut search = Search { book, tables, x: *x, w: *w, found };
        if matches!(book.format.signs, Signs::Free | Signs::Even) {
            for k in 0..32 {
                search.take_signs(k);
            }
        }
        for group in 0..256 / DIMS {
            search.fill(group);
        }
        search
    }

    fn n_sub(&self) -> usize {
        256 / (self.book.format.groups * DIMS)
    }

    /// Splits eight weights into signs and magnitudes. An odd number of minus signs is made even where that costs least.
    #[inline(always)]
    fn take_signs(&mut self, k: usize) {
        let (x, w) = (&mut self.x[8 * k..][..8], &self.w[8 * k..][..8]);
        let mut signs = 0;
        for (j, x) in x.iter_mut().enumerate() {
            signs |= u8::from(*x < 0.0) << j;
            *x = x.abs();
        }
        if self.book.format.signs == Signs::Even && signs.count_ones() % 2 == 1 {
            let cost = |j: usize| w[j] * x[j] * x[j];
            let mut flip = 0;
            for j in 1..8 {
                flip = if cost(j) < cost(flip) { j } else { flip };
            }
            signs ^= 1 << flip;
            x[flip] = -x[flip];
        }
        self.found.signs[k] = signs;
    }

    /// Computes `p` and `q` of one group.
    #[inline(always)]
    fn fill(&mut self, group: usize) {
        let part = Codebook::<DIMS, LEVELS, ROW>::PART;
        let (x, w) = (&self.x[group * DIMS..][..DIMS], &self.w[group * DIMS..][..DIMS]);
        for k in 0..self.book.format.signs.shifts().len() {
            let Group { p, q } = &mut self.tables.groups[group][k];
            for quarter in 0..4 {
                let (mut sum_p, mut sum_q) = ([0.0; ROW], [0.0; ROW]);
                for j in 0..part {
                    let (x, w) = (x[quarter * part + j], w[quarter * part + j]);
                    for i in 0..ROW {
                        sum_p[i] += w * x * self.book.values[k][j][i];
                        sum_q[i] += w * self.book.squares[k][j][i];
                    }
                }
                (p[quarter], q[quarter]) = (sum_p, sum_q);
            }
        }
    }

    /// The levels that a group's weights have alone, as an index.
    #[inline(always)]
    fn rounded(&self, group: usize, shift: usize, d: f32) -> usize {
        let mut index = 0;
        for (x, place) in self.x[group * DIMS..][..DIMS].iter().zip(&self.book.places) {
            let mut level = 0;
            for border in &self.book.borders[shift][..LEVELS - 1] {
                level += u32::from(*x > border * d);
            }
            index += level * place;
        }
        index as usize
    }

    /// The best vector of a group under a scale.
    #[inline(always)]
    fn best(&mut self, group: usize, shift: usize, d: f32) -> Candidate {
        let list = self.book.neighbours.of(self.rounded(group, shift, d));
        if list[0][1] == list[0][0] {
            return list[0][0]; // all that follow are, too: the rounded levels are in the codebook
        }
        let Group { p, q } = &self.tables.groups[group][shift];
        for (half, errors) in self.tables.halves.iter_mut().enumerate() {
            let (mut low, mut high) = ([0.0; ROW], [0.0; ROW]);
            for i in 0..ROW {
                low[i] = d * q[2 * half][i] - 2.0 * p[2 * half][i];
                high[i] = d * q[2 * half + 1][i] - 2.0 * p[2 * half + 1][i];
            }
            let rows = errors.as_chunks_mut::<ROW>().0;
            for (row, high) in rows.iter_mut().zip(&high[..Codebook::<DIMS, LEVELS, ROW>::VALUES]) {
                for i in 0..ROW {
                    row[i] = low[i] + high;
                }
            }
        }
        least(&self.tables.halves, list)
    }

    /// `p` and `q` of a vector.
    #[inline(always)]
    fn sums(&self, group: usize, shift: usize, found: Candidate) -> [f32; 2] {
        let Group { p, q } = &self.tables.groups[group][shift];
        let mut sums = [0.0; 2];
        for (half, place) in found.halves.into_iter().enumerate() {
            for (quarter, value) in [usize::from(place) % ROW, usize::from(place) / ROW].into_iter().enumerate() {
                sums[0] += p[2 * half + quarter][value];
                sums[1] += q[2 * half + quarter][value];
            }
        }
        sums
    }

    /// Sets codes and shifts of sub-block `sub` to the best under a scale; gives their `p` and `q`.
    #[inline(always)]
    fn codes(&mut self, sub: usize, d: f32) -> [f32; 2] {
        let signs = self.book.format.signs;
        let n = self.book.format.groups;
        let error = |[p, q]: [f32; 2]| d * q - 2.0 * p;
        let mut total = [[0.0f32; 2]; 2];
        let mut codes = [[0u16; 2]; 8];
        for (i, codes) in codes.iter_mut().enumerate().take(n) {
            let group = sub * n + i;
            let mut sums = [[0.0f32; 2]; 2];
            for shift in 0..signs.shifts().len() {
                let found = self.best(group, shift, d);
                codes[shift] = found.code;
                sums[shift] = self.sums(group, shift, found);
            }
            if signs == Signs::ShiftOfGroup {
                let down = error(sums[1]) < error(sums[0]);
                self.found.down[group] = down;
                if down {
                    (codes[0], sums[0]) = (codes[1], sums[1]);
                }
            }
            for (total, sums) in total.iter_mut().zip(&sums) {
                *total = [total[0] + sums[0], total[1] + sums[1]];
            }
        }
        let down = signs == Signs::ShiftOfSub && error(total[1]) < error(total[0]);
        if signs == Signs::ShiftOfSub {
            self.found.down[sub * n..][..n].fill(down);
        }
        for (place, codes) in self.found.codes[sub * n..][..n].iter_mut().zip(&codes) {
            *place = codes[usize::from(down)];
        }
        total[usize::from(down)]
    }

    /// Tries scales of a sub-block by itself.
    #[inline(always)]
    fn alone(&mut self, sub: usize) -> Curves {
        let size = self.book.format.groups * DIMS;
        let largest = self.x[sub * size..][..size].iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let mut curves = Curves::NONE;
        if largest == 0.0 {
            curves.add(self.codes(sub, 1.0));
            return curves;
        }
        for reach in self.book.format.reaches {
            let sums = self.codes(sub, largest / (self.book.largest * reach));
            curves.add(sums);
        }
        let mut best = curves.lowest();
        if self.book.format.signs == Signs::Even {
            self.codes(sub, best);
            if self.better_signs(sub) {
                curves = Curves::NONE;
                for step in AROUND {
                    curves.add(self.codes(sub, best * step));
                }
                best = curves.lowest();
            }
        }
        if best > 0.0 {
            curves.add(self.codes(sub, best));
        }
        curves
    }

    /// Where a sign had to be changed, changes the one that costs least with the codes found. Whether any was.
    #[inline(always)]
    fn better_signs(&mut self, sub: usize) -> bool {
        let size = self.book.format.groups * DIMS;
        let mut changed = false;
        for k in sub * size / 8..(sub + 1) * size / 8 {
            let x = &self.x[8 * k..][..8];
            let Some(old) = x.iter().position(|x| *x < 0.0) else { continue };
            let cost = |j: usize| {
                let i = 8 * k + j;
                let value = self.book.value(self.found.codes[i / DIMS], i % DIMS);
                self.w[i] * x[j].abs() * value
            };
            let mut new = old;
            for j in 0..8 {
                new = if cost(j) < cost(new) { j } else { new };
            }
            if new == old {
                continue;
            }
            changed = true;
            self.found.signs[k] ^= 1 << old | 1 << new;
            for j in [old, new] {
                self.x[8 * k + j] = -self.x[8 * k + j];
            }
            for group in 8 * k / DIMS..(8 * k + 8) / DIMS {
                self.fill(group);
            }
        }
        changed
    }

    /// Chooses among scales of the super-block, `start` times each step, and every sub-block's integer.
    #[inline(always)]
    fn choose(&mut self, curves: &[Curves; MAX_SUBS], start: f32, [first, step]: [f32; 2]) -> f32 {
        let mut ds = [0.0; LANES];
        for (l, d) in ds.iter_mut().enumerate() {
            *d = start * (first + step * l as f32);
        }
        let unit = self.book.format.unit;
        let top = (self.book.format.n_scale - 1) as f32;
        let mut chosen = [[0.0; LANES]; MAX_SUBS];
        let mut errors = [0.0; LANES];
        for (curves, chosen) in curves.iter().zip(&mut chosen).take(self.n_sub()) {
            let wanted = curves.lowest();
            let mut least = [f32::INFINITY; LANES];
            for more in [0.0, 1.0] {
                let (mut integers, mut scales) = ([0.0; LANES], [0.0; LANES]);
                for l in 0..LANES {
                    let near = ((wanted * inverse(ds[l] * unit) - 1.0) * 0.5).floor() + more;
                    integers[l] = near.clamp(0.0, top);
                    scales[l] = ds[l] * unit * (2.0 * integers[l] + 1.0);
                }
                let found = curves.errors(&scales);
                for l in 0..LANES {
                    let better = found[l] < least[l];
                    least[l] = if better { found[l] } else { least[l] };
                    chosen[l] = if better { integers[l] } else { chosen[l] };
                }
            }
            for l in 0..LANES {
                errors[l] += least[l];
            }
        }
        let mut best = 0;
        for l in 1..LANES {
            best = if errors[l] < errors[best] { l } else { best };
        }
        for (scale, chosen) in self.found.scales.iter_mut().zip(&chosen) {
            *scale = chosen[best] as u8;
        }
        ds[best]
    }

    /// Finds scales and codes.
    #[inline(always)]
    pub(super) fn run(mut self) -> Found {
        let n_sub = self.n_sub();
        let mut curves = [Curves::NONE; MAX_SUBS];
        let mut largest = 0.0f32;
        for (sub, curves) in curves.iter_mut().enumerate().take(n_sub) {
            *curves = self.alone(sub);
            largest = largest.max(curves.lowest());
        }
        let unit = self.book.format.unit;
        let mut d = largest / (unit * (2 * self.book.format.n_scale - 1) as f32);
        for round in 0..ROUNDS {
            d = self.choose(&curves, d, if round == 0 { STEPS } else { FINE_STEPS });
            let (mut p, mut q) = (0.0, 0.0);
            for (sub, curves) in curves.iter_mut().enumerate().take(n_sub) {
                let times = unit * f32::from(2 * self.found.scales[sub] + 1);
                let [sub_p, sub_q] = self.codes(sub, d * times);
                (p, q) = (p + times * sub_p, q + times * times * sub_q);
                curves.add([sub_p, sub_q]);
            }
            let solved = p * inverse(q);
            d = if solved > 0.0 { solved } else { d };
        }
        self.found.d = Half::new(d);
        self.found
    }
}

/// The candidate with the least sum of its halves' errors.
#[inline(always)]
fn least(halves: &[[f32; 256]; 2], list: &[[Candidate; WIDTH]]) -> Candidate {
    let (mut least, mut places) = ([f32::INFINITY; WIDTH], [0u32; WIDTH]);
    for (place, candidates) in list.iter().enumerate() {
        for i in 0..WIDTH {
            let [low, high] = candidates[i].halves;
            let error = halves[0][usize::from(low)] + halves[1][usize::from(high)];
            let better = error < least[i];
            least[i] = if better { error } else { least[i] };
            places[i] = if better { place as u32 } else { places[i] };
        }
    }
    let mut lanes: [u32; WIDTH] = [0, 1, 2, 3, 4, 5, 6, 7];
    for half in [4, 2, 1] {
        for i in 0..half {
            let better = least[i + half] < least[i];
            least[i] = if better { least[i + half] } else { least[i] };
            places[i] = if better { places[i + half] } else { places[i] };
            lanes[i] = if better { lanes[i + half] } else { lanes[i] };
        }
    }
    list[places[0] as usize][lanes[0] as usize]
}
