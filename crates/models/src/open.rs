//! From a checkpoint to a model that runs.

use mlxr_compute::Backend;
use mlxr_compute::op::KvType;
use mlxr_weights::{Checkpoint, Kind};

use crate::arch::{Arch, Norms};
use crate::config::{self, Config};
use crate::hyper::{Hyper, depth};
use crate::load::Loader;
use crate::names::{Names, Role};
use crate::{LoadError, Model, eagle, guard, table};

/// How to load a model.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Tokens of the longest sequence, where the model's own context shall not be the limit.
    pub n_ctx: Option<usize>,
    /// The size of the arena of keys and values.
    pub arena: Arena,
    /// Sequences at once, where the model keeps a recurrent state for each.
    pub n_slot: usize,
    /// How keys and values are stored.
    pub kv_type: KvType,
}

/// How large the arena of keys and values is. Sequences share it, so that it limits what all of them keep together, and
/// none has a length that is reserved for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arena {
    /// Room for so many tokens.
    Tokens(usize),
    /// Room for as many tokens as fit into so many bytes, at least one page. It is taken as it fills.
    Bytes(usize),
}

/// Most pages of an arena that is given in bytes: small models would get bookkeeping for more than they will ever keep.
pub const MAX_PAGES: usize = 1 << 18;

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions { n_ctx: None, arena: Arena::Bytes(1 << 30), n_slot: 16, kv_type: KvType::default() }
    }
}

/// What a checkpoint calls its architecture.
pub fn architecture(checkpoint: &Checkpoint) -> String {
    let gguf = || checkpoint.meta().get::<&str>("general.architecture").ok().flatten().map(str::to_owned);
    let hf = || {
        let classes = checkpoint.config()?.get("architectures")?;
        classes.get(0)?.as_str().map(str::to_owned)
    };
    let kind = || Some(checkpoint.config()?.get("model_type")?.as_str()?.to_owned());
    gguf().or_else(hf).or_else(kind).unwrap_or_else(|| "unknown".to_owned())
}

/// Loads a checkpoint onto a backend. `progress` hears of the fraction done.
///
/// # Errors
/// If the architecture is not known and the tensors fit no known pattern, a tensor is missing or has the wrong shape,
/// the configuration is invalid, or the backend refuses.
pub fn load<B: Backend>(
    checkpoint: &Checkpoint,
    mut backend: B,
    options: &LoadOptions,
    progress: &mut dyn FnMut(f32),
) -> Result<Model<B>, LoadError> {
    let (decoder, hyper) = loader(checkpoint, &mut backend, options, 0)?.decoder(progress)?;
    Model::new(backend, decoder, hyper, options)
}

/// What reads a checkpoint's tensors, of its layers and `n_next` after them.
pub(crate) fn loader<'a, B: Backend>(
    checkpoint: &'a Checkpoint,
    backend: &'a mut B,
    options: &LoadOptions,
    n_next: usize,
) -> Result<Loader<'a, B>, LoadError> {
    let (arch_name, names, arch) = describe(checkpoint)?;
    let config = Config::new(checkpoint, &arch_name).with_defaults(arch.defaults);
    let mut hyper = Hyper::of_layers(&config, arch, options.n_ctx, depth(&config)? + n_next)?;
    if checkpoint.kind == Kind::Mlx && arch.folds {
        hyper.fold_as_mlx(config.flag(config::TIED) == Some(true));
    }
    Ok(Loader { checkpoint, names, arch, arch_name, hyper, backend, config, n_second: 0 })
}

/// What a checkpoint calls itself, the names of its tensors and the row of its architecture.
///
/// # Errors
/// If the architecture is not known and the tensors fit no known pattern, or it is no decoder that runs.
pub(crate) fn describe(checkpoint: &Checkpoint) -> Result<(String, Names, &'static Arch), LoadError> {
    let (arch_name, path) = (eagle::layer_of(architecture(checkpoint)), checkpoint.path().display().to_string());
    let mut names = Names::new(checkpoint);
    if let Some((_, what)) = table::REFUSED.iter().find(|(name, _)| *name == arch_name) {
        return Err(LoadError::Refused { path, arch: arch_name, what });
    }
    let gguf = checkpoint.kind == Kind::Gguf;
    let arch = match (gguf, table::by_gguf(&arch_name), table::by_hf(&arch_name)) {
        (true, Some(arch), _) | (false, _, Some(arch)) => arch,
        _ => generic(checkpoint, &names, &arch_name)?,
    };
    if let Some(what) = guard::unread(checkpoint, &arch_name).filter(|_| gguf) {
        return Err(LoadError::Unsupported { path, arch: arch_name, what });
    }
    names.absent = arch.absent;
    if gguf {
        names.renames.extend_from_slice(arch.renames);
    }
    // gpt-oss calls the norm before its feed-forward after what it follows.
    let has = |role| names.find(role, 0).is_some();
    if gguf && arch.norms == Norms::Pre && !has(Role::FfnNorm) && has(Role::PostAttnNorm) {
        names.renames.push((Role::FfnNorm, Role::PostAttnNorm));
    }
    Ok((arch_name, names, arch))
}

/// The row for a decoder of an unknown name, if its tensors look like one of LLaMA's descendants.
fn generic(checkpoint: &Checkpoint, names: &Names, arch: &str) -> Result<&'static Arch, LoadError> {
    let one_of = [
        (vec![Role::Embed], "embeddings"),
        (vec![Role::OutputNorm], "a final norm"),
        (vec![Role::AttnNorm], "a norm before attention"),
        (vec![Role::AttnQ, Role::AttnQkv], "a query projection"),
        (vec![Role::AttnOut], "an attention output"),
        (vec![Role::FfnUp, Role::FfnGateUp, Role::Router], "a feed-forward"),
    ];
    let absent = one_of.iter().filter(|(roles, _)| roles.iter().all(|r| names.find(*r, 0).is_none()));
    let missing: Vec<&str> = absent.map(|(_, what)| *what).collect();
    if missing.is_empty() {
        return Ok(table::GENERIC);
    }
    Err(LoadError::Architecture {
        path: checkpoint.path().display().to_string(),
        arch: arch.to_owned(),
        missing: format!("no {}", missing.join(", no ")),
        known: table::known(checkpoint.kind == Kind::Gguf),
    })
}
