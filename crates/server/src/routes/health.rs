//! `GET /` and `GET /health`.

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

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}
