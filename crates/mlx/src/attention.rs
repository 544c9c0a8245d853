//! Attention over the stored pages: a row's keys and values are gathered, then attended to.
//!
//! MLX's own attention takes scores as they are; with a cap or slopes the same is spelled out in products.

use mlxr_compute::check::KvHeads;
use mlxr_compute::op::{Attention, SeqRow, Seqs, Window};

use crate::backend::Mlx;
use crate::ffi::{Array, Device, Dtype};
use crate::plan::{self, Padded, Plan};
use crate::rows;
use crate::store::{Kv, Layer};
use crate::tensor::Tensor;

/// `out[i,h] = sum_j softmax_j(scale * q[i,h] . k[j,h/g]) * v[j,h/g]` over the slots that a token sees.
pub(crate) fn attention(
    d: &Device,
    plan: &mut Plan,
    q: &Tensor,
    (kv, layer): (&Kv, usize),
    attention: &Attention<'_, Mlx>,
    seqs: &Seqs<'_>,
) -> Tensor {
    let heads = KvHeads::of(&kv.spec, layer);
    heads.check_attention(q.shape, attention, |t| t.shape);
    seqs.check(q.shape[0], &kv.spec);
    let rows = (0..seqs.rows.len()).filter(|&i| seqs.rows[i].n_tok > 0);
    let outputs: Vec<Array> =
        rows.map(|i| row(d, plan, (q, Dtype::F32), (kv, layer), attention, (seqs, i), None)).collect();
    let shape = [q.shape[0], attention.n_head * heads.d_out()];
    let array = match &outputs[..] {
        [one] => one.clone(),
        many => d.concatenate(&many.iter().collect::<Vec<_>>(), 0),
    };
    Tensor::new(array, shape)
}

/// Attention of the tokens of row `i`, computed in `dtype` where MLX's own attention is: `[n_tok, n_head * d_v]` f32. `after`:
/// the `done` of an append by our kernels that it must see.
pub(crate) fn row(
    d: &Device,
    plan: &mut Plan,
    (q, dtype): (&Tensor, Dtype),
    (kv, layer): (&Kv, usize),
    attention: &Attention<'_, Mlx>,
    (seqs, i): (&Seqs<'_>, usize),
    after: Option<&Array>,
) -> Array {
    let (heads, row) = (KvHeads::of(&kv.spec, layer), &seqs.rows[i]);
    let Layer::Kv(keys, values) = &kv.layers[layer] else { unreachable!("KvHeads::of has checked the layer") };
    let plain = attention.softcap.is_none() && attention.alibi.is_none();
    let dtype = if plain { dtype } else { Dtype::F32 };
    let span = plan::span(seqs, row, attention.window);
    // A query sees all that comes before it: MLX needs no mask for that.
    let lower = attention.causal && attention.window == Window::Full && !row.tree;
    let padded = match d.attention_granule() {
        _ if !plain || !attention.causal || row.tree || row.n_tok == 1 => Padded::exact(row, span),
        granule if lower => Padded::lower(row, granule),
        granule => Padded::masked(row, span, granule),
    };
    let places = plan.gather(d, (seqs, i), span, padded.n_key, kv.spec.page_tokens);
    // It is 0.
    let places = after.map_or(places.clone(), |done| d.add(&places, done));
    let k = keys.gather(d, &places, dtype);
    let v = match values {
        Some(values) => values.gather(d, &places, dtype),
        None => d.slice(&k, &[0, 0, 0], &[heads.n_kv_head, padded.n_key, heads.d_latent]),
    };
    let queries = if padded.n_query == row.n_tok {
        d.slice(&q.array, &[row.first, 0], &[row.first + row.n_tok, q.shape[1]])
    } else {
        d.take(&q.array, &plan.queries(d, (seqs, i), padded), 0)
    };
    let queries = d.reshape(&queries, &[padded.n_query, attention.n_head, heads.d_k]);
    let queries = d.transpose(&d.astype(&queries, dtype), &[1, 0, 2]);
    let how = (attention.window, attention.causal);
    let mask = if plain && lower { None } else { plan.mask(d, (seqs, i), how, [padded.n_query, padded.n_key]) };
    let out = if plain {
        fused(d, [&queries, &k, &v], lower && row.n_tok > 1, mask.as_ref(), attention)
    } else {
        let distances = attention.alibi.map(|_| distances(d, seqs, row, span));
        spelled_out(d, [&queries, &k, &v], mask.as_ref(), distances.as_ref(), attention)
    };
    let (front, end) = (padded.front, padded.front + row.n_tok);
    let out = d.slice(&out, &[0, front, 0], &[attention.n_head, end, heads.d_out()]);
    let out = d.astype(&d.transpose(&out, &[1, 0, 2]), Dtype::F32);
    d.reshape(&out, &[row.n_tok, attention.n_head * heads.d_out()])
}

/// MLX's attention of `[n_head, n_tok, d]` over `[n_kv_head, n, d]`.
fn fused(d: &Device, qkv: [&Array; 3], causal: bool, mask: Option<&Array>, attention: &Attention<'_, Mlx>) -> Array {
    let batched = qkv.map(|x| {
        let shape = x.shape();
        d.reshape(x, &[&[1], &shape[..]].concat())
    });
    let [q, k, v] = &batched;
    let sinks = attention.sinks.map(|s| d.reshape(&s.array, &[attention.n_head]));
    let out = d.attention([q, k, v], attention.scale, causal, mask, sinks.as_ref());
    let shape = [qkv[0].shape(), qkv[2].shape()];
    d.reshape(&out, &[shape[0][0], shape[0][1], shape[1][2]])
}

/// The same in products: scores are scaled, capped, biased by the distance.
fn spelled_out(
    d: &Device,
    [q, k, v]: [&Array; 3],
    mask: Option<&Array>,
    distances: Option<&Array>,
    attention: &Attention<'_, Mlx>,
) -> Array {
    let (q_shape, k_shape, v_shape) = (q.shape(), k.shape(), v.shape());
    let (n_head, n_tok, n_kv_head, n) = (q_shape[0], q_shape[1], k_shape[0], k_shape[1]);
    let group = n_head / n_kv_head;
    let q = d.reshape(q, &[n_kv_head, group, n_tok, q_shape[2]]);
    let k = d.reshape(&d.transpose(k, &[0, 2, 1]), &[n_kv_head, 1, k_shape[2], n]);
    let mut scores = d.multiply(&d.matmul(&q, &k), &d.scalar(attention.scale));
    if let Some(cap) = attention.softcap {
        scores = rows::softcap(d, &scores, cap);
    }
    if let (Some(slopes), Some(distances)) = (attention.alibi, distances) {
        let slopes = d.reshape(&slopes.array, &[n_kv_head, group, 1, 1]);
        scores = d.subtract(&scores, &d.multiply(&slopes, distances));
    }
    if let Some(mask) = mask {
        scores = d.select(mask, &scores, &d.scalar(f32::NEG_INFINITY));
    }
    if let Some(sinks) = attention.sinks {
        let sinks = d.reshape(&sinks.array, &[n_kv_head, group, 1, 1]);
        scores = d.concatenate(&[&scores, &d.broadcast(&sinks, &[n_kv_head, group, n_tok, 1])], -1);
    }
    let mut weights = d.softmax(&scores);
    if attention.sinks.is_some() {
        weights = d.slice(&weights, &[0, 0, 0, 0], &[n_kv_head, group, n_tok, n]);
    }
    let v = d.reshape(v, &[n_kv_head, 1, n, v_shape[2]]);
    d.reshape(&d.matmul(&weights, &v), &[n_head, n_tok, v_shape[2]])
}

/// `|query position - key position|`: f32 `[n_tok, n]`.
fn distances(d: &Device, seqs: &Seqs<'_>, row: &SeqRow, [from, _]: plan::Span) -> Array {
    let own = seqs.positions[row.first..][..row.n_tok].iter().map(|&p| p as f32);
    let queries: Vec<f32> = own.clone().collect();
    let keys: Vec<f32> = (from..row.start).map(|slot| slot as f32).chain(own).collect();
    let queries = d.from_slice(&queries, &[queries.len(), 1], Dtype::F32);
    let keys = d.from_slice(&keys, &[1, keys.len()], Dtype::F32);
    d.abs(&d.subtract(&queries, &keys))
}
