//! Limits of one model of a server: `--limit NAME:KEY=VALUE,..`.

use std::str::FromStr;

use mlxr_engine::Config;

use crate::args::LoadArgs;
use crate::memory::parse_size;

/// What a server keeps to for one model, where that is not what it keeps to for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelLimits {
    /// The model's name.
    pub name: String,
    parallel: Option<usize>,
    queue: Option<usize>,
    client: Option<usize>,
    ctx: Option<usize>,
    kv_memory: Option<u64>,
    draft: Option<String>,
}

/// A key, what its value is, and how it is set.
type Key = (&'static str, &'static str, fn(&mut ModelLimits, &str) -> Option<()>);

const KEYS: &[Key] = &[
    ("parallel", "a number, at least 1", |limits, text| set(&mut limits.parallel, count(text)?)),
    ("queue", "a number, at least 1", |limits, text| set(&mut limits.queue, count(text)?)),
    ("client", "a number, at least 1", |limits, text| set(&mut limits.client, count(text)?)),
    ("ctx", "a number of tokens", |limits, text| set(&mut limits.ctx, count(text)?)),
    ("kv-memory", "a size such as 1GiB", |limits, text| set(&mut limits.kv_memory, parse_size(text).ok()?)),
    ("draft", "a model's name", |limits, text| set(&mut limits.draft, text.to_owned())),
];

fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn count(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n| *n > 0)
}

impl FromStr for ModelLimits {
    type Err = String;

    fn from_str(text: &str) -> Result<ModelLimits, String> {
        // A name may have a tag behind a colon.
        let equals = text.find('=').unwrap_or(text.len());
        let Some((name, rows)) = text[..equals].rfind(':').map(|at| (&text[..at], &text[at + 1..])) else {
            return Err(format!("`{text}` is no limit: write NAME:KEY=VALUE,.. with the keys {}", names()));
        };
        let mut limits = ModelLimits { name: name.to_owned(), ..ModelLimits::default() };
        for row in rows.split(',') {
            let (key, value) = row.split_once('=').unwrap_or((row, ""));
            let Some((_, what, set)) = KEYS.iter().find(|(name, ..)| *name == key) else {
                return Err(format!("`{key}` is no limit of a model: there are {}", names()));
            };
            set(&mut limits, value).ok_or_else(|| format!("`{row}`: expected {what}, once"))?;
        }
        Ok(limits)
    }
}

fn names() -> String {
    KEYS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
}

impl ModelLimits {
    /// The limits of all models with these in their place.
    pub fn apply(&self, engine: &mut Config, load: &mut LoadArgs) {
        engine.max_running = self.parallel.unwrap_or(engine.max_running);
        engine.step_tokens = engine.step_tokens.max(engine.max_running);
        engine.max_queue = self.queue.unwrap_or(engine.max_queue);
        engine.max_client = self.client.unwrap_or(engine.max_client);
        load.ctx = self.ctx.or(load.ctx);
        load.draft = self.draft.clone().or(load.draft.take());
        if let Some(bytes) = self.kv_memory {
            (load.kv_memory, load.kv_tokens) = (Some(bytes), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_model_are_read() {
        let limits: ModelLimits = "a/b:7b:parallel=4,queue=2,kv-memory=1GiB,draft=x:y".parse().expect("limits");
        let want = ModelLimits {
            name: "a/b:7b".into(),
            parallel: Some(4),
            queue: Some(2),
            kv_memory: Some(1 << 30),
            draft: Some("x:y".into()),
            ..ModelLimits::default()
        };
        assert_eq!(limits, want);
        for (text, says) in [
            ("a", "is no limit: write NAME:KEY=VALUE"),
            ("a=1", "is no limit: write NAME:KEY=VALUE"),
            ("a:b", "`b` is no limit of a model"),
            ("a:size=3", "`size` is no limit of a model: there are parallel, queue"),
            ("a:parallel=0", "`parallel=0`: expected a number, at least 1"),
            ("a:queue=1,queue=2", "`queue=2`: expected a number, at least 1, once"),
            ("a:kv-memory=x", "expected a size such as 1GiB"),
        ] {
            let error = text.parse::<ModelLimits>().expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
