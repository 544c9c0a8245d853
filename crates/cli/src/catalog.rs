//! The models of the model folder and of this program, as the server asks for them.

use std::time::UNIX_EPOCH;

use mlxr_engine::disk::Disk;
use mlxr_engine::{Config as EngineConfig, Runner};
use mlxr_models::config::{self, Config};
use mlxr_models::{Arena, architecture};
use mlxr_registry::{Folder, Model, RegistryError};
use mlxr_server::{LoadError, LoadedModel, ModelCard, ModelDetails, ModelLoader, Need};
use mlxr_weights::{Checkpoint, Kind};
use serde_json::{Map, Value};

use crate::args::{BackendName, LoadArgs};
use crate::command::show::count_text;
use crate::limits::ModelLimits;
use crate::placement::{self, Memory};
use crate::setting::{self, Settings};
use crate::{CliError, defaults, load, template, vocab};

/// Where the server's models come from.
#[derive(Debug)]
pub struct Catalog {
    /// The model folder, and the models inside this program.
    pub folder: Folder,
    /// A model outside of it.
    pub extra: Option<Model>,
    /// How models are loaded.
    pub load: LoadArgs,
    /// What their engines keep to.
    pub engine: EngineConfig,
    /// What single models keep to instead.
    pub limits: Vec<ModelLimits>,
    /// A chat template for all, instead of their own.
    pub template: Option<String>,
    /// Where computed pages are kept.
    pub disk: Option<Disk>,
}

impl Catalog {
    fn find(&self, name: &str) -> Result<Model, LoadError> {
        let bare = name.strip_suffix(":latest").unwrap_or(name);
        if let Some(extra) = self.extra.as_ref().filter(|extra| extra.name.eq_ignore_ascii_case(bare)) {
            return Ok(extra.clone());
        }
        // Requests give names, never paths: a client must not reach files outside of the folder.
        self.folder.find_name(name).map_err(|error| match error {
            RegistryError::NotFound { .. } => LoadError::NotFound { name: name.to_owned() },
            other => LoadError::Failed { name: name.to_owned(), message: other.to_string() },
        })
    }
}

impl Catalog {
    /// How a model is loaded and what its engine keeps to.
    fn own(&self, model: &Model) -> (LoadArgs, EngineConfig) {
        let (mut load, mut engine) = (self.load.clone(), self.engine);
        for limits in self.limits.iter().filter(|limits| limits.name.eq_ignore_ascii_case(&model.name)) {
            limits.apply(&mut engine, &mut load);
        }
        (load, engine)
    }

    /// Bytes of the weights of what drafts for a model.
    fn draft_bytes(&self, load: &LoadArgs) -> u64 {
        let draft = load.draft.as_deref().and_then(|name| self.folder.find(name).ok());
        draft.map_or(0, |draft| draft.size_bytes)
    }
}

impl ModelLoader for Catalog {
    fn list(&self) -> Result<Vec<ModelCard>, LoadError> {
        let failed = |error: RegistryError| LoadError::Failed { name: "models".into(), message: error.to_string() };
        let mut models = self.folder.list().map_err(failed)?;
        if let Some(extra) = &self.extra
            && models.iter().all(|model| model.path != extra.path)
        {
            models.push(extra.clone());
        }
        // A model that does not open is listed too: `show` says what is wrong with it.
        let card = |model: &Model| load::checkpoint(model).map_or_else(|_| bare(model), |open| card(model, &open));
        Ok(models.iter().map(card).collect())
    }

    fn show(&self, name: &str) -> Result<ModelDetails, LoadError> {
        let model = self.find(name)?;
        details(&model, self.template.as_deref()).map_err(failed(name))
    }

    fn need(&self, name: &str) -> Result<Need, LoadError> {
        let model = self.find(name)?;
        let (load, engine) = self.own(&model);
        let need = || -> Result<Need, CliError> {
            let checkpoint = load::checkpoint(&model)?;
            let placed = load::placement(&checkpoint, &load, engine.max_running, Memory::Freed)?;
            // A GPU's memory is not what the processor has left.
            let arena_bytes = match placed.arena {
                Arena::Bytes(n) if matches!(placed.backend, BackendName::Auto | BackendName::Mlx) => Some(n as u64),
                _ => load.kv_memory,
            };
            Ok(Need { weights_bytes: placed.weights_bytes + self.draft_bytes(&load), arena_bytes })
        };
        need().map_err(failed(name))
    }

    fn freed(&self) {
        mlxr_compute::cpu::trim();
    }

    fn load(&self, name: &str, arena_bytes: u64) -> Result<LoadedModel, LoadError> {
        let model = self.find(name)?;
        let (mut args, mut engine) = self.own(&model);
        if args.kv_tokens.is_none() {
            args.kv_memory = Some(arena_bytes);
        }
        let mut load = || -> Result<LoadedModel, CliError> {
            let checkpoint = load::checkpoint(&model)?;
            let card = card(&model, &checkpoint);
            let asked = (self.template.as_deref(), engine.max_running);
            let parts = load::parts(&model, &checkpoint, (&self.folder, &args), asked)?;
            let load::Parts { runner, used, placement, draft, maker, tokenizer, template, settings } = parts;
            engine.step_tokens = placement.step_tokens;
            let disk = self.disk.clone().map(|disk| (disk, maker));
            let arena = |runner: &dyn Runner| (runner.info().n_page * runner.info().page_bytes) as u64;
            let arenas = arena(runner.as_ref()) + draft.as_ref().map_or(0, |draft| arena(draft.runner.as_ref()));
            let memory_bytes = placement.weights_bytes + self.draft_bytes(&args) + arenas;
            let gpu_bytes = if placement::on_gpu(used) { memory_bytes } else { 0 };
            let backend = used.text();
            let (defaults, limits) = (settings.params, Some(engine));
            Ok(LoadedModel {
                runner,
                draft,
                disk,
                tokenizer,
                template,
                defaults,
                card,
                limits,
                backend,
                memory_bytes,
                gpu_bytes,
            })
        };
        load().map_err(failed(name))
    }
}

fn failed(name: &str) -> impl FnOnce(CliError) -> LoadError {
    let name = name.to_owned();
    move |error| LoadError::Failed { name, message: error.to_string() }
}

/// What the disk says.
fn bare(model: &Model) -> ModelCard {
    let modified = model.modified.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    ModelCard {
        name: model.name.clone(),
        size_bytes: model.size_bytes,
        modified_s: i64::try_from(modified).unwrap_or(i64::MAX),
        ..ModelCard::default()
    }
}

/// What the files say.
fn card(model: &Model, checkpoint: &Checkpoint) -> ModelCard {
    let summary = checkpoint.summary().ok();
    let name = architecture(checkpoint);
    let config = Config::new(checkpoint, &name);
    let format = match checkpoint.kind {
        Kind::Gguf => "gguf",
        Kind::HuggingFace => "safetensors",
        Kind::Mlx => "mlx",
    };
    ModelCard {
        format: format.to_owned(),
        family: name.clone(),
        parameter_size: summary
            .as_ref()
            .map_or_else(String::new, |summary| count_text(summary.n_parameter).replace(' ', "")),
        quantization: summary.and_then(|summary| Some(summary.types.first()?.name.clone())).unwrap_or_default(),
        context_length: load::own_context(checkpoint).ok().flatten().unwrap_or(0),
        embedding_length: config.count(config::D_MODEL).ok().flatten().unwrap_or(0),
        ..bare(model)
    }
}

fn details(model: &Model, asked_template: Option<&str>) -> Result<ModelDetails, CliError> {
    let checkpoint = load::checkpoint(model)?;
    let tokenizer = vocab::tokenizer(&checkpoint)?;
    let template = template::template(&checkpoint, &tokenizer, asked_template)?;
    let settings = defaults::settings(&checkpoint, &mut |_| ())?;
    let mut capabilities = vec!["completion".to_owned()];
    if let Some(template) = &template {
        let can = template.capabilities();
        let abilities = [("tools", can.tools && can.tool_calls), ("thinking", can.reasons)];
        capabilities.extend(abilities.iter().filter(|(_, can)| *can).map(|(name, _)| (*name).to_owned()));
    }
    capabilities.extend(tokenizer.fim().map(|_| "insert".to_owned()));
    Ok(ModelDetails {
        card: card(model, &checkpoint),
        template: template.map_or_else(String::new, |template| template.source().to_owned()),
        system: String::new(),
        parameters: parameters(&settings),
        license: license(&checkpoint),
        info: info(&checkpoint),
        capabilities,
    })
}

/// Settings that the model recommends, a line each.
fn parameters(settings: &Settings) -> String {
    let lines = setting::recommended(settings).map(|row| format!("{:30} {}", row.name, (row.get)(settings)));
    lines.collect::<Vec<_>>().join("\n")
}

fn license(checkpoint: &Checkpoint) -> String {
    let file = checkpoint.file("LICENSE").ok().flatten();
    let name = || checkpoint.meta().get::<String>("general.license").ok().flatten();
    file.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).or_else(name).unwrap_or_default()
}

/// Metadata; lists are left out, as Ollama does.
fn info(checkpoint: &Checkpoint) -> Map<String, Value> {
    use mlxr_weights::gguf::Element;
    if let Some(config) = checkpoint.config().and_then(Value::as_object) {
        return config.clone();
    }
    let json = |element: Element| match element {
        Element::Int(number) => i64::try_from(number).map_or(Value::Null, Value::from),
        Element::Float(number) => Value::from(number),
        Element::Bool(is) => Value::from(is),
        Element::Str(bytes) => Value::from(String::from_utf8_lossy(bytes)),
        Element::Array(_) => Value::Null,
    };
    let rows = checkpoint.meta().iter().filter(|(key, _)| *key != "tokenizer.chat_template");
    rows.map(|(key, value)| (key.to_owned(), json(value.element()))).collect()
}
