//! `/api/tags`, `/api/show`, `/api/ps` and `/api/version`.

use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use crate::app::Resident;
use crate::routes::wire;
use crate::{App, Error, ModelCard};

/// The version of the Ollama API that is spoken. Clients refuse servers that tell a version below the one they need.
const API_VERSION: &str = "0.32.15";

pub(super) async fn version() -> Json<Value> {
    Json(json!({"version": API_VERSION, "server": concat!("mlxr ", env!("CARGO_PKG_VERSION"))}))
}

pub(super) async fn tags(State(app): State<App>) -> Result<Json<Value>, Answer> {
    let models: Vec<Value> = app.list().await?.iter().map(card).collect();
    Ok(Json(json!({"models": models})))
}

fn card(card: &ModelCard) -> Value {
    json!({
        "name": card.name,
        "model": card.name,
        "modified_at": time(card.modified_s),
        "size": card.size_bytes,
        "digest": card.digest,
        "details": details(card),
    })
}

fn details(card: &ModelCard) -> Value {
    json!({
        "parent_model": "",
        "format": card.format,
        "family": card.family,
        "families": [card.family],
        "parameter_size": card.parameter_size,
        "quantization_level": card.quantization,
        "context_length": card.context_length,
        "embedding_length": card.embedding_length,
    })
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[derive(Debug, Deserialize)]
struct Show {
    #[serde(default, alias = "name")]
    model: String,
}

pub(super) async fn show(State(app): State<App>, body: Body) -> Result<Json<Value>, Answer> {
    let wire: Show = wire::read(&app, body).await?;
    if wire.model.is_empty() {
        return Err(Error::invalid("model", "model is required").into());
    }
    let model = app.show(&wire.model).await?;
    let mut modelfile = format!("FROM {}\n", model.card.name);
    for (name, value) in [("TEMPLATE", &model.template), ("SYSTEM", &model.system)] {
        if !value.is_empty() {
            modelfile.push_str(&format!("{name} \"\"\"{value}\"\"\"\n"));
        }
    }
    for line in model.parameters.lines() {
        modelfile.push_str(&format!("PARAMETER {line}\n"));
    }
    Ok(Json(json!({
        "license": model.license,
        "modelfile": modelfile,
        "parameters": model.parameters,
        "template": model.template,
        "system": model.system,
        "details": details(&model.card),
        "model_info": model.info,
        "capabilities": model.capabilities,
        "modified_at": time(model.card.modified_s),
    })))
}

pub(super) async fn ps(State(app): State<App>) -> Json<Value> {
    let now = Instant::now();
    let models: Vec<Value> = app.resident().iter().map(|resident| running(resident, now)).collect();
    Json(json!({"models": models}))
}

fn running(resident: &Resident, now: Instant) -> Value {
    // A model that stays for ever is said to stay for a century, as Ollama says it.
    const FOREVER: Duration = Duration::from_secs(100 * 365 * 86400);
    let left = resident.expires.map_or(FOREVER, |at| at.saturating_duration_since(now));
    let left = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    let model = &resident.model;
    let mut value = card(&model.card);
    value["expires_at"] = time(wire::now_s().saturating_add(left)).into();
    // What it takes, as Ollama means it, of which `size_vram` is a part; a file's size is in `/api/tags`.
    value["size"] = model.memory_bytes.into();
    value["size_vram"] = model.gpu_bytes.into();
    value["backend"] = model.backend.into();
    value["context_length"] = model.engine.n_ctx().into();
    value
}
