//! A compiled chat template and its rendering.
//!
//! The environment is that of `transformers`' `apply_chat_template`: Jinja2 with `trim_blocks`, `lstrip_blocks`, loop
//! controls, `{% generation %}`, `tojson`, `strftime_now` and `raise_exception`, on minijinja.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::Map;

use super::capability::{self, Capabilities};
use super::conversation::Conversation;
use super::limits::{self, KEEP_FUNCTION, Limits};
use super::{json, methods, source};

const NAME: &str = "chat template";

/// Fuel of each trial rendering; published templates take less than a tenth.
const PROBE_FUEL: u64 = 200_000;

/// Why a template cannot be used or did not render.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// Something is larger than [`Limits`] allow.
    #[error("chat template: {what} of {found} bytes, the limit is {limit}")]
    TooLarge {
        /// What is too large: the source, the messages, the rendering.
        what: &'static str,
        /// Its size; for a rendering, the size at which it was stopped.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The source is not a template.
    #[error("chat template, line {line}: {message}: use another with --template, or a built-in one by its name")]
    Syntax {
        /// Line, from 1; 0 when unknown.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The template refused the conversation by `raise_exception`.
    #[error("the chat template refuses these messages: {0}")]
    Raised(String),
    /// It took more than [`Limits::fuel`].
    #[error("chat template: stopped after {fuel} steps: it loops, or makes far more text than the messages hold")]
    Fuel {
        /// The limit.
        fuel: u64,
    },
    /// It failed on this conversation.
    #[error("chat template, line {line}: {message}")]
    Render {
        /// Line, from 1; 0 when unknown.
        line: usize,
        /// What went wrong.
        message: String,
    },
    /// It took more than [`Limits::time`], in a step that costs little fuel; or an earlier rendering did and goes on.
    #[error("chat template: not done after {limit:?}: it does too much with one text")]
    Time {
        /// The limit.
        limit: Duration,
    },
    /// The system gave no thread to render on.
    #[error("chat template: no thread to render on: {0}")]
    Thread(String),
}

/// The texts of the tokenizer's special tokens, which templates print.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Specials {
    /// Begin of sequence: `bos_token`.
    pub bos: Option<String>,
    /// End of sequence: `eos_token`.
    pub eos: Option<String>,
    /// Others under the names that templates use, such as `pad_token`.
    pub others: BTreeMap<String, String>,
}

/// A compiled chat template. Clones share it.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    compiled: Arc<Compiled>,
    capabilities: Capabilities,
    /// Used in place of this one when there are tools.
    tool_use: Option<Arc<ChatTemplate>>,
}

#[derive(Debug)]
struct Compiled {
    source: String,
    specials: Specials,
    limits: Limits,
    environment: Environment<'static>,
    /// Renderings that did not end in time and still run.
    overdue: Arc<AtomicUsize>,
}

impl ChatTemplate {
    /// Compiles `source`, and finds out by trial what it supports.
    ///
    /// # Errors
    /// If the source is too large or no template.
    pub fn new(source: &str, specials: Specials) -> Result<ChatTemplate, TemplateError> {
        ChatTemplate::with_limits(source, specials, Limits::default())
    }

    /// As [`ChatTemplate::new`], with other limits.
    ///
    /// # Errors
    /// If the source is too large or no template.
    pub fn with_limits(source: &str, specials: Specials, limits: Limits) -> Result<ChatTemplate, TemplateError> {
        check_size("a source", source.len(), limits.source_bytes)?;
        let rewritten = source::rewrite(source)
            .map_err(|message| TemplateError::Syntax { line: 0, message: message.to_owned() })?;
        // Compiling recurses into nested expressions, so it runs on the large stack as well.
        let unhurried = Limits { time: Duration::MAX, ..limits };
        let compiled = on_large_stack(unhurried, &Arc::default(), move || {
            let mut environment = environment(&limits);
            environment.add_template_owned(NAME, rewritten).map_err(|error| syntax_error(&error))?;
            Ok(environment)
        });
        let template = |environment: Environment<'static>, capabilities| {
            let (source, specials) = (source.to_owned(), specials.clone());
            let compiled = Compiled { source, specials, limits, environment, overdue: Arc::default() };
            ChatTemplate { compiled: Arc::new(compiled), capabilities, tool_use: None }
        };
        let environment = compiled?;
        let mut trial = environment.clone();
        trial.set_fuel(Some(limits.fuel.min(PROBE_FUEL)));
        let capabilities = capability::probe(&template(trial, Capabilities::default()));
        Ok(template(environment, capabilities))
    }

    /// This template, but `other` for conversations with tools.
    #[must_use]
    pub fn with_tool_use(self, other: ChatTemplate) -> ChatTemplate {
        ChatTemplate { tool_use: Some(Arc::new(other)), ..self }
    }

    /// The template that renders conversations with tools, or without.
    pub fn for_tools(&self, has_tools: bool) -> &ChatTemplate {
        self.tool_use.as_deref().filter(|_| has_tools).unwrap_or(self)
    }

    /// The source as it was given.
    pub fn source(&self) -> &str {
        &self.compiled.source
    }

    /// What the template supports.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The special tokens it prints.
    pub fn specials(&self) -> &Specials {
        &self.compiled.specials
    }

    /// Renders a conversation as prompt text, adapted to what the template supports.
    ///
    /// The text begins with the begin-of-sequence token when the template prints one: encode it with special tokens
    /// parsed, and add none.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails on it, or exceeds its limits.
    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let template = self.for_tools(!conversation.tools.is_empty());
        template.render_context(&conversation.context(&template.capabilities), conversation.now)
    }

    /// Renders with the template variables `context` as they are; special tokens, `strftime_now` (the time is `now`)
    /// and `raise_exception` are added.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_context(
        &self,
        context: &Map<String, serde_json::Value>,
        now: DateTime,
    ) -> Result<String, TemplateError> {
        let compiled = &self.compiled;
        let input_bytes: usize = context.values().map(json_bytes).sum();
        check_size("messages and tools", input_bytes, compiled.limits.input_bytes)?;
        if compiled.overdue.load(Ordering::Acquire) > 0 {
            return Err(TemplateError::Time { limit: compiled.limits.time });
        }
        let root = compiled.root(context, now);
        let shared = compiled.clone();
        on_large_stack(compiled.limits, &compiled.overdue, move || shared.render(root))
    }
}

impl Compiled {
    fn render(&self, root: Value) -> Result<String, TemplateError> {
        let limit = self.limits.output_bytes;
        let mut writer = Bounded { bytes: Vec::new(), limit };
        let template = self.environment.get_template(NAME).map_err(|error| syntax_error(&error))?;
        let result = template.render_captured_to(root, &mut writer).map(drop);
        match result {
            _ if writer.bytes.len() > limit => {
                Err(TemplateError::TooLarge { what: "a rendering", found: writer.bytes.len(), limit })
            }
            Ok(()) => String::from_utf8(writer.bytes)
                .map_err(|error| TemplateError::Render { line: 0, message: error.to_string() }),
            Err(error) => Err(render_error(&error, &self.limits)),
        }
    }

    fn root(&self, context: &Map<String, serde_json::Value>, now: DateTime) -> Value {
        let specials = [("bos_token", &self.specials.bos), ("eos_token", &self.specials.eos)];
        let specials = specials.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.as_deref()?.into())));
        let others = self.specials.others.iter().map(|(name, text)| (name.clone(), text.as_str().into()));
        let variables = context.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        let functions = [("strftime_now".to_owned(), strftime(now))];
        Value::from_pairs(specials.chain(others).chain(variables).chain(functions))
    }
}

/// What `raise_exception` was given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn environment(limits: &Limits) -> Environment<'static> {
    let mut env = Environment::new();
    // A debug build of minijinja would keep all variables in each error, and print them.
    env.set_debug(false);
    env.set_fuel(Some(limits.fuel));
    env.set_recursion_limit(limits.recursion);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_syntax(
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("no delimiter is changed"),
    );
    env.set_unknown_method_callback(methods::call);
    env.add_filter("tojson", json::tojson);
    env.add_filter("fromjson", json::fromjson);
    env.add_filter("from_json", json::fromjson);
    env.add_test("sequence", |value: &Value| {
        use minijinja::value::ValueKind::{Map, Seq, String, Undefined};
        matches!(value.kind(), Map | Seq | String | Undefined)
    });
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function(KEEP_FUNCTION, limits::keep);
    env.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let message = message.to_string();
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    env.add_test("lower", |state: &State, text: &str| cased(state, text, char::is_lowercase, char::is_uppercase));
    env.add_test("upper", |state: &State, text: &str| cased(state, text, char::is_uppercase, char::is_lowercase));
    env.remove_global("debug");
    // Its output grows with the square of the depth, and only then is paid for.
    env.remove_filter("pprint");
    env
}

/// Python's `islower` and `isupper`.
fn cased(state: &State, text: &str, is: fn(char) -> bool, is_not: fn(char) -> bool) -> Result<bool, Error> {
    state.consume_fuel(text.len() as u64 / 64)?;
    Ok(text.chars().any(is) && !text.chars().any(is_not))
}

fn strftime(now: DateTime) -> Value {
    Value::from_function(move |format: &str| -> Result<String, Error> {
        let fail = |text: String| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {text}"));
        if format.len() > 256 {
            return Err(fail(format!("a format of {} bytes, the limit is 256", format.len())));
        }
        jiff::fmt::strtime::format(format, now).map_err(|error| fail(error.to_string()))
    })
}

/// Collects output up to just above its limit, so that the caller sees that it was exceeded.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (self.limit + 1).saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        if room < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(room) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_size(what: &'static str, found: usize, limit: usize) -> Result<(), TemplateError> {
    if found > limit { Err(TemplateError::TooLarge { what, found, limit }) } else { Ok(()) }
}

/// About the bytes of `value` as JSON.
fn json_bytes(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + 2,
        serde_json::Value::Array(items) => 2 + items.iter().map(|item| 1 + json_bytes(item)).sum::<usize>(),
        serde_json::Value::Object(map) => {
            2 + map.iter().map(|(key, item)| key.len() + 4 + json_bytes(item)).sum::<usize>()
        }
        _ => 8,
    }
}

/// Runs `work` on a thread with a large stack; see [`limits`] for why. When it takes too long it is left to end on its
/// own, and counts as `overdue` until then.
fn on_large_stack<T: Send + 'static>(
    limits: Limits,
    overdue: &Arc<AtomicUsize>,
    work: impl FnOnce() -> Result<T, TemplateError> + Send + 'static,
) -> Result<T, TemplateError> {
    // Without a buffer a result is sent only if it is received, so that either side knows whether it came in time.
    let (sender, receiver) = mpsc::sync_channel(0);
    let thread = std::thread::Builder::new().name("chat template".into()).stack_size(limits.stack_bytes);
    let counted = overdue.clone();
    let panicked = || TemplateError::Render { line: 0, message: "the template engine panicked".to_owned() };
    let body = move || {
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()));
        if sender.send(result).is_err() {
            counted.fetch_sub(1, Ordering::AcqRel);
        }
    };
    let thread = thread.spawn(body).map_err(|error| TemplateError::Thread(error.to_string()))?;
    match receiver.recv_timeout(limits.time) {
        Ok(result) => {
            // It has nothing left to do: its stack is given back before the next one takes its place.
            let _ = thread.join();
            result
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            overdue.fetch_add(1, Ordering::AcqRel);
            drop(receiver);
            Err(TemplateError::Time { limit: limits.time })
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(panicked()),
    }
}

fn syntax_error(error: &Error) -> TemplateError {
    TemplateError::Syntax { line: error.line().unwrap_or(0), message: sentence(error) }
}

fn render_error(error: &Error, limits: &Limits) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        if current.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return TemplateError::Fuel { fuel: limits.fuel };
        }
        cause = current.source();
    }
    TemplateError::Render { line: error.line().unwrap_or(0), message: sentence(error) }
}

fn sentence(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}
