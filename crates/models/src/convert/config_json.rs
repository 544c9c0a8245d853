//! A model's numbers as `config.json`.

use serde_json::Value;

use super::Source;
use super::recipe::Target;
use crate::LoadError;

/// The configuration, and what it cannot say. A folder's is kept but for its quantization.
pub(super) fn write(source: &Source<'_>, _targets: &[Target]) -> Result<(Value, Vec<String>), LoadError> {
    match source.checkpoint.config() {
        Some(config) => {
            let mut config = config.clone();
            if let Some(fields) = config.as_object_mut() {
                fields.remove("quantization");
                fields.remove("quantization_config");
            }
            Ok((config, Vec::new()))
        }
        None => Err(LoadError::Convert {
            path: source.checkpoint.path().display().to_string(),
            text: "a GGUF file to a folder".into(),
        }),
    }
}
