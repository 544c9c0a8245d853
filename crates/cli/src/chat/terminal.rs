//! The terminal: line editing, history, several lines at once, Ctrl-C and Ctrl-D.
//!
//! ```text
//! >>> one line                       >>> """several
//! >>> /command                       ... lines"""
//! ```

use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use super::Chat;
use super::command::{self, Flow};
use crate::args::RunArgs;
use crate::command::run::{Printer, report};
use crate::generate::End;
use crate::interrupt::Interrupt;
use crate::{CliError, load};

/// Lines that the history keeps.
const MAX_HISTORY: usize = 1000;
/// Begins and ends several lines.
const QUOTE: &str = "\"\"\"";

/// A conversation in a terminal.
pub struct Terminal {
    /// The conversation.
    pub chat: Chat,
    /// How the model was asked for, to load another in the same way.
    pub args: RunArgs,
    /// Whether to print what each reply costs.
    pub verbose: bool,
    interrupt: Interrupt,
    editor: Editor<(), FileHistory>,
    history: Option<PathBuf>,
}

impl Terminal {
    /// Prepares the terminal; the history of earlier conversations is read, if there is one.
    ///
    /// # Errors
    /// If the terminal cannot be read.
    pub fn new(chat: Chat, args: RunArgs, interrupt: Interrupt) -> Result<Terminal, CliError> {
        let config = Config::builder().max_history_size(MAX_HISTORY)?.auto_add_history(false).build();
        let mut editor = Editor::with_config(config)?;
        let history = load::home().map(|home| home.join("history"));
        if let Some(path) = history.as_ref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            eprintln!("warning: {}: {error}", path.display());
        }
        let verbose = args.verbose;
        Ok(Terminal { chat, args, verbose, interrupt, editor, history })
    }

    /// Talks until the user leaves.
    ///
    /// # Errors
    /// If the terminal fails. Errors of replies and commands are printed, and the conversation goes on.
    pub fn run(mut self) -> Result<(), CliError> {
        println!("{}: /? for help, /bye or Ctrl-D to leave", self.chat.loaded.name);
        if self.chat.loaded.template.is_none() {
            println!("This model has no chat template: it continues what you write.");
        }
        while let Some(text) = self.read()? {
            if text.trim().is_empty() {
                continue;
            }
            let result = match text.trim_start().strip_prefix('/').filter(|_| !text.contains('\n')) {
                Some(line) => command::run(&mut self, line),
                None => self.reply(&text).map(|()| Flow::Continue),
            };
            match result {
                Ok(Flow::Continue) => {}
                Ok(Flow::Leave) => break,
                Err(error) => eprintln!("error: {error}"),
            }
        }
        self.save_history();
        self.chat.loaded.engine.shutdown();
        Ok(())
    }

    fn reply(&mut self, text: &str) -> Result<(), CliError> {
        let mut printer = Printer::new();
        let reply = self.chat.say(text, &self.interrupt, &mut |piece| printer.print(piece))?;
        match reply.end {
            End::Stop => println!(),
            End::Length => println!("\n[the reply ended at its limit: see /set parameter max_tokens, and --ctx]"),
            End::Interrupted => println!("\n[interrupted]"),
        }
        if self.verbose {
            println!("\n{}", report(&reply));
        }
        println!();
        Ok(())
    }

    /// What the user writes; `None` at the end.
    fn read(&mut self) -> Result<Option<String>, CliError> {
        let Some(first) = self.line(">>> ")? else { return Ok(None) };
        let Some(mut text) = first.trim_start().strip_prefix(QUOTE).map(str::to_owned) else {
            self.remember(&first);
            return Ok(Some(first));
        };
        while !text.trim_end().ends_with(QUOTE) {
            let Some(line) = self.line("... ")? else { return Ok(None) };
            text.push('\n');
            text.push_str(&line);
        }
        let text = text.trim_end().trim_end_matches(QUOTE).to_owned();
        self.remember(&format!("{QUOTE}{text}{QUOTE}"));
        Ok(Some(text))
    }

    /// A line; an empty one if Ctrl-C discarded it.
    fn line(&mut self, prompt: &str) -> Result<Option<String>, CliError> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Some(line)),
            Err(ReadlineError::Interrupted) => {
                println!("Press Ctrl-D or type /bye to leave.");
                Ok(Some(String::new()))
            }
            Err(ReadlineError::Eof) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn remember(&mut self, line: &str) {
        if let Err(error) = self.editor.add_history_entry(line) {
            eprintln!("warning: history: {error}");
        }
    }

    fn save_history(&mut self) {
        let Some(path) = &self.history else { return };
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        if let Err(error) = made.map_err(ReadlineError::from).and_then(|()| self.editor.save_history(path)) {
            eprintln!("warning: {}: {error}", path.display());
        }
    }
}
