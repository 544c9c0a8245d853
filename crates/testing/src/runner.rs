//! A model without weights, for tests and benchmarks of what runs models.

use mlxr_engine::runner::MAXIMA_BLOCK;
use mlxr_engine::{Batch, Outputs, PageId, RunError, Runner, RunnerInfo, Want};

/// A runner whose logits a function writes: it appends those of each row that wants some, in the order of rows. Pages hold
/// nothing.
pub struct Scripted<F> {
    /// What the engine knows of it.
    pub info: RunnerInfo,
    /// Whether it gives the maxima of its logits, as models on the processor do.
    pub gives_maxima: bool,
    /// How many of its next steps say that kernels were compiled in them.
    pub n_compiled: usize,
    write: F,
    logits: Vec<f32>,
    maxima: Vec<f32>,
}

impl<F: FnMut(&Batch, &mut Vec<f32>) + Send> Scripted<F> {
    /// A runner of `n_vocab` logits with room for many sequences. A step allocates nothing once `n_logits` vectors of logits
    /// are enough.
    pub fn new(n_vocab: usize, n_logits: usize, write: F) -> Scripted<F> {
        let info = RunnerInfo {
            n_vocab,
            d_model: 1,
            n_ctx: 4096,
            n_page: 4096,
            n_slot: usize::MAX,
            page_bytes: 64,
            recurrent: false,
            n_saved: 0,
            window: None,
        };
        let logits = Vec::with_capacity(n_vocab * n_logits);
        let maxima = Vec::with_capacity(n_vocab.div_ceil(MAXIMA_BLOCK) * n_logits);
        Scripted { info, gives_maxima: false, n_compiled: 0, write, logits, maxima }
    }
}

/// How many vectors of logits a batch wants.
#[must_use]
pub fn n_logits(batch: &Batch) -> usize {
    let wanted = |want, n_tok| match want {
        Want::Nothing | Want::Hidden => 0,
        Want::Last => 1,
        Want::All => n_tok,
    };
    batch.rows.iter().map(|row| wanted(row.want, row.tokens.1 - row.tokens.0)).sum()
}

impl<F: FnMut(&Batch, &mut Vec<f32>) + Send> Runner for Scripted<F> {
    fn info(&self) -> RunnerInfo {
        self.info.clone()
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunError> {
        self.logits.clear();
        self.maxima.clear();
        (self.write)(batch, &mut self.logits);
        assert_eq!(self.logits.len(), n_logits(batch) * self.info.n_vocab, "logits for each row that wants some");
        if self.gives_maxima {
            let blocks = self.logits.chunks(self.info.n_vocab).flat_map(|logits| logits.chunks(MAXIMA_BLOCK));
            let largest = |block: &[f32]| block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            self.maxima.extend(blocks.map(largest));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Outputs<'_>, RunError> {
        Ok(Outputs { data: &self.logits, n_vocab: self.info.n_vocab, d_model: self.info.d_model, maxima: &self.maxima })
    }

    fn compiled(&mut self) -> bool {
        let compiled = self.n_compiled > 0;
        self.n_compiled = self.n_compiled.saturating_sub(1);
        compiled
    }

    fn copy_page(&mut self, _: PageId, _: PageId) {}
    fn copy_token(&mut self, _: (PageId, usize), _: (PageId, usize)) {}
    fn export_page(&self, _: PageId, _: &mut Vec<u8>) {}
    fn import_page(&mut self, _: PageId, _: &[u8]) -> Result<(), RunError> {
        Ok(())
    }
}
