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
//! | `recurrent` | state spaces, delta nets, short convolutions |
//! | `ffn` | gate, up, down and experts: split, fused, stacked |
//! | `indexer` | the indexer of a sparse attention |
//! | `hybrid` | layers that are not all alike, in both |
//! | `metadata` | a model's numbers as GGUF metadata |
//! | `config_json` | a model's numbers as `config.json` |
//! | `mlx_json` | what mlx-lm asks of it beyond that |

mod attention;
mod config_json;
mod ffn;
mod hybrid;
mod indexer;
mod metadata;
mod mlx_json;
mod recipe;
mod recurrent;
mod tensors;

use mlxr_compute::op::{Gating, Window};
use mlxr_weights::{Checkpoint, Kind, Metadata};
use serde_json::Value;

use crate::LoadError;
use crate::arch::{Arch, NoRope, WindowLayers};
use crate::config::Config;
use crate::hyper::{Factors, Hyper};
use crate::names::{Names, Role};
use crate::open::describe;
use crate::style::{FALCON_TWO_NORMS, Naming};
use crate::{arch, config, style, table};

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
    /// Which tensors of the source are not written, if there are such.
    pub left_out: Option<String>,
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
    let mut hyper = Hyper::read(&config, arch, None)?;
    if checkpoint.kind == Kind::Mlx && arch.folds {
        hyper.fold_as_mlx(config.flag(config::TIED) == Some(true));
    }
    let refuse = |text: String| LoadError::Convert { path: checkpoint.path().display().to_string(), text };
    if checkpoint.kind == Kind::Gguf {
        // GGUF has the widths of delta nets under the names of state spaces: tensors tell.
        let any = |role| (0..hyper.n_layer).any(|i| names.find(role, i).is_some());
        let nets = any(Role::DeltaConvQ) || any(Role::DeltaBeta) || any(Role::DeltaBetaAlpha);
        hyper.delta = hyper.delta.filter(|_| nets);
        hyper.ssm = hyper.ssm.filter(|_| !nets);
    }
    let mut source = Source { checkpoint, names, arch, arch_name, hyper, config };
    let mut fold = Fold::NONE;
    let folds = target_arch(&source, form)?.folds && (form, source.form()) != (Form::HuggingFace, Form::HuggingFace);
    if folds {
        let hyper = &mut source.hyper;
        fold = Fold { embed: hyper.embed_scale, logits: hyper.logit_scale, factors: hyper.factors };
        (hyper.embed_scale, hyper.logit_scale, hyper.factors) = (1.0, 1.0, Factors::NONE);
    }
    let naming = naming(&source, form)?;
    let targets = tensors::targets(&source, form, &naming, fold)?;
    let n_layer = source.hyper.n_layer;
    let mut plan = Plan {
        form,
        n_layer,
        targets,
        metadata: Metadata::default(),
        config: Value::Null,
        losses: Vec::new(),
        left_out: None,
    };
    let left = source.names.unused(checkpoint, 0..source.hyper.n_layer, source.arch.harmless);
    if let Some(first) = left.first() {
        return Err(refuse(format!("{} tensors of its layers are not understood, such as `{first}`", left.len())));
    }
    match form {
        Form::Gguf => (plan.metadata, plan.losses) = metadata::write(&source, &plan.targets)?,
        Form::HuggingFace | Form::Mlx => {
            (plan.config, plan.losses) = config_json::write(&source, &plan.targets)?;
            if folds {
                config_json::without_factors(&mut plan.config, &plan.targets);
            }
            if form == Form::Mlx {
                mlx_json::complete(&mut plan.config, &source.hyper, &mut plan.targets);
            }
        }
    }
    // What a model has beside its decoder of text: parts that see or hear, layers that predict further tokens.
    let left: Vec<String> = source.names.left(checkpoint, source.arch.harmless).collect();
    if let Some(first) = left.first() {
        plan.left_out = Some(format!("left out: {} tensors beside the text model's, such as `{first}`", left.len()));
    }
    Ok(plan)
}

/// Factors that go into weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fold {
    pub embed: f32,
    pub logits: f32,
    pub factors: Factors,
}

impl Fold {
    const NONE: Fold = Fold { embed: 1.0, logits: 1.0, factors: Factors::NONE };

    /// The factor on a role's whole matrix.
    pub fn factor(&self, role: Role) -> f32 {
        let f = &self.factors;
        match role {
            Role::Embed => self.embed,
            Role::Output => self.logits,
            Role::AttnQ | Role::AttnV => f.attn_in,
            Role::AttnK => f.attn_in * f.attn_key,
            Role::AttnOut => f.attn_out,
            Role::SsmOut => f.ssm_out,
            Role::FfnGate => f.ffn[0],
            Role::FfnDown => f.ffn[1],
            _ => 1.0,
        }
    }
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
    if form == Form::Gguf {
        let name = gguf_name(source)?;
        return Ok(table::by_gguf(&name).unwrap_or(&arch::LLAMA));
    }
    if source.form() != Form::Gguf {
        return Ok(source.arch);
    }
    // A GGUF architecture may be the common form of several classes, each with a row of its own.
    let mut rows = table::archs().filter(|arch| arch.written_as == source.arch_name && !arch.hf.is_empty());
    let hyper = &source.hyper;
    let shared = (0..hyper.n_layer).any(|i| source.names.find(Role::ShUp, i).is_some());
    let attn_scale = hyper.attn_scale * (hyper.d_k as f32).sqrt();
    let factors = [hyper.embed_scale, hyper.logit_scale, hyper.residual_scale, attn_scale];
    let neutral = factors.iter().all(|x| (x - 1.0).abs() < 1e-5);
    let other = match hyper.ssm {
        // Bamba is Granite's hybrid with rotation and without factors.
        Some(_) if hyper.moe.n_expert == 0 && neutral && hyper.rotates[0] => {
            rows.find(|arch| arch.no_rope == NoRope::Never)
        }
        Some(_) if source.config.flag(config::SSM_NORMED) == Some(true) => rows.find(|arch| arch.ssm_normed),
        None if hyper.moe.n_expert == 0 && hyper.window.iter().any(|w| *w != Window::Full) => {
            rows.find(|arch| arch.window != WindowLayers::None)
        }
        None if hyper.moe.n_expert > 0 && (hyper.mla.is_none() || hyper.moe.gating == Gating::Sigmoid) => {
            rows.find(|arch| !shared || arch.style != &style::GRANITE)
        }
        _ => None,
    };
    Ok(other.unwrap_or(source.arch))
}

fn naming(source: &Source<'_>, form: Form) -> Result<Naming, LoadError> {
    let gguf = form == Form::Gguf;
    let arch = if gguf { source.arch } else { target_arch(source, form)? };
    // Falcon with two norms: GGUF calls the feed-forward's norm the first, and attention's the second.
    let two = arch.parallel == arch::Parallel::Yes
        && (source.names.find(Role::FfnNorm, 0).is_some() || source.names.find(Role::AttnNorm2, 0).is_some());
    let mut renames = if gguf { target_arch(source, form)?.renames.to_vec() } else { Vec::new() };
    if gguf && arch.ffn_norm_is_post {
        renames.push((Role::FfnNorm, Role::PostAttnNorm));
    }
    if gguf && two {
        renames.extend([(Role::AttnNorm, Role::AttnNorm2), (Role::FfnNorm, Role::AttnNorm)]);
    } else if two && source.form() == Form::Gguf {
        renames.extend([(Role::AttnNorm2, Role::AttnNorm), (Role::AttnNorm, Role::FfnNorm)]);
    }
    let first = match form {
        _ if two => FALCON_TWO_NORMS,
        Form::Mlx => Naming::mlx(arch.style, source.hyper.moe.n_expert > 0),
        Form::Gguf | Form::HuggingFace => &[],
    };
    let layers = source.names.layers().map(str::to_owned);
    Ok(Naming { style: (!gguf).then_some(arch.style), first, renames, layers })
}
