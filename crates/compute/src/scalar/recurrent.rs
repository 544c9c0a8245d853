//! Causal convolution and state space scan over the tokens of each row.

use super::{Store, Tensor};
use crate::op::{Seqs, Ssm};

/// Depthwise convolution: `out[t,c] = bias[c] + sum_k weight[c,k] * x[t - (n_kernel - 1) + k, c]`.
///
/// The state of a slot is `[n_channel, n_kernel - 1]`, oldest first.
pub(super) fn conv(
    kv: &mut Store,
    layer: usize,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    seqs: &Seqs<'_>,
) -> Tensor {
    let [n_tok, n_channel] = x.shape;
    let n_kernel = weight.shape[1];
    assert_eq!(weight.shape[0], n_channel, "conv: a weight {:?} for {n_channel} channels", weight.shape);
    assert!(bias.is_none_or(|b| b.shape == [1, n_channel]), "conv: the bias does not fit {n_channel} channels");
    seqs.check_recurrent(n_tok, kv.spec.n_slot);
    let mut out = Tensor::zeros(x.shape);
    for row in seqs.rows {
        let (state, _) = kv.recurrent(layer, row.slot);
        assert_eq!(state.len(), n_channel * (n_kernel - 1), "conv: the layer's state does not fit the weight");
        if row.start == 0 {
            state.fill(0.0);
        }
        for c in 0..n_channel {
            let past = &mut state[c * (n_kernel - 1)..][..n_kernel - 1];
            let mut inputs = past.to_vec();
            inputs.extend((0..row.n_tok).map(|t| x.row(row.first + t)[c]));
            for t in 0..row.n_tok {
                let sum = super::linear::dot(weight.row(c), &inputs[t..][..n_kernel]);
                out.row_mut(row.first + t)[c] = sum + bias.map_or(0.0, |b| b.data[c]);
            }
            past.copy_from_slice(&inputs[row.n_tok..]);
        }
    }
    out
}

/// `h[s] = h[s] * exp(dt * a[s]) + dt * b[s] * x`, `y = sum_s h[s] * c[s]`, for each head and channel.
///
/// The state of a slot is `[n_head, d_head, d_state]`.
pub(super) fn ssm_scan(
    kv: &mut Store,
    layer: usize,
    ssm: &Ssm,
    [input, dt, a]: [&Tensor; 3],
    seqs: &Seqs<'_>,
) -> Tensor {
    let Ssm { n_head, d_head, d_state, n_group } = *ssm;
    let n_tok = input.shape[0];
    ssm.check([input.shape, dt.shape, a.shape]);
    seqs.check_recurrent(n_tok, kv.spec.n_slot);
    let mut out = Tensor::zeros([n_tok, n_head * d_head]);
    for row in seqs.rows {
        let (_, state) = kv.recurrent(layer, row.slot);
        assert_eq!(state.len(), n_head * d_head * d_state, "ssm_scan: the layer's state does not fit {ssm:?}");
        if row.start == 0 {
            state.fill(0.0);
        }
        for token in row.first..row.first + row.n_tok {
            let (x, bc) = input.row(token).split_at(n_head * d_head);
            let (b, c) = bc.split_at(n_group * d_state);
            for (i, (h, &x)) in state.chunks_exact_mut(d_state).zip(x).enumerate() {
                let head = i / d_head;
                let group = head / (n_head / n_group) * d_state;
                let dt = f64::from(dt.row(token)[head]);
                let mut y = 0.0;
                for (s, h) in h.iter_mut().enumerate() {
                    let a = f64::from(a.row(head)[if a.shape[1] == 1 { 0 } else { s }]);
                    let new = f64::from(*h) * (dt * a).exp() + dt * f64::from(b[group + s]) * f64::from(x);
                    *h = new as f32;
                    y += new * f64::from(c[group + s]);
                }
                out.row_mut(token)[i] = y as f32;
            }
        }
    }
    out
}
