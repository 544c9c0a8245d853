//! What golden tests share.

use std::path::Path;

use mlxr_compute::op::KvType;
use mlxr_compute::scalar::Scalar;
use mlxr_engine::runner::{Batch, PAGE_TOKENS, PageId, Row, Runner, SeqId, Want};
use mlxr_models::LoadOptions;

/// Tokens and logits of a `.logits` file: `i32 n, i32 v`, `n` ids, `n * v` f32.
pub fn golden(path: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("golden logits");
    let word = |i: usize| <[u8; 4]>::try_from(&bytes[i * 4..i * 4 + 4]).expect("four bytes");
    let (n, v) = (u32::from_le_bytes(word(0)) as usize, u32::from_le_bytes(word(1)) as usize);
    let ids = (0..n).map(|i| u32::from_le_bytes(word(2 + i))).collect();
    (ids, (0..n * v).map(|i| f32::from_le_bytes(word(2 + n + i))).collect())
}

/// One row that wants all logits, on pages from `first_page` on.
fn push(batch: &mut Batch, seq: u64, start: usize, tokens: &[u32], first_page: usize) {
    let n_page = (start + tokens.len()).div_ceil(PAGE_TOKENS);
    let (t, p) = (batch.tokens.len(), batch.pages.len());
    batch.tokens.extend_from_slice(tokens);
    batch.pages.extend((0..n_page).map(|i| PageId((first_page + i) as u32)));
    batch.rows.push(Row {
        seq: SeqId(seq),
        start,
        tokens: (t, batch.tokens.len()),
        pages: (p, batch.pages.len()),
        slot: seq as usize,
        parents: None,
        want: Want::All,
    });
}

fn run(model: &mut dyn Runner, batch: &Batch) -> Vec<f32> {
    model.submit(batch).expect("the batch fits");
    model.wait().expect("the backend works").data.to_vec()
}

/// Squared error over squared magnitude.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
    error / want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()
}

/// Loads a checkpoint, computes the golden tokens whole and in parts, and describes each way that misses the golden
/// logits by more than `limit` (squared error over squared magnitude).
pub fn compare(path: &Path, logits: &Path, limit: f64) -> Vec<String> {
    let name = path.file_stem().expect("name").to_string_lossy().into_owned();
    let (ids, want) = golden(logits);
    let options =
        LoadOptions { n_ctx: Some(48), kv_type: KvType::F32, kv_tokens: Some(1024), ..LoadOptions::default() };
    let loaded = mlxr_weights::open(path).map_err(|e| e.to_string()).and_then(|checkpoint| {
        mlxr_models::load(&checkpoint, Scalar, &options, &mut |_| ()).map_err(|e| e.to_string())
    });
    let mut model = match loaded {
        Ok(model) => model,
        Err(e) => return vec![format!("{name}: {e}")],
    };
    // Whole, then in two chunks as another sequence beside a third.
    let mut batch = Batch::default();
    push(&mut batch, 0, 0, &ids, 0);
    let whole = run(&mut model, &batch);
    let half = ids.len() / 2 + 1;
    batch.clear();
    push(&mut batch, 1, 0, &ids[..half], 8);
    push(&mut batch, 2, 0, &ids[..3], 20);
    let first = run(&mut model, &batch);
    batch.clear();
    push(&mut batch, 1, half, &ids[half..], 8);
    let second = run(&mut model, &batch);
    let n_vocab = want.len() / ids.len();
    let parts = [&first[..half * n_vocab], &second].concat();
    let mut failures = Vec::new();
    for (how, got) in [("whole", &whole), ("in parts", &parts)] {
        let error = nmse(got, &want);
        eprintln!("{name} {how}: nmse {error:.2e}");
        if error.is_nan() || error > limit {
            failures.push(format!("{name} {how}: nmse {error:.2e}"));
        }
    }
    failures
}
