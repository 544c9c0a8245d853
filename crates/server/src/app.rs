//! The models that exist and those that are loaded.
//!
//! A model is loaded when a request names it, stays while requests use it, and is unloaded when it was idle for its
//! keep-alive time, or earlier when another model needs its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mlxr_engine::disk::{Disk, Maker};
use mlxr_engine::sampler::Params;
use mlxr_engine::{Engine, Parts, Runner};
use mlxr_text::chat::ChatTemplate;
use mlxr_text::token::Tokenizer;
use serde_json::{Map, Value};
use tokio::sync::Mutex as AsyncMutex;

use crate::{Config, Error};

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
    pub draft: Option<Box<dyn Runner>>,
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

    /// Loads a model.
    ///
    /// # Errors
    /// If there is none of this name or it does not load.
    fn load(&self, name: &str) -> Result<LoadedModel, LoadError>;
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
    /// How long loading took.
    pub load_time: Duration,
}

impl Model {
    /// Starts an engine for a loaded model.
    ///
    /// # Errors
    /// If the engine does not start.
    pub fn start(loaded: LoadedModel, config: mlxr_engine::Config, since: Instant) -> Result<Model, LoadError> {
        let LoadedModel { runner, draft, disk, tokenizer, template, defaults, card } = loaded;
        let engine = Engine::spawn(Parts { runner, draft, disk }, config)
            .map_err(|error| LoadError::Failed { name: card.name.clone(), message: error.to_string() })?;
        Ok(Model { engine, tokenizer, template, defaults, card, load_time: since.elapsed() })
    }
}

/// A loaded model and when it may go.
#[derive(Clone)]
pub struct Resident {
    /// The model.
    pub model: Arc<Model>,
    /// When it is unloaded if nothing uses it; `None`: never.
    pub expires: Option<Instant>,
    used: Instant,
    keep_alive: Option<Duration>,
}

impl Resident {
    /// Whether a request uses it: requests hold the model, and the table holds it once.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.model) <= 1
    }
}

/// A model that a request uses, and whether it had to be loaded.
pub struct Lease {
    /// The model.
    pub model: Arc<Model>,
    /// How long this request waited for it to load.
    pub load_time: Duration,
}

/// The server's state, cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    loader: Arc<dyn ModelLoader>,
    resident: Mutex<HashMap<String, Resident>>,
    /// Held while a model loads, so that no two load at once.
    loading: AsyncMutex<()>,
}

impl App {
    /// An app without loaded models.
    pub fn new(config: Config, loader: Arc<dyn ModelLoader>) -> App {
        let inner = Inner { config, loader, resident: Mutex::new(HashMap::new()), loading: AsyncMutex::new(()) };
        App { inner: Arc::new(inner) }
    }

    /// Its limits.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// All models.
    ///
    /// # Errors
    /// If the loader fails.
    pub async fn list(&self) -> Result<Vec<ModelCard>, Error> {
        self.blocking(|loader| loader.list()).await
    }

    /// One model, without loading it.
    ///
    /// # Errors
    /// If the loader fails.
    pub async fn show(&self, name: &str) -> Result<ModelDetails, Error> {
        let name = name.to_owned();
        self.blocking(move |loader| loader.show(&name)).await
    }

    /// The loaded models.
    pub fn resident(&self) -> Vec<Resident> {
        let mut resident: Vec<Resident> = self.table().values().cloned().collect();
        resident.sort_by(|a, b| a.model.card.name.cmp(&b.model.card.name));
        resident
    }

    /// The model `name`, loaded if it was not. `keep_alive`: how long it stays after its last use, where the request
    /// says so; `Some(None)` for ever.
    ///
    /// # Errors
    /// If the model does not load, or no place can be made for it.
    pub async fn lease(&self, name: &str, keep_alive: Option<Option<Duration>>) -> Result<Lease, Error> {
        let name = self.full_name(name).await?;
        if let Some(model) = self.touch(&name, keep_alive) {
            return Ok(Lease { model, load_time: Duration::ZERO });
        }
        let start = Instant::now();
        let _loading = self.inner.loading.lock().await;
        if let Some(model) = self.touch(&name, keep_alive) {
            return Ok(Lease { model, load_time: start.elapsed() });
        }
        self.make_room()?;
        let engine = self.inner.config.engine;
        let loader = self.inner.loader.clone();
        let asked = name.clone();
        let load = move || loader.load(&asked).and_then(|loaded| Model::start(loaded, engine, start));
        let model = match tokio::task::spawn_blocking(load).await {
            Ok(model) => Arc::new(model?),
            Err(panic) => return Err(LoadError::Failed { name, message: panic.to_string() }.into()),
        };
        tracing::info!(model = %name, seconds = start.elapsed().as_secs_f32(), "loaded");
        let keep_alive = keep_alive.unwrap_or(self.inner.config.keep_alive);
        let now = Instant::now();
        let resident =
            Resident { model: model.clone(), expires: keep_alive.map(|time| now + time), used: now, keep_alive };
        self.table().insert(name, resident);
        Ok(Lease { model, load_time: start.elapsed() })
    }

    /// Forgets the model `name`; it is freed when the last request that uses it ends.
    pub fn unload(&self, name: &str) {
        let mut table = self.table();
        let names = [name.to_owned(), without_tag(name).to_owned(), format!("{name}:latest")];
        for name in names {
            free(table.remove(&name));
        }
    }

    /// Ends all models, and waits until what they keep on disk is on its way.
    pub async fn shutdown(&self) {
        let models: Vec<Resident> = self.table().drain().map(|(_, resident)| resident).collect();
        let ends =
            models.into_iter().map(|resident| tokio::task::spawn_blocking(move || resident.model.engine.shutdown()));
        for end in ends.collect::<Vec<_>>() {
            // An engine that panics has said so to its clients.
            let _ = end.await;
        }
    }

    /// Unloads models whose time is over; returns how long until the next may go.
    pub fn sweep(&self, now: Instant) -> Option<Duration> {
        let mut table = self.table();
        for resident in table.values_mut().filter(|resident| !resident.is_idle()) {
            resident.used = now;
            resident.expires = resident.keep_alive.map(|time| now + time);
        }
        let over = |resident: &Resident| resident.expires.is_some_and(|at| at <= now) || dead(resident);
        let names: Vec<String> = table.iter().filter(|(_, r)| r.is_idle() && over(r)).map(|(n, _)| n.clone()).collect();
        for name in names {
            tracing::info!(model = %name, "unloaded after its keep-alive time");
            free(table.remove(&name));
        }
        table.values().filter_map(|resident| resident.expires).min().map(|at| at.saturating_duration_since(now))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Resident>> {
        self.inner.resident.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn ModelLoader) -> Result<T, LoadError> + Send + 'static,
    ) -> Result<T, Error> {
        let loader = self.inner.loader.clone();
        match tokio::task::spawn_blocking(move || work(loader.as_ref())).await {
            Ok(result) => Ok(result?),
            Err(panic) => Err(Error::Model(panic.to_string())),
        }
    }

    /// The loaded model, marked as used. A model whose engine died is forgotten, so that it loads anew.
    fn touch(&self, name: &str, keep_alive: Option<Option<Duration>>) -> Option<Arc<Model>> {
        let mut table = self.table();
        if table.get(name).is_some_and(dead) {
            free(table.remove(name));
        }
        let resident = table.get_mut(name)?;
        if let Some(keep_alive) = keep_alive {
            resident.keep_alive = keep_alive;
        }
        resident.used = Instant::now();
        resident.expires = resident.keep_alive.map(|time| resident.used + time);
        Some(resident.model.clone())
    }

    /// The name as the loader has it: with `:latest` where only that exists, and the only model for an empty name.
    async fn full_name(&self, name: &str) -> Result<String, Error> {
        if self.table().contains_key(name) {
            return Ok(name.to_owned());
        }
        let cards = self.list().await?;
        let found = match name {
            "" if cards.len() == 1 => cards.first(),
            "" => None,
            name => cards
                .iter()
                .find(|card| card.name == name)
                .or_else(|| cards.iter().find(|card| without_tag(&card.name) == without_tag(name) && is_latest(name))),
        };
        match found {
            Some(card) => Ok(card.name.clone()),
            None if name.is_empty() => Err(Error::invalid("model", "`model` is missing: name a model")),
            // A loader may know names that it does not list, such as paths.
            None => Ok(name.to_owned()),
        }
    }

    fn make_room(&self) -> Result<(), Error> {
        let mut table = self.table();
        let limit = self.inner.config.max_models;
        while table.len() >= limit {
            let oldest = table.iter().filter(|(_, r)| r.is_idle()).min_by_key(|(_, r)| r.used).map(|(n, _)| n.clone());
            let Some(name) = oldest else { return Err(Error::TooManyModels { limit }) };
            tracing::info!(model = %name, "unloaded to make room");
            free(table.remove(&name));
        }
        Ok(())
    }
}

fn dead(resident: &Resident) -> bool {
    resident.model.engine.dead().is_some()
}

/// Frees a model on a thread of its own, since joining its engine and unmapping its files take time.
fn free(resident: Option<Resident>) {
    let Some(resident) = resident else { return };
    let name = resident.model.card.name.clone();
    let spawned = std::thread::Builder::new().name("unload".into()).spawn(move || drop(resident));
    if let Err(error) = spawned {
        tracing::warn!(model = %name, %error, "no thread to unload it on: it was freed by the caller");
    }
}

fn without_tag(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// Whether a name asks for the tag `latest`, by saying so or by saying nothing.
fn is_latest(name: &str) -> bool {
    name.ends_with(":latest") || !name.rsplit('/').next().unwrap_or(name).contains(':')
}
