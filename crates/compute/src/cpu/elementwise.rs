//! Operations on numbers one by one, and on rows.

use super::math;
use super::vector::{Kernel, LANES, Vector};
use crate::op::{Act, NormKind};

/// `x = act(x)`, or `x = act(x) * up` with `up` as long.
pub struct Activate<'a> {
    /// Overwritten.
    pub x: &'a mut [f32],
    /// The other factor.
    pub up: Option<&'a [f32]>,
    /// What is done.
    pub act: Act,
}

/// `act` of a vector of gates.
#[inline(always)]
fn act<V: Vector>(v: V, act: Act, x: V::F) -> V::F {
    match act {
        Act::Silu => v.mul(x, math::sigmoid(v, x)),
        // 0.5 (1 + tanh(u)) = sigmoid(2 u)
        Act::GeluTanh => {
            let inner = v.fma(v.mul(x, x), v.splat(2.0 * 0.797_884_6 * 0.044_715), v.splat(2.0 * 0.797_884_6));
            v.mul(x, math::sigmoid(v, v.mul(x, inner)))
        }
        Act::GeluErf => {
            let half = v.mul(v.splat(0.5), x);
            v.fma(half, math::erf(v, v.mul(x, v.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
        }
        Act::GeluQuick => v.mul(x, math::sigmoid(v, v.mul(v.splat(1.702), x))),
        Act::Relu => v.max(x, v.splat(0.0)),
        Act::ReluSquared => v.mul(v.max(x, v.splat(0.0)), v.max(x, v.splat(0.0))),
        Act::Sigmoid => math::sigmoid(v, x),
        Act::Tanh => math::tanh(v, x),
        Act::Softplus => math::softplus(v, x),
        Act::Clamp(limit) => v.min(v.max(x, v.splat(-limit)), v.splat(limit)),
        Act::SwigluOai { alpha, limit } => {
            let x = v.min(x, v.splat(limit));
            v.mul(x, math::sigmoid(v, v.mul(v.splat(alpha), x)))
        }
    }
}

/// What multiplies `act(gate)`.
#[inline(always)]
fn factor<V: Vector>(v: V, act: Act, up: V::F) -> V::F {
    match act {
        Act::SwigluOai { limit, .. } => v.add(v.max(v.min(up, v.splat(limit)), v.splat(-limit)), v.splat(1.0)),
        _ => up,
    }
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Activate { x, up, act: kind } = self;
        let (whole, rest) = x.as_chunks_mut::<LANES>();
        match up {
            None => {
                for x in whole {
                    let y = act(v, kind, v.load(x));
                    v.store(x, y);
                }
                let y = act(v, kind, v.load_some(rest));
                v.store_some(rest, y);
            }
            Some(up) => {
                assert_eq!(up.len(), whole.len() * LANES + rest.len(), "glu: gate and up differ in length");
                let (up, up_rest) = up.as_chunks::<LANES>();
                for (x, up) in whole.iter_mut().zip(up) {
                    let y = v.mul(act(v, kind, v.load(x)), factor(v, kind, v.load(up)));
                    v.store(x, y);
                }
                let y = v.mul(act(v, kind, v.load_some(rest)), factor(v, kind, v.load_some(up_rest)));
                v.store_some(rest, y);
            }
        }
    }
}

/// What is done with each number of `a`.
#[derive(Debug, Clone, Copy)]
pub enum Arithmetic<'a> {
    /// `a + b`.
    Add(&'a [f32]),
    /// `a * b`.
    Mul(&'a [f32]),
    /// `a * factor`.
    Scale(f32),
    /// `a + factor * b`.
    AddScaled(f32, &'a [f32]),
    /// `cap * tanh(a / cap)`.
    Softcap(f32),
}

/// Arithmetic on a slice; the other one is as long.
pub struct Compute<'a> {
    /// Overwritten.
    pub a: &'a mut [f32],
    /// What is done.
    pub with: Arithmetic<'a>,
}

impl Kernel for Compute<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Compute { a, with } = self;
        let b: &[f32] = match with {
            Arithmetic::Add(b) | Arithmetic::Mul(b) | Arithmetic::AddScaled(_, b) => b,
            Arithmetic::Scale(_) | Arithmetic::Softcap(_) => &[],
        };
        assert!(b.is_empty() || b.len() == a.len(), "arithmetic: {} numbers and {}", a.len(), b.len());
        for (i, a) in a.chunks_mut(LANES).enumerate() {
            let x = some(v, a);
            let y = if b.is_empty() { v.splat(0.0) } else { some(v, &b[i * LANES..][..a.len()]) };
            let result = match with {
                Arithmetic::Add(_) => v.add(x, y),
                Arithmetic::Mul(_) => v.mul(x, y),
                Arithmetic::Scale(factor) => v.mul(x, v.splat(factor)),
                Arithmetic::AddScaled(factor, _) => v.fma(v.splat(factor), y, x),
                Arithmetic::Softcap(cap) => v.mul(v.splat(cap), math::tanh(v, v.div(x, v.splat(cap)))),
            };
            put(v, a, result);
        }
    }
}

/// Overwrites up to sixteen numbers.
#[inline(always)]
pub(super) fn put<V: Vector>(v: V, x: &mut [f32], y: V::F) {
    match x.as_mut_array() {
        Some(lanes) => v.store(lanes, y),
        None => v.store_some(x, y),
    }
}

/// Sixteen numbers from a slice of sixteen.
#[inline(always)]
pub(super) fn load<V: Vector>(v: V, x: &[f32]) -> V::F {
    v.load(x.as_array().expect("a slice of sixteen"))
}

/// Overwrites a slice of sixteen.
#[inline(always)]
pub(super) fn store<V: Vector>(v: V, x: &mut [f32], y: V::F) {
    v.store(x.as_mut_array().expect("a slice of sixteen"), y);
}

/// One row (or head) normalized: `out = normalized(x) * weight + bias`. All slices are as long as `x`.
pub struct Normalize<'a> {
    /// The row.
    pub x: &'a [f32],
    /// Overwritten.
    pub out: &'a mut [f32],
    /// Which mean is divided out.
    pub kind: NormKind,
    /// Added to the mean square.
    pub eps: f32,
    /// Factors.
    pub weight: Option<&'a [f32]>,
    /// Summands.
    pub bias: Option<&'a [f32]>,
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Normalize { x, out, kind, eps, weight, bias } = self;
        let n = x.len();
        assert_eq!(out.len(), n, "norm: input and output differ in length");
        let mean = match kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => sum(v, x) / n as f32,
        };
        let factor = 1.0 / (squares(v, x, mean) / n as f32 + eps).sqrt();
        let (factor, mean) = (v.splat(factor), v.splat(mean));
        for i in 0..n.div_ceil(LANES) {
            let range = i * LANES..n.min((i + 1) * LANES);
            let mut y = v.mul(v.sub(some(v, &x[range.clone()]), mean), factor);
            if let Some(weight) = weight {
                y = v.mul(y, some(v, &weight[range.clone()]));
            }
            if let Some(bias) = bias {
                y = v.add(y, some(v, &bias[range.clone()]));
            }
            put(v, &mut out[range], y);
        }
    }
}

/// The largest number of each block of a row, minus infinity where there is none; the last block may be shorter.
pub struct Maxima<'a> {
    /// The row.
    pub x: &'a [f32],
    /// Numbers of a block.
    pub block: usize,
    /// Overwritten: a number for each block.
    pub out: &'a mut [f32],
}

impl Kernel for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for (block, out) in self.x.chunks(self.block).zip(self.out) {
            let (whole, rest) = block.as_chunks::<LANES>();
            let lanes = whole.iter().fold(v.splat(f32::NEG_INFINITY), |max, x| v.max(v.load(x), max));
            *out = rest.iter().fold(v.greatest(lanes), |max, &x| if x > max { x } else { max });
        }
    }
}

/// Up to sixteen numbers; the other lanes are 0.
#[inline(always)]
pub(super) fn some<V: Vector>(v: V, x: &[f32]) -> V::F {
    match x.as_array() {
        Some(lanes) => v.load(lanes),
        None => v.load_some(x),
    }
}

/// Sum of all, in four times sixteen chains.
#[inline(always)]
fn sum<V: Vector>(v: V, x: &[f32]) -> f32 {
    let mut sums = [v.splat(0.0); 4];
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        let lanes = block.as_chunks::<LANES>().0;
        for i in 0..4 {
            sums[i] = v.add(sums[i], v.load(&lanes[i]));
        }
    }
    for x in rest.chunks(LANES) {
        sums[0] = v.add(sums[0], some(v, x));
    }
    v.sum(v.add(v.add(sums[0], sums[1]), v.add(sums[2], sums[3])))
}

/// Sum of `(x - mean)^2`.
#[inline(always)]
fn squares<V: Vector>(v: V, x: &[f32], mean: f32) -> f32 {
    let (mut sums, mean_lanes) = ([v.splat(0.0); 4], v.splat(mean));
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        let lanes = block.as_chunks::<LANES>().0;
        for i in 0..4 {
            let d = v.sub(v.load(&lanes[i]), mean_lanes);
            sums[i] = v.fma(d, d, sums[i]);
        }
    }
    let (whole, tail) = rest.as_chunks::<LANES>();
    for x in whole {
        let d = v.sub(v.load(x), mean_lanes);
        sums[0] = v.fma(d, d, sums[0]);
    }
    let mut last = 0.0;
    for x in tail {
        last += (x - mean) * (x - mean);
    }
    v.sum(v.add(v.add(sums[0], sums[1]), v.add(sums[2], sums[3]))) + last
}
