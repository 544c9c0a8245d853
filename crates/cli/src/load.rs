//! From a name to a checkpoint, and from that to a model that runs.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use mlxr_engine::{Config, Engine, Runner};
use mlxr_models::{Arena, LoadOptions, config};
use mlxr_registry::{Folder, Model};
use mlxr_text::chat::ChatTemplate;
use mlxr_text::token::Tokenizer;
use mlxr_weights::Checkpoint;

use crate::CliError;
use crate::args::{FolderArgs, KvTypeName, LoadArgs};
use crate::backend::{self, BackendChoice};
use crate::setting::Settings;
use crate::{defaults, memory, template, vocab};

/// Models larger than this show how far loading is.
const PROGRESS_BYTES: u64 = 200 << 20;

/// A model that runs, with all that it takes to talk to it.
#[derive(Debug)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// The running model.
    pub engine: Engine,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How a conversation becomes a prompt; `None` for a model that does not converse.
    pub template: Option<ChatTemplate>,
    /// What the model recommends.
    pub settings: Settings,
}

/// The model folder.
///
/// # Errors
/// If none is given and there is no home folder.
pub fn folder(args: &FolderArgs) -> Result<Folder, CliError> {
    let home = || Some(home()?.join("models"));
    let path = args.models.clone().or_else(home);
    let text = "no model folder: give one by --models or MLXR_MODELS, or set HOME";
    path.map(Folder::new).ok_or_else(|| CliError::Usage(text.into()))
}

/// `~/.mlxr`, where this program keeps its files.
pub fn home() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE"))?;
    Some(PathBuf::from(home).join(".mlxr"))
}

/// Finds and opens a model.
///
/// # Errors
/// If there is none of that name, or its files are damaged.
pub fn open(name: &str, args: &FolderArgs) -> Result<(Model, Checkpoint), CliError> {
    let model = folder(args)?.find(name)?;
    let checkpoint = mlxr_weights::open(&model.path)?;
    Ok((model, checkpoint))
}

/// All that running a model takes.
pub struct Parts {
    /// Computes.
    pub runner: Box<dyn Runner>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How a conversation becomes a prompt.
    pub template: Option<ChatTemplate>,
    /// What the model recommends.
    pub settings: Settings,
}

/// Loads a model for `n_running` sequences at once, with the chat template `asked` for or its own.
///
/// # Errors
/// If a part of it is damaged or not known, or the backend cannot run it.
pub fn parts(
    model: &Model,
    checkpoint: &Checkpoint,
    args: &LoadArgs,
    (asked, n_running): (Option<&str>, usize),
) -> Result<Parts, CliError> {
    let tokenizer = vocab::tokenizer(checkpoint)?;
    let template = template::template(checkpoint, &tokenizer, asked)?;
    let settings = defaults::settings(checkpoint, &mut |text| eprintln!("warning: {text}"))?;
    let n_thread = backend::n_thread(args.threads)?;
    let choice = BackendChoice { name: args.backend, n_thread, isa: args.isa.as_deref() };
    let kv_type = args.kv_type.unwrap_or(KvTypeName::F16).kv_type();
    let n_ctx = context(checkpoint, args.ctx)?;
    let bytes = || args.kv_memory.unwrap_or_else(|| memory::arena_bytes(model.size_bytes));
    let arena = match args.kv_tokens {
        Some(n) => Arena::Tokens(n),
        None => Arena::Bytes(usize::try_from(bytes()).unwrap_or(usize::MAX)),
    };
    let options = LoadOptions { n_ctx, arena, n_slot: n_running, kv_type };
    let bar = progress(model);
    let runner = backend::load(checkpoint, &choice, &options, &mut |part| bar.set_position((part * 1000.0) as u64))?;
    bar.finish_and_clear();
    Ok(Parts { runner, tokenizer, template, settings })
}

/// The context to ask for; `None` for the model's own.
fn context(checkpoint: &Checkpoint, asked: Option<usize>) -> Result<Option<usize>, CliError> {
    let own = own_context(checkpoint)?.unwrap_or(usize::MAX);
    let asked = asked.filter(|n| *n > 0);
    if asked.is_some_and(|n| n > own) {
        eprintln!("warning: the model was trained on {own} tokens at once; beyond them it may write nonsense");
    }
    Ok(asked)
}

/// Tokens that the model was trained on at once, if its files say.
///
/// # Errors
/// If they say something else than a number.
pub fn own_context(checkpoint: &Checkpoint) -> Result<Option<usize>, CliError> {
    let name = mlxr_models::architecture(checkpoint);
    Ok(config::Config::new(checkpoint, &name).count(config::N_CTX)?)
}

/// Starts a model.
///
/// # Errors
/// As [`parts`].
pub fn start(
    (model, checkpoint): (Model, Checkpoint),
    args: &LoadArgs,
    asked_template: Option<&str>,
    mut config: Config,
) -> Result<Loaded, CliError> {
    let Parts { runner, tokenizer, template, settings } =
        parts(&model, &checkpoint, args, (asked_template, config.max_running))?;
    config.seed = random_seed();
    let engine = Engine::spawn(runner, config)?;
    Ok(Loaded { name: model.name, engine, tokenizer, template, settings })
}

/// A bar on standard error, hidden for small models and where nobody looks.
fn progress(model: &Model) -> ProgressBar {
    if model.size_bytes < PROGRESS_BYTES || !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("loading {msg} {wide_bar} {percent}%").expect("a valid template");
    let bar = ProgressBar::new(1000).with_style(style).with_message(model.name.clone());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A seed that differs from run to run: the standard library's hash keys come from the system's random numbers.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("seed")
}
