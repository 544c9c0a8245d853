//! Products with weight matrices.

use super::weights::{self, Sample};
use super::{Bench, EXACT, F32, QUANTIZED};
use crate::op::{Act, Linear, Norm, NormKind};
use crate::scalar::{Scalar, Tensor};
use crate::{Backend, DType};

/// Tokens of a batch: one, few, either side of the widths that kernels are written for.
const N_TOK: [usize; 7] = [1, 2, 3, 7, 16, 17, 33];

/// Rows and columns in units of what the encoding needs, and the tokens of [`N_TOK`] to try.
const SHAPES: [([usize; 2], [usize; 2]); 4] =
    [([1, 1], [1, 40]), ([2, 33], [2, 100]), ([3, 5], [3, 7]), ([1, 64], [4, 129])];

/// The shape of [`SHAPES`] that fits `sample`: large blocks take the first numbers, single weights the second.
fn shape(sample: &Sample, i: usize) -> [usize; 2] {
    let ([n_in_blocks, n_out], [n_in_groups, n_in]) = SHAPES[i];
    let n_in = match sample.n_in_of {
        1 => n_in,
        of if of <= 64 => of * (n_in_groups + 1),
        of => of * n_in_blocks,
    };
    // A row of few products may cancel to almost nothing; then an error relative to it says little.
    let n_out = if sample.limit == F32 { n_out } else { n_out.max(32) };
    [n_out.next_multiple_of(sample.n_out_of), n_in]
}

/// A matrix with bias, for both.
type Linears<B> = (Linear<Scalar>, Linear<B>);

fn linear<B: Backend>(bench: &mut Bench<'_, B>, sample: &Sample, shape: [usize; 2], bias: bool) -> Option<Linears<B>> {
    let data = weights::matrix(&mut bench.random, sample.encoding, shape);
    let (scalar, other) = bench.matrix(&[data])?;
    let (bias, scale) = (bench.maybe(bias, [1, shape[0]]), if bias { 1.5 } else { 1.0 });
    let (bias, bias_other) = bias.map(|b| (b.scalar, b.other)).unzip();
    Some((Linear { matrix: scalar, bias, scale }, Linear { matrix: other, bias: bias_other, scale }))
}

/// A norm with weight and bias, for both.
fn norm<B: Backend>(bench: &mut Bench<'_, B>, kind: NormKind, n_col: usize) -> (Norm<Scalar>, Norm<B>) {
    let weight = bench.tensor([1, n_col]);
    let bias = bench.maybe(kind == NormKind::Layer, [1, n_col]);
    let (bias, bias_other) = bias.map(|b| (b.scalar, b.other)).unzip();
    let eps = 1e-5;
    (
        Norm { kind, weight: Some(weight.scalar), bias, eps },
        Norm { kind, weight: Some(weight.other), bias: bias_other, eps },
    )
}

/// `linears` and `linear_add`, every encoding and every number of tokens.
pub(super) fn linears<B: Backend>(bench: &mut Bench<'_, B>) {
    for sample in Sample::all() {
        for i in 0..SHAPES.len() {
            let [n_out, n_in] = shape(&sample, i);
            let first = linear(bench, &sample, [n_out, n_in], i % 2 == 0);
            let second = linear(bench, &sample, [n_out * 2, n_in], i % 2 == 1);
            let (Some(first), Some(second)) = (first, second) else { break };
            for n_tok in [N_TOK[i], N_TOK[(i + 3) % N_TOK.len()]] {
                let x = bench.tensor([n_tok, n_in]);
                let case = format!("{}, [{n_out}, {n_in}], {n_tok} tokens", sample.encoding);
                let (norm, norm_other) = norm(bench, if i < 2 { NormKind::Rms } else { NormKind::Layer }, n_in);
                let want = Scalar.linears(&x.scalar, Some(&norm), [&first.0, &second.0]);
                let got = bench.backend.linears(&x.other, Some(&norm_other), [&first.1, &second.1]);
                for (want, got) in want.iter().zip(&got) {
                    bench.compare(format_args!("{case}, with norm"), sample.limit, want, got);
                }
                let [want] = Scalar.linears(&x.scalar, None, [&first.0]);
                let [got] = bench.backend.linears(&x.other, None, [&first.1]);
                bench.compare(format_args!("{case}"), sample.limit, &want, &got);
                let residual = bench.tensor([n_tok, n_out]);
                let want = Scalar.linear_add(&x.scalar, &first.0, 0.5, residual.scalar);
                let got = bench.backend.linear_add(&x.other, &first.1, 0.5, residual.other);
                bench.compare(format_args!("{case}, linear_add"), sample.limit, &want, &got);
            }
        }
    }
}

/// `gate_up` with every activation, and with matrices stacked from parts of several encodings.
pub(super) fn gate_up<B: Backend>(bench: &mut Bench<'_, B>) {
    // A limit far out: numbers that are cut off do not shrink the errors of those that are not.
    let acts = [Act::Silu, Act::GeluTanh, Act::GeluErf, Act::Relu, Act::SwigluOai { alpha: 1.702, limit: 40.0 }];
    for (i, dtype) in [DType::F32, DType::F16, DType::Q8_0, DType::Q4_K, DType::Q6_K].into_iter().enumerate() {
        let sample = Sample::blocks(dtype);
        for (j, act) in acts.into_iter().enumerate() {
            let ([n_out, n_in], n_tok) = (shape(&sample, j % SHAPES.len()), N_TOK[(i + j) % N_TOK.len()]);
            let gate = linear(bench, &sample, [n_out, n_in], j % 2 == 0);
            let up = linear(bench, &sample, [n_out, n_in], j % 2 == 0);
            let (Some(gate), Some(up)) = (gate, up) else { continue };
            let x = bench.tensor([n_tok, n_in]);
            let (norm, norm_other) = norm(bench, NormKind::Rms, n_in);
            // The rows are normalized, and products of unit rows grow with their length: so do both factors.
            let want = Scalar.gate_up(&x.scalar, Some(&norm), &gate.0, &up.0, act);
            let got = bench.backend.gate_up(&x.other, Some(&norm_other), &gate.1, &up.1, act);
            let case = format!("{}, [{n_out}, {n_in}], {n_tok} tokens, {act:?}", sample.encoding);
            bench.compare(format_args!("{case}"), sample.limit, &want, &got);
        }
    }
    let mixed = [Sample::blocks(DType::Q8_0), Sample::blocks(DType::F16), Sample::blocks(DType::Q4_0)];
    let parts = mixed.map(|s| weights::matrix(&mut bench.random, s.encoding, [40, 64]));
    let Some((matrix, other)) = bench.matrix(&parts) else { return };
    let x = bench.tensor([3, 64]);
    let [want] = Scalar.linears(&x.scalar, None, [&Linear { matrix, bias: None, scale: 1.0 }]);
    let [got] = bench.backend.linears(&x.other, None, [&Linear { matrix: other, bias: None, scale: 1.0 }]);
    bench.compare(format_args!("parts of three types"), QUANTIZED, &want, &got);
}

/// `head_linear`.
pub(super) fn head_linear<B: Backend>(bench: &mut Bench<'_, B>) {
    for dtype in [DType::F32, DType::BF16, DType::Q8_0] {
        let sample = Sample::blocks(dtype);
        for (n_head, d_out, d_in, n_tok) in [(1, 32, 64, 1), (4, 40, 32, 3), (3, 128, 192, 17)] {
            let heads: Vec<_> =
                (0..n_head).map(|_| weights::matrix(&mut bench.random, sample.encoding, [d_out, d_in])).collect();
            let Some((scalar, other)) = bench.experts(&heads) else { continue };
            let x = bench.tensor([n_tok, n_head * d_in]);
            let want = Scalar.head_linear(&x.scalar, &scalar);
            let got = bench.backend.head_linear(&x.other, &other);
            let case = format_args!("{}, {n_head} heads [{d_out}, {d_in}], {n_tok} tokens", sample.encoding);
            bench.compare(case, sample.limit, &want, &got);
        }
    }
}

/// `embed`: rows of every encoding, to the last bit but for the order of products.
pub(super) fn embed<B: Backend>(bench: &mut Bench<'_, B>) {
    for sample in Sample::all() {
        let [n_out, n_in] = shape(&sample, 1);
        let data = weights::matrix(&mut bench.random, sample.encoding, [n_out, n_in]);
        let Some((scalar, other)) = bench.matrix(&[data]) else { continue };
        for n_tok in [1, 5] {
            let ids: Vec<u32> =
                (0..n_tok).map(|_| bench.random.below(n_out) as u32).chain([n_out as u32 - 1]).collect();
            let want: Tensor = Scalar.embed(&scalar, &ids);
            let got = bench.backend.embed(&other, &ids);
            let limit = if sample.encoding == crate::Encoding::Blocks(DType::F32) { EXACT } else { F32 };
            bench.compare(format_args!("{}, ids {ids:?}", sample.encoding), limit, &want, &got);
        }
    }
}
