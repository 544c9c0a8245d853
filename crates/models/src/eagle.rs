//! EAGLE: a layer that was trained to draft for a model from its hidden states. It comes as a checkpoint of its own.
//!
//! ```text
//! token i + 1 ---- embedding --+
//!                              +-- fc -- layer -- the model's output: logits of token i + 2
//! hidden state of token i -----+           |
//!                                          +-- stands for the hidden state of token i + 1 in the next pass
//! ```
//! The hidden state is the model's after its last norm, and what the layer gives is like it: it is not normed again. The
//! layer is one of the architecture's, mostly without a norm before its attention; its output, and its embeddings where the
//! checkpoint has none, are the model's.
//! Source: Li et al., arXiv:2401.15077; names of tensors as in its authors' checkpoints and vLLM's `llama_eagle.py`.

use mlxr_compute::Backend;
use mlxr_weights::Checkpoint;

use crate::decoder::Decoder;
use crate::hyper::Hyper;
use crate::layer::Layer;
use crate::load::{Loader, Raw};
use crate::names::Role;
use crate::next::Join;
use crate::open::{LoadOptions, loader};
use crate::{LoadError, Model, config};

/// Whether a checkpoint is such a layer.
#[must_use]
pub fn is_eagle(checkpoint: &Checkpoint) -> bool {
    checkpoint.tensor("fc.weight").is_some()
}

/// What a layer takes from the model that it drafts for.
struct Large {
    embed: Raw,
    output: Raw,
    hyper: Hyper,
}

/// Loads the layer in `checkpoint`, which drafts for the model in `large`, as a model whose batches bring hidden states.
///
/// # Errors
/// As [`crate::load`]; also if the two do not fit.
pub fn load_eagle<B: Backend>(
    checkpoint: &Checkpoint,
    large: &Checkpoint,
    mut backend: B,
    options: &LoadOptions,
) -> Result<Model<B>, LoadError> {
    let large = loader(large, &mut backend, options, 0)?.large()?;
    let (decoder, hyper) = loader(checkpoint, &mut backend, options, 0)?.eagle(large)?;
    Model::new(backend, decoder, hyper, options)
}

impl<B: Backend> Loader<'_, B> {
    fn large(self) -> Result<Large, LoadError> {
        let embed = self.raw(Role::Embed, 0)?;
        let tied = self.config.flag(config::TIED) == Some(true);
        let output = match self.optional(Role::Output, 0)? {
            Some(raw) if !tied => raw,
            _ => Raw { matrix: embed.matrix.clone(), bias: None, scale: 1.0 },
        };
        Ok(Large { embed, output, hyper: self.hyper })
    }

    fn eagle(mut self, large: Large) -> Result<(Decoder<B>, Hyper), LoadError> {
        let d_model = self.hyper.d_model;
        if self.checkpoint.tensor("d2t").is_some() || self.names.has("midlayer.hidden_norm") {
            let what = "it is a layer of EAGLE 3, which reads hidden states of three layers".to_owned();
            return Err(self.unsupported(what));
        }
        if large.hyper.d_model != d_model {
            let what = format!("it reads hidden states of {d_model}, the model has {}", large.hyper.d_model);
            return Err(self.unsupported(what));
        }
        let embed = self.optional(Role::Embed, 0)?.unwrap_or(large.embed).matrix;
        let n_vocab = large.output.matrix.n_out;
        self.expect(&embed, [n_vocab, d_model])?;
        let project = self.need(Role::HeadProject, 0, [d_model, 2 * d_model])?;
        let layers = (0..self.hyper.n_layer).map(|i| self.eagle_layer(i)).collect::<Result<Vec<_>, _>>()?;
        self.nothing_left(0..self.hyper.n_layer)?;
        let (embed, output) = (self.backend.matrix(&[embed])?, self.linear(large.output)?);
        let join = Some(Join { embed_norm: None, hidden_norm: None, project });
        (self.hyper.logit_scale, self.hyper.final_softcap) = (large.hyper.logit_scale, large.hyper.final_softcap);
        let (positions, embed_norm, output_norm) = (None, None, None);
        let decoder = Decoder { embed, positions, embed_norm, join, layers, output_norm, output, n_vocab };
        Ok((decoder, self.hyper))
    }

    /// A layer whose attention may read what is not normed.
    fn eagle_layer(&mut self, i: usize) -> Result<Layer<B>, LoadError> {
        Ok(Layer {
            attn_norm: self.norm(Role::AttnNorm, i)?,
            attn_norm_2: None,
            mixer: self.mixer(i)?,
            post_attn_norm: None,
            ffn_norm: Some(self.need_norm(Role::FfnNorm, i, self.hyper.d_model)?),
            ffn: self.ffn(i)?,
            post_ffn_norm: None,
            parallel: false,
        })
    }
}
