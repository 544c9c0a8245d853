//! Operations on rows: norms, rotation, activations, heads.

use mlxr_compute::op::{Act, Norm, NormKind, Rope, RopePairs};

use crate::backend::Mlx;
use crate::ffi::{Array, Device, Dtype, Rotation};
use crate::tensor::Tensor;

/// Every head of every row normalized.
pub(crate) fn norm(d: &Device, x: &Tensor, n_head: usize, norm: &Norm<Mlx>) -> Tensor {
    let [n_tok, n_col] = x.shape;
    assert!(n_head > 0 && n_col.is_multiple_of(n_head), "norm: rows of {n_col} in {n_head} heads");
    let d_head = n_col / n_head;
    for parameter in [&norm.weight, &norm.bias].into_iter().flatten() {
        let fits = parameter.shape == [1, d_head] || parameter.shape == [n_head, d_head];
        assert!(fits, "norm: a parameter {:?} for {n_head} heads of {d_head}", parameter.shape);
    }
    let heads = d.reshape(&x.array, &[n_tok, n_head, d_head]);
    let shared = [&norm.weight, &norm.bias].into_iter().flatten().all(|p| p.shape[0] == 1);
    let vector = |p: &Option<Tensor>| p.as_ref().map(|p| d.reshape(&p.array, &[d_head]));
    let (weight, bias) = if shared { (vector(&norm.weight), vector(&norm.bias)) } else { (None, None) };
    let mut y = match norm.kind {
        NormKind::Rms => d.rms_norm(&heads, weight.as_ref(), norm.eps),
        NormKind::Layer => d.layer_norm(&heads, weight.as_ref(), bias.as_ref(), norm.eps),
    };
    // MLX takes weights that heads share; others are multiplied after, and its RMS norm has no bias.
    if let (Some(weight), false) = (&norm.weight, shared) {
        y = d.multiply(&y, &weight.array);
    }
    if let (Some(bias), true) = (&norm.bias, !shared || norm.kind == NormKind::Rms) {
        y = d.add(&y, &bias.array);
    }
    Tensor::new(d.reshape(&y, &x.shape), x.shape)
}

/// Arrays of rotation periods and of positions, kept from call to call: layers share them.
#[derive(Default)]
pub(crate) struct Periods {
    tables: Vec<(Vec<f32>, Array)>,
    positions: Option<(Vec<i32>, Array)>,
}

/// Tables of periods that are kept; a model has one or two.
const MAX_TABLES: usize = 16;

impl Periods {
    /// Positions a radian, `1 / freqs`.
    fn table(&mut self, d: &Device, freqs: &[f32]) -> Array {
        if let Some((_, array)) = self.tables.iter().find(|(f, _)| f == freqs) {
            return array.clone();
        }
        let periods: Vec<f32> = freqs.iter().map(|f| 1.0 / f).collect();
        let array = d.from_slice(&periods, &[periods.len()], Dtype::F32);
        self.tables.truncate(MAX_TABLES - 1);
        self.tables.insert(0, (freqs.to_vec(), array.clone()));
        array
    }

    fn positions(&mut self, d: &Device, positions: &[i32]) -> Array {
        match &self.positions {
            Some((known, array)) if known == positions => array.clone(),
            _ => {
                let array = d.from_slice(positions, &[positions.len()], Dtype::I32);
                self.positions = Some((positions.to_vec(), array.clone()));
                array
            }
        }
    }
}

/// Every head of every row rotated.
pub(crate) fn rope(mlx: &mut Mlx, x: &Tensor, n_head: usize, positions: &[i32], rope: &Rope) -> Tensor {
    let [n_tok, n_col] = x.shape;
    assert_eq!(positions.len(), n_tok, "rope: positions and rows differ in number");
    assert!(n_head > 0 && n_col.is_multiple_of(n_head), "rope: rows of {n_col} in {n_head} heads");
    let (d_head, dims) = (n_col / n_head, 2 * rope.freqs.len());
    assert!(rope.offset + dims <= d_head, "rope: {dims} dimensions from {} in heads of {d_head}", rope.offset);
    if dims == 0 {
        return Tensor::new(x.array.clone(), x.shape);
    }
    let d = &mlx.device;
    let (periods, positions) = (mlx.periods.table(d, &rope.freqs), mlx.periods.positions(d, positions));
    let rotation = Rotation { dims, interleaved: rope.pairs == RopePairs::Interleaved };
    let heads = d.reshape(&x.array, &[n_tok, n_head, 1, d_head]);
    let rotated = if rope.offset == 0 && rope.scale == 1.0 {
        d.rope(&heads, &positions, &periods, rotation)
    } else {
        let part = |from, to| d.slice(&heads, &[0, 0, 0, from], &[n_tok, n_head, 1, to]);
        let (from, to) = (rope.offset, rope.offset + dims);
        let mut middle = d.rope(&part(from, to), &positions, &periods, rotation);
        if rope.scale != 1.0 {
            middle = d.multiply(&middle, &d.scalar(rope.scale));
        }
        let (before, after) = (part(0, from), part(to, d_head));
        let parts = [(from > 0, &before), (true, &middle), (to < d_head, &after)];
        let parts: Vec<&Array> = parts.into_iter().filter(|(some, _)| *some).map(|(_, part)| part).collect();
        d.concatenate(&parts, -1)
    };
    Tensor::new(d.reshape(&rotated, &x.shape), x.shape)
}

/// `act(x)`, element by element.
pub(crate) fn act(d: &Device, x: &Array, act: Act) -> Array {
    let times = |a: &Array, factor: f32| d.multiply(a, &d.scalar(factor));
    let plus = |a: &Array, term: f32| d.add(a, &d.scalar(term));
    let relu = || d.maximum(x, &d.scalar(0.0));
    match act {
        Act::Silu => d.multiply(x, &d.sigmoid(x)),
        Act::GeluTanh => {
            let cube = d.multiply(&d.multiply(x, x), x);
            let inner = times(&d.add(x, &times(&cube, 0.044715)), (2.0 / std::f32::consts::PI).sqrt());
            d.multiply(&times(x, 0.5), &plus(&d.tanh(&inner), 1.0))
        }
        Act::GeluErf => d.multiply(&times(x, 0.5), &plus(&d.erf(&times(x, std::f32::consts::FRAC_1_SQRT_2)), 1.0)),
        Act::GeluQuick => d.multiply(x, &d.sigmoid(&times(x, 1.702))),
        Act::Relu => relu(),
        Act::ReluSquared => d.multiply(&relu(), &relu()),
        Act::Sigmoid => d.sigmoid(x),
        Act::Tanh => d.tanh(x),
        Act::Softplus => d.logaddexp(x, &d.scalar(0.0)),
        Act::Clamp(limit) => clamp(d, x, limit),
        Act::SwigluOai { .. } => panic!("SwigluOai is no function of one number: use it with a gate and an up"),
    }
}

fn clamp(d: &Device, x: &Array, limit: f32) -> Array {
    d.minimum(&d.maximum(x, &d.scalar(-limit)), &d.scalar(limit))
}

/// `act(gate) * up`, or what `SwigluOai` does with both.
pub(crate) fn glu(d: &Device, gate: &Array, up: &Array, act: Act) -> Array {
    let Act::SwigluOai { alpha, limit } = act else {
        return d.multiply(&self::act(d, gate, act), up);
    };
    let gate = d.minimum(gate, &d.scalar(limit));
    let up = d.add(&clamp(d, up, limit), &d.scalar(1.0));
    let slope = d.sigmoid(&d.multiply(&gate, &d.scalar(alpha)));
    d.multiply(&d.multiply(&gate, &slope), &up)
}

/// `cap * tanh(x / cap)`.
pub(crate) fn softcap(d: &Device, x: &Array, cap: f32) -> Array {
    d.multiply(&d.tanh(&d.divide(x, &d.scalar(cap))), &d.scalar(cap))
}

/// Per head, `a` then `b`, whose one head may serve all.
pub(crate) fn concat_heads(d: &Device, a: &Tensor, b: &Tensor, n_head: usize, n_head_b: usize) -> Tensor {
    let ([n_tok, n_a], [n_tok_b, n_b]) = (a.shape, b.shape);
    assert_eq!(n_tok, n_tok_b, "concat_heads: the tensors differ in rows");
    assert!(n_head > 0 && n_a.is_multiple_of(n_head), "concat_heads: rows of {n_a} in {n_head} heads");
    assert!([1, n_head].contains(&n_head_b), "concat_heads: {n_head_b} heads to each of {n_head}");
    assert!(n_b.is_multiple_of(n_head_b), "concat_heads: rows of {n_b} in {n_head_b} heads");
    let (d_a, d_b) = (n_a / n_head, n_b / n_head_b);
    let b = d.broadcast(&d.reshape(&b.array, &[n_tok, n_head_b, d_b]), &[n_tok, n_head, d_b]);
    let joined = d.concatenate(&[&d.reshape(&a.array, &[n_tok, n_head, d_a]), &b], -1);
    let shape = [n_tok, n_head * (d_a + d_b)];
    Tensor::new(d.reshape(&joined, &shape), shape)
}
