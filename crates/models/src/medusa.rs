//! Medusa: heads on a model's last hidden state, the `i`-th of which says what comes `i` tokens after the next one. They come
//! as a checkpoint of their own.
//!
//! ```text
//! hidden state x of token t      x + silu(W_i x + b_i) -- output_i: logits of token t + 2 + i
//! ```
//! The hidden state is the model's after its last norm. No head knows what another one said.
//! Source: Cai et al., arXiv:2401.10774; names of tensors as in its authors' checkpoints (`I.0.linear`, `I.1`, there or below
//! `medusa_head.`).

use mlxr_compute::Backend;
use mlxr_compute::op::{Act, Linear};
use mlxr_engine::runner::{Batch, Outputs, PageId, RunError, Runner, RunnerInfo};
use mlxr_weights::Checkpoint;

use crate::LoadError;

/// Most heads, and most layers of one.
const MAX: usize = 16;
/// Where the tensors stand.
const PREFIXES: [&str; 2] = ["medusa_head.", ""];

/// The heads of a model, as one that drafts for it: its batches have a row of one token for each hidden state, and give the
/// logits of all heads of each.
pub struct Medusa<B: Backend> {
    backend: B,
    heads: Vec<Head<B>>,
    d_model: usize,
    n_vocab: usize,
    /// Rows of the batch that was submitted.
    n_row: usize,
    output: Vec<f32>,
}

struct Head<B: Backend> {
    layers: Vec<Linear<B>>,
    output: Linear<B>,
}

/// What stands before the names of a checkpoint's heads; `None` if it has none.
fn prefix(checkpoint: &Checkpoint) -> Option<&'static str> {
    PREFIXES.into_iter().find(|prefix| checkpoint.tensor(&format!("{prefix}0.0.linear.weight")).is_some())
}

/// Whether a checkpoint has such heads.
#[must_use]
pub fn is_medusa(checkpoint: &Checkpoint) -> bool {
    prefix(checkpoint).is_some()
}

/// Loads the heads in `checkpoint` for a model with hidden states of `d_model` numbers and `n_vocab` tokens.
///
/// # Errors
/// If a tensor is missing or has another shape, there are more than 16 heads, or the backend refuses.
pub fn load_medusa<B: Backend>(
    checkpoint: &Checkpoint,
    (d_model, n_vocab): (usize, usize),
    mut backend: B,
) -> Result<Medusa<B>, LoadError> {
    let prefix = prefix(checkpoint).unwrap_or_default();
    let mut linear = |stem: &str, shape: [usize; 2]| -> Result<Option<Linear<B>>, LoadError> {
        let Some(matrix) = checkpoint.matrix(stem)? else { return Ok(None) };
        let path = checkpoint.path().display().to_string();
        if [matrix.n_out, matrix.n_in] != shape {
            let found = format!("[{}, {}]", matrix.n_out, matrix.n_in);
            let expected = format!("[{}, {}], as the model that it drafts for has it", shape[0], shape[1]);
            return Err(LoadError::Shape { path, tensor: format!("{stem}.weight"), found, expected });
        }
        let bias = checkpoint.vector(&format!("{stem}.bias"))?.map(|(_, bias)| bias);
        if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != shape[0]) {
            let (found, expected) = (format!("{} numbers", bias.len()), shape[0].to_string());
            return Err(LoadError::Shape { path, tensor: format!("{stem}.bias"), found, expected });
        }
        let bias = bias.map(|bias| backend.tensor([1, bias.len()], &bias));
        Ok(Some(Linear { matrix: backend.matrix(&[matrix])?, bias, scale: 1.0 }))
    };
    if checkpoint.tensor(&format!("{prefix}{MAX}.0.linear.weight")).is_some() {
        let (path, arch) = (checkpoint.path().display().to_string(), "medusa".to_owned());
        return Err(LoadError::Unsupported { path, arch, what: format!("it has more than {MAX} heads") });
    }
    let mut heads = Vec::new();
    for i in 0..MAX {
        let mut layers = Vec::new();
        for at in 0..MAX {
            match linear(&format!("{prefix}{i}.{at}.linear"), [d_model, d_model])? {
                Some(layer) => layers.push(layer),
                None => break,
            }
        }
        let stem = format!("{prefix}{i}.{}", layers.len());
        match linear(&stem, [n_vocab, d_model])? {
            Some(output) => heads.push(Head { layers, output }),
            None if layers.is_empty() => break,
            None => {
                let (path, tried) = (checkpoint.path().display().to_string(), format!("{stem}.weight"));
                let (role, arch) = (format!("the output of head {i}"), "medusa".to_owned());
                return Err(LoadError::Missing { path, role, tried, arch });
            }
        }
    }
    Ok(Medusa { backend, heads, d_model, n_vocab, n_row: 0, output: Vec::new() })
}

impl<B: Backend> Medusa<B> {
    /// Heads.
    pub fn n_head(&self) -> usize {
        self.heads.len()
    }

    /// Logits of all heads, head by head.
    fn compute(&mut self, features: &[f32]) -> Result<Vec<f32>, mlxr_compute::Error> {
        let backend = &mut self.backend;
        let mut all = Vec::with_capacity(self.n_row * self.heads.len() * self.n_vocab);
        for head in &self.heads {
            let mut x = backend.tensor([self.n_row, self.d_model], features);
            for layer in &head.layers {
                let [inner] = backend.linears(&x, None, [layer]);
                let inner = backend.act(inner, Act::Silu);
                x = backend.add(x, &inner);
            }
            let [logits] = backend.linears(&x, None, [&head.output]);
            backend.read(&logits, &mut all)?;
        }
        Ok(all)
    }
}

impl<B: Backend + Send> Runner for Medusa<B>
where
    B::Tensor: Send,
    B::Matrix: Send,
    B::Kv: Send,
{
    fn info(&self) -> RunnerInfo {
        RunnerInfo {
            n_vocab: self.n_vocab,
            d_model: self.d_model,
            n_ctx: usize::MAX,
            n_page: 0,
            n_slot: usize::MAX,
            page_bytes: 0,
            recurrent: false,
            n_saved: 0,
            window: None,
        }
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunError> {
        self.n_row = batch.rows.len();
        if batch.features.len() != self.n_row * self.d_model {
            let (found, d_model) = (batch.features.len(), self.d_model);
            return Err(RunError::Backend(format!("{found} numbers of hidden states are not {d_model} a row")));
        }
        let by_head = self.compute(&batch.features).map_err(|e| RunError::Backend(e.to_string()))?;
        self.output.clear();
        for row in 0..self.n_row {
            for head in 0..self.heads.len() {
                let at = (head * self.n_row + row) * self.n_vocab;
                self.output.extend_from_slice(&by_head[at..at + self.n_vocab]);
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Outputs<'_>, RunError> {
        Ok(Outputs { data: &self.output, n_vocab: self.n_vocab, d_model: self.d_model, maxima: &[] })
    }

    // It keeps nothing of the past.
    fn copy_page(&mut self, _: PageId, _: PageId) {}
    fn copy_token(&mut self, _: (PageId, usize), _: (PageId, usize)) {}
    fn export_page(&self, _: PageId, _: &mut Vec<u8>) {}
    fn import_page(&mut self, _: PageId, _: &[u8]) -> Result<(), RunError> {
        Ok(())
    }
}
