//! `GET /v1/models` and `GET /v1/models/{model}`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Answer;
use crate::{App, Error, LoadError, ModelCard};

pub(super) async fn list(State(app): State<App>) -> Result<Json<Value>, Answer> {
    let data: Vec<Value> = app.list().await?.iter().map(model).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

pub(super) async fn show(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, Answer> {
    let cards = app.list().await?;
    let card = cards.iter().find(|card| card.name == name);
    let card = card.ok_or(Error::Load(LoadError::NotFound { name }))?;
    Ok(Json(model(card)))
}

fn model(card: &ModelCard) -> Value {
    json!({
        "id": card.name,
        "object": "model",
        "created": card.modified_s,
        "owned_by": "library",
        "meta": {
            "size": card.size_bytes,
            "n_ctx_train": card.context_length,
            "n_embd": card.embedding_length,
            "architecture": card.family,
            "quantization": card.quantization,
        },
    })
}
