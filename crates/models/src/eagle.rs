//! EAGLE: a layer that was trained to draft for a model from its hidden states. It comes as a checkpoint of its own.
//!
//! ```text
//! EAGLE 1 and 2
//! token i + 1 ---- embedding --+
//!                              +-- fc -- layer -- the model's output: logits of token i + 2
//! hidden state of token i -----+           |
//!                                          +-- stands for the hidden state of token i + 1 in the next pass
//! EAGLE 3
//! token i + 1 ---- embedding -- norm ---------+
//!                                             +-- attention --+
//! states of token i from three layers -- fc --+- norm         +-- feed-forward -- norm -- output: logits of token i + 2
//!                                             +---------------+        |
//!                                                                      +-- stands for what fc gives in the next pass
//! ```
//! In EAGLE 1 the hidden state is the model's after its last norm, and what the layer gives is like it: it is not normed again.
//! The layer is one of the architecture's, mostly without a norm before its attention; its output, and its embeddings where the
//! checkpoint has none, are the model's.
//!
//! In EAGLE 3 it is what comes to three of the model's layers; attention reads embedding and state side by side, further layers
//! are plain ones. The output is the checkpoint's and mostly has a part of the vocabulary: `d2t` says how far a token's number is from
//! that of its logit.
//!
//! Source: Li et al., arXiv:2401.15077 and arXiv:2503.01840; names of tensors as in their authors' checkpoints and vLLM's
//! `llama_eagle.py` and `llama_eagle3.py`; configurations also as in `speculators` and SGLang.

use mlxr_compute::{Backend, DType};
use mlxr_weights::Checkpoint;

use crate::decoder::Decoder;
use crate::hyper::Hyper;
use crate::layer::Layer;
use crate::load::{Loader, Raw};
use crate::names::Role;
use crate::next::{Join, JoinKind};
use crate::open::{LoadOptions, loader};
use crate::{LoadError, Model, config};

/// What checkpoints of EAGLE 3 call themselves. Their layers are LLaMA's.
const CLASSES: [&str; 4] = ["LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"];
/// How far a token's number is from that of its logit.
const OFFSETS: &str = "d2t";

/// The architecture whose layers a checkpoint of this class has.
pub(crate) fn layer_of(class: String) -> String {
    if CLASSES.contains(&class.as_str()) { "LlamaForCausalLM".to_owned() } else { class }
}

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

/// A layer that drafts, and of which layers of the large model it reads what comes to them.
type Eagle<T> = (T, Vec<usize>);

/// Loads the layer in `checkpoint`, which drafts for the model in `large`, as a model whose batches bring hidden states: those
/// that come to the layers that are returned with it, or those after the last one if there are none.
///
/// # Errors
/// As [`crate::load`]; also if the two do not fit.
pub fn load_eagle<B: Backend>(
    checkpoint: &Checkpoint,
    large: &Checkpoint,
    mut backend: B,
    options: &LoadOptions,
) -> Result<Eagle<Model<B>>, LoadError> {
    let large = loader(large, &mut backend, options, 0)?.large()?;
    let mut loader = loader(checkpoint, &mut backend, options, 0)?;
    // Positions that it was not trained on only make drafts worse.
    loader.hyper.n_ctx = large.hyper.n_ctx;
    let ((decoder, hyper), taps) = match loader.names.find(Role::HeadHiddenNorm, 0) {
        Some(_) => loader.eagle_3(large)?,
        None => (loader.eagle(large)?, Vec::new()),
    };
    Ok((Model::new(backend, decoder, hyper, options)?, taps))
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
        let join = Some(Join { embed_norm: None, hidden_norm: None, kind: JoinKind::Project(project) });
        (self.hyper.logit_scale, self.hyper.final_softcap) = (large.hyper.logit_scale, large.hyper.final_softcap);
        let (positions, embed_norm, output_norm, spoken) = (None, None, None, None);
        let decoder = Decoder { embed, positions, embed_norm, join, layers, output_norm, output, spoken, n_vocab };
        Ok((decoder, self.hyper))
    }

    fn eagle_3(mut self, large: Large) -> Result<Eagle<(Decoder<B>, Hyper)>, LoadError> {
        let (d_model, n_layer) = (self.hyper.d_model, self.hyper.n_layer);
        let taps = self.taps(large.hyper.n_layer)?;
        let d_state = taps.len() * large.hyper.d_model;
        if d_state == d_model {
            // A state of the model and one of its own could not be told apart.
            return Err(self.unsupported(format!("its states are as wide as {} of the model's", taps.len())));
        }
        let embed = self.optional(Role::Embed, 0)?.unwrap_or(large.embed).matrix;
        let n_vocab = large.output.matrix.n_out;
        self.expect(&embed, [n_vocab, d_model])?;
        let adds_to_normed = self.config.flag(config::ADDS_TO_NORMED);
        let adds_to_normed = adds_to_normed.unwrap_or(self.config.text(config::SPECULATOR).is_some());
        let gather = self.need(Role::HeadProject, 0, [d_model, d_state])?;
        let join = Some(Join {
            embed_norm: Some(self.need_norm(Role::AttnNorm, 0, d_model)?),
            hidden_norm: Some(self.need_norm(Role::HeadHiddenNorm, 0, d_model)?),
            kind: JoinKind::Beside { gather, d_state, adds_to_normed },
        });
        self.hyper.d_attn = 2 * d_model;
        let first = self.eagle_layer(0)?;
        let mut layers = vec![Layer { attn_norm: None, ..first }];
        self.hyper.d_attn = d_model;
        for i in 1..n_layer {
            layers.push(self.eagle_layer(i)?);
        }
        let output_norm = Some(self.need_norm(Role::OutputNorm, 0, d_model)?);
        let output = self.optional(Role::Output, 0)?.unwrap_or(large.output);
        self.expect(&output.matrix, [output.matrix.n_out, d_model])?;
        let spoken = self.spoken(output.matrix.n_out, n_vocab)?;
        self.nothing_left(0..n_layer)?;
        let (embed, output) = (self.backend.matrix(&[embed])?, self.linear(output)?);
        let (positions, embed_norm) = (None, None);
        let decoder = Decoder { embed, positions, embed_norm, join, layers, output_norm, output, spoken, n_vocab };
        Ok(((decoder, self.hyper), taps))
    }

    /// The layers, of a model of so many, whose inputs are read. vLLM counts so; SGLang names the layers that they come from.
    fn taps(&self, n_layer: usize) -> Result<Vec<usize>, LoadError> {
        let layer = |key, i: f32, from: usize| match i >= 0.0 && i.fract() == 0.0 {
            true => Ok(i as usize + from),
            false => Err(self.config.error(key, i, "the number of a layer")),
        };
        let mut named = [(config::TAPS, 0), (config::TAPS_AFTER, 1)].into_iter();
        let named = named.find_map(|(key, from)| Some((key, from, self.config.numbers(key)?)));
        let mut taps = match named {
            Some((key, from, all)) => all.into_iter().map(|i| layer(key, i, from)).collect::<Result<Vec<_>, _>>()?,
            None => vec![2, n_layer / 2, n_layer.saturating_sub(3)],
        };
        taps.sort_unstable();
        if !taps.is_sorted_by(|a, b| a < b) || taps.last().is_none_or(|&i| i > n_layer) {
            let what = format!("it reads what comes to the layers {taps:?} of a model that has {n_layer}");
            return Err(self.unsupported(what));
        }
        Ok(taps)
    }

    /// The tokens of `n_logit` logits; `None` if they are all `n_vocab` in their order.
    fn spoken(&self, n_logit: usize, n_vocab: usize) -> Result<Option<Vec<u32>>, LoadError> {
        let expected = || format!("{n_logit} offsets in I64, of tokens below {n_vocab}");
        let Some(info) = self.checkpoint.tensor(OFFSETS) else {
            let missing = || self.shape_error(OFFSETS, "no such tensor".to_owned(), expected());
            return if n_logit == n_vocab { Ok(None) } else { Err(missing()) };
        };
        if info.dtype != DType::I64 || info.shape != [n_logit] {
            return Err(self.shape_error(OFFSETS, format!("{:?} of {:?}", info.shape, info.dtype), expected()));
        }
        let bytes = self.checkpoint.bytes(OFFSETS)?;
        let offsets = bytes.as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes));
        let token = |(i, offset): (i64, i64)| i.checked_add(offset).filter(|token| (0..n_vocab as i64).contains(token));
        let tokens: Result<Vec<u32>, i64> =
            (0..).zip(offsets).map(|both| token(both).map(|token| token as u32).ok_or(both.0)).collect();
        let outside = |i| self.shape_error(OFFSETS, format!("another token for logit {i}"), expected());
        let tokens = tokens.map_err(outside)?;
        Ok(Some(tokens).filter(|tokens| n_logit != n_vocab || !(0..).zip(tokens).all(|(i, token)| i == *token)))
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
