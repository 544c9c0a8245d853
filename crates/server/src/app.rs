//! The models that exist and those that are loaded.
//!
//! A model is loaded when a request names it, stays while requests use it, and is unloaded when it was idle for its
//! keep-alive time, or earlier when another model needs its place or its memory: the one that was used longest ago goes
//! first, pinned ones never. Different models load at the same time, and those that run are not kept waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::memory::{Hold, Memory};
use crate::model::Freed;
pub use crate::model::{LoadError, LoadedModel, Model, ModelCard, ModelDetails, ModelLoader, Need};
use crate::{Config, Error};

/// How long a model that is to be loaded waits for one that is being freed.
const FREEING: Duration = Duration::from_secs(30);

/// A loaded model and when it may go.
#[derive(Clone)]
pub struct Resident {
    /// The model.
    pub model: Arc<Model>,
    /// When it is unloaded if nothing uses it; `None`: never.
    pub expires: Option<Instant>,
    /// Whether it stays, whatever is asked.
    pub is_pinned: bool,
    used: Instant,
    keep_alive: Option<Duration>,
}

impl Resident {
    /// Whether a request uses it: requests hold the model, and the table holds it once.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.model) <= 1
    }

    /// Notes that it is used.
    fn touch(&mut self, now: Instant) {
        self.used = now;
        self.expires = self.keep_alive.filter(|_| !self.is_pinned).map(|time| now + time);
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
    memory: Arc<Memory>,
    table: Mutex<Table>,
    /// By name: held while the model loads, so that it is loaded once.
    loading: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

/// The models that are loaded, and how many are being loaded.
#[derive(Default)]
struct Table {
    resident: HashMap<String, Resident>,
    n_loading: usize,
}

impl App {
    /// An app without loaded models.
    pub fn new(config: Config, loader: Arc<dyn ModelLoader>) -> App {
        let memory = Memory::new(config.memory_bytes, config.max_models);
        let (table, loading) = (Mutex::default(), Mutex::default());
        App { inner: Arc::new(Inner { config, loader, memory, table, loading }) }
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
        let mut resident: Vec<Resident> = self.table().resident.values().cloned().collect();
        resident.sort_by(|a, b| a.model.card.name.cmp(&b.model.card.name));
        resident
    }

    /// Bytes of memory that loaded models may come to take, and their limit.
    pub fn memory_bytes(&self) -> (u64, u64) {
        (self.inner.memory.taken().bytes, self.inner.memory.limit_bytes())
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
        let guard = self.loading(&name).await;
        if let Some(model) = self.touch(&name, keep_alive) {
            return Ok(Lease { model, load_time: start.elapsed() });
        }
        // A client that leaves meanwhile does not stop it: the next one finds it loaded.
        let load = self.clone().load(name.clone(), keep_alive, guard);
        let model = match tokio::spawn(load).await {
            Ok(model) => model?,
            Err(panic) => return Err(LoadError::Failed { name, message: panic.to_string() }.into()),
        };
        Ok(Lease { model, load_time: start.elapsed() })
    }

    /// Waits until no one else loads `name`.
    async fn loading(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut loading = self.inner.loading.lock().unwrap_or_else(PoisonError::into_inner);
            loading.retain(|_, lock| Arc::strong_count(lock) > 1);
            loading.entry(name.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    async fn load(
        self,
        name: String,
        keep_alive: Option<Option<Duration>>,
        _guard: OwnedMutexGuard<()>,
    ) -> Result<Arc<Model>, Error> {
        let asked = name.clone();
        let need = self.blocking(move |loader| loader.need(&asked)).await?;
        let hold = self.place(&name, &need).await?;
        let loaded = self.start(name.clone(), hold).await;
        let mut table = self.table();
        table.n_loading -= 1;
        let model = Arc::new(loaded?);
        let keep_alive = keep_alive.unwrap_or(self.inner.config.keep_alive);
        let used = Instant::now();
        let is_pinned = self.inner.config.pinned.iter().any(|pinned| without_tag(pinned) == without_tag(&name));
        let expires = keep_alive.filter(|_| !is_pinned).map(|time| used + time);
        let resident = Resident { model: model.clone(), expires, is_pinned, used, keep_alive };
        table.resident.insert(name, resident);
        Ok(model)
    }

    async fn start(&self, name: String, mut hold: Hold) -> Result<Model, Error> {
        let start = Instant::now();
        let (engine, loader, asked) = (self.inner.config.engine, self.inner.loader.clone(), name.clone());
        let load = move || {
            let loaded = loader.load(&asked, hold.arena_bytes)?;
            hold.settle(loaded.memory_bytes);
            let held = Box::new((Freed(loader.clone()), hold));
            Model::start(loaded, engine, Some(held), start).map(|model| model.telling(Freed(loader)))
        };
        let model = match tokio::task::spawn_blocking(load).await {
            Ok(model) => model?,
            Err(panic) => return Err(LoadError::Failed { name, message: panic.to_string() }.into()),
        };
        tracing::info!(model = %name, seconds = start.elapsed().as_secs_f32(), bytes = model.memory_bytes, "loaded");
        Ok(model)
    }

    /// Makes room for a model, by unloading those that are idle if need be, and counts it as loading.
    async fn place(&self, name: &str, need: &Need) -> Result<Hold, Error> {
        let memory = &self.inner.memory;
        let (least, limit) = (need.least_bytes(), memory.limit_bytes());
        if least > limit {
            let message = format!(
                "it takes {} MiB and all models together may take {} MiB (memory): raise that, or give it a smaller \
                 arena (kv_memory)",
                least >> 20,
                limit >> 20
            );
            return Err(LoadError::Failed { name: name.to_owned(), message }.into());
        }
        let end = Instant::now() + FREEING;
        loop {
            let freed = memory.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let is_freeing = {
                let mut table = self.table();
                if let Some(hold) = memory.take(need) {
                    table.n_loading += 1;
                    return Ok(hold);
                }
                let is_freeing = memory.taken().models > table.resident.len() + table.n_loading;
                is_freeing || table.evict()
            };
            if !is_freeing || tokio::time::timeout_at(end.into(), freed).await.is_err() {
                let taken = memory.taken();
                return Err(Error::NoRoom { n_model: taken.models, bytes: taken.bytes, least, limit });
            }
        }
    }

    /// Forgets the model `name`; it is freed when the last request that uses it ends.
    ///
    /// # Errors
    /// If it is pinned.
    pub fn unload(&self, name: &str) -> Result<(), Error> {
        let mut table = self.table();
        let names = [name.to_owned(), without_tag(name).to_owned(), format!("{name}:latest")];
        for name in names {
            if table.resident.get(&name).is_some_and(|resident| resident.is_pinned) {
                return Err(Error::invalid("keep_alive", format!("model '{name}' is pinned: it stays loaded")));
            }
            free(table.resident.remove(&name));
        }
        Ok(())
    }

    /// Ends all models, and waits until what they keep on disk is on its way.
    pub async fn shutdown(&self) {
        let models: Vec<Resident> = self.table().resident.drain().map(|(_, resident)| resident).collect();
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
        for resident in table.resident.values_mut().filter(|resident| !resident.is_idle()) {
            resident.touch(now);
        }
        let over = |resident: &Resident| resident.expires.is_some_and(|at| at <= now) || dead(resident);
        let idle = table.resident.iter().filter(|(_, resident)| resident.is_idle() && over(resident));
        let names: Vec<String> = idle.map(|(name, _)| name.clone()).collect();
        for name in names {
            tracing::info!(model = %name, "unloaded after its keep-alive time");
            free(table.resident.remove(&name));
        }
        let ends = table.resident.values().filter_map(|resident| resident.expires);
        ends.min().map(|at| at.saturating_duration_since(now))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
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
        if table.resident.get(name).is_some_and(dead) {
            free(table.resident.remove(name));
        }
        let resident = table.resident.get_mut(name)?;
        if let Some(keep_alive) = keep_alive {
            resident.keep_alive = keep_alive;
        }
        resident.touch(Instant::now());
        Some(resident.model.clone())
    }

    /// The name as the loader has it: with `:latest` where only that exists, and the only model for an empty name.
    async fn full_name(&self, name: &str) -> Result<String, Error> {
        if self.table().resident.contains_key(name) {
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
}

impl Table {
    /// Unloads the model that was used longest ago of those that are idle and not pinned; returns whether there is one.
    fn evict(&mut self) -> bool {
        let idle = self.resident.iter().filter(|(_, resident)| resident.is_idle() && !resident.is_pinned);
        let oldest = idle.min_by_key(|(_, resident)| resident.used).map(|(name, _)| name.clone());
        if let Some(name) = &oldest {
            tracing::info!(model = %name, "unloaded to make room");
            free(self.resident.remove(name));
        }
        oldest.is_some()
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
