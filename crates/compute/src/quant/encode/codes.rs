//! Scales and codes of the types whose codes are vectors of a codebook: IQ1, IQ2 and IQ3.
//!
//! A group of 8 (or 4) weights `x` gets the vector `g` and the scale `d` with the least `sum w (x - d g)^2`. But for a
//! constant that is `d (d q - 2 p)` with `p = sum w x g` and `q = sum w g^2`, neither of which depends on `d`. So `p` and
//! `q` are computed once for every vector of the codebook, and trying a scale takes three operations a vector, in which
//! the compiler finds SIMD. The search is exhaustive in the codes: no neighbours, no rounding first.
//!
//! Scales are `d * unit * (2 s + 1)` with one f16 `d` a super-block and an integer `s` a sub-block. First each sub-block
//! gets its own best scale; these suggest several `d`, for each of which every sub-block takes its best `s`; the best `d`
//! is then solved for anew with the codes held. Source of the formats: [`crate::quant::iq2`], [`crate::quant::iq1`].

use super::super::float::Half;
use super::search::inverse;

/// Vectors of the codebook that are looked at together.
const LANES: usize = 16;
/// Scales tried together, so that `p` and `q` are loaded once for all.
const TRIES: usize = 4;
/// What the largest weight is, in units of the largest value of the codebook, under the scales that are tried first.
const REACHES: [f32; 12] = [0.70, 0.76, 0.82, 0.88, 0.94, 1.0, 1.06, 1.12, 1.2, 1.3, 1.45, 1.65];
/// Scales of the super-block that are tried, by the one that gives the largest sub-block its own scale.
const STEPS: [f32; 8] = [0.84, 0.88, 0.92, 0.96, 1.0, 1.04, 1.09, 1.15];
/// Most sub-blocks of a super-block.
const MAX_SUBS: usize = 16;

/// What the types differ in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    /// Weights of a vector: 8 or 4.
    pub dims: usize,
    /// Vectors that share a scale.
    pub groups: usize,
    /// Number of integers `s`.
    pub n_scale: usize,
    /// See the module.
    pub unit: f32,
    /// How signs are stored.
    pub signs: Signs,
}

/// How signs are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signs {
    /// One bit a weight.
    Free,
    /// Seven bits for eight weights: the number of minus signs is even.
    Even,
    /// In the vectors. Every value is moved up or down by an eighth, all of a sub-block alike.
    ShiftOfSub,
    /// In the vectors; moved up or down by an eighth, all of a vector alike.
    ShiftOfGroup,
}

impl Signs {
    fn shifts(self) -> &'static [f32] {
        match self {
            Signs::Free | Signs::Even => &[0.0],
            Signs::ShiftOfSub | Signs::ShiftOfGroup => &[0.125, -0.125],
        }
    }
}

/// A codebook, by dimension, so that the same dimension of successive vectors lies together.
pub(super) struct Codebook {
    n: usize,
    /// `[dims][n]`.
    values: Vec<f32>,
    /// For each shift, the squares of the shifted values `[dims][n]`.
    squares: Vec<Vec<f32>>,
    largest: f32,
}

impl Codebook {
    /// From vectors of bytes.
    pub(super) fn new(format: &Format, n: usize, value: impl Fn(usize, usize) -> f32) -> Codebook {
        let mut values = Vec::with_capacity(n * format.dims);
        for dim in 0..format.dims {
            values.extend((0..n).map(|code| value(code, dim)));
        }
        let square = |shift: &f32| values.iter().map(|v| (v + shift) * (v + shift)).collect();
        let squares = format.signs.shifts().iter().map(square).collect();
        let largest = values.iter().fold(0.0, |largest: f32, v| largest.max(v.abs()));
        Codebook { n, values, squares, largest }
    }
}

/// `p` and `q` of a super-block's vectors for every code; kept from block to block.
pub(super) struct Tables {
    /// `[group][n]`.
    p: Vec<f32>,
    /// `[group][shift][n]`.
    q: Vec<f32>,
    /// `sum w x` times each shift, which `p` lacks: `[group][shift]`.
    more: Vec<[f32; 2]>,
}

impl Tables {
    pub(super) fn new(format: &Format, codebook: &Codebook) -> Tables {
        let groups = 256 / format.dims;
        let n_shift = format.signs.shifts().len();
        Tables {
            p: vec![0.0; groups * codebook.n],
            q: vec![0.0; groups * n_shift * codebook.n],
            more: vec![[0.0; 2]; groups],
        }
    }

    /// Computes the tables of one group of weights `x` with error weights `w`.
    #[inline(always)]
    fn fill(&mut self, format: &Format, book: &Codebook, group: usize, x: &[f32], w: &[f32]) {
        let n = book.n;
        let mut wx = [0.0; 8];
        for j in 0..format.dims {
            wx[j] = w[j] * x[j];
        }
        let sum: f32 = wx.iter().sum();
        products(&mut self.p[group * n..][..n], &book.values, &wx[..format.dims]);
        for (k, shift) in format.signs.shifts().iter().enumerate() {
            self.more[group][k] = sum * shift;
            let n_shift = format.signs.shifts().len();
            products(&mut self.q[(group * n_shift + k) * n..][..n], &book.squares[k], &w[..format.dims]);
        }
    }
}

/// `out[i] = sum_j factors[j] * columns[j][i]`.
#[inline(always)]
fn products(out: &mut [f32], columns: &[f32], factors: &[f32]) {
    let n = out.len();
    for (c, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sums = [0.0; LANES];
        for (j, factor) in factors.iter().enumerate() {
            let column: &[f32; LANES] = columns[j * n + c * LANES..][..LANES].try_into().expect("whole lanes");
            for i in 0..LANES {
                sums[i] += factor * column[i];
            }
        }
        *out = sums;
    }
}

/// The least `d q - 2 (p + more)` of all codes, for each of four scales.
#[inline(always)]
fn least(p: &[f32], q: &[f32], more: f32, scales: [f32; TRIES]) -> [f32; TRIES] {
    let [a, b, c, d] = scales;
    [least_of(p, q, a), least_of(p, q, b), least_of(p, q, c), least_of(p, q, d)].map(|least| least - 2.0 * more)
}

/// The least `d q - 2 p` of all codes. One scale a pass: four at once, in an array of arrays, do not vectorize.
#[inline(always)]
fn least_of(p: &[f32], q: &[f32], d: f32) -> f32 {
    let mut best = [f32::INFINITY; LANES];
    for (p, q) in p.as_chunks::<LANES>().0.iter().zip(q.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let gain = d * q[i] - 2.0 * p[i];
            best[i] = if gain < best[i] { gain } else { best[i] };
        }
    }
    best.iter().copied().fold(f32::INFINITY, f32::min)
}

/// The code with the least `d q - 2 p`, the first of several.
#[inline(always)]
fn code(p: &[f32], q: &[f32], d: f32) -> usize {
    let least = least_of(p, q, d);
    p.iter().zip(q).position(|(p, q)| d * q - 2.0 * p <= least).unwrap_or(0)
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

/// One super-block's search.
pub(super) struct Search<'a> {
    pub format: &'a Format,
    pub book: &'a Codebook,
    pub tables: &'a mut Tables,
    /// Weights; magnitudes where signs are apart, then negative where the sign had to be changed.
    x: [f32; 256],
    w: [f32; 256],
    signs: [u8; 32],
}

impl<'a> Search<'a> {
    #[inline(always)]
    pub(super) fn new(
        (format, book, tables): (&'a Format, &'a Codebook, &'a mut Tables),
        x: &[f32; 256],
        w: &[f32; 256],
    ) -> Search<'a> {
        let mut search = Search { format, book, tables, x: *x, w: *w, signs: [0; 32] };
        if matches!(format.signs, Signs::Free | Signs::Even) {
            for k in 0..32 {
                search.take_signs(k);
            }
        }
        for group in 0..256 / format.dims {
            search.fill(group);
        }
        search
    }

    #[inline(always)]
    fn fill(&mut self, group: usize) {
        let at = group * self.format.dims;
        let range = at..at + self.format.dims;
        self.tables.fill(self.format, self.book, group, &self.x[range.clone()], &self.w[range]);
    }

    /// Splits eight weights into signs and magnitudes. An odd number of minus signs is made even where that costs least.
    #[inline(always)]
    fn take_signs(&mut self, k: usize) {
        let (x, w) = (&mut self.x[8 * k..][..8], &self.w[8 * k..][..8]);
        for (j, x) in x.iter_mut().enumerate() {
            self.signs[k] |= u8::from(*x < 0.0) << j;
            *x = x.abs();
        }
        if self.format.signs == Signs::Even && self.signs[k].count_ones() % 2 == 1 {
            let cost = |j: &usize| w[*j] * x[*j] * x[*j];
            let flip = (0..8).min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(0);
            self.signs[k] ^= 1 << flip;
            x[flip] = -x[flip];
        }
    }

    /// The error, less a constant, of sub-block `sub` under each of four scales.
    #[inline(always)]
    fn errors(&self, sub: usize, scales: [f32; TRIES]) -> [f32; TRIES] {
        let n = self.book.n;
        let shifts = self.format.signs.shifts().len();
        let mut by_shift = [[0.0f32; TRIES]; 2];
        for group in sub * self.format.groups..(sub + 1) * self.format.groups {
            let p = &self.tables.p[group * n..][..n];
            let mut of_group = [[0.0f32; TRIES]; 2];
            for (k, of_shift) in of_group.iter_mut().enumerate().take(shifts) {
                let q = &self.tables.q[(group * shifts + k) * n..][..n];
                *of_shift = least(p, q, self.tables.more[group][k], scales);
            }
            for t in 0..TRIES {
                if self.format.signs == Signs::ShiftOfGroup {
                    by_shift[0][t] += of_group[0][t].min(of_group[1][t]);
                } else {
                    by_shift[0][t] += of_group[0][t];
                    by_shift[1][t] += of_group[1][t];
                }
            }
        }
        let both = self.format.signs == Signs::ShiftOfSub;
        std::array::from_fn(|t| scales[t] * if both { by_shift[0][t].min(by_shift[1][t]) } else { by_shift[0][t] })
    }

    /// Codes and shifts of sub-block `sub` under a scale; gives `sum p` and `sum q` of them.
    #[inline(always)]
    fn codes(&self, sub: usize, d: f32, found: &mut Found) -> [f32; 2] {
        let n = self.book.n;
        let shifts = self.format.signs.shifts().len();
        let groups = sub * self.format.groups..(sub + 1) * self.format.groups;
        let mut best = [[0usize; 8]; 2];
        let mut sums = [[[0.0f32; 2]; 8]; 2];
        for (i, group) in groups.clone().enumerate() {
            let p = &self.tables.p[group * n..][..n];
            for k in 0..shifts {
                let q = &self.tables.q[(group * shifts + k) * n..][..n];
                best[k][i] = code(p, q, d);
                sums[k][i] = [p[best[k][i]] + self.tables.more[group][k], q[best[k][i]]];
            }
        }
        let error = |[p, q]: [f32; 2]| d * q - 2.0 * p;
        let of_sub = |k: usize| sums[k].iter().map(|sum| error(*sum)).sum::<f32>();
        let sub_down = shifts == 2 && of_sub(1) < of_sub(0);
        let mut total = [0.0; 2];
        for (i, group) in groups.enumerate() {
            let down = match self.format.signs {
                Signs::Free | Signs::Even => false,
                Signs::ShiftOfSub => sub_down,
                Signs::ShiftOfGroup => error(sums[1][i]) < error(sums[0][i]),
            };
            let k = usize::from(down);
            found.codes[group] = best[k][i] as u16;
            if shifts == 2 {
                found.down[group] = down;
            }
            total = [total[0] + sums[k][i][0], total[1] + sums[k][i][1]];
        }
        total
    }

    /// The best scale of a sub-block alone.
    #[inline(always)]
    fn alone(&self, sub: usize, scratch: &mut Found) -> f32 {
        let size = self.format.groups * self.format.dims;
        let largest = self.x[sub * size..][..size].iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        if largest == 0.0 {
            return 0.0;
        }
        let (mut best, mut best_error) = (0.0, 0.0);
        for reaches in REACHES.as_chunks::<TRIES>().0 {
            let scales = reaches.map(|reach| largest / (self.book.largest * reach));
            for (error, scale) in self.errors(sub, scales).into_iter().zip(scales) {
                if error < best_error {
                    (best, best_error) = (scale, error);
                }
            }
        }
        for _ in 0..2 {
            let [p, q] = self.codes(sub, best, scratch);
            let better = p * inverse(q);
            best = if better > 0.0 { better } else { best };
        }
        best
    }

    /// For each of four `d`, the best integer of each sub-block near its wanted scale; gives them and the errors.
    #[inline(always)]
    fn integers(&self, wanted: &[f32; MAX_SUBS], ds: [f32; TRIES]) -> ([[u8; MAX_SUBS]; TRIES], [f32; TRIES]) {
        let top = self.format.n_scale as i32 - 1;
        let (mut scales, mut errors) = ([[0; MAX_SUBS]; TRIES], [0.0; TRIES]);
        for sub in 0..256 / (self.format.groups * self.format.dims) {
            let near = ds.map(|d| ((wanted[sub] * inverse(d * self.format.unit) - 1.0) * 0.5).floor() as i32);
            let mut least = [f32::INFINITY; TRIES];
            for step in 0..2 {
                let tried = near.map(|near| (near + step).clamp(0, top));
                let tried_d = std::array::from_fn(|t| ds[t] * self.format.unit * (2 * tried[t] + 1) as f32);
                let found = self.errors(sub, tried_d);
                for t in 0..TRIES {
                    if found[t] < least[t] {
                        (least[t], scales[t][sub]) = (found[t], tried[t] as u8);
                    }
                }
            }
            for t in 0..TRIES {
                errors[t] += least[t];
            }
        }
        (scales, errors)
    }

    /// Finds scales and codes.
    #[inline(always)]
    pub(super) fn run(mut self) -> Found {
        let n_sub = 256 / (self.format.groups * self.format.dims);
        let mut found =
            Found { d: Half::new(0.0), scales: [0; MAX_SUBS], codes: [0; 64], signs: [0; 32], down: [false; 32] };
        let mut wanted = [0.0; MAX_SUBS];
        for (sub, wanted) in wanted.iter_mut().enumerate().take(n_sub) {
            *wanted = self.alone(sub, &mut found);
        }
        let largest = wanted.iter().copied().fold(0.0, f32::max);
        let start = largest / (self.format.unit * (2 * self.format.n_scale - 1) as f32);
        let (mut best_error, mut d) = (f32::INFINITY, Half::new(start));
        for steps in STEPS.as_chunks::<TRIES>().0 {
            let ds = steps.map(|step| Half::new(start * step));
            let (scales, errors) = self.integers(&wanted, ds.map(Half::f32));
            for t in 0..TRIES {
                if errors[t] < best_error {
                    (best_error, d, found.scales) = (errors[t], ds[t], scales[t]);
                }
            }
        }
        for round in 0..3 {
            let solved = self.solve(d, &mut found);
            if round == 0 && self.format.signs == Signs::Even {
                self.better_signs(&found);
                continue;
            }
            let (scales, errors) = self.integers(&wanted, [solved, d, solved, d].map(Half::f32));
            let best = if errors[0] < errors[1] { 0 } else { 1 };
            found.scales = scales[best];
            d = [solved, d][best];
        }
        self.solve(d, &mut found);
        found.d = d;
        found.signs = self.signs;
        found
    }

    /// Sets the codes for the scales that are found; gives the `d` that is best for these codes.
    #[inline(always)]
    fn solve(&self, d: Half, found: &mut Found) -> Half {
        let (mut p, mut q) = (0.0, 0.0);
        for sub in 0..256 / (self.format.groups * self.format.dims) {
            let times = self.format.unit * f32::from(2 * found.scales[sub] + 1);
            let [sub_p, sub_q] = self.codes(sub, d.f32() * times, found);
            (p, q) = (p + times * sub_p, q + times * times * sub_q);
        }
        let solved = Half::new(p * inverse(q));
        if solved.f32() > 0.0 { solved } else { d }
    }

    /// Where a sign had to be changed, changes the one that costs least with the codes found.
    #[inline(always)]
    fn better_signs(&mut self, found: &Found) {
        for k in 0..32 {
            let x = &self.x[8 * k..][..8];
            let Some(old) = x.iter().position(|x| *x < 0.0) else { continue };
            let value = |j: usize| {
                let i = 8 * k + j;
                let (group, dim) = (i / self.format.dims, i % self.format.dims);
                self.book.values[dim * self.book.n + usize::from(found.codes[group])]
            };
            let cost = |j: usize| self.w[8 * k + j] * x[j].abs() * value(j);
            let new = (0..8).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(old);
            if cost(new) < cost(old) {
                self.signs[k] ^= 1 << old | 1 << new;
                for j in [old, new] {
                    self.x[8 * k + j] = -self.x[8 * k + j];
                }
                for group in 8 * k / self.format.dims..(8 * k + 8) / self.format.dims {
                    self.fill(group);
                }
            }
        }
    }
}
