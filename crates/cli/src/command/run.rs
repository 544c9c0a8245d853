//! `mlx-run run`: one reply, or a conversation.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use mlxr_engine::Config;
use mlxr_grammar::{Grammars, Limits, Source};
use mlxr_registry::{Form, Model};
use mlxr_weights::Checkpoint;

use crate::CliError;
use crate::args::RunArgs;
use crate::chat::{Chat, Terminal};
use crate::generate::{self, Piece, Prompt, Reply};
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded, Structure};

/// Most bytes that are read from standard input.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// How long a prompt of the command line waits for standard input that may have nothing to say.
const INPUT_WAIT: Duration = Duration::from_secs(2);

/// Loads the model; then replies once, if there is a prompt, or chats.
///
/// # Errors
/// If the model does not load or fails, or the command line is wrong.
pub fn run(args: RunArgs, interrupt: &Interrupt) -> Result<(), CliError> {
    // Read while the model loads.
    let is_whole = args.raw && args.prompt.is_some();
    let input = (!is_whole && !io::stdin().is_terminal()).then(Input::read);
    let folder = load::folder(&args.folder)?;
    let opened = open(&args)?;
    let config = Config { max_running: 1, ..Config::default() };
    let mut loaded = load::start(opened, (&folder, &args.load), args.template.as_deref(), config)?;
    args.settings.apply(&mut loaded.settings).map_err(CliError::Usage)?;
    loaded.structure = structure(&args, &loaded)?;
    let prompt = prompt(args.prompt.as_deref(), input)?;
    // As a shell does with a command's output: the line ends of `echo` and `cat` are no part of what is said.
    let said = |text: String| if args.raw { text } else { text.trim_end_matches(['\n', '\r']).to_owned() };
    let prompt = prompt.map(said);
    let mut printer = Printer::new();
    let mut print = |piece: Piece| printer.print(piece);
    match prompt {
        Some(prompt) if args.raw => {
            let prompt = Prompt::raw(&loaded.tokenizer, &prompt)?;
            let reply = generate::generate(&loaded, prompt, &loaded.settings, interrupt, &mut print)?;
            end(&reply, args.verbose)
        }
        Some(prompt) => {
            let mut chat = Chat::new(loaded, &args);
            let reply = chat.say(&prompt, interrupt, &mut print)?;
            writeln!(io::stdout())?;
            end(&reply, args.verbose)
        }
        None if args.raw => Err(CliError::Usage("--raw needs a prompt; \"\" continues the begin token".into())),
        None => Terminal::new(Chat::new(loaded, &args), args, interrupt.clone())?.run(),
    }
}

/// What replies must be, if the command line says so.
fn structure(args: &RunArgs, loaded: &Loaded) -> Result<Option<Structure>, CliError> {
    let read = |path: &Path| fs::read_to_string(path).map_err(CliError::file(path));
    let source = match (args.format.as_deref(), &args.grammar) {
        (None, None) => return Ok(None),
        (Some("json"), _) => Source::Json,
        (Some(path), _) => {
            let text = read(Path::new(path))?;
            let wrong = |error| CliError::Usage(format!("--format {path}: the file is no JSON schema: {error}"));
            Source::Schema(serde_json::from_str(&text).map_err(wrong)?)
        }
        (None, Some(path)) => match read(path)? {
            text if text.contains("::=") => Source::Gbnf(text),
            text => Source::Lark(text),
        },
    };
    let grammars = Grammars::new(&loaded.tokenizer, loaded.engine.info().n_vocab, Limits::default())?;
    Ok(Some(Structure { grammars, source }))
}

/// Finds and opens the model. A built-in one is small, and says so on standard error.
fn open(args: &RunArgs) -> Result<(Model, Checkpoint), CliError> {
    let opened = load::open(&args.model, &args.folder).map_err(|error| match error {
        CliError::Registry(error) if args.prompt.is_none() && args.model.contains(char::is_whitespace) => {
            CliError::Usage(format!("{error}; a prompt comes after the model, such as {}", mlxr_embedded::SMALL.name))
        }
        error => error,
    })?;
    if let Some(embedded) = mlxr_embedded::find(&args.model).filter(|_| opened.0.form == Form::Embedded) {
        eprintln!("{}: {}; a larger one: mlx-run run FILE.gguf", embedded.name, embedded.about);
    }
    Ok(opened)
}

/// Standard input, read by a thread of its own: nobody can tell whether a pipe will ever say something.
struct Input {
    events: Receiver<io::Result<Vec<u8>>>,
}

impl Input {
    fn read() -> Input {
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            let mut stdin = io::stdin().lock().take(MAX_INPUT_BYTES + 1);
            loop {
                let mut part = vec![0; 64 << 10];
                let read = stdin.read(&mut part).map(|n| {
                    part.truncate(n);
                    part
                });
                let is_last = !matches!(&read, Ok(part) if !part.is_empty());
                if sender.send(read).is_err() || is_last {
                    return;
                }
            }
        });
        Input { events }
    }

    /// All of it; `None` if `wait` is over and nothing came.
    fn text(self, wait: Option<Duration>) -> Result<Option<String>, CliError> {
        let mut bytes = Vec::new();
        let mut wait = wait;
        loop {
            let part = match wait.take() {
                Some(wait) => match self.events.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => return Ok(None),
                    part => part.ok(),
                },
                None => self.events.recv().ok(),
            };
            let Some(part) = part.transpose().map_err(CliError::file("standard input"))? else { break };
            if part.is_empty() {
                break;
            }
            bytes.extend(part);
            if bytes.len() as u64 > MAX_INPUT_BYTES {
                return Err(CliError::Usage(format!("standard input has more than {MAX_INPUT_BYTES} bytes")));
            }
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// The prompt of the command line and of standard input, if that is read.
fn prompt(given: Option<&str>, input: Option<Input>) -> Result<Option<String>, CliError> {
    let Some(input) = input else { return Ok(given.map(str::to_owned)) };
    let Some(given) = given else { return input.text(None) };
    let piped = input.text(Some(INPUT_WAIT))?;
    if piped.is_none() {
        eprintln!("note: standard input said nothing for {} s: going on without it", INPUT_WAIT.as_secs());
    }
    Ok(Some(match piped.as_deref() {
        None | Some("") => given.to_owned(),
        Some(piped) => format!("{given}\n\n{piped}"),
    }))
}

/// Prints a reply: content to standard output. What the model thinks is dimmed in a terminal, and goes to standard error
/// where standard output is read by a program.
pub struct Printer {
    is_terminal: bool,
    thinks: bool,
}

impl Printer {
    /// For one reply.
    pub fn new() -> Printer {
        Printer { is_terminal: io::stdout().is_terminal(), thinks: false }
    }

    /// Prints a piece at once.
    ///
    /// # Errors
    /// If nobody reads.
    pub fn print(&mut self, piece: Piece) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match piece {
            Piece::Reasoning(text) if self.is_terminal => write!(out, "\x1b[2m{text}\x1b[0m")?,
            Piece::Reasoning(text) => write!(io::stderr(), "{text}")?,
            Piece::Content(text) => {
                match (self.thinks, self.is_terminal) {
                    (true, true) => write!(out, "\n\n")?,
                    (true, false) => writeln!(io::stderr())?,
                    (false, _) => {}
                }
                out.write_all(text.as_bytes())?;
            }
        }
        self.thinks = matches!(piece, Piece::Reasoning(_));
        out.flush()
    }
}

fn end(reply: &Reply, verbose: bool) -> Result<(), CliError> {
    if verbose {
        eprintln!("\n{}", report(reply));
    }
    match reply.end {
        generate::End::Interrupted => Err(CliError::Interrupted),
        generate::End::Stop | generate::End::Length => Ok(()),
    }
}

/// What a reply cost, for `--verbose`.
pub fn report(reply: &Reply) -> String {
    let usage = reply.usage;
    let rate = |n: usize, seconds: f64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    let (prefill, decode) = (usage.prefill.as_secs_f64(), usage.decode.as_secs_f64());
    let n_computed = usage.n_prompt - usage.n_cached;
    format!(
        "prompt:      {} tokens, {} of them cached; {prefill:.3} s, {:.1} tokens/s\n\
         first text:  {:.3} s\n\
         generated:   {} tokens; {decode:.3} s, {:.1} tokens/s",
        usage.n_prompt,
        usage.n_cached,
        rate(n_computed, prefill),
        reply.first_text.as_secs_f64(),
        usage.n_generated,
        // The first token comes with the prompt.
        rate(usage.n_generated.saturating_sub(1), decode),
    )
}
