//! The definitions against values worked out by hand.

use mlxr_compute::op::*;
use mlxr_compute::scalar::{Scalar, Tensor};
use mlxr_compute::{Backend, Bytes, DType, MatrixData};

fn tensor(shape: [usize; 2], data: &[f32]) -> Tensor {
    Scalar.tensor(shape, data)
}

fn f32_matrix(shape: [usize; 2], data: &[f32]) -> MatrixData {
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    MatrixData::blocks("test", shape, DType::F32, Bytes::from(bytes)).expect("the size fits")
}

fn close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-6 * w.abs().max(1.0), "{got:?}, expected {want:?}");
    }
}

#[test]
fn a_linear_scales_then_adds_its_bias() {
    let matrix = Scalar.matrix(&[f32_matrix([1, 2], &[1.0, 2.0]), f32_matrix([1, 2], &[3.0, 4.0])]).expect("fits");
    let linear = Linear::<Scalar> { matrix, bias: Some(tensor([1, 2], &[10.0, 20.0])), scale: 2.0 };
    let [y] = Scalar.linears(&tensor([2, 2], &[1.0, 1.0, 0.0, -1.0]), None, [&linear]);
    close(&y.data, &[16.0, 34.0, 6.0, 12.0]);
    let y = Scalar.linear_add(&tensor([1, 2], &[1.0, 1.0]), &linear, 0.5, tensor([1, 2], &[1.0, 1.0]));
    close(&y.data, &[9.0, 18.0]);
}

#[test]
fn matrices_of_different_width_do_not_stack() {
    let error = Scalar.matrix(&[f32_matrix([1, 2], &[1.0; 2]), f32_matrix([1, 1], &[1.0])]).expect_err("differ");
    assert!(error.to_string().contains("expected 2"), "{error}");
}

#[test]
fn norms_divide_out_their_mean() {
    let x = tensor([1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let rms = Norm::<Scalar> { kind: NormKind::Rms, weight: Some(tensor([1, 4], &[2.0; 4])), bias: None, eps: 0.5 };
    let root = 8f32.sqrt(); // mean square 7.5 and 0.5
    close(&Scalar.norm(&x, &rms).data, &[2.0 / root, 4.0 / root, 6.0 / root, 8.0 / root]);
    let layer = Norm::<Scalar> { kind: NormKind::Layer, weight: None, bias: Some(tensor([1, 2], &[1.0; 2])), eps: 0.0 };
    close(&Scalar.head_norm(x, 2, &layer).data, &[0.0, 2.0, 0.0, 2.0]);
}

#[test]
fn rope_rotates_pairs_and_leaves_the_rest() {
    let x = tensor([1, 6], &[9.0, 1.0, 2.0, 3.0, 4.0, 9.0]);
    let freqs = vec![std::f32::consts::FRAC_PI_2, 0.0];
    let rope = |pairs| Rope { freqs: freqs.clone(), scale: 2.0, pairs, offset: 1 };
    let half = Scalar.rope(x.clone(), 1, &[1], &rope(RopePairs::HalfSplit));
    close(&half.data, &[9.0, -6.0, 4.0, 2.0, 8.0, 9.0]);
    let interleaved = Scalar.rope(x, 1, &[1], &rope(RopePairs::Interleaved));
    close(&interleaved.data, &[9.0, -4.0, 2.0, 6.0, 8.0, 9.0]);
}

#[test]
fn one_head_may_serve_all() {
    let a = tensor([1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let b = tensor([1, 2], &[8.0, 9.0]);
    close(&Scalar.concat_heads(&a, &b, 2, 1).data, &[1.0, 2.0, 8.0, 9.0, 3.0, 4.0, 8.0, 9.0]);
    close(&Scalar.concat_heads(&a, &b, 2, 2).data, &[1.0, 2.0, 8.0, 3.0, 4.0, 9.0]);
}

fn spec(layers: Vec<LayerState>, dtype: KvType) -> KvSpec {
    KvSpec { layers, page_tokens: 2, n_page: 4, n_slot: 2, dtype }
}

fn row(n_tok: usize, start: usize) -> SeqRow {
    SeqRow { first: 0, n_tok, start, pages: (0, 2), slot: 0, tree: false }
}

/// Attention of three tokens whose keys are equal, so that each token averages the values that it sees.
fn averages(row: SeqRow, parents: &[i32], change: impl Fn(&mut Attention<'_, Scalar>)) -> Vec<f32> {
    let layer = LayerState::Kv { n_kv_head: 1, d_k: 1, d_v: 1, d_latent: 0 };
    let mut kv = Scalar.kv(&spec(vec![layer], KvType::F32)).expect("small");
    let positions = [0, 1, 2];
    let seqs = Seqs { rows: &[row], pages: &[3, 1], positions: &positions, parents };
    Scalar.kv_append(&mut kv, 0, &tensor([3, 1], &[0.0; 3]), Some(&tensor([3, 1], &[1.0, 2.0, 6.0])), &seqs);
    let mut attention = Attention::<Scalar> {
        n_head: 1,
        scale: 1.0,
        window: Window::Full,
        softcap: None,
        sinks: None,
        alibi: None,
        causal: true,
    };
    change(&mut attention);
    Scalar.attention(&tensor([3, 1], &[1.0; 3]), &kv, 0, &attention, &seqs).data
}

#[test]
fn attention_averages_what_a_token_sees() {
    close(&averages(row(3, 0), &[], |_| {}), &[1.0, 1.5, 3.0]);
    close(&averages(row(3, 0), &[], |a| a.causal = false), &[3.0; 3]);
    close(&averages(row(3, 0), &[], |a| a.window = Window::Sliding(2)), &[1.0, 1.5, 4.0]);
    close(&averages(row(3, 0), &[], |a| a.window = Window::Chunked(2)), &[1.0, 1.5, 6.0]);
    close(&averages(SeqRow { tree: true, ..row(3, 0) }, &[-1, -1, 0], |_| {}), &[1.0, 2.0, 3.5]);
}

#[test]
fn a_sink_takes_weight_and_alibi_prefers_the_near() {
    let layer = LayerState::Kv { n_kv_head: 1, d_k: 2, d_v: 0, d_latent: 1 };
    let mut kv = Scalar.kv(&spec(vec![layer], KvType::F32)).expect("small");
    let seqs = Seqs { rows: &[row(2, 0)], pages: &[3, 1], positions: &[0, 1], parents: &[] };
    Scalar.kv_append(&mut kv, 0, &tensor([2, 2], &[1.0, 0.0, 3.0, 0.0]), None, &seqs);
    let (sinks, slopes) = (tensor([1, 1], &[0.0]), tensor([1, 1], &[3f32.ln()]));
    let attention = Attention::<Scalar> {
        n_head: 1,
        scale: 1.0,
        window: Window::Full,
        softcap: Some(5.0),
        sinks: Some(&sinks),
        alibi: Some(&slopes),
        causal: true,
    };
    let out = Scalar.attention(&tensor([2, 2], &[0.0, 1.0, 0.0, 1.0]), &kv, 0, &attention, &seqs);
    // Scores are 0; with the sink's 1: (1) / 2, then (1/3 * 1 + 1 * 3) / (1/3 + 1 + 1).
    close(&out.data, &[0.5, (10.0 / 3.0) / (7.0 / 3.0)]);
}

#[test]
fn pages_travel_and_keep_what_the_type_keeps() {
    for (dtype, want) in [
        (KvType::F32, 0.1),
        (KvType::F16, 0.099_975_586),
        (KvType::BF16, 0.100_097_656),
        (KvType::Q8, 0.1),
        (KvType::Q4, 0.1),
    ] {
        let layer = LayerState::Kv { n_kv_head: 1, d_k: 1, d_v: 0, d_latent: 1 };
        let mut kv = Scalar.kv(&spec(vec![layer], dtype)).expect("small");
        let seqs = Seqs { rows: &[row(1, 0)], pages: &[3, 1], positions: &[0], parents: &[] };
        Scalar.kv_append(&mut kv, 0, &tensor([1, 1], &[0.1]), None, &seqs);
        Scalar.copy_page(&mut kv, 3, 0);
        let mut bytes = Vec::new();
        Scalar.export_page(&kv, 0, &mut bytes);
        assert_eq!(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), want, "{dtype:?}");
        Scalar.import_page(&mut kv, 2, &bytes).expect("the same size");
        let error = Scalar.import_page(&mut kv, 2, &bytes[1..]).expect_err("one byte is missing");
        assert!(error.to_string().contains("holds 7 bytes"), "{error}");
    }
}

#[test]
fn recurrences_remember_over_batches_and_begin_anew() {
    let mut kv = Scalar.kv(&spec(vec![LayerState::Recurrent { conv: 1, ssm: 1 }], KvType::F32)).expect("small");
    let ssm = Ssm { n_head: 1, d_head: 1, d_state: 1, n_group: 1 };
    let weight = tensor([1, 2], &[10.0, 1.0]);
    let (dt, a) = (tensor([1, 1], &[1.0]), tensor([1, 1], &[0.5f32.ln()]));
    for (start, x, conv, scan) in [(0, 1.0, 1.0, 3.0), (1, 2.0, 12.0, 7.5), (0, 3.0, 3.0, 9.0)] {
        let seqs = Seqs { rows: &[row(1, start)], pages: &[0, 1], positions: &[start as i32], parents: &[] };
        close(&Scalar.conv(&mut kv, 0, &tensor([1, 1], &[x]), &weight, None, &seqs).data, &[conv]);
        let input = tensor([1, 3], &[x, 1.0, 3.0]);
        close(&Scalar.ssm_scan(&mut kv, 0, &ssm, [&input, &dt, &a], &seqs).data, &[scan]);
        Scalar.copy_slot(&mut kv, 0, 1);
    }
}

#[test]
fn a_delta_rule_replaces_what_it_holds_for_a_key() {
    let mut kv = Scalar.kv(&spec(vec![LayerState::Recurrent { conv: 0, ssm: 2 }], KvType::F32)).expect("small");
    let delta = Delta { n_head: 1, n_key_head: 1, d_k: 2, d_v: 1, tiled: false };
    let q = tensor([1, 2], &[1.0, 1.0]);
    // Writes 4 at the first key, 3 at the second while the first fades by half, then half way to 10 at the first.
    for (start, k, v, fade, beta, want) in [
        (0, [1.0, 0.0], 4.0, 1.0, 1.0, 4.0),
        (1, [0.0, 1.0], 3.0, 0.5f32, 1.0, 5.0),
        (2, [1.0, 0.0], 10.0, 1.0, 0.5, 9.0),
        (0, [1.0, 0.0], 2.0, 1.0, 1.0, 2.0),
    ] {
        let seqs = Seqs { rows: &[row(1, start)], pages: &[0, 1], positions: &[start as i32], parents: &[] };
        let (k, v) = (tensor([1, 2], &k), tensor([1, 1], &[v]));
        let (decay, beta) = (tensor([1, 1], &[fade.ln()]), tensor([1, 1], &[beta]));
        close(&Scalar.delta_scan(&mut kv, 0, &delta, [&q, &k, &v, &decay, &beta], &seqs).data, &[want]);
    }
}

/// Experts that multiply by 1, 2, 3 and 4.
fn routed(change: impl Fn(&mut Moe<'_, Scalar>)) -> f32 {
    let experts: Vec<MatrixData> = (1..=4).map(|e| f32_matrix([1, 1], &[e as f32])).collect();
    let one = vec![f32_matrix([1, 1], &[1.0]); 4];
    let up = Experts::plain(Scalar.experts(&experts).expect("alike"));
    let down = Experts::plain(Scalar.experts(&one).expect("alike"));
    let mut moe = Moe::<Scalar> {
        gating: Gating::Softmax,
        select_bias: None,
        groups: None,
        n_used: 1,
        normalize: false,
        scale: 1.0,
        weight_input: false,
        act: Act::ReluSquared,
        gate: None,
        up: &up,
        merged: false,
        down: &down,
    };
    change(&mut moe);
    let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln).to_vec();
    Scalar.moe(&tensor([1, 1], &[1.0]), &tensor([1, 4], &logits), &moe).data[0]
}

#[test]
fn routing_chooses_weighs_and_sums() {
    close(&[routed(|_| {})], &[0.4 * 4.0]);
    close(&[routed(|m| m.n_used = 2)], &[0.4 * 4.0 + 0.3 * 16.0]);
    close(&[routed(|m| (m.n_used, m.normalize, m.scale) = (2, true, 2.0))], &[2.0 * (1.6 + 4.8) / 0.7]);
    close(&[routed(|m| (m.n_used, m.weight_input) = (2, true))], &[0.16 * 4.0 + 0.09 * 16.0]);
    close(&[routed(|m| (m.gating, m.n_used) = (Gating::SoftmaxOfChosen, 2))], &[(1.6 + 4.8) / 0.7]);
    close(&[routed(|m| m.gating = Gating::Sigmoid)], &[0.4 / 1.4 * 4.0]);
    // Groups sum to 0.5 each and the first wins; a bias on the choice of expert 3 turns that, not its weight.
    close(&[routed(|m| m.groups = Some((2, 1)))], &[0.4 * 4.0]);
    let bias = tensor([1, 4], &[0.0, 0.0, 1.0, 0.0]);
    let experts: Vec<MatrixData> = (1..=4).map(|e| f32_matrix([2, 1], &[1.0, e as f32])).collect();
    let up = Experts::plain(Scalar.experts(&experts).expect("alike"));
    let one = Experts::plain(Scalar.experts(&vec![f32_matrix([1, 1], &[1.0]); 4]).expect("alike"));
    let moe = Moe::<Scalar> {
        gating: Gating::Softmax,
        select_bias: Some(&bias),
        groups: Some((2, 1)),
        n_used: 1,
        normalize: false,
        scale: 1.0,
        weight_input: false,
        act: Act::Relu,
        gate: None,
        up: &up,
        merged: true,
        down: &one,
    };
    let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln).to_vec();
    close(&Scalar.moe(&tensor([1, 1], &[1.0]), &tensor([1, 4], &logits), &moe).data, &[0.2 * 3.0]);
}
