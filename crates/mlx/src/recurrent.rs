//! Causal convolution, state space scan and gated delta rule over the tokens of each row.

use mlxr_compute::op::{Delta, SeqRow, Seqs, Ssm};

use crate::ffi::{Array, Device, Dtype};
use crate::store::Kv;
use crate::tensor::Tensor;

/// The state of a row's slot, or zeros where the row begins: f32 `[n]`.
fn state(d: &Device, states: &Array, row: &SeqRow, n: usize) -> Array {
    if row.start == 0 {
        return d.zeros(&[n], Dtype::F32);
    }
    d.reshape(&d.slice(states, &[row.slot, 0], &[row.slot + 1, n]), &[n])
}

fn set_state(d: &Device, states: &mut Array, row: &SeqRow, new: &Array, n: usize) {
    *states = d.slice_update(states, &d.reshape(new, &[1, n]), &[row.slot, 0], &[row.slot + 1, n]);
}

/// Depthwise convolution: `out[t,c] = bias[c] + sum_k weight[c,k] * x[t - (n_kernel - 1) + k, c]`. The state of a slot
/// is `[n_channel, n_kernel - 1]`, oldest first.
pub(crate) fn conv(
    d: &Device,
    (kv, layer): (&mut Kv, usize),
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    seqs: &Seqs<'_>,
) -> Tensor {
    let [n_tok, n_channel] = x.shape;
    let n_past = weight.shape[1] - 1;
    assert_eq!(weight.shape[0], n_channel, "conv: a weight {:?} for {n_channel} channels", weight.shape);
    assert!(bias.is_none_or(|b| b.shape == [1, n_channel]), "conv: the bias does not fit {n_channel} channels");
    seqs.check_recurrent(n_tok, kv.spec.n_slot);
    let [states, _] = kv.recurrent(layer);
    let size = n_channel * n_past;
    assert_eq!(states.shape()[1], size, "conv: the layer's state does not fit the weight");
    let columns: Vec<Array> = (0..=n_past)
        .map(|k| d.reshape(&d.slice(&weight.array, &[0, k], &[n_channel, k + 1]), &[1, n_channel]))
        .collect();
    let mut outputs = Vec::with_capacity(seqs.rows.len());
    for row in seqs.rows.iter().filter(|row| row.n_tok > 0) {
        let own = d.slice(&x.array, &[row.first, 0], &[row.first + row.n_tok, n_channel]);
        let inputs = if n_past == 0 {
            own
        } else {
            let past = d.reshape(&state(d, states, row, size), &[n_channel, n_past]);
            d.concatenate(&[&d.transpose(&past, &[1, 0]), &own], 0)
        };
        let shifted = |k: usize| d.slice(&inputs, &[k, 0], &[k + row.n_tok, n_channel]);
        let mut sum = d.multiply(&shifted(0), &columns[0]);
        for (k, column) in columns.iter().enumerate().skip(1) {
            sum = d.add(&sum, &d.multiply(&shifted(k), column));
        }
        outputs.push(bias.map_or_else(|| sum.clone(), |bias| d.add(&sum, &bias.array)));
        if n_past > 0 {
            let last = d.slice(&inputs, &[row.n_tok, 0], &[row.n_tok + n_past, n_channel]);
            set_state(d, states, row, &d.transpose(&last, &[1, 0]), size);
        }
    }
    Tensor::new(d.concatenate(&outputs.iter().collect::<Vec<_>>(), 0), x.shape)
}

/// `h[s] = h[s] * exp(dt * a[s]) + dt * b[s] * x`, `y = sum_s h[s] * c[s]`, for each head and channel. The state of a
/// slot is `[n_head, d_head, d_state]`.
pub(crate) fn ssm_scan(
    d: &Device,
    (kv, layer): (&mut Kv, usize),
    ssm: &Ssm,
    [input, dt, a]: [&Tensor; 3],
    seqs: &Seqs<'_>,
) -> Tensor {
    let Ssm { n_head, d_head, d_state, .. } = *ssm;
    let n_tok = input.shape[0];
    ssm.check([input.shape, dt.shape, a.shape]);
    seqs.check_recurrent(n_tok, kv.spec.n_slot);
    let [_, states] = kv.recurrent(layer);
    let size = n_head * d_head * d_state;
    assert_eq!(states.shape()[1], size, "ssm_scan: the layer's state does not fit {ssm:?}");
    let a = d.reshape(&a.array, &[n_head, 1, a.shape[1]]);
    let mut outputs = Vec::with_capacity(n_tok);
    for row in seqs.rows.iter().filter(|row| row.n_tok > 0) {
        let mut h = d.reshape(&state(d, states, row, size), &[n_head, d_head, d_state]);
        for token in row.first..row.first + row.n_tok {
            let [x, b, c] = token_parts(d, ssm, input, token);
            let dt = d.reshape(&d.slice(&dt.array, &[token, 0], &[token + 1, n_head]), &[n_head, 1, 1]);
            let decay = d.exp(&d.multiply(&dt, &a));
            let new = d.multiply(&d.multiply(&dt, &b), &x);
            h = d.add(&d.multiply(&h, &decay), &new);
            outputs.push(d.reshape(&d.sum(&d.multiply(&h, &c), -1, false), &[1, n_head * d_head]));
        }
        set_state(d, states, row, &h, size);
    }
    let array = d.concatenate(&outputs.iter().collect::<Vec<_>>(), 0);
    Tensor::new(array, [n_tok, n_head * d_head])
}

/// `x` `[n_head, d_head, 1]`, `b` and `c` `[n_head, 1, d_state]` of a token.
fn token_parts(d: &Device, ssm: &Ssm, input: &Tensor, token: usize) -> [Array; 3] {
    let Ssm { n_head, d_head, d_state, n_group } = *ssm;
    let (d_inner, d_bc) = (n_head * d_head, n_group * d_state);
    let part = |from: usize, to: usize| d.slice(&input.array, &[token, from], &[token + 1, to]);
    let grouped = |part: &Array| {
        let shape = [n_group, n_head / n_group, 1, d_state];
        let repeated = d.broadcast(&d.reshape(part, &[n_group, 1, 1, d_state]), &shape);
        d.reshape(&repeated, &[n_head, 1, d_state])
    };
    let (b, c) = (part(d_inner, d_inner + d_bc), part(d_inner + d_bc, d_inner + 2 * d_bc));
    [d.reshape(&part(0, d_inner), &[n_head, d_head, 1]), grouped(&b), grouped(&c)]
}

/// `S = S * exp(decay)`, `S = S + beta * (v - S k) k^T`, result `S q`, for each head. The state of a slot is
/// `[n_head, d_v, d_k]`.
pub(crate) fn delta_scan(
    d: &Device,
    (kv, layer): (&mut Kv, usize),
    delta: &Delta,
    [q, k, v, decay, beta]: [&Tensor; 5],
    seqs: &Seqs<'_>,
) -> Tensor {
    let Delta { n_head, n_key_head, d_k, d_v, tiled } = *delta;
    let n_tok = q.shape[0];
    delta.check([q.shape, k.shape, v.shape, decay.shape, beta.shape]);
    seqs.check_recurrent(n_tok, kv.spec.n_slot);
    let [_, states] = kv.recurrent(layer);
    let size = n_head * d_v * d_k;
    assert_eq!(states.shape()[1], size, "delta_scan: the layer's state does not fit {delta:?}");
    // Queries and keys of every head, `[n_tok, n_head, 1, d_k]`: those of a key head serve its heads.
    let repeated = |x: &Tensor| {
        let group = n_head / n_key_head;
        let (one, all) = if tiled {
            ([n_tok, 1, n_key_head, d_k], [n_tok, group, n_key_head, d_k])
        } else {
            ([n_tok, n_key_head, 1, d_k], [n_tok, n_key_head, group, d_k])
        };
        d.reshape(&d.broadcast(&d.reshape(&x.array, &one), &all), &[n_tok, n_head, 1, d_k])
    };
    let d_decay = decay.shape[1] / n_head;
    let inputs = [
        (repeated(q), [1, d_k]),
        (repeated(k), [1, d_k]),
        (d.reshape(&v.array, &[n_tok, n_head, d_v, 1]), [d_v, 1]),
        (d.exp(&d.reshape(&decay.array, &[n_tok, n_head, 1, d_decay])), [1, d_decay]),
        (d.reshape(&beta.array, &[n_tok, n_head, 1, 1]), [1, 1]),
    ];
    let mut outputs = Vec::with_capacity(n_tok);
    for row in seqs.rows.iter().filter(|row| row.n_tok > 0) {
        let mut s = d.reshape(&state(d, states, row, size), &[n_head, d_v, d_k]);
        for token in row.first..row.first + row.n_tok {
            let [q, k, v, decay, beta] = [0, 1, 2, 3, 4].map(|i: usize| {
                let (array, [rows, columns]) = (&inputs[i].0, inputs[i].1);
                let one = d.slice(array, &[token, 0, 0, 0], &[token + 1, n_head, rows, columns]);
                d.reshape(&one, &[n_head, rows, columns])
            });
            s = d.multiply(&s, &decay);
            let recalled = d.sum(&d.multiply(&s, &k), -1, true);
            let lacks = d.multiply(&beta, &d.subtract(&v, &recalled));
            s = d.add(&s, &d.multiply(&lacks, &k));
            outputs.push(d.reshape(&d.sum(&d.multiply(&s, &q), -1, false), &[1, n_head * d_v]));
        }
        set_state(d, states, row, &s, size);
    }
    let array = d.concatenate(&outputs.iter().collect::<Vec<_>>(), 0);
    Tensor::new(array, v.shape)
}
