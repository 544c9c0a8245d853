//! The contract between the engine, which decides, and a model, which computes.
//!
//! A batch has no prefill or decode phase: each [`Row`] says how many tokens of a sequence to compute from which
//! position. A prompt chunk has many, a decode has one, a draft to verify has `1 + k`, a token tree has parents.

/// A token of the model's vocabulary.
pub type TokenId = u32;

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 16;

/// A page of the model's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// A sequence that the engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// A place for a saved recurrent state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub u32);

/// What a row's caller wants back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing: a prompt chunk that is not the last.
    Nothing,
    /// Logits after the last token.
    Last,
    /// Logits after every token of the row, in order.
    All,
    /// The final hidden state of every token of the row (embeddings), in order.
    Hidden,
}

/// Some tokens of one sequence to compute.
#[derive(Debug, Clone)]
pub struct Row {
    /// The sequence. A row with `start == 0` begins it anew.
    pub seq: SeqId,
    /// Tokens of the sequence that are stored already: the KV slot of the row's first token.
    pub start: usize,
    /// Range of the row's tokens in [`Batch::tokens`].
    pub tokens: (usize, usize),
    /// Range of the sequence's pages in [`Batch::pages`], oldest first, enough for `start` and the row's tokens.
    pub pages: (usize, usize),
    /// Where the sequence's recurrent state is kept, below [`RunnerInfo::n_slot`].
    pub slot: usize,
    /// Range in [`Batch::parents`] for a token tree: each token's parent as index in the row, -1 for the past.
    pub parents: Option<(usize, usize)>,
    /// What to return.
    pub want: Want,
}

/// What to compute in one step. Reused from step to step, so that a step allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// One row a sequence.
    pub rows: Vec<Row>,
    /// Tokens of all rows.
    pub tokens: Vec<TokenId>,
    /// Page tables of all rows.
    pub pages: Vec<PageId>,
    /// Tree parents of all rows that are trees.
    pub parents: Vec<i32>,
    /// How many of the largest logits of each wanted token are needed: the runner may leave the others minus infinity. `None` for
    /// all.
    pub n_best: Option<usize>,
    /// Whether [`Runner::hidden`] is wanted.
    pub wants_hidden: bool,
    /// Hidden states of another model, or of its own last pass, one for each token, for a model that reads them with its tokens;
    /// else empty.
    pub features: Vec<f32>,
}

impl Batch {
    /// An empty batch with memory for so many rows, tokens and pages.
    pub(crate) fn with_room(n_row: usize, n_tok: usize, n_page: usize) -> Batch {
        let (rows, tokens, pages) = (Vec::with_capacity(n_row), Vec::with_capacity(n_tok), Vec::with_capacity(n_page));
        Batch { rows, tokens, pages, ..Batch::default() }
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tokens.clear();
        self.pages.clear();
        self.parents.clear();
        self.features.clear();
        (self.n_best, self.wants_hidden) = (None, false);
    }
}

/// What a step computed: for each row that wanted something, in the order of rows, its vectors one after another.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    /// All vectors.
    pub data: &'a [f32],
    /// Numbers of a vector of logits.
    pub n_vocab: usize,
    /// Numbers of a hidden state.
    pub d_model: usize,
    /// Where all rows' vectors are logits, the largest of each [`MAXIMA_BLOCK`] of a vector, the last one's shorter; NaN
    /// counts as minus infinity. Empty where the model does not say.
    pub maxima: &'a [f32],
}

/// Logits of a block of [`Outputs::maxima`].
pub const MAXIMA_BLOCK: usize = 64;

/// What the engine must know of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RunnerInfo {
    /// Logits of a row.
    pub n_vocab: usize,
    /// Width of a hidden state.
    pub d_model: usize,
    /// Most tokens that a sequence may have.
    pub n_ctx: usize,
    /// Pages in the arena.
    pub n_page: usize,
    /// Slots for recurrent states, and so the most sequences at once; `usize::MAX` when there are none.
    pub n_slot: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Whether the model keeps a recurrent state, so that a prefix can only be reused from a saved state.
    pub recurrent: bool,
    /// Places for saved recurrent states; 0 when there are none.
    pub n_saved: usize,
    /// Tokens that a token sees at most, itself included, in every layer; `None` if some layer sees all.
    pub window: Option<usize>,
}

/// Why a model could not compute.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A token that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {n_vocab}")]
    Token {
        /// The token.
        token: TokenId,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A row that the arena cannot hold.
    #[error("a sequence of {n_token} tokens needs more pages than the {n_page} it was given")]
    Pages {
        /// Tokens stored and to compute.
        n_token: usize,
        /// Pages given.
        n_page: usize,
    },
    /// The backend failed; the model must be unloaded.
    #[error("{0}")]
    Backend(String),
}

/// A model that computes batches.
pub trait Runner: Send {
    /// What the engine must know.
    fn info(&self) -> RunnerInfo;

    /// Does now what is otherwise done when a part of the model is first used, so that it is in no step's time.
    ///
    /// # Errors
    /// If the backend failed.
    fn prepare(&mut self) -> Result<(), RunError> {
        Ok(())
    }

    /// Starts to compute `batch` and returns at once, where the backend can.
    ///
    /// # Errors
    /// If the batch does not fit the model; then nothing was computed.
    fn submit(&mut self, batch: &Batch) -> Result<(), RunError>;

    /// Waits for the submitted batch.
    ///
    /// # Errors
    /// If the backend failed.
    fn wait(&mut self) -> Result<Outputs<'_>, RunError>;

    /// Whether the last batch took longer than its like will, as kernels were compiled for it.
    fn compiled(&mut self) -> bool {
        false
    }

    /// Hidden states of all tokens of the last batch, `[n_tok, d_model]` or as [`Runner::reveal`] said, if it wanted them: what
    /// a model reads that predicts further tokens.
    fn hidden(&self) -> &[f32] {
        &[]
    }

    /// From now on [`Runner::hidden`] has what comes to these layers, `[n_tok, layers.len() * d_model]`, in place of the normed
    /// states after the last one; that again if there are none. Returns whether it does.
    fn reveal(&mut self, layers: &[usize]) -> bool {
        layers.is_empty()
    }

    /// Copies page `from` over page `to`.
    fn copy_page(&mut self, from: PageId, to: PageId);

    /// Copies what is stored of the token at `from`, page and place in it, over that of the token at `to`: where a token tree
    /// was verified, the tokens that count are brought into a line.
    fn copy_token(&mut self, from: (PageId, usize), to: (PageId, usize));

    /// Appends the bytes of a page to `out`.
    fn export_page(&self, page: PageId, out: &mut Vec<u8>);

    /// Overwrites a page with bytes of [`Runner::export_page`].
    ///
    /// # Errors
    /// If the bytes are not a page of this model.
    fn import_page(&mut self, page: PageId, bytes: &[u8]) -> Result<(), RunError>;

    /// Saves the recurrent state in `slot` at the place `state`, below [`RunnerInfo::n_saved`].
    ///
    /// # Panics
    /// As it stands here, and so do the next three: a model without recurrent states is never asked for one.
    fn save_state(&mut self, slot: usize, state: StateId) {
        panic!("slot {slot} has no state to save at {state:?}");
    }

    /// Overwrites the recurrent state in `slot` with a saved one.
    fn restore_state(&mut self, slot: usize, state: StateId) {
        panic!("slot {slot} has no state to restore from {state:?}");
    }

    /// Appends the bytes of a saved recurrent state to `out`: as many for each.
    fn export_state(&self, state: StateId, _out: &mut Vec<u8>) {
        panic!("no state is saved at {state:?}");
    }

    /// Overwrites a saved recurrent state with bytes of [`Runner::export_state`].
    ///
    /// # Errors
    /// If the bytes are not a state of this model.
    fn import_state(&mut self, state: StateId, _bytes: &[u8]) -> Result<(), RunError> {
        panic!("no state can be saved at {state:?}");
    }
}
