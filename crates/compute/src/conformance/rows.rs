//! Operations on rows.

use super::{Bench, EXACT, F32, Limit};
use crate::Backend;
use crate::op::{Act, Norm, NormKind, Rope, RopePairs};
use crate::scalar::Scalar;

/// Rows, heads and dimensions of a head.
const SHAPES: [[usize; 3]; 9] =
    [[1, 1, 1], [1, 4, 16], [2, 1, 33], [3, 3, 80], [7, 2, 96], [16, 1, 112], [17, 8, 64], [33, 1, 288], [2, 1, 4097]];

/// Every activation of one number.
const ACTS: [Act; 9] = [
    Act::Silu,
    Act::GeluTanh,
    Act::GeluErf,
    Act::GeluQuick,
    Act::Relu,
    Act::ReluSquared,
    Act::Sigmoid,
    Act::Tanh,
    Act::Softplus,
];

/// `norm` and `head_norm`, with and without weight and bias, whole or a head each.
pub(super) fn norm<B: Backend>(bench: &mut Bench<'_, B>) {
    for (i, [n_tok, n_head, d_head]) in SHAPES.into_iter().enumerate() {
        for kind in [NormKind::Rms, NormKind::Layer] {
            for (weight, bias) in [(0, 0), (1, 0), (n_head, 0), (1, 1), (n_head, n_head)] {
                let x = bench.tensor([n_tok, n_head * d_head]);
                let weight_both = bench.maybe(weight > 0, [weight, d_head]);
                let bias_both = bench.maybe(bias > 0, [bias, d_head]);
                let (weight_scalar, weight_other) = weight_both.map(|b| (b.scalar, b.other)).unzip();
                let (bias_scalar, bias_other) = bias_both.map(|b| (b.scalar, b.other)).unzip();
                let eps = if i % 2 == 0 { 1e-6 } else { 0.1 };
                let norm = Norm::<Scalar> { kind, weight: weight_scalar, bias: bias_scalar, eps };
                let norm_other = Norm::<B> { kind, weight: weight_other, bias: bias_other, eps };
                let case = format!("{kind:?}, [{n_tok}, {n_head}, {d_head}], weight of {weight}, bias of {bias}");
                if n_head == 1 {
                    let (want, got) = (Scalar.norm(&x.scalar, &norm), bench.backend.norm(&x.other, &norm_other));
                    bench.compare(format_args!("{case}"), F32, &want, &got);
                }
                let want = Scalar.head_norm(x.scalar, n_head, &norm);
                let got = bench.backend.head_norm(x.other, n_head, &norm_other);
                bench.compare(format_args!("{case}, by head"), F32, &want, &got);
            }
        }
    }
}

/// `rope` of whole and partial heads, near and far positions.
pub(super) fn rope<B: Backend>(bench: &mut Bench<'_, B>) {
    // A backend that multiplies position and frequency in f32 is off by half a unit in the last place of the angle.
    let far = Limit { max: 0.01, nmse: 1e-5 };
    for [n_tok, n_head, d_head] in SHAPES.into_iter().filter(|s| s[2].is_multiple_of(2)) {
        for (offset, n_rot) in [(0, d_head), (0, d_head / 4 * 2), (d_head / 4 * 2, d_head / 2)] {
            for (pairs, scale) in [(RopePairs::HalfSplit, 1.0), (RopePairs::Interleaved, 1.25)] {
                for (limit, furthest) in [(F32, 64), (far, 100_000)] {
                    let freqs: Vec<f32> = (0..n_rot / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / n_rot as f32)).collect();
                    let rope = Rope { freqs, scale, pairs, offset };
                    let positions: Vec<i32> = (0..n_tok).map(|_| bench.random.below(furthest) as i32).collect();
                    let x = bench.tensor([n_tok, n_head * d_head]);
                    let want = Scalar.rope(x.scalar, n_head, &positions, &rope);
                    let got = bench.backend.rope(x.other, n_head, &positions, &rope);
                    let case = format_args!(
                        "[{n_tok}, {n_head}, {d_head}], {n_rot} from {offset}, {pairs:?} at {positions:?}"
                    );
                    bench.compare(case, limit, &want, &got);
                }
            }
        }
    }
}

/// `act`, `glu` and `softcap`, large arguments included.
pub(super) fn act<B: Backend>(bench: &mut Bench<'_, B>) {
    for (i, [n_tok, n_head, d_head]) in SHAPES.into_iter().enumerate() {
        let shape = [n_tok, n_head * d_head];
        let spread = [1.0, 30.0, 1e-3][i % 3];
        for act in ACTS {
            let x: Vec<f32> = bench.random.normals(shape[0] * shape[1]).iter().map(|x| x * spread).collect();
            let (x, up) = (bench.given(shape, &x), bench.tensor(shape));
            let gate = bench.copy(&x);
            let (want, got) = (Scalar.act(x.scalar, act), bench.backend.act(x.other, act));
            bench.compare(format_args!("{act:?}, {shape:?} times {spread}"), F32, &want, &got);
            let want = Scalar.glu(gate.scalar, &up.scalar, act);
            let got = bench.backend.glu(gate.other, &up.other, act);
            bench.compare(format_args!("{act:?} times up, {shape:?} times {spread}"), F32, &want, &got);
        }
        let (gate, up, x) = (bench.tensor(shape), bench.tensor(shape), bench.tensor(shape));
        let act = Act::SwigluOai { alpha: 1.702, limit: 0.7 };
        let want = Scalar.glu(gate.scalar, &up.scalar, act);
        let got = bench.backend.glu(gate.other, &up.other, act);
        bench.compare(format_args!("{act:?}, {shape:?}"), F32, &want, &got);
        for cap in [0.5, 50.0] {
            let x = bench.copy(&x);
            let (want, got) = (Scalar.softcap(x.scalar, cap), bench.backend.softcap(x.other, cap));
            bench.compare(format_args!("softcap {cap}, {shape:?}"), F32, &want, &got);
        }
    }
}

/// `add`, `mul` and `scale`, one row or column serving all.
pub(super) fn arithmetic<B: Backend>(bench: &mut Bench<'_, B>) {
    for [n_tok, n_head, d_head] in SHAPES {
        let shape = [n_tok, n_head * d_head];
        let a = bench.tensor(shape);
        for other in [shape, [1, shape[1]], [shape[0], 1]] {
            let b = bench.tensor(other);
            let copy = bench.copy(&a);
            let (want, got) = (Scalar.mul(copy.scalar, &b.scalar), bench.backend.mul(copy.other, &b.other));
            bench.compare(format_args!("mul {shape:?} by {other:?}"), F32, &want, &got);
            if other[1] == shape[1] {
                let copy = bench.copy(&a);
                let (want, got) = (Scalar.add(copy.scalar, &b.scalar), bench.backend.add(copy.other, &b.other));
                bench.compare(format_args!("add {other:?} to {shape:?}"), F32, &want, &got);
            }
        }
        let (want, got) = (Scalar.scale(a.scalar, -0.3), bench.backend.scale(a.other, -0.3));
        bench.compare(format_args!("scale {shape:?}"), F32, &want, &got);
    }
}

/// `columns`, `concat_heads`, `rows` and `read`.
pub(super) fn moving<B: Backend>(bench: &mut Bench<'_, B>) {
    for [n_tok, n_head, d_head] in SHAPES {
        let n_col = n_head * d_head;
        let x = bench.tensor([n_tok, n_col]);
        bench.compare(format_args!("[{n_tok}, {n_col}] as given"), EXACT, &x.scalar, &x.other);
        for (from, to) in [(0, n_col), (n_col / 3, n_col / 2 + 1), (n_col - 1, n_col)] {
            let want = Scalar.columns(&x.scalar, from, to);
            let got = bench.backend.columns(&x.other, from, to);
            bench.compare(format_args!("columns {from}..{to} of {n_col}"), EXACT, &want, &got);
        }
        for (n_head_b, d_b) in [(n_head, 16), (1, 64), (1, n_head * 4)] {
            let b = bench.tensor([n_tok, n_head_b * d_b]);
            let want = Scalar.concat_heads(&x.scalar, &b.scalar, n_head, n_head_b);
            let got = bench.backend.concat_heads(&x.other, &b.other, n_head, n_head_b);
            let case = format_args!("concat [{n_tok}, {n_head}, {d_head}] and [{n_tok}, {n_head_b}, {d_b}]");
            bench.compare(case, EXACT, &want, &got);
        }
        for n in [1, 2, n_tok + 3] {
            let indices: Vec<usize> = (0..n).map(|_| bench.random.below(n_tok)).collect();
            let (want, got) = (Scalar.rows(&x.scalar, &indices), bench.backend.rows(&x.other, &indices));
            bench.compare(format_args!("rows {indices:?} of {n_tok}"), EXACT, &want, &got);
        }
    }
}

/// The largest numbers of rows, of which some are equal.
pub(super) fn best<B: Backend>(bench: &mut Bench<'_, B>) {
    for (shape, n_best) in [([1, 40], 3), ([3, 9000], 1), ([2, 20_000], 8), ([1, 33_000], 40)] {
        let numbers: Vec<f32> =
            bench.random.normals(shape[0] * shape[1]).iter().map(|x| (x * 4000.0).round()).collect();
        let x = bench.given(shape, &numbers);
        bench.n += 1;
        let mut found = Vec::new();
        let read = bench.backend.read_best(&x.other, n_best, &mut found);
        let sorted = |row: &[f32]| {
            let mut all: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(n_best);
            all
        };
        let same = |(want, got): (&[f32], &[f32])| sorted(want) == sorted(got);
        let rows = || numbers.chunks(shape[1]).zip(found.chunks(shape[1]));
        if read.is_err() || found.len() != numbers.len() || !rows().all(same) {
            bench.fail(format!("{n_best} of {shape:?}: {read:?}, other numbers than the largest"));
        }
    }
}

/// `maxima` of rows that are whole blocks and of others, where a backend has them.
pub(super) fn maxima<B: Backend>(bench: &mut Bench<'_, B>) {
    for [n_row, n_col, block] in [[1, 1, 64], [3, 64, 64], [2, 65, 64], [5, 1000, 64], [9, 4001, 64], [2, 31, 7]] {
        let x = bench.tensor([n_row, n_col]);
        let (mut want, mut got) = (Vec::new(), Vec::new());
        Scalar.maxima(&x.scalar, block, &mut want);
        if bench.backend.maxima(&x.other, block, &mut got) {
            let shape = [n_row, n_col.div_ceil(block)];
            let (want, got) = (Scalar.tensor(shape, &want), bench.backend.tensor(shape, &got));
            bench.compare(format_args!("[{n_row}, {n_col}] in blocks of {block}"), EXACT, &want, &got);
        }
    }
}
