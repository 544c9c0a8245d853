//! `POST /v1/completions`: text is continued as it is, without a template.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use mlxr_text::chat::Delta;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chat::max_tokens;
use super::{Answer, OneOrMany, OpenAi, StreamOptions, Total, finish_text, logprobs};
use crate::app::Lease;
use crate::generate::Event;
use crate::routes::Protocol;
use crate::routes::constraint::Constraints;
use crate::routes::guard::Asker;
use crate::routes::wire::{self, Gone, Pieces};
use crate::{App, Error, Finish, Generation, Job, Prompt, Sampling, Standing, TokenLogprob};

/// Tokens of an answer when the request does not say; OpenAI's.
const DEFAULT_MAX_TOKENS: i64 = 16;

#[derive(Debug, Deserialize)]
struct Request {
    #[serde(default)]
    model: String,
    prompt: Option<WirePrompt>,
    suffix: Option<String>,
    #[serde(default)]
    echo: bool,
    best_of: Option<usize>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<OneOrMany>,
    n: Option<usize>,
    max_tokens: Option<i64>,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    #[serde(default)]
    ignore_eos: bool,
    #[serde(flatten)]
    constraints: Constraints,
    #[serde(flatten)]
    standing: Standing,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WirePrompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    ManyTokens(Vec<Vec<u32>>),
}

impl Request {
    /// Every check of this endpoint.
    fn into_job(self) -> Result<Job, Error> {
        let n = self.n.unwrap_or(1);
        if self.best_of.is_some_and(|best_of| best_of != n) {
            return Err(Error::invalid("best_of", "`best_of` other than `n` is not supported: leave it out"));
        }
        if self.prompt_logprobs.is_some() && self.stream == Some(true) {
            return Err(Error::invalid(
                "prompt_logprobs",
                "`prompt_logprobs` come with whole answers only: leave `stream` out",
            ));
        }
        // To read a prompt and say nothing makes sense where the prompt is the answer.
        let max_tokens = match self.max_tokens {
            Some(0) if self.echo => Some(0),
            asked => max_tokens(asked.or(Some(DEFAULT_MAX_TOKENS)))?,
        };
        let prompts = match (self.prompt, self.suffix.filter(|suffix| !suffix.is_empty())) {
            (Some(WirePrompt::Text(prefix)), Some(suffix)) => vec![Prompt::Infill { prefix, suffix }],
            (_, Some(_)) => return Err(Error::invalid("suffix", "`suffix` needs a `prompt` that is one text")),
            (None, None) => vec![Prompt::Text(String::new())],
            (Some(WirePrompt::Text(text)), None) => vec![Prompt::Text(text)],
            (Some(WirePrompt::Texts(texts)), None) => texts.into_iter().map(Prompt::Text).collect(),
            (Some(WirePrompt::Tokens(tokens)), None) => vec![Prompt::Tokens(tokens)],
            (Some(WirePrompt::ManyTokens(many)), None) => many.into_iter().map(Prompt::Tokens).collect(),
        };
        if prompts.iter().any(|prompt| matches!(prompt, Prompt::Tokens(tokens) if tokens.is_empty())) {
            return Err(Error::invalid("prompt", "`prompt` has no tokens: give a text or token ids"));
        }
        let job = Job {
            prompts,
            n,
            sampling: self.sampling,
            stop: self.stop.map(OneOrMany::into_vec).unwrap_or_default(),
            structure: self.constraints.structure()?,
            max_tokens,
            logprobs: self.logprobs,
            prompt_logprobs: self.logprobs.filter(|_| self.echo).max(self.prompt_logprobs),
            ignore_eos: self.ignore_eos,
            ..Job::new(&self.model, Prompt::Text(String::new()))
        };
        self.standing.apply(job)?.check()
    }
}

/// What all parts of an answer share.
struct Head {
    id: String,
    created: i64,
    model: String,
    with_logprobs: bool,
    /// Whether the prompt's logprobs are asked for besides those of the text.
    with_prompt: bool,
    /// For each choice what `echo` puts first; `None` without it.
    echoes: Option<Vec<String>>,
}

impl Head {
    fn frame(&self, choices: Value) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("id".to_owned(), self.id.as_str().into());
        map.insert("object".to_owned(), "text_completion".into());
        map.insert("created".to_owned(), self.created.into());
        map.insert("model".to_owned(), self.model.as_str().into());
        map.insert("system_fingerprint".to_owned(), concat!("mlxr-", env!("CARGO_PKG_VERSION")).into());
        map.insert("choices".to_owned(), choices);
        map
    }

    fn choice(&self, index: usize, text: &str, logprobs: Value, finish: Option<Finish>) -> Value {
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish.map(finish_text)})
    }

    fn logprobs(&self, tokens: &[TokenLogprob], offset: &mut usize) -> Value {
        if self.with_logprobs { logprobs::of_completion(tokens, offset) } else { Value::Null }
    }
}

pub(super) async fn create(
    State(app): State<App>,
    Extension(asker): Extension<Asker>,
    body: Body,
) -> Result<Response, Answer> {
    let mut wire: Request = wire::read(&app, body).await?;
    let (streams, options) = (wire.stream.unwrap_or(false), wire.stream_options.take().unwrap_or_default());
    let (echo, with_prompt) = (wire.echo, wire.prompt_logprobs.is_some());
    let job = wire.into_job()?.of(asker.0)?;
    let lease = app.lease(&job.model, None).await?;
    let with_logprobs = job.logprobs.is_some();
    let generation = wire::start(&lease.model, job).await?;
    let echo_of = |choice| lease.model.tokenizer.decode(generation.prompt(choice), true);
    let head = Head {
        id: wire::new_id("cmpl-", 24),
        created: wire::now_s(),
        model: lease.model.card.name.clone(),
        with_logprobs,
        with_prompt,
        echoes: echo.then(|| (0..generation.n_choice()).map(echo_of).collect()),
    };
    if streams {
        return Ok(wire::stream("text/event-stream", |pieces| async move {
            write(&pieces, lease, generation, head, options).await
        }));
    }
    Ok(Json(collect(generation, head).await?).into_response())
}

fn text_of(deltas: Vec<Delta>) -> String {
    let text = |delta| match delta {
        Delta::Content(text) | Delta::Reasoning(text) => text,
        Delta::Call(call) => call.arguments,
    };
    deltas.into_iter().map(text).collect()
}

async fn collect(mut generation: Generation, head: Head) -> Result<Value, Answer> {
    let mut total = Total { n_prompt: generation.n_prompt(), ..Total::default() };
    let n = generation.n_choice();
    let mut texts = head.echoes.clone().unwrap_or_else(|| vec![String::new(); n]);
    let mut tokens = vec![Vec::new(); n];
    let mut prompts = vec![None; n];
    let mut finishes = vec![None; n];
    while let Some(event) = generation.next().await {
        match event? {
            Event::Read { choice, logprobs } => {
                prompts[choice] = head.with_prompt.then(|| logprobs::of_prompt(&logprobs));
                if head.echoes.is_some() {
                    tokens[choice].extend(logprobs);
                }
            }
            Event::Grown { choice, deltas, logprobs } => {
                texts[choice].push_str(&text_of(deltas));
                tokens[choice].extend(logprobs);
            }
            Event::Ended { choice, finish, usage, .. } => {
                finishes[choice] = Some(finish);
                total.add(&usage);
            }
        }
    }
    let choice = |(index, text): (usize, &String)| {
        let mut choice = head.choice(index, text, head.logprobs(&tokens[index], &mut 0), finishes[index]);
        if let Some(prompt) = prompts[index].take() {
            choice["prompt_logprobs"] = prompt;
        }
        choice
    };
    let mut map = head.frame(texts.iter().enumerate().map(choice).collect());
    map.insert("usage".to_owned(), total.usage());
    map.insert("timings".to_owned(), total.timings());
    Ok(map.into())
}

/// Writes the answer as server-sent events. Owns the model, so that it stays loaded.
async fn write(
    pieces: &Pieces,
    lease: Lease,
    mut generation: Generation,
    head: Head,
    options: StreamOptions,
) -> Result<(), Gone> {
    let mut total = Total { n_prompt: generation.n_prompt(), ..Total::default() };
    let mut offsets = vec![0; generation.n_choice()];
    // With logprobs an echo comes when they do.
    let echoes = head.echoes.as_deref().unwrap_or_default();
    for (index, echo) in echoes.iter().enumerate().filter(|(_, echo)| !echo.is_empty() && !head.with_logprobs) {
        pieces.event(&head.frame(json!([head.choice(index, echo, Value::Null, None)]))).await?;
    }
    while let Some(event) = generation.next().await {
        let choice = match event {
            Ok(Event::Read { choice, logprobs }) => {
                let echo = echoes.get(choice).map_or("", String::as_str);
                head.choice(choice, echo, head.logprobs(&logprobs, &mut offsets[choice]), None)
            }
            Ok(Event::Grown { choice, deltas, logprobs }) => {
                head.choice(choice, &text_of(deltas), head.logprobs(&logprobs, &mut offsets[choice]), None)
            }
            Ok(Event::Ended { choice, finish, usage, .. }) => {
                total.add(&usage);
                head.choice(choice, "", Value::Null, Some(finish))
            }
            Err(error) => {
                pieces.event(&OpenAi::error_body(&error)).await?;
                break;
            }
        };
        pieces.event(&head.frame(json!([choice]))).await?;
    }
    drop(lease);
    if options.include_usage {
        let mut map = head.frame(json!([]));
        map.insert("usage".to_owned(), total.usage());
        map.insert("timings".to_owned(), total.timings());
        pieces.event(&map).await?;
    }
    pieces.raw("data: [DONE]\n\n".to_owned()).await
}
