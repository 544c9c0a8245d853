//! A prompt to token ids, and how its answer is to be read.

use std::sync::Arc;

use mlxr_engine::{SubmitError, TokenId};
use mlxr_grammar::{Calls, Content, Reasoning, Reply, Tool};
use mlxr_text::chat::{ChatTemplate, Conversation, Format, Message, Reads};
use mlxr_text::token::Encode;
use serde_json::{Value, json};

use crate::Error;
use crate::app::Model;
use crate::job::{Chat, Job, Prompt, ToolChoice};

/// An encoded prompt.
pub(crate) struct Ready {
    pub(crate) tokens: Vec<TokenId>,
    /// The answer goes on after text, so that its first space counts.
    pub(crate) continues: bool,
    /// How to read the answer; `None`: all of it is content.
    pub(crate) format: Option<(&'static Format, Reads)>,
    pub(crate) one_call: bool,
    /// Tools that were offered.
    pub(crate) tools: Vec<Value>,
    /// What the answer must be; `None`: anything.
    pub(crate) bound: Option<Bound>,
}

/// What an answer must be.
pub(crate) struct Bound {
    /// The field that says so.
    pub(crate) param: String,
    pub(crate) reply: Reply,
    /// Whether the request asked for it, and is refused where it cannot be enforced.
    pub(crate) asked: bool,
}

impl Bound {
    /// What is enforced where `reply` cannot be and the request did not ask for it: names of tools without their schemas.
    pub(crate) fn names(&self) -> Reply {
        let mut reply = self.reply.clone();
        for tool in reply.calls.iter_mut().flat_map(|calls| &mut calls.tools) {
            tool.parameters = Some(any_object());
        }
        reply
    }
}

/// The schema of arguments of which nothing is enforced.
fn any_object() -> Value {
    json!({"type": "object"})
}

/// A rendered conversation and its tokens.
type Rendered = (String, Vec<TokenId>);

/// Renders and encodes `prompt`.
///
/// # Errors
/// If the template refuses it, it is too long, or the model lacks what it needs.
pub(crate) fn prepare(model: &Arc<Model>, job: &Job, prompt: &Prompt) -> Result<Ready, Error> {
    let text = |tokens: Vec<TokenId>| {
        // After the begin token alone the answer is the start of a text.
        let continues = tokens.len() > 1;
        let bound = job.structure.as_ref().map(|structure| Bound {
            param: structure.param.clone(),
            reply: Reply::of(structure.source.clone()),
            asked: true,
        });
        Ready { tokens, continues, format: None, one_call: false, tools: Vec::new(), bound }
    };
    let ready = match prompt {
        Prompt::Chat(chat) => prepare_chat(model, job, chat)?,
        Prompt::Text(prompt) => text(start_text(model, prompt)?),
        Prompt::Tokens(tokens) => text(tokens.clone()),
        Prompt::Infill { prefix, suffix } => text(infill(model, prefix, suffix)?),
    };
    let limit = context(model, job);
    let found = ready.tokens.len();
    if found >= limit {
        return Err(SubmitError::TooLong { found, limit }.into());
    }
    Ok(ready)
}

/// Most tokens of prompt and answer.
fn context(model: &Model, job: &Job) -> usize {
    job.max_context.unwrap_or(usize::MAX).min(model.engine.n_ctx())
}

/// A text to continue; an empty one is begun by the begin token alone.
fn start_text(model: &Model, text: &str) -> Result<Vec<TokenId>, Error> {
    let tokenizer = &model.tokenizer;
    let add_special = tokenizer.add_bos();
    let mut tokens = tokenizer.encode(text, Encode { add_special, parse_special: true })?;
    // An end token that the tokenizer puts last would end the answer before it begins.
    if add_special && tokenizer.add_eos() && tokens.last().copied() == tokenizer.eos() {
        tokens.pop();
    }
    if tokens.is_empty() {
        tokens.extend(tokenizer.bos().or(tokenizer.eos()));
    }
    Ok(tokens)
}

fn infill(model: &Model, prefix: &str, suffix: &str) -> Result<Vec<TokenId>, Error> {
    let tokenizer = &model.tokenizer;
    let Some([before, after, middle]) = tokenizer.fim() else {
        let message = format!("`{}` does not support `suffix`: it has no infill tokens", model.card.name);
        return Err(Error::invalid("suffix", message));
    };
    let mut tokens: Vec<TokenId> = tokenizer.bos().filter(|_| tokenizer.add_bos()).into_iter().collect();
    tokens.push(before);
    tokens.extend(tokenizer.encode(prefix, Encode::PLAIN)?);
    tokens.push(after);
    tokens.extend(tokenizer.encode(suffix, Encode::PLAIN)?);
    tokens.push(middle);
    Ok(tokens)
}

fn prepare_chat(model: &Arc<Model>, job: &Job, chat: &Chat) -> Result<Ready, Error> {
    let own;
    let template = match (&chat.template, &model.template) {
        (Some(source), given) => {
            let specials = given.as_ref().map(|template| template.specials().clone()).unwrap_or_default();
            own = ChatTemplate::new(source, specials)?;
            &own
        }
        (None, Some(template)) => template.for_tools(!chat.conversation.tools.is_empty()),
        (None, None) => {
            let message = format!(
                "`{}` has no chat template: continue text with /v1/completions or `raw`, or give a template",
                model.card.name
            );
            return Err(Error::invalid("model", message));
        }
    };
    let encode = |conversation: &Conversation| -> Result<Rendered, Error> {
        let text = render(template, conversation)?;
        let mut tokens = chat.context.clone();
        tokens.extend(model.tokenizer.encode(&text, Encode::TEMPLATE)?);
        model.tokenizer.begin(&mut tokens);
        Ok((text, tokens))
    };
    let limit = context(model, job);
    let (text, tokens) = match encode(&chat.conversation)? {
        (_, tokens) if chat.truncate && tokens.len() >= limit => truncated(&chat.conversation, limit, &encode)?,
        fits => fits,
    };
    let format = Format::detect(template.source());
    let capabilities = template.capabilities();
    let reads = Reads {
        calls: !chat.conversation.tools.is_empty(),
        reasoning: capabilities.reasons,
        in_reasoning: format.begins_in_reasoning(&text),
        reasoning_first: job.structure.is_some(),
    };
    let reasoning = Reasoning::after(&text, format, reads);
    let bound = bound(job, chat, template, reasoning);
    let continues = chat.conversation.messages.last().is_some_and(|message| message.role == "assistant");
    let tools = chat.conversation.tools.clone();
    Ok(Ready { tokens, continues, format: Some((format, reads)), one_call: chat.one_call, tools, bound })
}

/// What an answer must be. Where the model is free to call tools, a call that it begins fits its tool's schema, as far as
/// that can be enforced; not where a call begins as other text may, nor among channels, which have forms of their own.
fn bound(job: &Job, chat: &Chat, template: &ChatTemplate, reasoning: Reasoning) -> Option<Bound> {
    let format = Format::detect(template.source());
    let offered = &chat.conversation.tools;
    let is_strict = |tool: &Value| tool["function"]["strict"] == true;
    let must_call = !offered.is_empty() && chat.tool_choice != ToolChoice::Auto;
    let asked = job.structure.is_some() || must_call || offered.iter().any(is_strict);
    if !asked && (offered.is_empty() || !template.capabilities().marked_calls || format.has_channels()) {
        return None;
    }
    let is_meant = |tool: &Value| match &chat.tool_choice {
        ToolChoice::Named(name) => tool["function"]["name"] == name.as_str(),
        ToolChoice::Auto | ToolChoice::Required => true,
    };
    let syntax = format.call_syntax(template.source());
    let parallel = !chat.one_call && !matches!(chat.tool_choice, ToolChoice::Named(_));
    let fits = |tool: &Value| !asked || must_call || is_strict(tool);
    let tool = |(index, tool): (usize, &Value)| Tool {
        field: format!("tools[{index}]"),
        name: tool["function"]["name"].as_str().unwrap_or_default().to_owned(),
        parameters: match tool["function"].get("parameters") {
            given if fits(tool) && (given.is_some() || asked) => given.cloned(),
            _ => Some(any_object()),
        },
    };
    let tools: Vec<Tool> = offered.iter().enumerate().filter(|(_, tool)| is_meant(tool)).map(tool).collect();
    let calls = (!tools.is_empty()).then_some(Calls { tools, parallel, syntax });
    let (param, content) = match (must_call, &job.structure) {
        (true, _) => ("tool_choice", None),
        (false, Some(structure)) => (structure.param.as_str(), Some(Content::Bound(structure.source.clone()))),
        (false, None) => ("tools", Some(Content::Free)),
    };
    Some(Bound { param: param.to_owned(), reply: Reply { reasoning, content, calls }, asked })
}

/// Renders; an assistant's message at the end is continued rather than answered.
fn render(template: &ChatTemplate, conversation: &Conversation) -> Result<String, Error> {
    match conversation.messages.split_last() {
        Some((last, before)) if last.role == "assistant" && last.tool_calls.is_empty() => {
            let mut conversation = Conversation { messages: before.to_vec(), ..conversation.clone() };
            conversation.add_generation_prompt = true;
            let mut text = template.render(&conversation)?;
            text.push_str(&last.content);
            Ok(text)
        }
        _ => Ok(template.render(conversation)?),
    }
}

/// Leaves out as few of the oldest messages as make the prompt fit.
fn truncated(
    conversation: &Conversation,
    limit: usize,
    encode: &dyn Fn(&Conversation) -> Result<Rendered, Error>,
) -> Result<Rendered, Error> {
    let n_system = conversation.messages.iter().take_while(|message| message.role == "system").count();
    let without = |n: usize| {
        let keeps = |index: &usize| *index < n_system || *index >= n_system + n;
        let messages: Vec<Message> = conversation
            .messages
            .iter()
            .enumerate()
            .filter(|(index, _)| keeps(index))
            .map(|(_, message)| message.clone())
            .collect();
        // An answer without its question, or a tool's without its call, is no beginning.
        let rest = messages[n_system..].iter().position(|message| message.role == "user").unwrap_or(0);
        let kept = messages[..n_system].iter().chain(&messages[n_system + rest..]).cloned().collect();
        Conversation { messages: kept, ..conversation.clone() }
    };
    let most = conversation.messages.len().saturating_sub(n_system + 1);
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low.midpoint(high);
        if encode(&without(middle))?.1.len() < limit { high = middle } else { low = middle + 1 }
    }
    encode(&without(low))
}
