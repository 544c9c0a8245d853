//! Operations on rows: norms, rotation, element by element.

use super::{Scalar, Tensor};
use crate::op::{Act, Norm, NormKind, Rope, RopePairs};

/// The rows normalized, if there is a norm.
pub(super) fn normed(x: &Tensor, norm: Option<&Norm<Scalar>>) -> Tensor {
    match norm {
        Some(norm) => head_norm(x.clone(), 1, norm),
        None => x.clone(),
    }
}

/// Every head of every row normalized.
pub(super) fn head_norm(mut x: Tensor, n_head: usize, norm: &Norm<Scalar>) -> Tensor {
    let n_col = x.shape[1];
    assert!(n_head > 0 && n_col.is_multiple_of(n_head), "norm: rows of {n_col} in {n_head} heads");
    let d_head = n_col / n_head;
    for (i, head) in x.data.chunks_exact_mut(d_head.max(1)).enumerate() {
        normalize(head, norm.kind, norm.eps);
        if let Some(w) = &norm.weight {
            head.iter_mut().zip(parameter(w, i % n_head, [n_head, d_head])).for_each(|(x, w)| *x *= w);
        }
        if let Some(b) = &norm.bias {
            head.iter_mut().zip(parameter(b, i % n_head, [n_head, d_head])).for_each(|(x, b)| *x += b);
        }
    }
    x
}

fn normalize(x: &mut [f32], kind: NormKind, eps: f32) {
    let mean_of = |f: &dyn Fn(f64) -> f64| x.iter().map(|&v| f(f64::from(v))).sum::<f64>() / x.len() as f64;
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => mean_of(&|v| v),
    };
    let factor = 1.0 / (mean_of(&|v| (v - mean) * (v - mean)) + f64::from(eps)).sqrt();
    x.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * factor) as f32);
}

/// The head's part of a weight or bias `[1, d_head]` or `[n_head, d_head]`.
fn parameter(p: &Tensor, head: usize, [n_head, d_head]: [usize; 2]) -> &[f32] {
    let [n_row, n_col] = p.shape;
    assert!(
        (n_row == 1 || n_row == n_head) && n_col == d_head,
        "norm: a parameter {:?} for {n_head} heads of {d_head}",
        p.shape
    );
    p.row(if n_row == 1 { 0 } else { head })
}

/// Every head of every row rotated.
pub(super) fn rope(mut x: Tensor, n_head: usize, positions: &[i32], rope: &Rope) -> Tensor {
    let [n_tok, n_col] = x.shape;
    assert_eq!(positions.len(), n_tok, "rope: positions and rows differ in number");
    assert!(n_head > 0 && n_col.is_multiple_of(n_head), "rope: rows of {n_col} in {n_head} heads");
    let (d_head, n_pair) = (n_col / n_head, rope.freqs.len());
    assert!(rope.offset + 2 * n_pair <= d_head, "rope: {n_pair} pairs from {} in heads of {d_head}", rope.offset);
    for (i, head) in x.data.chunks_exact_mut(d_head.max(1)).enumerate() {
        for (pair, &freq) in rope.freqs.iter().enumerate() {
            let (a, b) = match rope.pairs {
                RopePairs::HalfSplit => (pair, pair + n_pair),
                RopePairs::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (sin, cos) = (f64::from(positions[i / n_head]) * f64::from(freq)).sin_cos();
            let (x, y) = (f64::from(head[rope.offset + a]), f64::from(head[rope.offset + b]));
            head[rope.offset + a] = (f64::from(rope.scale) * (x * cos - y * sin)) as f32;
            head[rope.offset + b] = (f64::from(rope.scale) * (x * sin + y * cos)) as f32;
        }
    }
    x
}

/// `f` of each number.
pub(super) fn map(mut x: Tensor, f: impl Fn(f32) -> f32) -> Tensor {
    x.data.iter_mut().for_each(|v| *v = f(*v));
    x
}

/// `act(gate) * up`.
pub(super) fn glu(mut gate: Tensor, up: &Tensor, act: Act) -> Tensor {
    assert_eq!(gate.shape, up.shape, "glu: gate and up differ in shape");
    gate.data.iter_mut().zip(&up.data).for_each(|(g, &u)| *g = act.glu(*g, u));
    gate
}

/// `a + b`, `b` whole or one row.
pub(super) fn add(mut a: Tensor, b: &Tensor) -> Tensor {
    let [n_row, n_col] = a.shape;
    assert!(b.shape == a.shape || b.shape == [1, n_col], "add: {:?} to {:?}", b.shape, a.shape);
    for i in 0..n_row {
        let b = b.row(if b.shape[0] == 1 { 0 } else { i });
        a.row_mut(i).iter_mut().zip(b).for_each(|(a, b)| *a += b);
    }
    a
}

/// `a * b`, `b` whole, one row or one column.
pub(super) fn mul(mut a: Tensor, b: &Tensor) -> Tensor {
    let [n_row, n_col] = a.shape;
    let fits = [[n_row, n_col], [1, n_col], [n_row, 1]].contains(&b.shape);
    assert!(fits, "mul: {:?} by {:?}", a.shape, b.shape);
    for i in 0..n_row {
        for j in 0..n_col {
            let row = if b.shape[0] == 1 { 0 } else { i };
            let col = if b.shape[1] == 1 { 0 } else { j };
            a.row_mut(i)[j] *= b.row(row)[col];
        }
    }
    a
}

/// Columns `from..to`.
pub(super) fn columns(x: &Tensor, from: usize, to: usize) -> Tensor {
    assert!(from <= to && to <= x.shape[1], "columns: {from}..{to} of {}", x.shape[1]);
    let data = (0..x.shape[0]).flat_map(|i| x.row(i)[from..to].iter().copied()).collect();
    Tensor { shape: [x.shape[0], to - from], data }
}

/// Per head, `a` then `b`, whose one head may serve all.
pub(super) fn concat_heads(a: &Tensor, b: &Tensor, n_head: usize, n_head_b: usize) -> Tensor {
    let ([n_tok, n_a], [n_tok_b, n_b]) = (a.shape, b.shape);
    assert_eq!(n_tok, n_tok_b, "concat_heads: the tensors differ in rows");
    assert!(n_head > 0 && n_a.is_multiple_of(n_head), "concat_heads: rows of {n_a} in {n_head} heads");
    assert!([1, n_head].contains(&n_head_b), "concat_heads: {n_head_b} heads to each of {n_head}");
    assert!(n_b.is_multiple_of(n_head_b), "concat_heads: rows of {n_b} in {n_head_b} heads");
    let (d_a, d_b) = (n_a / n_head, n_b / n_head_b);
    let mut data = Vec::with_capacity(n_tok * n_head * (d_a + d_b));
    for t in 0..n_tok {
        for h in 0..n_head {
            let h_b = if n_head_b == 1 { 0 } else { h };
            data.extend_from_slice(&a.row(t)[h * d_a..][..d_a]);
            data.extend_from_slice(&b.row(t)[h_b * d_b..][..d_b]);
        }
    }
    Tensor { shape: [n_tok, n_head * (d_a + d_b)], data }
}

/// Rows `indices`.
pub(super) fn rows(x: &Tensor, indices: &[usize]) -> Tensor {
    let row = |&i: &usize| {
        assert!(i < x.shape[0], "rows: row {i} of {}", x.shape[0]);
        x.row(i).iter().copied()
    };
    Tensor { shape: [indices.len(), x.shape[1]], data: indices.iter().flat_map(row).collect() }
}
