//! A model as the server sees it: where it comes from, what is known of it, what runs it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mlxr_engine::disk::{Disk, Maker};
use mlxr_engine::sampler::Params;
use mlxr_engine::{Draft, Engine, Parts, Runner};
use mlxr_grammar::{GrammarError, Grammars, Limits};
use mlxr_text::chat::ChatTemplate;
use mlxr_text::token::Tokenizer;
use serde_json::{Map, Value};

pub use crate::memory::Need;

/// What is known of a model without loading it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// The name that requests give.
    pub name: String,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// When its files changed, in seconds since 1970.
    pub modified_s: i64,
    /// Hash of its content, as hex digits; empty when unknown.
    pub digest: String,
    /// `gguf`, `safetensors` or `mlx`.
    pub format: String,
    /// Architecture, such as `llama`.
    pub family: String,
    /// Parameters in words, such as `8.0B`.
    pub parameter_size: String,
    /// Type of most weights, such as `Q4_K_M`.
    pub quantization: String,
    /// Tokens of the context that the model was trained on.
    pub context_length: usize,
    /// Width of its hidden state.
    pub embedding_length: usize,
}

/// More of a model, for those who look at it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelDetails {
    /// Its card.
    pub card: ModelCard,
    /// Source of its chat template; empty when it has none.
    pub template: String,
    /// System message that it ships with.
    pub system: String,
    /// Sampling defaults, a line each: name and value.
    pub parameters: String,
    /// Text of its licence.
    pub license: String,
    /// Metadata by name, such as `llama.block_count`.
    pub info: Map<String, Value>,
    /// What it can do: `completion`, `tools`, `thinking`, `insert`.
    pub capabilities: Vec<String>,
}

/// All that running a model takes.
pub struct LoadedModel {
    /// Computes.
    pub runner: Box<dyn Runner>,
    /// A small model that drafts for it.
    pub draft: Option<Draft>,
    /// Where its pages are kept beyond memory.
    pub disk: Option<(Disk, Maker)>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, own or built in; `None` for one that only continues text.
    pub template: Option<ChatTemplate>,
    /// How it samples when a request does not say.
    pub defaults: Params,
    /// What is known of it.
    pub card: ModelCard,
    /// Its own limits; `None`: those of all models.
    pub limits: Option<mlxr_engine::Config>,
    /// What computes.
    pub backend: &'static str,
    /// Bytes of memory that it may come to take: weights and arena.
    pub memory_bytes: u64,
    /// Of these, those of a GPU's memory.
    pub gpu_bytes: u64,
}

/// Why a model cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// There is none of this name.
    #[error("model '{name}' not found")]
    NotFound {
        /// The name.
        name: String,
    },
    /// It does not load.
    #[error("model '{name}' does not load: {message}")]
    Failed {
        /// The name.
        name: String,
        /// Why.
        message: String,
    },
}

/// Where models come from. Its methods may block.
pub trait ModelLoader: Send + Sync + 'static {
    /// All models.
    ///
    /// # Errors
    /// If the place where they are kept cannot be read.
    fn list(&self) -> Result<Vec<ModelCard>, LoadError>;

    /// One model, without loading its weights.
    ///
    /// # Errors
    /// If there is none of this name or its files are broken.
    fn show(&self, name: &str) -> Result<ModelDetails, LoadError>;

    /// What a model takes.
    ///
    /// # Errors
    /// If there is none of this name or its files are broken.
    fn need(&self, name: &str) -> Result<Need, LoadError>;

    /// Loads a model, with an arena of `arena_bytes`.
    ///
    /// # Errors
    /// If there is none of this name or it does not load.
    fn load(&self, name: &str, arena_bytes: u64) -> Result<LoadedModel, LoadError>;

    /// Called when a part of a model was freed, before its memory counts as free: allocators keep some of it back.
    fn freed(&self) {}
}

/// Tells the loader when it is dropped.
pub(crate) struct Freed(pub Arc<dyn ModelLoader>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.freed();
    }
}

/// A model that runs.
pub struct Model {
    /// The engine that owns it.
    pub engine: Engine,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template.
    pub template: Option<ChatTemplate>,
    /// Its sampling defaults.
    pub defaults: Params,
    /// What is known of it.
    pub card: ModelCard,
    /// What computes.
    pub backend: &'static str,
    /// Bytes of memory that it may come to take.
    pub memory_bytes: u64,
    /// Of these, those of a GPU's memory.
    pub gpu_bytes: u64,
    /// How long loading took.
    pub load_time: Duration,
    /// Its grammars, once one was asked for.
    grammars: OnceLock<Result<Arc<Grammars>, GrammarError>>,
    /// Dropped last.
    _freed: Option<Freed>,
}

impl Model {
    /// Starts an engine for a loaded model; `held` is dropped when that has freed it.
    ///
    /// # Errors
    /// If the engine does not start.
    pub fn start(
        loaded: LoadedModel,
        config: mlxr_engine::Config,
        held: Option<Box<dyn Send>>,
        since: Instant,
    ) -> Result<Model, LoadError> {
        let LoadedModel { runner, draft, disk, tokenizer, template, defaults, card, limits, .. } = loaded;
        let (backend, memory_bytes, gpu_bytes) = (loaded.backend, loaded.memory_bytes, loaded.gpu_bytes);
        let engine = Engine::spawn(Parts { runner, draft, disk, held }, limits.unwrap_or(config))
            .map_err(|error| LoadError::Failed { name: card.name.clone(), message: error.to_string() })?;
        let (load_time, grammars, _freed) = (since.elapsed(), OnceLock::new(), None);
        Ok(Model {
            engine,
            tokenizer,
            template,
            defaults,
            card,
            backend,
            memory_bytes,
            gpu_bytes,
            load_time,
            grammars,
            _freed,
        })
    }

    /// The model, of which `freed` tells when it is dropped.
    pub(crate) fn telling(self, freed: Freed) -> Model {
        Model { _freed: Some(freed), ..self }
    }

    /// Its grammars. The first call takes time.
    ///
    /// # Errors
    /// If its answers cannot be constrained.
    pub fn grammars(&self) -> Result<&Arc<Grammars>, GrammarError> {
        let make = || Grammars::new(&self.tokenizer, self.engine.info().n_vocab, Limits::default());
        self.grammars.get_or_init(make).as_ref().map_err(Clone::clone)
    }
}
