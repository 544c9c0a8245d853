//! Mixture of experts.

use super::weights::{self, Sample};
use super::{Bench, Both};
use crate::op::{Act, Experts, Gating, Moe};
use crate::scalar::Scalar;
use crate::{Backend, DType};

/// How experts are chosen and weighed, besides the shapes.
#[derive(Debug, Clone, Copy)]
struct Routing {
    gating: Gating,
    select_bias: bool,
    groups: Option<(usize, usize)>,
    n_used: usize,
    normalize: bool,
    scale: f32,
    weight_input: bool,
}

const PLAIN: Routing = Routing {
    gating: Gating::Softmax,
    select_bias: false,
    groups: None,
    n_used: 2,
    normalize: true,
    scale: 1.0,
    weight_input: false,
};

/// What the experts are made of.
#[derive(Debug, Clone, Copy)]
struct Parts {
    dtype: DType,
    n_expert: usize,
    d_model: usize,
    d_ff: usize,
    form: Form,
    act: Act,
    bias_and_scale: bool,
}

/// Where the gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Separate,
    Merged,
    NoGate,
}

const SMALL: Parts = Parts {
    dtype: DType::F32,
    n_expert: 8,
    d_model: 40,
    d_ff: 24,
    form: Form::Separate,
    act: Act::Silu,
    bias_and_scale: false,
};

type BothExperts<B> = (Experts<Scalar>, Experts<B>);

fn experts<B: Backend>(bench: &mut Bench<'_, B>, parts: &Parts, shape: [usize; 2]) -> Option<BothExperts<B>> {
    let encoding = Sample::blocks(parts.dtype).encoding;
    let n = parts.n_expert;
    let data: Vec<_> = (0..n).map(|_| weights::matrix(&mut bench.random, encoding, shape)).collect();
    let (matrix, matrix_other) = bench.experts(&data)?;
    let bias: Option<Both<B>> = bench.maybe(parts.bias_and_scale, [n, shape[0]]);
    let (bias, bias_other) = bias.map(|b| (b.scalar, b.other)).unzip();
    let scale: Vec<f32> =
        if parts.bias_and_scale { (0..n).map(|i| 0.5 + 0.1 * i as f32).collect() } else { Vec::new() };
    let scalar = Experts { matrix, bias, scale: scale.clone() };
    Some((scalar, Experts { matrix: matrix_other, bias: bias_other, scale }))
}

fn check<B: Backend>(bench: &mut Bench<'_, B>, parts: Parts, routing: Routing, n_tok: usize) {
    let Parts { n_expert, d_model, d_ff, form, act, .. } = parts;
    let n_up = if form == Form::Merged { 2 * d_ff } else { d_ff };
    let gate = if form == Form::Separate { experts(bench, &parts, [d_ff, d_model]) } else { None };
    let up = experts(bench, &parts, [n_up, d_model]);
    let down = experts(bench, &parts, [d_model, d_ff]);
    let (Some((up, up_other)), Some((down, down_other))) = (up, down) else { return };
    let (gate, gate_other) = gate.unzip();
    let bias = bench.maybe(routing.select_bias, [1, n_expert]);
    let (bias, bias_other) = bias.map(|b| (b.scalar, b.other)).unzip();
    let Routing { gating, groups, n_used, normalize, scale, weight_input, .. } = routing;
    let merged = form == Form::Merged;
    let (gate, select_bias, up, down) = (gate.as_ref(), bias.as_ref(), &up, &down);
    let moe = Moe::<Scalar> {
        gating,
        select_bias,
        groups,
        n_used,
        normalize,
        scale,
        weight_input,
        act,
        gate,
        up,
        merged,
        down,
    };
    let (gate, select_bias, up, down) = (gate_other.as_ref(), bias_other.as_ref(), &up_other, &down_other);
    let moe_other =
        Moe::<B> { gating, select_bias, groups, n_used, normalize, scale, weight_input, act, gate, up, merged, down };
    let x = bench.tensor([n_tok, d_model]);
    let logits = bench.tensor([n_tok, n_expert]);
    let want = Scalar.moe(&x.scalar, &logits.scalar, &moe);
    let got = bench.backend.moe(&x.other, &logits.other, &moe_other);
    let limit = Sample::blocks(parts.dtype).limit;
    bench.compare(format_args!("{parts:?}, {routing:?}, {n_tok} tokens"), limit, &want, &got);
}

/// Every gating, form and type, one token and many.
pub(super) fn moe<B: Backend>(bench: &mut Bench<'_, B>) {
    let routings = [
        PLAIN,
        Routing { n_used: 1, normalize: false, ..PLAIN },
        Routing { n_used: 8, normalize: false, scale: 2.5, ..PLAIN },
        Routing { gating: Gating::SparseMixer, ..PLAIN },
        Routing { gating: Gating::Sigmoid, select_bias: true, scale: 2.5, ..PLAIN },
        Routing { gating: Gating::Sigmoid, select_bias: true, groups: Some((4, 2)), n_used: 3, ..PLAIN },
        Routing { groups: Some((8, 4)), n_used: 4, normalize: false, ..PLAIN },
        Routing { gating: Gating::SoftmaxOfChosen, n_used: 4, normalize: false, ..PLAIN },
        Routing { gating: Gating::Sigmoid, n_used: 1, normalize: false, weight_input: true, ..PLAIN },
    ];
    for n_tok in [1, 2, 3, 7, 16, 33] {
        for routing in routings {
            check(bench, SMALL, routing, n_tok);
        }
    }
    let forms = [
        Parts { form: Form::Merged, act: Act::GeluTanh, ..SMALL },
        Parts { form: Form::NoGate, act: Act::ReluSquared, ..SMALL },
        Parts { bias_and_scale: true, act: Act::SwigluOai { alpha: 1.702, limit: 7.0 }, ..SMALL },
        Parts { form: Form::Merged, bias_and_scale: true, ..SMALL },
        Parts { form: Form::NoGate, bias_and_scale: true, act: Act::Relu, ..SMALL },
        Parts { dtype: DType::F16, d_model: 33, d_ff: 50, ..SMALL },
        Parts { dtype: DType::BF16, n_expert: 64, ..SMALL },
        Parts { dtype: DType::Q8_0, d_model: 96, d_ff: 64, ..SMALL },
        Parts { dtype: DType::Q4_K, d_model: 256, d_ff: 512, n_expert: 4, ..SMALL },
        Parts { dtype: DType::Q6_K, d_model: 512, d_ff: 256, n_expert: 4, form: Form::Merged, ..SMALL },
        Parts { dtype: DType::MXFP4, d_model: 64, d_ff: 64, n_expert: 16, bias_and_scale: true, ..SMALL },
    ];
    for parts in forms {
        for n_tok in [1, 5, 17] {
            check(bench, parts, PLAIN, n_tok);
        }
    }
}
