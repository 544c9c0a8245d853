//! What begins with `/`: one row of [`COMMANDS`] each.

use std::path::Path;

use mlxr_engine::Config;
use mlxr_text::chat::Message;
use serde::{Deserialize, Serialize};

use super::Chat;
use super::Terminal;
use crate::setting::{self, SETTINGS};
use crate::{CliError, load};

/// Whether the conversation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// The user leaves.
    Leave,
}

struct Command {
    names: &'static [&'static str],
    usage: &'static str,
    help: &'static str,
    run: fn(&mut Terminal, &str) -> Result<Flow, CliError>,
}

const COMMANDS: &[Command] = &[
    Command { names: &["set"], usage: "/set ...", help: "Change a setting: /set alone lists what there is", run: set },
    Command {
        names: &["show"],
        usage: "/show ...",
        help: "Show the model, settings or messages: /show alone lists what there is",
        run: show,
    },
    Command {
        names: &["load"],
        usage: "/load FILE|MODEL",
        help: "Go on with a saved conversation, or begin one with another model",
        run: load_other,
    },
    Command { names: &["save"], usage: "/save FILE", help: "Save the conversation to a .json file", run: save },
    Command { names: &["clear"], usage: "/clear", help: "Forget what was said", run: clear },
    Command { names: &["bye", "exit", "quit"], usage: "/bye", help: "Leave", run: |_, _| Ok(Flow::Leave) },
    Command { names: &["?", "help"], usage: "/?", help: "This list", run: help },
];

/// Runs a command; `line` is without its slash.
///
/// # Errors
/// If there is no such command, or it fails.
pub fn run(terminal: &mut Terminal, line: &str) -> Result<Flow, CliError> {
    let (name, rest) = cut(line);
    let command = COMMANDS.iter().find(|command| command.names.contains(&name));
    let command = command.ok_or_else(|| CliError::Usage(format!("no command /{name}: /? lists them")))?;
    (command.run)(terminal, rest)
}

/// The first word and the rest.
fn cut(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim()))
}

fn help(_: &mut Terminal, _: &str) -> Result<Flow, CliError> {
    for command in COMMANDS {
        println!("  {:20} {}", command.usage, command.help);
    }
    println!("  {:20} Write several lines; they end with the same", "\"\"\"");
    println!("  {:20} Stop a reply, or discard a line; Ctrl-D leaves", "Ctrl-C");
    println!();
    Ok(Flow::Continue)
}

fn usage(rows: &[(&str, &str)]) -> Flow {
    rows.iter().for_each(|(usage, help)| println!("  {usage:32} {help}"));
    println!();
    Flow::Continue
}

fn set(terminal: &mut Terminal, rest: &str) -> Result<Flow, CliError> {
    let (what, rest) = cut(rest);
    let chat = &mut terminal.chat;
    match what {
        "parameter" => return set_parameter(terminal, rest),
        "system" => {
            let text = rest.trim_matches('"');
            chat.system = (!text.is_empty()).then(|| text.to_owned());
        }
        "think" => chat.think = Some(true),
        "nothink" => chat.think = Some(false),
        "verbose" => terminal.verbose = true,
        "quiet" => terminal.verbose = false,
        _ => {
            return Ok(usage(&[
                ("/set parameter NAME VALUE", "A setting of the reply: /set parameter lists them"),
                ("/set system TEXT", "The system message; nothing removes it"),
                ("/set think, /set nothink", "Let the model think first, or not"),
                ("/set verbose, /set quiet", "Print what each reply costs, or not"),
            ]));
        }
    }
    Ok(Flow::Continue)
}

fn set_parameter(terminal: &mut Terminal, rest: &str) -> Result<Flow, CliError> {
    let (name, value) = cut(rest);
    if name.is_empty() {
        for row in SETTINGS {
            println!("  {:24} {}", format!("{} {}", row.name, row.value), row.help);
        }
        println!();
        return Ok(Flow::Continue);
    }
    let row = setting::find(name);
    let row = row.ok_or_else(|| CliError::Usage(format!("no parameter {name}: /set parameter lists them")))?;
    if value.is_empty() {
        return Err(CliError::Usage(format!("{name} needs a value: {}", row.value)));
    }
    row.assign(&mut terminal.chat.settings, value).map_err(CliError::Usage)?;
    println!("{} is {}", row.name, (row.get)(&terminal.chat.settings));
    Ok(Flow::Continue)
}

fn show(terminal: &mut Terminal, rest: &str) -> Result<Flow, CliError> {
    let chat = &terminal.chat;
    match rest {
        "info" => show_info(chat),
        "parameters" => {
            SETTINGS.iter().for_each(|row| println!("  {:22} {}", row.name, (row.get)(&chat.settings)));
        }
        "system" => println!("{}", chat.system.as_deref().unwrap_or("no system message")),
        "template" => {
            let none = "the model has no chat template";
            println!("{}", chat.loaded.template.as_ref().map_or(none, |template| template.source()));
        }
        "messages" => chat.messages.iter().for_each(|message| println!("{}: {}", message.role, message.content)),
        _ => {
            return Ok(usage(&[
                ("/show info", "The model and how much of its context is used"),
                ("/show parameters", "The settings of the reply"),
                ("/show system", "The system message"),
                ("/show template", "The chat template"),
                ("/show messages", "What was said"),
            ]));
        }
    }
    println!();
    Ok(Flow::Continue)
}

fn show_info(chat: &Chat) {
    let (engine, stats) = (&chat.loaded.engine, chat.loaded.engine.stats());
    println!("  model        {}", chat.loaded.name);
    println!("  vocabulary   {} tokens", engine.info().n_vocab);
    println!("  context      {} tokens", engine.n_ctx());
    println!("  pages        {} used, {} kept, {} free", stats.pages_used, stats.pages_cached, stats.pages_free);
    println!("  generated    {} tokens", stats.n_generated);
}

fn clear(terminal: &mut Terminal, _: &str) -> Result<Flow, CliError> {
    terminal.chat.messages.clear();
    println!("What was said is forgotten.");
    Ok(Flow::Continue)
}

/// A saved conversation.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    model: String,
    #[serde(default)]
    system: Option<String>,
    messages: Vec<SavedMessage>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedMessage {
    role: String,
    content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
}

fn save(terminal: &mut Terminal, rest: &str) -> Result<Flow, CliError> {
    if !rest.ends_with(".json") {
        return Err(CliError::Usage("give a file that ends in .json: /save chat.json".into()));
    }
    let chat = &terminal.chat;
    let messages = chat.messages.iter().map(|message| SavedMessage {
        role: message.role.clone(),
        content: message.content.clone(),
        reasoning: message.reasoning.clone(),
    });
    let saved = Saved { model: terminal.args.model.clone(), system: chat.system.clone(), messages: messages.collect() };
    let text = serde_json::to_string_pretty(&saved).expect("text is JSON");
    std::fs::write(rest, text).map_err(CliError::file(rest))?;
    println!("saved {} messages to {rest}", saved.messages.len());
    Ok(Flow::Continue)
}

fn load_other(terminal: &mut Terminal, rest: &str) -> Result<Flow, CliError> {
    match rest {
        "" => Err(CliError::Usage("give a saved conversation or a model: /load chat.json".into())),
        file if file.ends_with(".json") => load_saved(terminal, Path::new(file)),
        model => load_model(terminal, model),
    }
}

fn load_saved(terminal: &mut Terminal, path: &Path) -> Result<Flow, CliError> {
    let text = std::fs::read_to_string(path).map_err(CliError::file(path))?;
    let wrong = |error| CliError::Usage(format!("{}: no saved conversation: {error}", path.display()));
    let saved: Saved = serde_json::from_str(&text).map_err(wrong)?;
    if saved.model != terminal.args.model {
        println!("note: it was held with {}; it goes on with {}", saved.model, terminal.args.model);
    }
    let messages = saved
        .messages
        .into_iter()
        .map(|message| Message { reasoning: message.reasoning, ..Message::new(&message.role, &message.content) });
    (terminal.chat.system, terminal.chat.messages) = (saved.system, messages.collect());
    println!("loaded {} messages", terminal.chat.messages.len());
    Ok(Flow::Continue)
}

/// The old model is freed when the new one has loaded, so that a failure leaves the conversation as it was.
fn load_model(terminal: &mut Terminal, name: &str) -> Result<Flow, CliError> {
    let args = &terminal.args;
    let folder = load::folder(&args.folder)?;
    let opened = load::open(name, &args.folder)?;
    let config = Config { max_running: 1, ..Config::default() };
    let mut loaded = load::start(opened, (&folder, &args.load), args.template.as_deref(), config)?;
    args.settings.apply(&mut loaded.settings).map_err(CliError::Usage)?;
    terminal.chat.loaded.engine.shutdown();
    let system = terminal.chat.system.take();
    terminal.chat = Chat { system, ..Chat::new(loaded, args) };
    terminal.args.model = name.to_owned();
    println!("now with {name}");
    Ok(Flow::Continue)
}
