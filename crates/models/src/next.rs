//! Layers that predict the token after the next one, which a checkpoint keeps beside its own: drafts come from them.
//!
//! ```text
//! token i + 1 ---- embedding ---- norm --+
//!                                        +-- projection -- layer -- norm -- output: logits of token i + 2
//! hidden state of token i ------- norm --+                   |
//!                                                            +-- stands for the hidden state of token i + 1 in the next pass
//! ```
//! The hidden state is the large model's after its last norm. The layer is one of the architecture's, with keys and values
//! of its own; embeddings and output are the model's, unless the checkpoint has others.
//! Source: DeepSeek-AI, arXiv:2412.19437, section 2.2; vLLM's `deepseek_mtp.py` for what the tensors are.

use mlxr_compute::Backend;
use mlxr_compute::op::{Linear, Norm};
use mlxr_weights::Checkpoint;

use crate::config;
use crate::decoder::{Decoder, Pass};
use crate::hyper::Hyper;
use crate::load::{Loader, Raw};
use crate::names::Role;
use crate::open::{LoadOptions, loader};
use crate::{LoadError, Model};

/// What joins a token with the hidden state before it.
pub struct Join<B: Backend> {
    /// Of the token's embedding.
    pub embed_norm: Option<Norm<B>>,
    /// Of the hidden state.
    pub hidden_norm: Option<Norm<B>>,
    pub kind: JoinKind<B>,
}

/// How both become what the first layer reads.
pub enum JoinKind<B: Backend> {
    /// `[d_model, 2 * d_model]`: of the embedding, then of the hidden state.
    Project(Linear<B>),
    /// The first layer's attention reads both, side by side, and adds to the hidden state.
    Beside {
        /// `[d_model, d_state]`, of a state of the large model: those of several layers, one after another.
        gather: Linear<B>,
        d_state: usize,
        /// Whether the state that is added to is normed.
        adds_to_normed: bool,
    },
}

impl<B: Backend> Join<B> {
    /// Numbers of a state that the large model gives, of one that the layer itself gave.
    pub(crate) fn d_states(&self, d_model: usize) -> [usize; 2] {
        match self.kind {
            JoinKind::Project(_) => [d_model; 2],
            JoinKind::Beside { d_state, .. } => [d_state, d_model],
        }
    }

    /// Embeddings `[n_tok, d_model]` joined with as many hidden states, all of them the large model's or all the layer's own:
    /// what the first layer adds to, and what its attention reads if that is something else.
    pub(crate) fn apply(&self, pass: &mut Pass<'_, B>, embedded: B::Tensor) -> (B::Tensor, Option<B::Tensor>) {
        let (backend, features) = (&mut *pass.backend, pass.features);
        let [n_tok, d_model] = backend.shape(&embedded);
        let mut hidden = backend.tensor([n_tok, features.len() / n_tok.max(1)], features);
        if let JoinKind::Beside { gather, .. } = &self.kind
            && features.len() != n_tok * d_model
        {
            [hidden] = backend.linears(&hidden, None, [gather]);
        }
        let mut normed = |x: &B::Tensor, norm: &Option<Norm<B>>| norm.as_ref().map(|norm| backend.norm(x, norm));
        let (token, state) = (normed(&embedded, &self.embed_norm), normed(&hidden, &self.hidden_norm));
        let both = backend.concat_heads(token.as_ref().unwrap_or(&embedded), state.as_ref().unwrap_or(&hidden), 1, 1);
        match &self.kind {
            JoinKind::Project(project) => {
                let [x] = backend.linears(&both, None, [project]);
                (x, None)
            }
            JoinKind::Beside { adds_to_normed, .. } => {
                (state.filter(|_| *adds_to_normed).unwrap_or(hidden), Some(both))
            }
        }
    }
}

/// Loads the first layer that predicts further tokens, as a model whose batches bring hidden states; `None` if the
/// checkpoint has none.
///
/// # Errors
/// As [`crate::load`].
pub fn load_next<B: Backend>(
    checkpoint: &Checkpoint,
    mut backend: B,
    options: &LoadOptions,
) -> Result<Option<Model<B>>, LoadError> {
    let loader = loader(checkpoint, &mut backend, options, 1)?;
    match loader.next_decoder()? {
        Some((decoder, hyper)) => Model::new(backend, decoder, hyper, options).map(Some),
        None => Ok(None),
    }
}

impl<B: Backend> Loader<'_, B> {
    fn next_decoder(mut self) -> Result<Option<(Decoder<B>, Hyper)>, LoadError> {
        let (at, d_model) = (self.hyper.n_layer - 1, self.hyper.d_model);
        if !self.named() || self.names.find(Role::NextProject, at).is_none() {
            return Ok(None);
        }
        let embed = match self.optional(Role::NextEmbed, at)? {
            Some(raw) => raw.matrix,
            None => self.raw(Role::Embed, 0)?.matrix,
        };
        let n_vocab = embed.n_out;
        self.expect(&embed, [n_vocab, d_model])?;
        let tied = self.config.flag(config::TIED) == Some(true);
        let output = match (self.optional(Role::NextOutput, at)?, self.optional(Role::Output, 0)?) {
            (Some(raw), _) => raw,
            (None, Some(raw)) if !tied => raw,
            _ => Raw { matrix: embed.clone(), bias: None, scale: 1.0 },
        };
        self.expect(&output.matrix, [n_vocab, d_model])?;
        let join = Join {
            embed_norm: Some(self.need_norm(Role::NextEmbedNorm, at, d_model)?),
            hidden_norm: Some(self.need_norm(Role::NextHiddenNorm, at, d_model)?),
            kind: JoinKind::Project(self.need(Role::NextProject, at, [d_model, 2 * d_model])?),
        };
        let layer = self.layer(at)?;
        let output_norm = match self.norm(Role::NextNorm, at)? {
            Some(norm) => norm,
            None => self.need_norm(Role::OutputNorm, 0, d_model)?,
        };
        self.nothing_left(at..at + 1)?;
        let (embed, output) = (self.backend.matrix(&[embed])?, self.linear(output)?);
        self.hyper.keep_layer(at);
        let (positions, embed_norm) = (None, None);
        let (join, output_norm, layers) = (Some(join), Some(output_norm), vec![layer]);
        let decoder =
            Decoder { embed, positions, embed_norm, join, layers, output_norm, output, spoken: None, n_vocab };
        Ok(Some((decoder, self.hyper)))
    }
}
