//! What a checkpoint says about sampling: `generation_config.json`, or `general.sampling.*` of a GGUF file.

use mlxr_engine::sampler::Params;
use mlxr_weights::{Checkpoint, OpenError};
use serde_json::Value;

use crate::setting::{self, Settings};

/// Rows: name of the setting, key in `generation_config.json`, key after `general.sampling.` in GGUF.
pub const KEYS: &[(&str, &str, &str)] = &[
    ("temperature", "temperature", "temp"),
    ("top_k", "top_k", "top_k"),
    ("top_p", "top_p", "top_p"),
    ("min_p", "min_p", "min_p"),
    ("typical_p", "typical_p", ""),
    ("repeat_penalty", "repetition_penalty", "penalty_repeat"),
    ("repeat_last_n", "", "penalty_last_n"),
    ("xtc_probability", "", "xtc_probability"),
    ("xtc_threshold", "", "xtc_threshold"),
    ("mirostat", "", "mirostat"),
    ("mirostat_tau", "", "mirostat_tau"),
    ("mirostat_eta", "", "mirostat_eta"),
    ("samplers", "", "sequence"),
];

/// The settings that the checkpoint recommends; where it recommends some, the others change nothing. Without any, the
/// usual ones. A recommendation that is out of range is reported to `warn` and left out.
///
/// # Errors
/// If `generation_config.json` is damaged.
pub fn settings(checkpoint: &Checkpoint, warn: &mut dyn FnMut(String)) -> Result<Settings, OpenError> {
    let config = checkpoint.json("generation_config.json")?;
    let mut settings = Settings::new(Params::neutral());
    let mut n_found = 0;
    for (name, json_key, gguf_key) in KEYS {
        let json = config.as_ref().and_then(|config| config.get(*json_key)).and_then(plain);
        let gguf = || checkpoint.meta().value(&format!("general.sampling.{gguf_key}")).and_then(gguf_text);
        let Some(value) = json.or_else(gguf) else { continue };
        let row = setting::find(name).expect("KEYS names settings");
        match row.assign(&mut settings, &value) {
            Ok(()) => n_found += 1,
            Err(error) => warn(format!("the model's own settings: {error}")),
        }
    }
    if n_found == 0 {
        settings.params = Params::default();
    }
    Ok(settings)
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn gguf_text(value: &mlxr_weights::gguf::Value) -> Option<String> {
    use mlxr_weights::gguf::Element;
    match value.element() {
        Element::Int(number) => Some(number.to_string()),
        Element::Float(number) => Some((number as f32).to_string()),
        Element::Str(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}
