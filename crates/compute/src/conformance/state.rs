//! Pages and tokens that are copied, pages that are exported and imported.

use super::{Bench, STORED};
use crate::op::{Attention, KvSpec, KvType, LayerState, SeqRow, Seqs, Window};
use crate::scalar::{Scalar, Store};
use crate::{Backend, Error};

/// After a page and a token were copied and another page left the store and came back elsewhere, attention sees the same.
pub(super) fn pages<B: Backend>(bench: &mut Bench<'_, B>) {
    for dtype in [KvType::F32, KvType::F16, KvType::BF16, KvType::Q8, KvType::Q4] {
        let kv = |n_kv_head, d_k, d_v, d_latent| LayerState::Kv { n_kv_head, d_k, d_v, d_latent };
        let layers = vec![kv(2, 32, 16, 0), LayerState::None, kv(1, 24, 0, 16)];
        let spec = KvSpec { layers, page_tokens: 4, n_page: 6, n_slot: 0, dtype };
        match Scalar.kv(&spec).and_then(|s| Ok((s, bench.backend.kv(&spec)?))) {
            Ok((store, other)) => moved(bench, dtype, store, other),
            // A backend may say that it lacks a type.
            Err(Error::KvType { .. }) => {}
            Err(error) => bench.fail(format!("{spec:?}: {error}")),
        }
    }
}

fn moved<B: Backend>(bench: &mut Bench<'_, B>, dtype: KvType, mut store: Store, mut other: B::Kv) {
    let mut row = SeqRow { first: 0, n_tok: 7, start: 0, pages: (0, 2), slot: 0, tree: false };
    let positions: Vec<i32> = (0..7).collect();
    let seqs = Seqs { rows: &[row], pages: &[4, 1], positions: &positions, parents: &[] };
    for (layer, n_k, n_v) in [(0, 64, 32), (2, 24, 0)] {
        let (k, v) = (bench.tensor([7, n_k]), bench.maybe(n_v > 0, [7, n_v]));
        Scalar.kv_append(&mut store, layer, &k.scalar, v.as_ref().map(|v| &v.scalar), &seqs);
        bench.backend.kv_append(&mut other, layer, &k.other, v.as_ref().map(|v| &v.other), &seqs);
    }
    bench.backend.copy_page(&mut other, 4, 2);
    let mut bytes = Vec::new();
    bench.backend.export_page(&other, 1, &mut bytes);
    bench.backend.copy_page(&mut other, 2, 1);
    if let Err(error) = bench.backend.import_page(&mut other, 5, &bytes) {
        bench.fail(format!("{dtype:?}: a page does not come back: {error}"));
    }
    for wrong in [&bytes[1..], &[]] {
        if bench.backend.import_page(&mut other, 3, wrong).is_ok() {
            bench.fail(format!("{dtype:?}: a page of {} bytes was taken for one of {}", wrong.len(), bytes.len()));
        }
    }
    // The token at slot 5 in place of the one at slot 3.
    Scalar.copy_token(&mut store, (1, 1), (4, 3));
    bench.backend.copy_token(&mut other, (5, 1), (2, 3));
    (row.start, row.n_tok) = (6, 1);
    for (layer, d_k) in [(0, 32), (2, 24)] {
        let q = bench.tensor([1, 4 * d_k]);
        let seqs = |pages| Seqs { rows: std::slice::from_ref(&row), pages, positions: &[6], parents: &[] };
        let want = Scalar.attention(&q.scalar, &store, layer, &attention(), &seqs(&[4, 1]));
        let got = bench.backend.attention(&q.other, &other, layer, &attention(), &seqs(&[2, 5]));
        bench.compare(format_args!("{dtype:?}, layer {layer}, copied and imported pages"), STORED, &want, &got);
    }
}

fn attention<'a, B: Backend>() -> Attention<'a, B> {
    Attention { n_head: 4, scale: 0.2, window: Window::Full, softcap: None, sinks: None, alibi: None, causal: true }
}
