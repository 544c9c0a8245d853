//! A codebook of vectors, and what the types that have one differ in.

use super::neighbours::Neighbours;

/// What the types differ in.
pub(super) struct Format {
    /// Values of the levels, rising.
    pub levels: &'static [f32],
    /// Vectors that share a scale.
    pub groups: usize,
    /// Number of integers `s`.
    pub n_scale: usize,
    /// See the module.
    pub unit: f32,
    /// How signs are stored.
    pub signs: Signs,
    /// What the largest weight is, in units of the largest value, under the scales that are tried.
    pub reaches: &'static [f32],
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
    pub fn shifts(self) -> &'static [f32] {
        match self {
            Signs::Free | Signs::Even => &[0.0],
            Signs::ShiftOfSub | Signs::ShiftOfGroup => &[0.125, -0.125],
        }
    }
}

/// A codebook of vectors of `DIMS` weights with `LEVELS` levels. The values of a quarter stand in `ROW` lanes.
pub(super) struct Codebook<const DIMS: usize, const LEVELS: usize, const ROW: usize> {
    pub format: &'static Format,
    pub neighbours: Neighbours,
    /// For each shift and each weight of a quarter, its value in each of the quarter's values; and their squares.
    pub values: [[[f32; ROW]; 2]; 2],
    pub squares: [[[f32; ROW]; 2]; 2],
    /// For each shift, what lies between one level and the next.
    pub borders: [[f32; LEVELS]; 2],
    /// What a level of each weight counts in the index of rounded levels.
    pub places: [u32; DIMS],
    pub largest: f32,
}

impl<const DIMS: usize, const LEVELS: usize, const ROW: usize> Codebook<DIMS, LEVELS, ROW> {
    /// Weights of a quarter.
    pub const PART: usize = DIMS / 4;
    /// Values of a quarter.
    pub const VALUES: usize = if Self::PART == 2 { LEVELS * LEVELS } else { LEVELS };

    /// Of vectors `values(code, dim)`, which are levels of the format.
    pub(super) fn new(format: &'static Format, n: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let level = |value: f32| format.levels.iter().position(|l| *l == value).expect("a level of the format");
        let vectors: Vec<Vec<usize>> =
            (0..n).map(|code| (0..DIMS).map(|dim| level(value(code, dim))).collect()).collect();
        let quarter = |levels: &[usize]| levels.iter().rev().fold(0, |index, level| index * LEVELS + level);
        let half = |levels: &[usize]| {
            let (low, high) = levels.split_at(Self::PART);
            (quarter(high) * ROW + quarter(low)) as u8
        };
        let halves = |levels: &[usize]| {
            let (low, high) = levels.split_at(DIMS / 2);
            [half(low), half(high)]
        };
        let mut book = Codebook {
            format,
            neighbours: Neighbours::new(LEVELS, &vectors, halves),
            values: [[[0.0; ROW]; 2]; 2],
            squares: [[[0.0; ROW]; 2]; 2],
            borders: [[f32::INFINITY; LEVELS]; 2],
            places: std::array::from_fn(|dim| (LEVELS as u32).pow(dim as u32)),
            largest: format.levels.iter().fold(0.0, |largest: f32, value| largest.max(value.abs())),
        };
        for (k, shift) in format.signs.shifts().iter().enumerate() {
            for i in 0..Self::VALUES {
                for (j, level) in [i % LEVELS, i / LEVELS].into_iter().take(Self::PART).enumerate() {
                    let value = format.levels[level] + shift;
                    (book.values[k][j][i], book.squares[k][j][i]) = (value, value * value);
                }
            }
            for (border, pair) in book.borders[k].iter_mut().zip(format.levels.windows(2)) {
                *border = 0.5 * (pair[0] + pair[1]) + shift;
            }
        }
        book
    }

    /// Value of a vector.
    #[inline(always)]
    pub fn value(&self, code: u16, dim: usize) -> f32 {
        let half = usize::from(self.neighbours.vector(code).halves[2 * dim / DIMS]);
        let (quarter, j) = (dim / Self::PART % 2, dim % Self::PART);
        self.values[0][j][if quarter == 0 { half % ROW } else { half / ROW }]
    }
}
