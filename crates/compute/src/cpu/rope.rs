//! Rotation of heads by position.
//!
//! Cosines and sines of a batch are computed once (in f64, so that far positions lose nothing) and kept for the other
//! layers of the step, which rotate by the same positions.

use super::vector::{Kernel, LANES, Vector};
use super::{elementwise, tensor::Buffer, tensor::Memory};
use crate::op::{Rope, RopePairs};

/// Tables kept: models with two kinds of layers have two, for queries and keys of each.
const TABLES: usize = 4;

/// The factors of a batch. For [`RopePairs::Interleaved`] each lies twice, and sines of even lanes are negative, so
/// that `y = x * cos + swapped(x) * sin`.
pub struct Table {
    rope: Rope,
    positions: Vec<i32>,
    /// `[n_tok, 2, width]`: cosines, then sines.
    factors: Buffer,
}

/// The latest tables.
#[derive(Default)]
pub struct Tables(Vec<Table>);

impl Tables {
    /// The table of these positions, made if it is not among the latest.
    pub fn get(&mut self, memory: &Memory, rope: &Rope, positions: &[i32]) -> &Table {
        let found = self.0.iter().position(|t| t.positions == positions && t.rope == *rope);
        let at = found.unwrap_or_else(|| {
            let mut table = if self.0.len() < TABLES {
                Table { rope: rope.clone(), positions: Vec::new(), factors: memory.buffer(0) }
            } else {
                self.0.remove(0)
            };
            table.fill(memory, rope, positions);
            self.0.push(table);
            self.0.len() - 1
        });
        &self.0[at]
    }
}

impl Table {
    fn fill(&mut self, memory: &Memory, rope: &Rope, positions: &[i32]) {
        self.rope.freqs.clear();
        self.rope.freqs.extend_from_slice(&rope.freqs);
        self.rope = Rope { freqs: std::mem::take(&mut self.rope.freqs), ..*rope };
        self.positions.clear();
        self.positions.extend_from_slice(positions);
        let width = self.width();
        if self.factors.len() != positions.len() * 2 * width {
            self.factors = memory.buffer(positions.len() * 2 * width);
        }
        for (&position, row) in positions.iter().zip(self.factors.chunks_exact_mut(2 * width.max(1))) {
            let (cosines, sines) = row.split_at_mut(width);
            for (i, &freq) in rope.freqs.iter().enumerate() {
                let (sin, cos) = (f64::from(position) * f64::from(freq)).sin_cos();
                let (sin, cos) = ((f64::from(rope.scale) * sin) as f32, (f64::from(rope.scale) * cos) as f32);
                match rope.pairs {
                    RopePairs::HalfSplit => (cosines[i], sines[i]) = (cos, sin),
                    RopePairs::Interleaved => {
                        cosines[2 * i..2 * i + 2].fill(cos);
                        sines[2 * i..2 * i + 2].copy_from_slice(&[-sin, sin]);
                    }
                }
            }
        }
    }

    /// Numbers that one cosine each is kept for.
    fn width(&self) -> usize {
        match self.rope.pairs {
            RopePairs::HalfSplit => self.rope.freqs.len(),
            RopePairs::Interleaved => 2 * self.rope.freqs.len(),
        }
    }

    /// The rotation of the heads of token `token`.
    pub fn rotate<'a>(&'a self, token: usize, x: &'a mut [f32], d_head: usize) -> Rotate<'a> {
        let width = self.width();
        let (cosines, sines) = self.factors[token * 2 * width..][..2 * width].split_at(width);
        Rotate { x, d_head, offset: self.rope.offset, pairs: self.rope.pairs, cosines, sines }
    }
}

/// Rotates the heads of one token.
pub struct Rotate<'a> {
    x: &'a mut [f32],
    d_head: usize,
    offset: usize,
    pairs: RopePairs,
    cosines: &'a [f32],
    sines: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Rotate { x, d_head, offset, pairs, cosines, sines } = self;
        let width = cosines.len();
        for head in x.chunks_exact_mut(d_head) {
            match pairs {
                RopePairs::HalfSplit => {
                    let (x, y) = head[offset..][..2 * width].split_at_mut(width);
                    halves(v, [x, y], cosines, sines);
                }
                RopePairs::Interleaved => interleaved(v, &mut head[offset..][..width], cosines, sines),
            }
        }
    }
}

#[inline(always)]
fn halves<V: Vector>(v: V, [x, y]: [&mut [f32]; 2], cosines: &[f32], sines: &[f32]) {
    for i in 0..cosines.len().div_ceil(LANES) {
        let range = i * LANES..cosines.len().min((i + 1) * LANES);
        let (cos, sin) = (elementwise::some(v, &cosines[range.clone()]), elementwise::some(v, &sines[range.clone()]));
        let (a, b) = (elementwise::some(v, &x[range.clone()]), elementwise::some(v, &y[range.clone()]));
        let first = v.sub(v.mul(a, cos), v.mul(b, sin));
        let second = v.fma(a, sin, v.mul(b, cos));
        elementwise::put(v, &mut x[range.clone()], first);
        elementwise::put(v, &mut y[range], second);
    }
}

#[inline(always)]
fn interleaved<V: Vector>(v: V, x: &mut [f32], cosines: &[f32], sines: &[f32]) {
    for i in 0..cosines.len().div_ceil(LANES) {
        let range = i * LANES..cosines.len().min((i + 1) * LANES);
        let (cos, sin) = (elementwise::some(v, &cosines[range.clone()]), elementwise::some(v, &sines[range.clone()]));
        let a = elementwise::some(v, &x[range.clone()]);
        let y = v.fma(v.swap_pairs(a), sin, v.mul(a, cos));
        elementwise::put(v, &mut x[range], y);
    }
}
