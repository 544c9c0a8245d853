//! `GET /metrics`: Prometheus text, under vLLM's names, and under `mlxr:` what vLLM does not have.
//!
//! Source: vLLM, `vllm/v1/metrics/loggers.py`; Prometheus, text exposition format 0.0.4.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use mlxr_engine::Stats;
use mlxr_engine::disk::{Disk, DiskStats};
use mlxr_engine::metrics::{Histogram, Metrics, REASONS};

use crate::App;
use crate::app::Model;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let resident = app.resident();
    let models: Vec<&Model> = resident.iter().map(|resident| resident.model.as_ref()).collect();
    let disk = app.config().disk.as_ref().map(Disk::stats);
    let mut out = text(&models, disk);
    let (taken, limit) = app.memory_bytes();
    for (name, help, number) in [
        ("mlxr:memory_bytes", "Bytes that loaded models may come to take, those that are being freed included.", taken),
        ("mlxr:memory_limit_bytes", "Bytes that all loaded models may take.", limit),
    ] {
        head(&mut out, name, "gauge", help);
        writeln!(out, "{name} {number}").expect("a string takes all");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out)
}

/// A number of each model: name, type, what it is, and where it comes from.
type Number = (&'static str, &'static str, &'static str, fn(&Model, &Stats) -> f64);

const NUMBERS: &[Number] = &[
    ("vllm:num_requests_running", "gauge", "Sequences that are computed.", |_, s| s.running as f64),
    ("vllm:num_requests_waiting", "gauge", "Sequences that wait.", |_, s| s.waiting as f64),
    ("vllm:kv_cache_usage_perc", "gauge", "Part of the KV arena that sequences hold, 1 for all.", |_, s| {
        s.pages_used as f64 / (s.pages_used + s.pages_cached + s.pages_free).max(1) as f64
    }),
    ("vllm:num_preemptions_total", "counter", "Sequences that gave up their pages.", |_, s| s.n_preempted as f64),
    ("vllm:prompt_tokens_total", "counter", "Prompt tokens computed.", |_, s| s.n_prompt as f64),
    ("vllm:prompt_tokens_cached_total", "counter", "Prompt tokens found cached.", |_, s| s.n_cached as f64),
    ("vllm:generation_tokens_total", "counter", "Tokens generated.", |_, s| s.n_generated as f64),
    ("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in cached pages.", |_, s| s.n_asked as f64),
    ("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in cached pages.", |_, s| s.n_cached as f64),
    ("vllm:external_prefix_cache_hits_total", "counter", "Tokens whose pages were read from disk.", |_, s| {
        s.n_restored as f64
    }),
    ("vllm:spec_decode_num_drafts_total", "counter", "Drafts verified.", |m, _| {
        count(&m.engine.metrics().spec_decode_num_drafts)
    }),
    ("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens drafted.", |m, _| {
        count(&m.engine.metrics().spec_decode_num_draft_tokens)
    }),
    ("vllm:spec_decode_num_accepted_tokens_total", "counter", "Drafted tokens accepted.", |m, _| {
        count(&m.engine.metrics().spec_decode_num_accepted_tokens)
    }),
    ("mlxr:spec_decode_saved_seconds", "gauge", "Time that drafts saved, less what they cost.", |_, s| {
        s.saved_by_drafts
    }),
    ("mlxr:kv_pages_used", "gauge", "Pages that sequences hold.", |_, s| s.pages_used as f64),
    ("mlxr:kv_pages_cached", "gauge", "Pages that keep prefixes.", |_, s| s.pages_cached as f64),
    ("mlxr:kv_pages_free", "gauge", "Pages that hold nothing.", |_, s| s.pages_free as f64),
    ("mlxr:kv_page_bytes", "gauge", "Bytes of a page.", |m, _| m.engine.info().page_bytes as f64),
    ("mlxr:steps_total", "counter", "Steps computed.", |_, s| s.n_step as f64),
    ("mlxr:busy_seconds_total", "counter", "Time spent in steps.", |_, s| s.busy.as_secs_f64()),
    ("mlxr:computing_seconds_total", "counter", "Of that, time in which models computed.", |_, s| {
        s.computing.as_secs_f64()
    }),
];

/// A histogram of each model.
type Shape = (&'static str, &'static str, fn(&Metrics) -> &Histogram);

const HISTOGRAMS: &[Shape] = &[
    ("vllm:time_to_first_token_seconds", "From a request to its first token.", |m| &m.time_to_first_token_seconds),
    ("vllm:inter_token_latency_seconds", "From a token to the next.", |m| &m.inter_token_latency_seconds),
    ("vllm:request_time_per_output_token_seconds", "Mean time of a request's tokens after the first.", |m| {
        &m.request_time_per_output_token_seconds
    }),
    ("vllm:e2e_request_latency_seconds", "From a request to its end.", |m| &m.e2e_request_latency_seconds),
    ("vllm:request_queue_time_seconds", "Waiting.", |m| &m.request_queue_time_seconds),
    ("vllm:request_prefill_time_seconds", "Reading the prompt.", |m| &m.request_prefill_time_seconds),
    ("vllm:request_decode_time_seconds", "Generating after the first token.", |m| &m.request_decode_time_seconds),
    ("vllm:request_inference_time_seconds", "Reading and generating.", |m| &m.request_inference_time_seconds),
    ("vllm:request_prompt_tokens", "Tokens of a prompt.", |m| &m.request_prompt_tokens),
    ("vllm:request_generation_tokens", "Tokens of a reply.", |m| &m.request_generation_tokens),
    ("vllm:request_params_max_tokens", "Most tokens asked for.", |m| &m.request_params_max_tokens),
    ("vllm:iteration_tokens_total", "Tokens of a step.", |m| &m.iteration_tokens_total),
];

/// A number of the disk tier, over all models.
type DiskNumber = (&'static str, &'static str, &'static str, fn(&DiskStats) -> u64);

const DISK: &[DiskNumber] = &[
    ("mlxr:disk_pages", "gauge", "Pages on disk.", |s| s.pages),
    ("mlxr:disk_bytes", "gauge", "Bytes of pages on disk.", |s| s.bytes),
    ("mlxr:disk_bytes_today", "gauge", "Bytes written today.", |s| s.bytes_today),
    ("mlxr:disk_pages_written_total", "counter", "Pages written.", |s| s.n_written),
    ("mlxr:disk_pages_dropped_total", "counter", "Pages not written: queue, budget or failure.", |s| s.n_dropped),
    ("mlxr:disk_pages_read_total", "counter", "Pages read.", |s| s.n_read),
    ("mlxr:disk_pages_broken_total", "counter", "Files that were no pages.", |s| s.n_broken),
    ("mlxr:disk_write_failures_total", "counter", "Writes that failed.", |s| s.n_failed),
];

fn count(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

fn text(models: &[&Model], disk: Option<DiskStats>) -> String {
    let mut out = String::new();
    for (name, kind, help, number) in NUMBERS {
        head(&mut out, name, kind, help);
        for model in models {
            line(&mut out, name, &label(model), number(model, &model.engine.stats()));
        }
    }
    for (name, help, histogram) in HISTOGRAMS {
        head(&mut out, name, "histogram", help);
        for model in models {
            let (label, histogram) = (label(model), histogram(model.engine.metrics()));
            let mut n = 0;
            for (bound, count) in histogram.cumulative() {
                let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
                line(&mut out, &format!("{name}_bucket"), &format!("{label},le=\"{bound}\""), count as f64);
                n = count;
            }
            line(&mut out, &format!("{name}_sum"), &label, histogram.sum());
            line(&mut out, &format!("{name}_count"), &label, n as f64);
        }
    }
    labelled(&mut out, models);
    for (name, kind, help, number) in DISK {
        let Some(disk) = &disk else { break };
        head(&mut out, name, kind, help);
        writeln!(out, "{name} {}", number(disk)).expect("a string takes all");
    }
    out
}

/// Counters with a label of their own.
fn labelled(out: &mut String, models: &[&Model]) {
    let name = "vllm:request_success_total";
    head(out, name, "counter", "Requests that ended.");
    for model in models {
        for (reason, counter) in REASONS.iter().zip(&model.engine.metrics().request_success) {
            line(out, name, &format!("{},finished_reason=\"{reason}\"", label(model)), count(counter));
        }
    }
    let name = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
    head(out, name, "counter", "Drafted tokens accepted, by their position in the draft.");
    for model in models {
        for (at, counter) in model.engine.metrics().spec_decode_num_accepted_tokens_per_pos.iter().enumerate() {
            line(out, name, &format!("{},position=\"{at}\"", label(model)), count(counter));
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes all");
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    writeln!(out, "{name}{{{labels}}} {value}").expect("a string takes all");
}

fn label(model: &Model) -> String {
    let name = model.card.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("model_name=\"{name}\",engine=\"0\"")
}
