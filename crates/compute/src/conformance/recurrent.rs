//! Convolution and scan, whose state passes from batch to batch.

use super::{Bench, F32};
use crate::Backend;
use crate::op::{Delta, KvSpec, KvType, LayerState, SeqRow, Seqs, Ssm};
use crate::scalar::{Scalar, Store};

/// Tokens of three rows in batch after batch; a row of none is left out.
const STEPS: [[usize; 3]; 5] = [[1, 3, 0], [1, 1, 17], [33, 1, 1], [2, 0, 1], [1, 16, 7]];

/// Rows of a step; the rows' slots are not in order.
fn rows(step: &[usize; 3], starts: &mut [usize; 3]) -> Vec<SeqRow> {
    let (mut rows, mut first) = (Vec::new(), 0);
    for (i, &n_tok) in step.iter().enumerate().filter(|(_, n)| **n > 0) {
        rows.push(SeqRow { first, n_tok, start: starts[i], pages: (0, 0), slot: [2, 0, 3][i], tree: false });
        first += n_tok;
        starts[i] += n_tok;
    }
    rows
}

fn stores<B: Backend>(bench: &mut Bench<'_, B>, conv: usize, ssm: usize) -> Option<(Store, B::Kv)> {
    let layers = vec![LayerState::None, LayerState::Recurrent { conv, ssm }];
    let spec = KvSpec { layers, page_tokens: 16, n_page: 1, n_slot: 5, dtype: KvType::F16 };
    match Scalar.kv(&spec).and_then(|s| Ok((s, bench.backend.kv(&spec)?))) {
        Ok(stores) => Some(stores),
        Err(error) => {
            bench.fail(format!("{spec:?}: {error}"));
            None
        }
    }
}

/// `conv` of several widths over several steps, a slot copied in between.
pub(super) fn conv<B: Backend>(bench: &mut Bench<'_, B>) {
    for (n_channel, n_kernel) in [(1, 4), (24, 4), (100, 4), (33, 3), (16, 2), (7, 1)] {
        let Some((mut store, mut store_other)) = stores(bench, n_channel * (n_kernel - 1), 0) else { return };
        let (weight, bias) = (bench.tensor([n_channel, n_kernel]), bench.tensor([1, n_channel]));
        let mut starts = [0; 3];
        for (i, step) in STEPS.iter().enumerate() {
            let rows = rows(step, &mut starts);
            let n_tok = step.iter().sum();
            let (x, positions) = (bench.tensor([n_tok, n_channel]), vec![0; n_tok]);
            let seqs = Seqs { rows: &rows, pages: &[], positions: &positions, parents: &[] };
            let (b, b_other) = ((i > 0).then_some(&bias.scalar), (i > 0).then_some(&bias.other));
            let want = Scalar.conv(&mut store, 1, &x.scalar, &weight.scalar, b, &seqs);
            let got = bench.backend.conv(&mut store_other, 1, &x.other, &weight.other, b_other, &seqs);
            bench.compare(format_args!("{n_channel} channels, kernel {n_kernel}, step {i} {step:?}"), F32, &want, &got);
            for (from, to) in [(2, 4), (0, 2), (4, 0)] {
                Scalar.copy_slot(&mut store, from, to);
                bench.backend.copy_slot(&mut store_other, from, to);
            }
            // Row 2 begins anew in a slot that was used before.
            if i == 2 {
                starts[2] = 0;
            }
        }
    }
}

/// Copies a slot by way of its bytes.
fn travel<B: Backend>(bench: &mut Bench<'_, B>, store: &mut B::Kv, from: usize, to: usize) {
    let mut bytes = Vec::new();
    bench.backend.export_slot(store, from, &mut bytes);
    if let Err(error) = bench.backend.import_slot(store, to, &bytes) {
        bench.fail(format!("a slot does not come back: {error}"));
    }
    if bench.backend.import_slot(store, to, &bytes[1..]).is_ok() {
        bench.fail(format!("a slot of {} bytes was taken for one of {}", bytes.len() - 1, bytes.len()));
    }
}

/// `ssm_scan` in mamba 1's and mamba 2's shapes.
pub(super) fn ssm_scan<B: Backend>(bench: &mut Bench<'_, B>) {
    let shapes = [(1, 1, 1, 1), (4, 16, 16, 1), (6, 10, 20, 2), (2, 64, 128, 1), (40, 1, 16, 1)];
    for (n_head, d_head, d_state, n_group) in shapes {
        let ssm = Ssm { n_head, d_head, d_state, n_group };
        for n_col in [1, d_state] {
            let Some((mut store, mut store_other)) = stores(bench, 0, n_head * d_head * d_state) else { return };
            let a: Vec<f32> = (0..n_head * n_col).map(|_| -0.1 - bench.random.unit()).collect();
            let a = bench.given([n_head, n_col], &a);
            let mut starts = [0; 3];
            for (i, step) in STEPS.iter().enumerate() {
                let rows = rows(step, &mut starts);
                let n_tok = step.iter().sum::<usize>();
                let dt: Vec<f32> = (0..n_tok * n_head).map(|_| bench.random.unit()).collect();
                let dt = bench.given([n_tok, n_head], &dt);
                let input = bench.tensor([n_tok, n_head * d_head + 2 * n_group * d_state]);
                let positions = vec![0; n_tok];
                let seqs = Seqs { rows: &rows, pages: &[], positions: &positions, parents: &[] };
                let inputs = [&input.scalar, &dt.scalar, &a.scalar];
                let want = Scalar.ssm_scan(&mut store, 1, &ssm, inputs, &seqs);
                let inputs = [&input.other, &dt.other, &a.other];
                let got = bench.backend.ssm_scan(&mut store_other, 1, &ssm, inputs, &seqs);
                bench.compare(format_args!("{ssm:?}, a of {n_col}, step {i} {step:?}"), F32, &want, &got);
                Scalar.copy_slot(&mut store, 3, 0);
                travel(bench, &mut store_other, 3, 0);
            }
        }
    }
}

/// `delta_scan` with a decay a head and a decay a channel, key heads shared in both ways.
pub(super) fn delta_scan<B: Backend>(bench: &mut Bench<'_, B>) {
    for (n_head, n_key_head, d_k, d_v) in [(1, 1, 1, 1), (4, 2, 16, 16), (2, 2, 128, 64), (6, 3, 20, 33), (3, 1, 7, 5)]
    {
        for (channels, tiled) in [(1, false), (d_k, false), (1, true), (d_k, true)] {
            let delta = Delta { n_head, n_key_head, d_k, d_v, tiled };
            let Some((mut store, mut store_other)) = stores(bench, 0, n_head * d_v * d_k) else { return };
            let mut starts = [0; 3];
            for (i, step) in STEPS.iter().enumerate() {
                let rows = rows(step, &mut starts);
                let n_tok = step.iter().sum::<usize>();
                let v = bench.tensor([n_tok, n_head * d_v]);
                // Keys are shorter than 1, so that the memory stays bounded.
                let short = |bench: &mut Bench<'_, B>| {
                    let length = (d_k as f32).sqrt();
                    let x: Vec<f32> = (0..n_tok * n_key_head * d_k).map(|_| bench.random.unit() / length).collect();
                    bench.given([n_tok, n_key_head * d_k], &x)
                };
                let (q, k) = (short(bench), short(bench));
                let decay: Vec<f32> = (0..n_tok * n_head * channels).map(|_| -bench.random.unit()).collect();
                let decay = bench.given([n_tok, n_head * channels], &decay);
                let beta: Vec<f32> = (0..n_tok * n_head).map(|_| bench.random.unit()).collect();
                let beta = bench.given([n_tok, n_head], &beta);
                let positions = vec![0; n_tok];
                let seqs = Seqs { rows: &rows, pages: &[], positions: &positions, parents: &[] };
                let inputs = [&q.scalar, &k.scalar, &v.scalar, &decay.scalar, &beta.scalar];
                let want = Scalar.delta_scan(&mut store, 1, &delta, inputs, &seqs);
                let inputs = [&q.other, &k.other, &v.other, &decay.other, &beta.other];
                let got = bench.backend.delta_scan(&mut store_other, 1, &delta, inputs, &seqs);
                bench.compare(format_args!("{delta:?}, {channels} decays, step {i} {step:?}"), F32, &want, &got);
                Scalar.copy_slot(&mut store, 3, 0);
                bench.backend.copy_slot(&mut store_other, 3, 0);
            }
        }
    }
}
