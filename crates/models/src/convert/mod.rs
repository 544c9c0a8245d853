//! From one form of checkpoint to another: which tensors the written file has, under which names, and how each is made
//! of the source's. What differs between the forms is read from the tables that loading reads ([`crate::names`],
//! [`crate::config`], [`crate::arch`]); nothing here knows an architecture by name.
//!
//! ```text
//! checkpoint -> Plan: metadata, targets -> for each target: pieces (rows of source matrices) -> matrix -> the file
//! ```
//!
//! | module | what |
//! |---|---|
//! | `recipe` | a target, and the matrix that it makes of the source's |
//! | `tensors` | targets of the whole checkpoint: embeddings, norms, plain matrices, a layer's small parameters |
//! | `attention` | q, k, v: split, fused, permuted; latent projections |
//! | `ffn` | gate, up, down and experts: split, fused, stacked |
//! | `metadata` | a model's numbers as GGUF metadata |
//! | `config_json` | a model's numbers as `config.json` |

mod attention;
mod config_json;
mod ffn;
mod metadata;
mod recipe;
mod tensors;

use mlxr_compute::op::Gating;
use mlxr_weights::{Checkpoint, Kind, Metadata};
use serde_json::Value;

use crate::LoadError;
use crate::arch::Arch;
use crate::config::Config;
use crate::hyper::Hyper;
use crate::names::{Names, Role};
use crate::open::describe;
use crate::style::{FALCON_TWO_NORMS, Naming};
use crate::{arch, table};

pub use recipe::{Part, Recipe, Target};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// GGUF's conventions.
    Gguf,
    /// Those of Hugging Face files.
    HuggingFace,
    /// Those of mlx-lm.
    Mlx,
}

impl From<Kind> for Form {
    fn from(kind: Kind) -> Form {
        match kind {
            Kind::Gguf => Form::Gguf,
            Kind::HuggingFace => Form::HuggingFace,
            Kind::Mlx => Form::Mlx,
        }
    }
}

/// What a conversion writes.
#[derive(Debug)]
pub struct Plan {
    /// What is written.
    pub form: Form,
    n_layer: usize,
    /// The tensors in the order in which they are written.
    pub targets: Vec<Target>,
    /// Model metadata of a GGUF file, without a tokenizer; empty for folders.
    pub metadata: Metadata,
    /// `config.json` of a folder; null for GGUF.
    pub config: Value,
    /// What the written form cannot say, a line each.
    pub losses: Vec<String>,
}

impl Plan {
    /// Layers.
    #[must_use]
    pub fn n_layer(&self) -> usize {
        self.n_layer
    }

    /// Rows of the embeddings, and so of logits.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.targets.iter().find(|t| t.role == Role::Embed).map_or(0, |t| t.shape[0])
    }
}

/// A checkpoint with what its tables say of it.
pub(crate) struct Source<'a> {
    pub checkpoint: &'a Checkpoint,
    pub names: Names,
    pub arch: &'static Arch,
    pub arch_name: String,
    pub hyper: Hyper,
    pub config: Config<'a>,
}

impl Source<'_> {
    pub fn form(&self) -> Form {
        self.checkpoint.kind.into()
    }

    /// The error for a role that the architecture needs.
    pub fn missing(&self, role: Role, i: usize) -> LoadError {
        LoadError::Missing {
            path: self.checkpoint.path().display().to_string(),
            role: format!("{role:?} of layer {i}"),
            tried: self.names.candidates(role, i).join(", "),
            arch: self.arch_name.clone(),
        }
    }
}

/// Plans a conversion of `checkpoint` to `form`.
///
/// # Errors
/// If the architecture is not known, a tensor is missing or of a wrong shape, or the form has no name for it.
pub fn plan(checkpoint: &Checkpoint, form: Form) -> Result<Plan, LoadError> {
    let (arch_name, names, arch) = describe(checkpoint)?;
    let config = Config::new(checkpoint, &arch_name).with_defaults(arch.defaults);
    let hyper = Hyper::read(&config, arch, None)?;
    let refuse = |text: String| LoadError::Convert { path: checkpoint.path().display().to_string(), text };
    // GGUF names the widths of delta nets as those of state spaces; there, tensors that are not understood tell.
    let delta = hyper.delta.is_some() && checkpoint.kind != Kind::Gguf;
    if delta || hyper.n_short_conv.is_some() {
        return Err(refuse("its delta nets or short convolutions are not converted yet".into()));
    }
    let any = |role| (0..hyper.n_layer).any(|i| names.find(role, i).is_some());
    let hybrid = any(Role::SsmIn) && any(Role::AttnOut);
    if hybrid && form != Form::Gguf && checkpoint.kind == Kind::Gguf {
        return Err(refuse("hybrids of attention and state spaces are not converted from GGUF to folders yet".into()));
    }
    let f = hyper.factors;
    let factors = [f.attn_in, f.attn_key, f.attn_out, f.ssm_in, f.ssm_out].into_iter().chain(f.ssm_parts).chain(f.ffn);
    if form == Form::Gguf && factors.into_iter().any(|factor| factor != 1.0) {
        return Err(refuse("its factors on parts of layers are not folded into weights yet".into()));
    }
    let source = Source { checkpoint, names, arch, arch_name, hyper, config };
    let naming = naming(&source, form)?;
    let targets = tensors::targets(&source, form, &naming)?;
    let n_layer = source.hyper.n_layer;
    let mut plan =
        Plan { form, n_layer, targets, metadata: Metadata::default(), config: Value::Null, losses: Vec::new() };
    let left = source.names.unused(checkpoint, source.hyper.n_layer, source.arch.harmless);
    if let Some(first) = left.first() {
        return Err(refuse(format!("{} tensors of its layers are not understood, such as `{first}`", left.len())));
    }
    match form {
        Form::Gguf => (plan.metadata, plan.losses) = metadata::write(&source, &plan.targets)?,
        Form::HuggingFace | Form::Mlx => (plan.config, plan.losses) = config_json::write(&source, &plan.targets)?,
    }
    Ok(plan)
}

/// The architecture's name in GGUF.
fn gguf_name(source: &Source<'_>) -> Result<String, LoadError> {
    if source.form() == Form::Gguf {
        return Ok(source.arch_name.clone());
    }
    let arch = source.arch;
    let name = match (arch.gguf.first(), arch.written_as) {
        (Some(first), "") => first,
        (Some(first), _) if source.hyper.moe.n_expert == 0 => first,
        (_, written) if !written.is_empty() => written,
        _ if std::ptr::eq(arch, table::GENERIC) => "llama",
        _ => {
            return Err(LoadError::Convert {
                path: source.checkpoint.path().display().to_string(),
                text: format!("GGUF has no architecture for `{}`", source.arch_name),
            });
        }
    };
    Ok(name.to_owned())
}

/// The row that reads what is written.
fn target_arch(source: &Source<'_>, form: Form) -> Result<&'static Arch, LoadError> {
    if form != Form::Gguf {
        // A GGUF architecture may be the common form of several classes; those of experts have a row of their own.
        let other = |arch: &&Arch| arch.written_as == source.arch_name && !arch.hf.is_empty();
        let moe = &source.hyper.moe;
        let apart = moe.n_expert > 0 && (source.hyper.mla.is_none() || moe.gating == Gating::Sigmoid);
        let from_gguf = source.form() == Form::Gguf;
        return Ok(table::archs().filter(|_| from_gguf && apart).find(other).unwrap_or(source.arch));
    }
    let name = gguf_name(source)?;
    Ok(table::by_gguf(&name).unwrap_or(&arch::LLAMA))
}

fn naming(source: &Source<'_>, form: Form) -> Result<Naming, LoadError> {
    let gguf = form == Form::Gguf;
    let arch = if gguf { source.arch } else { target_arch(source, form)? };
    // Falcon with two norms: GGUF calls the feed-forward's norm the first, and attention's the second.
    let two = arch.parallel == arch::Parallel::Yes
        && (source.names.find(Role::FfnNorm, 0).is_some() || source.names.find(Role::AttnNorm2, 0).is_some());
    let mut renames = Vec::new();
    if gguf && arch.ffn_norm_is_post {
        renames.push((Role::FfnNorm, Role::PostAttnNorm));
    }
    if gguf && two {
        renames.extend([(Role::AttnNorm, Role::AttnNorm2), (Role::FfnNorm, Role::AttnNorm)]);
    } else if two && source.form() == Form::Gguf {
        renames.extend([(Role::AttnNorm2, Role::AttnNorm), (Role::AttnNorm, Role::FfnNorm)]);
    }
    let first = if two { FALCON_TWO_NORMS } else { &[] };
    let layers = source.names.layers().map(str::to_owned);
    Ok(Naming { style: (!gguf).then_some(arch.style), first, renames, layers })
}
