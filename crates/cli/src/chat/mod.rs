//! A conversation, and the terminal that it is held in.

mod command;
mod terminal;

pub use terminal::Terminal;

use mlxr_text::chat::{Conversation, Message};

use crate::CliError;
use crate::args::RunArgs;
use crate::generate::{self, End, Print, Prompt, Reply};
use crate::interrupt::Interrupt;
use crate::load::Loaded;
use crate::setting::Settings;

/// A model, what was said, and how it is to reply.
#[derive(Debug)]
pub struct Chat {
    /// The model.
    pub loaded: Loaded,
    /// How it replies.
    pub settings: Settings,
    /// The system message.
    pub system: Option<String>,
    /// Whether it is to think first, where it can be told.
    pub think: Option<bool>,
    /// What was said, without the system message.
    pub messages: Vec<Message>,
}

impl Chat {
    /// A conversation that has not begun.
    pub fn new(loaded: Loaded, args: &RunArgs) -> Chat {
        let settings = loaded.settings.clone();
        Chat { loaded, settings, system: args.system.clone(), think: args.think, messages: Vec::new() }
    }

    /// Says `text` and prints the reply. If the reply fails, nothing was said; if it is interrupted, what has come of it
    /// was.
    ///
    /// # Errors
    /// If the template refuses the conversation, it is longer than the context, or the model fails.
    pub fn say(&mut self, text: &str, interrupt: &Interrupt, print: &mut Print) -> Result<Reply, CliError> {
        self.messages.push(Message::new("user", text));
        let reply =
            self.prompt().and_then(|prompt| generate::generate(&self.loaded, prompt, &self.settings, interrupt, print));
        match reply {
            Ok(reply) if reply.end == End::Interrupted && reply.content.is_empty() => {
                self.messages.pop();
                Ok(reply)
            }
            Ok(reply) => {
                // What was thought is kept apart: templates leave it out of the past.
                let reasoning = (!reply.reasoning.is_empty()).then(|| reply.reasoning.clone());
                self.messages.push(Message { reasoning, ..Message::new("assistant", &reply.content) });
                Ok(reply)
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// The conversation as the model sees it. A model without a template continues what was said as plain text.
    fn prompt(&self) -> Result<Prompt, CliError> {
        let tokenizer = &self.loaded.tokenizer;
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        let Some(template) = &self.loaded.template else {
            let text: String = messages.iter().map(|message| message.content.as_str()).collect();
            return Prompt::raw(tokenizer, &text);
        };
        let mut conversation = Conversation::new(messages);
        if let Some(think) = self.think {
            conversation.set_thinking(think);
        }
        Prompt::rendered(tokenizer, template, &template.render(&conversation)?)
    }
}
