//! What the tests of conversions share.

use std::path::Path;

use mlxr_compute::Backend;
use mlxr_compute::op::KvType;
use mlxr_compute::scalar::Scalar;
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::{Batch, PageId, Row, Runner, SeqId, Want};
use mlxr_models::{Arena, LoadOptions};
pub use mlxr_testing::Temp;

/// Logits after each of some tokens, by the definitions, or what went wrong.
pub fn logits(path: &Path) -> Result<Vec<f32>, String> {
    logits_on(Scalar, path)
}

/// The same on a backend.
pub fn logits_on<B: Backend + Send>(backend: B, path: &Path) -> Result<Vec<f32>, String>
where
    B::Tensor: Send,
    B::Matrix: Send,
    B::Kv: Send,
{
    let options =
        LoadOptions { n_ctx: Some(48), kv_type: KvType::F32, arena: Arena::Tokens(64), ..LoadOptions::default() };
    let checkpoint = mlxr_weights::open(path).map_err(|e| e.to_string())?;
    let mut model = mlxr_models::load(&checkpoint, backend, &options, &mut |_| ()).map_err(|e| e.to_string())?;
    let mut batch = Batch::default();
    batch.tokens.extend((0..40).map(|i| (i * 7 + 3) % 90));
    let n_page = batch.tokens.len().div_ceil(PAGE_TOKENS);
    batch.pages.extend((0..n_page as u32).map(PageId));
    let (tokens, pages) = ((0, batch.tokens.len()), (0, n_page));
    batch.rows.push(Row { seq: SeqId(0), start: 0, tokens, pages, slot: 0, parents: None, want: Want::All });
    model.submit(&batch).map_err(|e| e.to_string())?;
    Ok(model.wait().map_err(|e| e.to_string())?.data.to_vec())
}

/// Squared error over squared magnitude.
pub fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
    error / want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()
}
