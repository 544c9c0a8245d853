//! Attention over the stored pages.

use super::act::softcap;
use super::linear::dot;
use super::{Scalar, Store, Tensor};
use crate::check::KvHeads;
use crate::op::{Attention, SeqRow, Seqs, Window};

/// Whether token `i` of `row` sees what is in KV slot `slot`, and the distance of their positions (query - key).
///
/// A slot below `row.start` holds the token of that position; a later one holds a token of this row. A causal query
/// sees the past and itself, and of its row the earlier tokens, or in a tree its ancestors. Others see the whole row.
/// The window is about positions; where a key may lie ahead, it counts the same to both sides.
pub fn sees(seqs: &Seqs<'_>, row: &SeqRow, [i, slot]: [usize; 2], causal: bool, window: Window) -> (bool, i32) {
    let position = |token: usize| seqs.positions[row.first + token];
    let query = position(i);
    let key = if slot < row.start { slot as i32 } else { position(slot - row.start) };
    let reached = slot < row.start
        || !causal
        || if row.tree { is_ancestor(seqs, row, slot - row.start, i) } else { slot - row.start <= i };
    let within = match window {
        Window::Full => true,
        Window::Sliding(n) => (i64::from(query) - i64::from(key)).unsigned_abs() < u64::from(n),
        Window::Chunked(n) => i64::from(query).div_euclid(i64::from(n)) == i64::from(key).div_euclid(i64::from(n)),
    };
    (reached && within, query - key)
}

/// Whether `ancestor` is `token` or one of its ancestors.
fn is_ancestor(seqs: &Seqs<'_>, row: &SeqRow, ancestor: usize, token: usize) -> bool {
    let mut at = token as i32;
    while at > ancestor as i32 {
        at = seqs.parents[row.first + at as usize];
    }
    at == ancestor as i32
}

/// `out[i,h] = sum_j softmax_j(scale * q[i,h] . k[j,h/g]) * v[j,h/g]` over the slots that a token sees.
pub(super) fn attention(
    q: &Tensor,
    kv: &Store,
    layer: usize,
    attention: &Attention<'_, Scalar>,
    seqs: &Seqs<'_>,
) -> Tensor {
    let heads = KvHeads::of(&kv.spec, layer);
    heads.check_attention(q.shape, attention, |t| t.shape);
    seqs.check(q.shape[0], &kv.spec);
    let group = attention.n_head / heads.n_kv_head;
    let mut out = Tensor::zeros([q.shape[0], attention.n_head * heads.d_out()]);
    for row in seqs.rows {
        for i in 0..row.n_tok {
            for h in 0..attention.n_head {
                let query = &q.row(row.first + i)[h * heads.d_k..][..heads.d_k];
                let (mut scores, mut values) = (Vec::new(), Vec::new());
                for slot in 0..row.start + row.n_tok {
                    let (seen, distance) = sees(seqs, row, [i, slot], attention.causal, attention.window);
                    if seen {
                        let (key, value) = kv.key_value(layer, seqs, row, [slot, h / group]);
                        scores.push(score(attention, h, dot(query, key), distance));
                        values.push(value);
                    }
                }
                let sink = attention.sinks.map(|s| s.data[h]);
                let weights = softmax(&scores, sink);
                let out = &mut out.row_mut(row.first + i)[h * heads.d_out()..][..heads.d_out()];
                for (d, out) in out.iter_mut().enumerate() {
                    *out = weights.iter().zip(&values).map(|(w, v)| w * f64::from(v[d])).sum::<f64>() as f32;
                }
            }
        }
    }
    out
}

/// The score of a dot product: scaled, capped, biased by the distance.
fn score(attention: &Attention<'_, Scalar>, head: usize, dot: f32, distance: i32) -> f32 {
    let scaled = attention.scale * dot;
    let capped = attention.softcap.map_or(scaled, |cap| softcap(scaled, cap));
    let slope = attention.alibi.map_or(0.0, |slopes| slopes.data[head]);
    capped - slope * distance.unsigned_abs() as f32
}

/// `exp(x) / sum exp`, `sink` taking part in the sum only. No scores give no weights.
fn softmax(scores: &[f32], sink: Option<f32>) -> Vec<f64> {
    let max = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
    let exp = |x: f32| (f64::from(x) - f64::from(max)).exp();
    let sum = scores.iter().copied().chain(sink).map(exp).sum::<f64>();
    scores.iter().map(|&s| exp(s) / sum).collect()
}
