//! Causal convolution and state space scan, shared out by channels and heads, over which tokens follow each other.

use super::Pool;
use super::elementwise::{put, some};
use super::kv::Kv;
use super::math;
use super::shared::Shared;
use super::tensor::{Memory, Tensor};
use super::vector::{Kernel, Kernels, LANES, Lanes, Vector};
use crate::Error;
use crate::op::{Delta, Seqs, Ssm};

/// Products below which one thread computes all.
const ALONE: usize = 32 * 1024;
/// Channels of an item of a convolution.
const CHANNELS: usize = 4 * LANES;
/// States of an item of a scan.
const STATES: usize = 4096;

/// Weights and biases of a convolution.
pub(super) type Filter<'a> = (&'a Tensor, Option<&'a Tensor>);

/// Runs items of work in the pool, or in this thread when they are small.
fn run(pool: &Pool, alone: bool, n: usize, item: impl Fn(usize) + Sync) -> Result<(), Error> {
    if alone {
        (0..n).for_each(item);
        return Ok(());
    }
    pool.run(n, |_, i| item(i))
}

/// See [`crate::Backend::conv`]. The state of a slot is `[n_kernel - 1, n_channel]`, oldest first.
pub(super) fn conv(
    (kernels, pool, memory): (Kernels, &Pool, &Memory),
    (kv, layer): (&mut Kv, usize),
    x: &Tensor,
    (weight, bias): Filter<'_>,
    seqs: &Seqs<'_>,
) -> Result<Tensor, Error> {
    let ([n_tok, n_channel], n_kernel) = (x.shape, weight.shape[1]);
    assert!(weight.shape[0] == n_channel && n_kernel > 0, "conv: a weight {:?} for {n_channel} channels", weight.shape);
    assert!(bias.is_none_or(|b| b.shape == [1, n_channel]), "conv: the bias does not fit {n_channel} channels");
    let n_slot = kv.spec.n_slot;
    seqs.check_recurrent(n_tok, n_slot);
    let (state, _) = kv.recurrent(layer);
    assert_eq!(state.len(), n_slot * n_channel * (n_kernel - 1), "conv: the layer's state does not fit the weight");
    let mut out = memory.tensor(x.shape);
    let (state, shared) = (Shared::new(state), Shared::new(&mut out.data));
    let alone = n_tok * n_channel * n_kernel <= ALONE;
    run(pool, alone, n_channel.div_ceil(CHANNELS), |item| {
        for first in (item * CHANNELS..n_channel.min((item + 1) * CHANNELS)).step_by(LANES) {
            let bias = bias.map(|b| &*b.data);
            kernels.run(Conv { x, weight, bias, seqs, state: &state, out: &shared, first });
        }
    })?;
    Ok(out)
}

/// Sixteen channels of all rows.
struct Conv<'a> {
    x: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a [f32]>,
    seqs: &'a Seqs<'a>,
    state: &'a Shared<'a, f32>,
    out: &'a Shared<'a, f32>,
    first: usize,
}

impl Kernel for Conv<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Conv { x, weight, bias, seqs, state, out, first } = self;
        let ([n_channel, n_kernel], past) = (weight.shape, weight.shape[1] - 1);
        let n = LANES.min(n_channel - first);
        let bias = bias.map_or(v.splat(0.0), |b| some(v, &b[first..][..n]));
        for row in seqs.rows {
            // The input of token `t - back`, which may lie in the state.
            let base = row.slot * past * n_channel + first;
            // SAFETY: slots of rows are distinct, and each item has its own channels of every slot and token.
            let old = |k: usize| unsafe { &*state.part(base + k * n_channel, n) };
            for t in 0..row.n_tok {
                let mut sum = bias;
                for k in 0..n_kernel {
                    let mut weights: Lanes<f32> = [0.0; LANES];
                    for (c, w) in weights.iter_mut().take(n).enumerate() {
                        *w = weight.data[(first + c) * n_kernel + k];
                    }
                    let input = match (t + k).checked_sub(past) {
                        Some(t) => some(v, &x.row(row.first + t)[first..][..n]),
                        None if row.start == 0 => v.splat(0.0),
                        None => some(v, old(t + k)),
                    };
                    sum = v.fma(v.load(&weights), input, sum);
                }
                // SAFETY: as above.
                let out = unsafe { out.part((row.first + t) * n_channel + first, n) };
                put(v, out, sum);
            }
            for k in 0..past {
                // SAFETY: as above; the reference ends before the next one is made.
                let new = match (row.n_tok + k).checked_sub(past) {
                    Some(t) => some(v, &x.row(row.first + t)[first..][..n]),
                    None if row.start == 0 => v.splat(0.0),
                    None => some(v, old(row.n_tok + k)),
                };
                // SAFETY: as above.
                let place = unsafe { state.part(base + k * n_channel, n) };
                put(v, place, new);
            }
        }
    }
}

/// See [`crate::Backend::ssm_scan`]. The state of a slot is `[n_head, d_head, d_state]`.
pub(super) fn ssm_scan(
    (kernels, pool, memory): (Kernels, &Pool, &Memory),
    (kv, layer): (&mut Kv, usize),
    ssm: &Ssm,
    [input, dt, a]: [&Tensor; 3],
    seqs: &Seqs<'_>,
) -> Result<Tensor, Error> {
    let Ssm { n_head, d_head, d_state, .. } = *ssm;
    let n_tok = input.shape[0];
    ssm.check([input.shape, dt.shape, a.shape]);
    let n_slot = kv.spec.n_slot;
    seqs.check_recurrent(n_tok, n_slot);
    let (_, state) = kv.recurrent(layer);
    let per_slot = n_head * d_head * d_state;
    assert_eq!(state.len(), n_slot * per_slot, "ssm_scan: the layer's state does not fit {ssm:?}");
    let mut out = memory.tensor([n_tok, n_head * d_head]);
    let (state, shared) = (Shared::new(state), Shared::new(&mut out.data));
    let per_item = (STATES / (d_head * d_state).max(1)).clamp(1, n_head);
    let n_item = n_head.div_ceil(per_item);
    run(pool, n_tok * per_slot <= ALONE, seqs.rows.len() * n_item, |item| {
        let row = &seqs.rows[item / n_item];
        let first = item % n_item * per_item;
        for head in first..n_head.min(first + per_item) {
            // SAFETY: slots of rows are distinct, and each item has its own heads.
            let state = unsafe { state.part(row.slot * per_slot + head * d_head * d_state, d_head * d_state) };
            if row.start == 0 {
                state.fill(0.0);
            }
            for token in row.first..row.first + row.n_tok {
                // SAFETY: as above.
                let out = unsafe { shared.part((token * n_head + head) * d_head, d_head) };
                kernels.run(Scan {
                    ssm,
                    input: input.row(token),
                    dt: dt.row(token)[head],
                    a: a.row(head),
                    head,
                    state,
                    out,
                });
            }
        }
    })?;
    Ok(out)
}

/// One head of one token.
struct Scan<'a> {
    ssm: &'a Ssm,
    input: &'a [f32],
    dt: f32,
    a: &'a [f32],
    head: usize,
    state: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Scan { ssm, input, dt, a, head, state, out } = self;
        let Ssm { n_head, d_head, d_state, n_group } = *ssm;
        let (x, bc) = input.split_at(n_head * d_head);
        let group = head / (n_head / n_group) * d_state;
        let b = &bc[group..][..d_state];
        let c = &bc[n_group * d_state + group..][..d_state];
        let decay = math::exp(v, v.splat(dt * a[0]));
        for (i, (h, y)) in state.chunks_exact_mut(d_state).zip(out).enumerate() {
            let (x, mut sum) = (v.splat(dt * x[head * d_head + i]), v.splat(0.0));
            for s in (0..d_state).step_by(LANES) {
                let range = s..d_state.min(s + LANES);
                let decay =
                    if a.len() == 1 { decay } else { math::exp(v, v.mul(v.splat(dt), some(v, &a[range.clone()]))) };
                let new = v.fma(some(v, &h[range.clone()]), decay, v.mul(some(v, &b[range.clone()]), x));
                sum = v.fma(new, some(v, &c[range.clone()]), sum);
                put(v, &mut h[range], new);
            }
            *y = v.sum(sum);
        }
    }
}

/// See [`crate::Backend::delta_scan`]. The state of a slot is `[n_head, d_v, d_k]`.
pub(super) fn delta_scan(
    (kernels, pool, memory): (Kernels, &Pool, &Memory),
    (kv, layer): (&mut Kv, usize),
    delta: &Delta,
    [q, k, v, decay, beta]: [&Tensor; 5],
    seqs: &Seqs<'_>,
) -> Result<Tensor, Error> {
    let Delta { n_head, d_k, d_v, .. } = *delta;
    let n_tok = q.shape[0];
    delta.check([q.shape, k.shape, v.shape, decay.shape, beta.shape]);
    let n_slot = kv.spec.n_slot;
    seqs.check_recurrent(n_tok, n_slot);
    let (_, state) = kv.recurrent(layer);
    let per_slot = n_head * d_v * d_k;
    assert_eq!(state.len(), n_slot * per_slot, "delta_scan: the layer's state does not fit {delta:?}");
    let mut out = memory.tensor(v.shape);
    let (state, shared) = (Shared::new(state), Shared::new(&mut out.data));
    // The rows of a head's state depend on no other: an item is some rows of one head.
    let rows = (STATES / d_k.max(1)).clamp(1, d_v.max(1));
    let per_head = d_v.div_ceil(rows);
    let per_row = n_head * per_head;
    run(pool, n_tok * per_slot <= ALONE, seqs.rows.len() * per_row, |item| {
        let row = &seqs.rows[item / per_row];
        let (head, first) = (item % per_row / per_head, item % per_head * rows);
        let n = rows.min(d_v - first);
        let key = delta.key_head(head) * d_k;
        // SAFETY: slots of rows are distinct, and each item has its own rows of one head.
        let state = unsafe { state.part(row.slot * per_slot + (head * d_v + first) * d_k, n * d_k) };
        if row.start == 0 {
            state.fill(0.0);
        }
        for token in row.first..row.first + row.n_tok {
            // SAFETY: as above.
            let out = unsafe { shared.part((token * n_head + head) * d_v + first, n) };
            let decays = if decay.shape[1] == n_head { 1 } else { d_k };
            kernels.run(DeltaRows {
                q: &q.row(token)[key..][..d_k],
                k: &k.row(token)[key..][..d_k],
                v: &v.row(token)[head * d_v + first..][..n],
                decay: &decay.row(token)[head * decays..][..decays],
                beta: beta.row(token)[head],
                state,
                out,
            });
        }
    })?;
    Ok(out)
}

/// Rows of a head's state, one token.
struct DeltaRows<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    decay: &'a [f32],
    beta: f32,
    state: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for DeltaRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let DeltaRows { q, k, v: values, decay, beta, state, out } = self;
        let d_k = q.len();
        let alike = decay.len() == 1;
        if !alike {
            for c in (0..d_k).step_by(LANES) {
                let n = LANES.min(d_k - c);
                let fade = math::exp(v, some(v, &decay[c..][..n]));
                for s in state.chunks_exact_mut(d_k) {
                    let faded = v.mul(some(v, &s[c..][..n]), fade);
                    put(v, &mut s[c..][..n], faded);
                }
            }
        }
        let fade = if alike { math::exp(v, v.splat(decay[0])) } else { v.splat(1.0) };
        for ((s, &value), y) in state.chunks_exact_mut(d_k).zip(values).zip(out) {
            let mut recalled = v.splat(0.0);
            for c in (0..d_k).step_by(LANES) {
                let n = LANES.min(d_k - c);
                let faded = v.mul(some(v, &s[c..][..n]), fade);
                recalled = v.fma(faded, some(v, &k[c..][..n]), recalled);
            }
            let lacks = v.splat(beta * (value - v.sum(recalled)));
            let mut sum = v.splat(0.0);
            for c in (0..d_k).step_by(LANES) {
                let n = LANES.min(d_k - c);
                let new = v.fma(lacks, some(v, &k[c..][..n]), v.mul(some(v, &s[c..][..n]), fade));
                sum = v.fma(new, some(v, &q[c..][..n]), sum);
                put(v, &mut s[c..][..n], new);
            }
            *y = v.sum(sum);
        }
    }
}
