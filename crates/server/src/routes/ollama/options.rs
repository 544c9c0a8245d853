//! What `/api/chat` and `/api/generate` have in common.

use std::time::Duration;

use mlxr_grammar::Source;
use mlxr_text::chat::Conversation;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::app::Lease;
use crate::job::Structure;
use crate::{App, Error, Job, Sampling};

/// Fields of both requests.
#[derive(Debug, Deserialize)]
pub(super) struct Common {
    #[serde(default)]
    pub(super) model: String,
    pub(super) stream: Option<bool>,
    pub(super) options: Option<Map<String, Value>>,
    pub(super) keep_alive: Option<Value>,
    format: Option<Value>,
    pub(super) think: Option<Value>,
    pub(super) truncate: Option<bool>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
}

/// Options that choose how many tokens; the rest are [`Sampling`]'s.
#[derive(Debug, Default, Deserialize)]
struct Counts {
    num_predict: Option<i64>,
    num_ctx: Option<i64>,
    #[serde(default)]
    stop: Option<Stop>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// What `think` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Think {
    Default,
    Off,
    On,
    /// A level, such as `high`.
    Effort(String),
}

impl Common {
    /// Fills in a job what both requests ask alike.
    pub(super) fn fill(&self, job: Job) -> Result<Job, Error> {
        let source = match &self.format {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(Value::String(text)) if text == "json" => Some(Source::Json),
            Some(schema @ Value::Object(_)) => Some(Source::Schema(schema.clone())),
            Some(other) => {
                let message = format!("`format` is {other}, expected \"json\" or a JSON schema");
                return Err(Error::invalid("format", message));
            }
        };
        let options = Value::from(self.options.clone().unwrap_or_default());
        let wrong = |error: serde_json::Error| Error::invalid("options", format!("`options`: {error}"));
        warn_of_unknown(self.options.as_ref());
        let counts = Counts::deserialize(&options).map_err(wrong)?;
        let sampling = Sampling::deserialize(&options).map_err(wrong)?;
        if counts.num_ctx.is_some_and(|num_ctx| num_ctx < 1) {
            return Err(Error::invalid("num_ctx", "`num_ctx` is below 1, expected a number of tokens"));
        }
        let logprobs = self.logprobs.unwrap_or(false).then(|| self.top_logprobs.unwrap_or(0));
        let job = Job {
            sampling,
            stop: match counts.stop {
                None => Vec::new(),
                Some(Stop::One(text)) => vec![text],
                Some(Stop::Many(texts)) => texts,
            },
            structure: source.map(|source| Structure { param: "format".to_owned(), source }),
            // Below 0: as many as the context holds.
            max_tokens: counts.num_predict.and_then(|n| usize::try_from(n).ok()),
            max_context: counts.num_ctx.and_then(|n| usize::try_from(n).ok()),
            logprobs,
            ..job
        };
        job.check()
    }

    /// How long the model stays loaded, if the request says: `Some(None)` for ever.
    pub(super) fn keep_alive(&self) -> Result<Option<Option<Duration>>, Error> {
        let wrong = |found: &Value| {
            let message = format!("`keep_alive` is {found}, expected seconds or a duration such as \"5m\"");
            Error::invalid("keep_alive", message)
        };
        match &self.keep_alive {
            None | Some(Value::Null) => Ok(None),
            Some(value @ Value::Number(number)) => {
                seconds(number.as_f64().unwrap_or(f64::NAN)).ok_or_else(|| wrong(value)).map(Some)
            }
            Some(value @ Value::String(text)) => {
                parse_duration(text).and_then(seconds).ok_or_else(|| wrong(value)).map(Some)
            }
            Some(value) => Err(wrong(value)),
        }
    }

    /// Whether the request only unloads the model.
    pub(super) fn unloads(&self) -> Result<bool, Error> {
        Ok(self.keep_alive()? == Some(Some(Duration::ZERO)))
    }

    /// What `think` asks for.
    pub(super) fn think(&self) -> Result<Think, Error> {
        match &self.think {
            None | Some(Value::Null) => Ok(Think::Default),
            Some(Value::Bool(false)) => Ok(Think::Off),
            Some(Value::Bool(true)) => Ok(Think::On),
            Some(Value::String(text)) if ["low", "medium", "high", "max"].contains(&text.as_str()) => {
                Ok(Think::Effort(text.clone()))
            }
            Some(other) => {
                let message =
                    format!("`think` is {other}, expected true, false, \"low\", \"medium\", \"high\" or \"max\"");
                Err(Error::invalid("think", message))
            }
        }
    }

    /// The model, loaded.
    pub(super) async fn lease(&self, app: &App) -> Result<Lease, Error> {
        if self.model.is_empty() {
            return Err(Error::invalid("model", "model is required"));
        }
        app.lease(&self.model, self.keep_alive()?).await
    }
}

impl Think {
    /// Sets the template's variables.
    pub(super) fn apply(&self, conversation: &mut Conversation) {
        match self {
            Think::Default => {}
            Think::Off => conversation.set_thinking(false),
            Think::On => conversation.set_thinking(true),
            Think::Effort(effort) => {
                conversation.set_thinking(true);
                conversation.extra.insert("reasoning_effort".to_owned(), effort.as_str().into());
            }
        }
    }

    /// Refuses thinking of a model that does not.
    pub(super) fn check(&self, lease: &Lease) -> Result<(), Error> {
        let wanted = matches!(self, Think::On | Think::Effort(_));
        let can = lease.model.template.as_ref().is_some_and(|template| {
            template.capabilities().reasons || mlxr_text::chat::Format::detect(template.source()).name == "harmony"
        });
        match wanted && !can {
            true => Err(Error::invalid("think", format!("\"{}\" does not support thinking", lease.model.card.name))),
            false => Ok(()),
        }
    }
}

/// Options that have an effect, or had one at loading.
const OPTIONS: &[&str] = &[
    "num_predict",
    "num_ctx",
    "stop",
    "temperature",
    "temperature_range",
    "dynatemp_range",
    "temperature_exponent",
    "dynatemp_exponent",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "typ_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "repeat_penalty",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "repeat_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_last_n",
    "dry_sequence_breakers",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "logit_bias",
    "seed",
    "samplers",
    // Of loading: this server knows better.
    "num_gpu",
    "main_gpu",
    "num_thread",
    "num_batch",
    "numa",
    "low_vram",
    "use_mmap",
    "use_mlock",
    "vocab_only",
];

fn warn_of_unknown(options: Option<&Map<String, Value>>) {
    let names = options.into_iter().flat_map(Map::keys).filter(|name| !OPTIONS.contains(&name.as_str()));
    let unknown: Vec<&str> = names.map(String::as_str).collect();
    if !unknown.is_empty() {
        tracing::warn!(options = unknown.join(", "), "options that this server does not know have no effect");
    }
}

/// `None` for what is no time; `Some(None)`, for ever, below 0.
fn seconds(seconds: f64) -> Option<Option<Duration>> {
    const FOREVER: f64 = 1e9;
    match seconds {
        s if s.is_nan() => None,
        s if !(0.0..FOREVER).contains(&s) => Some(None),
        s => Some(Some(Duration::from_secs_f64(s))),
    }
}

/// Seconds of a Go duration such as `1h30m`, `300ms` or `-1`; a bare number is in seconds.
fn parse_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.trim().strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.trim()),
    };
    if let Ok(number) = rest.parse::<f64>() {
        return Some(sign * number);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_length = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len() - digits);
        let unit = match &rest[digits..digits + unit_length] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[digits + unit_length..];
    }
    Some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expect) in [
            ("5m", Some(300.0)),
            ("1h30m", Some(5400.0)),
            ("1.5s", Some(1.5)),
            ("300ms", Some(0.3)),
            ("-1", Some(-1.0)),
            ("-1m", Some(-60.0)),
            ("0", Some(0.0)),
            ("10", Some(10.0)),
            ("", None),
            ("5 minutes", None),
            ("m", None),
            ("5x", None),
        ] {
            let found = parse_duration(text);
            match (found, expect) {
                (Some(found), Some(expect)) => assert!((found - expect).abs() < 1e-9, "{text}: {found}"),
                (found, expect) => assert_eq!(found, expect, "{text}"),
            }
        }
    }
}
