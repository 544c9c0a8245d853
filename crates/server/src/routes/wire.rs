//! What the protocols share on the wire: reading bodies, streaming lines, identifiers, times.

use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use mlxr_text::chat;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::job::Job;
use crate::{App, Error, Generation, Model};

/// Events that wait for a slow reader before the answer is held back.
const STREAM_DEPTH: usize = 64;

/// Reads a JSON body.
///
/// # Errors
/// If it is over its limit or does not fit `T`.
pub(super) async fn read<T: DeserializeOwned>(app: &App, body: Body) -> Result<T, Error> {
    let limit = app.config().body_bytes;
    let bytes = axum::body::to_bytes(body, limit).await.map_err(|error| {
        let too_large =
            std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("length limit"));
        match too_large {
            true => Error::BodyTooLarge { limit },
            false => Error::Invalid { param: None, message: format!("the request's body broke off: {error}") },
        }
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Invalid { param: None, message: format!("the request's body: {error}") })
}

/// What `work` comes to, where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::Model(panic.to_string())),
    }
}

/// Starts a job where blocking is allowed.
///
/// # Errors
/// As [`Generation::start`].
pub(super) async fn start(model: &Arc<Model>, job: Job) -> Result<Generation, Error> {
    let model = model.clone();
    blocking(move || Generation::start(&model, &job)).await
}

/// Tokens of a job's prompts, counted where blocking is allowed.
///
/// # Errors
/// As [`Generation::count`].
pub(super) async fn count(model: &Arc<Model>, job: Job) -> Result<usize, Error> {
    let model = model.clone();
    blocking(move || Generation::count(&model, &job)).await
}

/// A call of a tool in a message, as OpenAI's and Ollama's clients send it.
#[derive(Debug, Deserialize)]
pub(super) struct ToolCall {
    #[serde(default)]
    id: String,
    function: Function,
}

#[derive(Debug, Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    arguments: Value,
}

/// The calls of a message.
pub(super) fn called(calls: Option<Vec<ToolCall>>) -> Vec<chat::ToolCall> {
    let calls = calls.into_iter().flatten();
    calls
        .map(|call| chat::ToolCall { id: call.id, name: call.function.name, arguments: call.function.arguments })
        .collect()
}

/// Where a streamed answer is written, piece by piece.
pub(super) struct Pieces(mpsc::Sender<Result<Bytes, Infallible>>);

/// The client is gone.
pub(super) struct Gone;

impl Pieces {
    /// Writes `data: {value}` and an empty line.
    pub(super) async fn event(&self, value: &impl Serialize) -> Result<(), Gone> {
        self.raw(format!("data: {}\n\n", json(value))).await
    }

    /// Writes `event: {name}`, `data: {value}` and an empty line.
    pub(super) async fn named_event(&self, name: &str, value: &impl Serialize) -> Result<(), Gone> {
        self.raw(format!("event: {name}\ndata: {}\n\n", json(value))).await
    }

    /// Writes `value` on a line of its own.
    pub(super) async fn line(&self, value: &impl Serialize) -> Result<(), Gone> {
        self.raw(json(value) + "\n").await
    }

    pub(super) async fn raw(&self, text: String) -> Result<(), Gone> {
        self.0.send(Ok(text.into())).await.map_err(|_| Gone)
    }

    /// Completes when the client is gone.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("wire types have text keys and no failing parts")
}

/// A response that `write` streams. When the client goes away `write` is dropped, and with it what it owns.
pub(super) fn stream<W, F>(content_type: &'static str, write: W) -> Response
where
    W: FnOnce(Arc<Pieces>) -> F,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(STREAM_DEPTH);
    let pieces = Arc::new(Pieces(sender));
    let watch = pieces.clone();
    let work = write(pieces);
    tokio::spawn(async move {
        tokio::select! {
            _ = work => {}
            () = watch.gone() => {}
        }
    });
    let mut response = Body::from_stream(ReceiverStream::new(receiver)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// `prefix` and random letters and digits.
pub(super) fn new_id(prefix: &str, n: usize) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut out = prefix.to_owned();
    let mut bits = 0_u64;
    for i in 0..n {
        if i % 10 == 0 {
            // Each `RandomState` has keys of its own, the first ones from the system's randomness.
            bits = RandomState::new().build_hasher().finish();
        }
        out.push(char::from(DIGITS[(bits % 62) as usize]));
        bits /= 62;
    }
    out
}

/// An identifier for a call of a tool: nine letters and digits, which every template accepts.
pub(super) fn new_call_id() -> String {
    new_id("", 9)
}

/// Seconds since 1970.
pub(super) fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The time as in RFC 3339.
pub(super) fn now_text() -> String {
    jiff::Timestamp::now().to_string()
}
