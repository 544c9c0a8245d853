//! `GET /` and `GET /health`.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::App;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(async || "MLXR is running"))
        .route("/health", get(health))
        .route("/v1/health", get(health))
}

/// Says that the server answers, and how many sequences run and wait on all loaded models.
async fn health(State(app): State<App>) -> Json<Value> {
    let stats: Vec<_> = app.resident().iter().map(|resident| resident.model.engine.stats()).collect();
    let sum = |count: fn(&mlxr_engine::Stats) -> usize| stats.iter().map(count).sum::<usize>();
    Json(json!({"status": "ok", "running": sum(|stats| stats.running), "waiting": sum(|stats| stats.waiting)}))
}
