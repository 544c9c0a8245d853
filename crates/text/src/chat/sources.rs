//! The templates that a model ships: one, or several by name.
//!
//! `tokenizer_config.json` has a text, or a list of `{name, template}`; a GGUF file has `tokenizer.chat_template` and
//! `tokenizer.chat_template.NAME`. As in `transformers`, `tool_use` is taken when there are tools, else `default`.

use serde_json::Value;

use super::template::{ChatTemplate, Specials, TemplateError};

/// Sources of the templates of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSources {
    /// For conversations without tools, or all.
    pub default: String,
    /// For conversations with tools.
    pub tool_use: Option<String>,
}

impl TemplateSources {
    /// The only template.
    pub fn one(source: &str) -> TemplateSources {
        TemplateSources { default: source.to_owned(), tool_use: None }
    }

    /// From the value of `chat_template`; `None` if it holds no template.
    pub fn from_json(value: &Value) -> Option<TemplateSources> {
        let named: Vec<(&str, &str)> = match value {
            Value::String(source) => return Some(TemplateSources::one(source)),
            Value::Array(rows) => rows
                .iter()
                .filter_map(|row| Some((row.get("name")?.as_str()?, row.get("template")?.as_str()?)))
                .collect(),
            Value::Object(map) => {
                map.iter().filter_map(|(name, source)| Some((name.as_str(), source.as_str()?))).collect()
            }
            _ => return None,
        };
        TemplateSources::from_named(&named)
    }

    /// From templates with their names; `None` if there are none.
    pub fn from_named(named: &[(&str, &str)]) -> Option<TemplateSources> {
        let find = |name: &str| named.iter().find(|row| row.0 == name).map(|row| row.1);
        let default = find("default").or(named.first().map(|row| row.1))?;
        Some(TemplateSources { default: default.to_owned(), tool_use: find("tool_use").map(str::to_owned) })
    }

    /// Compiles them into one template, which chooses by whether there are tools.
    ///
    /// # Errors
    /// If one is no template.
    pub fn compile(&self, specials: Specials) -> Result<ChatTemplate, TemplateError> {
        let template = ChatTemplate::new(&self.default, specials.clone())?;
        match &self.tool_use {
            Some(source) if *source != self.default => Ok(template.with_tool_use(ChatTemplate::new(source, specials)?)),
            _ => Ok(template),
        }
    }
}
