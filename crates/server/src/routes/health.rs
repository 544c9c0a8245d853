//! `GET /` and `GET /health`.

use axum::extract::State;
use axum::http::StatusCode;
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

/// Says that the server answers, and how many sequences run and wait on all loaded models. 503 where a model computes one
/// step for longer than any should take: it is stuck.
async fn health(State(app): State<App>) -> (StatusCode, Json<Value>) {
    let resident = app.resident();
    let stats: Vec<_> = resident.iter().map(|resident| resident.model.engine.stats()).collect();
    let sum = |count: fn(&mlxr_engine::Stats) -> usize| stats.iter().map(count).sum::<usize>();
    let (running, waiting) = (sum(|stats| stats.running), sum(|stats| stats.waiting));
    let stuck = resident.iter().find(|resident| resident.model.engine.busy_for() > app.config().stuck_after);
    match stuck {
        None => (StatusCode::OK, Json(json!({"status": "ok", "running": running, "waiting": waiting}))),
        Some(resident) => {
            let (name, seconds) = (&resident.model.card.name, resident.model.engine.busy_for().as_secs());
            let message = format!("model '{name}' has computed one step for {seconds} s");
            let body = json!({"status": "error", "error": message, "running": running, "waiting": waiting});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body))
        }
    }
}
