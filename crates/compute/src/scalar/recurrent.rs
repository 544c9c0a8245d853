//! Causal convolution and state space scan over the tokens of each row.

use super::{Store, Tensor};
use crate::op::{Delta, Seqs, Ssm};

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

/// `S = S exp(decay)`, `S = S + beta (v - S k) k^T`, `y = S q`, for each head.
///
/// The state of a slot is `[n_head, d_v, d_k]`.
pub(super) fn delta_scan(
    kv: &mut Store,
    layer: usize,
    delta: &Delta,
    [q, k, v, decay, beta]: [&Tensor; 5],
    seqs: &Seqs<'_>,
) -> Tensor {
    let Delta { n_head, d_k, d_v, .. } = *delta;
    let n_tok = q.shape[0];
    delta.check([q.shape, k.shape, v.shape, decay.shape, beta.shape]);
    seqs.check_recurrent(n_tok, kv.spec.n_slot);
    let each = decay.shape[1] != n_head;
    let mut out = Tensor::zeros(v.shape);
    for row in seqs.rows {
        let (_, state) = kv.recurrent(layer, row.slot);
        assert_eq!(state.len(), n_head * d_v * d_k, "delta_scan: the layer's state does not fit {delta:?}");
        if row.start == 0 {
            state.fill(0.0);
        }
        for token in row.first..row.first + row.n_tok {
            for (i, s) in state.chunks_exact_mut(d_k).enumerate() {
                let head = i / d_v;
                let key = delta.key_head(head) * d_k;
                let (q, k) = (&q.row(token)[key..][..d_k], &k.row(token)[key..][..d_k]);
                let decay = |c: usize| f64::from(decay.row(token)[if each { head * d_k + c } else { head }]).exp();
                let faded: Vec<f64> = s.iter().enumerate().map(|(c, &s)| f64::from(s) * decay(c)).collect();
                let recalled: f64 = faded.iter().zip(k).map(|(s, &k)| s * f64::from(k)).sum();
                let lacks = f64::from(beta.row(token)[head]) * (f64::from(v.row(token)[i]) - recalled);
                let new: Vec<f64> = faded.iter().zip(k).map(|(s, &k)| s + lacks * f64::from(k)).collect();
                out.row_mut(token)[i] = new.iter().zip(q).map(|(s, &q)| s * f64::from(q)).sum::<f64>() as f32;
                s.iter_mut().zip(new).for_each(|(s, new)| *s = new as f32);
            }
        }
    }
    out
}
