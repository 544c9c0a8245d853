//! From a name to a checkpoint, and from that to a model that runs.

use std::io::{IsTerminal, Read, Seek, SeekFrom, stderr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use mlxr_compute::Bytes;
use mlxr_engine::disk::Maker;
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::{Config, Draft, Engine, Reads, Runner};
use mlxr_grammar::{Grammars, Source};
use mlxr_models::{Arena, LoadOptions, config};
use mlxr_registry::{Folder, Form, Model};
use mlxr_text::chat::ChatTemplate;
use mlxr_text::token::Tokenizer;
use mlxr_weights::{Checkpoint, Limits, OpenError};

use crate::CliError;
use crate::args::{BackendName, FolderArgs, KvTypeName, LoadArgs};
use crate::backend::{self, BackendChoice};
use crate::placement::{self, Memory, Placement};
use crate::setting::Settings;
use crate::translate::Translator;
use crate::{defaults, template, vocab};

/// What `--draft` calls the model's own layers for further tokens.
const OWN_LAYERS: &str = "mtp";
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
    /// What its replies must be; `None`: anything.
    pub structure: Option<Structure>,
}

/// What replies must be.
#[derive(Debug)]
pub struct Structure {
    /// The model's grammars.
    pub grammars: Arc<Grammars>,
    /// What the content must be.
    pub source: Source,
}

/// The model folder, and the models inside this program.
///
/// # Errors
/// If none is given and there is no home folder.
pub fn folder(args: &FolderArgs) -> Result<Folder, CliError> {
    let home = || Some(home()?.join("models"));
    let path = args.models.clone().or_else(home);
    let text = "no model folder: give one by --models or MLXR_MODELS, or set HOME";
    let folder = path.map(Folder::new).ok_or_else(|| CliError::Usage(text.into()))?;
    let embedded = mlxr_embedded::MODELS.iter().map(|model| Model::embedded(model.name, model.bytes.len() as u64));
    Ok(folder.with_embedded(embedded))
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
    let checkpoint = checkpoint(&model)?;
    Ok((model, checkpoint))
}

/// Opens a model that was found.
///
/// # Errors
/// If its files are damaged.
pub fn checkpoint(model: &Model) -> Result<Checkpoint, OpenError> {
    match model.form {
        Form::Gguf | Form::Folder => mlxr_weights::open(&model.path),
        Form::Embedded => {
            let embedded = mlxr_embedded::find(&model.name).expect("the folder was made of these models");
            let bytes = Bytes::new(Arc::new(embedded.bytes));
            mlxr_weights::open_memory_gguf(&model.path.to_string_lossy(), bytes, &Limits::default())
        }
    }
}

/// All that running a model takes.
pub struct Parts {
    /// Computes.
    pub runner: Box<dyn Runner>,
    /// What it computes with.
    pub used: BackendName,
    /// The memory that it got.
    pub placement: Placement,
    /// Drafts for it.
    pub draft: Option<Draft>,
    /// What tells its pages apart from another model's.
    pub maker: Maker,
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
    (folder, args): (&Folder, &LoadArgs),
    (asked, n_running): (Option<&str>, usize),
) -> Result<Parts, CliError> {
    let tokenizer = vocab::tokenizer(checkpoint)?;
    let template = template::template(checkpoint, &tokenizer, asked)?;
    let settings = defaults::settings(checkpoint, &mut |text| eprintln!("warning: {text}"))?;
    let n_ctx = context(checkpoint, args.ctx)?;
    let placement = placement(checkpoint, args, n_running, Memory::Left)?;
    if let Some(why) = &placement.refusal {
        eprintln!("warning: {} runs on the processor: {why}; --backend mlx tries the GPU all the same", model.name);
    }
    let choice = BackendChoice::new(placement.backend, args.threads, args.isa.as_deref())?;
    let kv_type = args.kv_type.unwrap_or(KvTypeName::F16).kv_type();
    let options = LoadOptions { n_ctx, arena: placement.arena, n_slot: n_running, kv_type };
    let bar = progress(model);
    let (runner, used) =
        backend::load(checkpoint, &choice, &options, &mut |part| bar.set_position((part * 1000.0) as u64))?;
    bar.finish_and_clear();
    let names = [used.text(), args.kv_type.unwrap_or(KvTypeName::F16).text()].join(" ");
    let mut maker = vec![names.into_bytes(), identity(model)];
    // Keys and values of what drafts lie in as many pages.
    let beside = LoadOptions { arena: Arena::Tokens(runner.info().n_page * PAGE_TOKENS), ..options };
    let draft = match args.draft.as_deref() {
        Some(OWN_LAYERS) => {
            maker.push(OWN_LAYERS.as_bytes().to_vec());
            Some(own_layers((model, checkpoint), (&choice, used), &beside)?)
        }
        Some(name) => {
            let (small, info) = (folder.find(name)?, runner.info());
            let opened = self::checkpoint(&small)?;
            match backend::load_head((&opened, checkpoint, &info), &choice, used, &beside)? {
                Some(head) => {
                    maker.push(identity(&small));
                    Some(head)
                }
                None => Some(small_model((&small, &opened), (&tokenizer, &mut maker), &choice, &beside)?),
            }
        }
        None => None,
    };
    let maker = Maker::new(&maker.iter().map(Vec::as_slice).collect::<Vec<_>>());
    Ok(Parts { runner, used, placement, draft, maker, tokenizer, template, settings })
}

/// Where a model of these files would run with `n_running` sequences at once, and what it would get.
///
/// # Errors
/// If it is damaged or not known, or a backend that is asked for is not there.
pub fn placement(
    checkpoint: &Checkpoint,
    args: &LoadArgs,
    n_running: usize,
    memory: Memory,
) -> Result<Placement, CliError> {
    let asked = placement::asked(args, n_running);
    let options = LoadOptions { n_ctx: args.ctx.filter(|n| *n > 0), kv_type: asked.kv_type, ..LoadOptions::default() };
    let sizes = placement::sizes(checkpoint, &options)?;
    Ok(placement::place(&sizes, &asked, &placement::machine(args.backend, memory)?))
}

/// The model's own layers for further tokens, as what drafts for it.
fn own_layers(
    (model, checkpoint): (&Model, &Checkpoint),
    (choice, used): (&BackendChoice<'_>, BackendName),
    options: &LoadOptions,
) -> Result<Draft, CliError> {
    let next = backend::load_next(checkpoint, choice, used, options)?;
    let name = &model.name;
    let missing =
        || CliError::Usage(format!("{name} has no layers that predict further tokens: name a draft model, or none"));
    Ok(Draft { runner: next.ok_or_else(missing)?, reads: Reads::Hidden(Vec::new()) })
}

/// A small model that drafts for another.
fn small_model(
    (small, checkpoint): (&Model, &Checkpoint),
    (tokenizer, maker): (&Arc<Tokenizer>, &mut Vec<Vec<u8>>),
    choice: &BackendChoice<'_>,
    options: &LoadOptions,
) -> Result<Draft, CliError> {
    let own = vocab::tokenizer(checkpoint)?;
    let options = LoadOptions { n_ctx: None, ..*options };
    let runner = backend::load(checkpoint, choice, &options, &mut |_| ())?.0;
    let reads = match vocab::is_same(tokenizer, &own) {
        // Its keys and values lie in the same pages.
        true => {
            maker.push(identity(small));
            Reads::Tokens
        }
        false => Reads::Translated(Box::new(Translator::new(tokenizer.clone(), own))),
    };
    Ok(Draft { runner, reads })
}

/// What tells a model apart from others, without reading all of its files: their names, sizes, times, and their first and
/// last bytes. A model inside this program is as old as the program.
fn identity(model: &Model) -> Vec<u8> {
    const BYTES: u64 = 64 << 10;
    let path = &model.path;
    let mut files = vec![path.to_owned()];
    if model.form == Form::Embedded {
        let program = model.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (size, time) = (model.size_bytes.to_le_bytes(), program.as_nanos().to_le_bytes());
        return [model.name.as_bytes(), &size, &time].concat();
    }
    if path.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        files = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
    }
    let mut out = Vec::new();
    for path in files {
        let Ok(mut file) = std::fs::File::open(&path) else { continue };
        let Ok(meta) = file.metadata() else { continue };
        let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        out.extend(path.file_name().unwrap_or_default().as_encoded_bytes());
        out.extend(meta.len().to_le_bytes());
        out.extend(modified.as_nanos().to_le_bytes());
        for start in [0, meta.len().saturating_sub(BYTES)] {
            // A part that cannot be read is no part: size and time still tell.
            let _ = file.seek(SeekFrom::Start(start)).and_then(|_| (&file).take(BYTES).read_to_end(&mut out));
        }
    }
    out
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
    (folder, args): (&Folder, &LoadArgs),
    asked_template: Option<&str>,
    mut config: Config,
) -> Result<Loaded, CliError> {
    let Parts { runner, placement, draft, tokenizer, template, settings, .. } =
        parts(&model, &checkpoint, (folder, args), (asked_template, config.max_running))?;
    config.step_tokens = placement.step_tokens;
    (config.max_draft, config.draft_trees) = (args.draft_max, args.draft_trees);
    config.seed = random_seed();
    let engine = Engine::spawn(mlxr_engine::Parts { runner, draft, disk: None, held: None }, config)?;
    Ok(Loaded { name: model.name, engine, tokenizer, template, settings, structure: None })
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
