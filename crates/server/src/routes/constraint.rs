//! What a request says of the form of its answer, under the names of OpenAI, llama.cpp and vLLM.

use mlxr_grammar::Source;
use serde::Deserialize;
use serde_json::Value;

use crate::Error;
use crate::job::Structure;

/// Fields that constrain an answer. At most one may be given.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Constraints {
    /// OpenAI's; `schema` beside `json_object` is llama.cpp's.
    response_format: Option<Value>,
    /// llama.cpp's.
    json_schema: Option<Value>,
    /// llama.cpp's.
    grammar: Option<String>,
    /// vLLM's, from here on.
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_choice: Option<Vec<String>>,
    guided_grammar: Option<String>,
    structured_outputs: Option<Structured>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Structured {
    json: Option<Value>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
}

impl Constraints {
    /// What the answer must be; `None` for any text.
    ///
    /// # Errors
    /// If a field has no meaning, or two are given.
    pub(super) fn structure(self) -> Result<Option<Structure>, Error> {
        let structured = self.structured_outputs;
        let structured = structured.map(Structured::source).transpose()?;
        let json = |param: &str, value: Option<Value>| {
            value.filter(|value| !value.is_null()).map(|value| schema(param, value)).transpose()
        };
        let grammar = |text: Option<String>| text.filter(|text| !text.trim().is_empty()).map(grammar);
        let all = [
            ("response_format", self.response_format.map(response_format).transpose()?.flatten()),
            ("json_schema", json("json_schema", self.json_schema)?),
            ("grammar", grammar(self.grammar)),
            ("guided_json", json("guided_json", self.guided_json)?),
            ("guided_regex", self.guided_regex.map(Source::Regex)),
            ("guided_choice", self.guided_choice.map(Source::Choice)),
            ("guided_grammar", grammar(self.guided_grammar)),
            ("structured_outputs", structured),
        ];
        let mut given =
            all.into_iter().filter_map(|(param, source)| Some(Structure { param: param.to_owned(), source: source? }));
        let first = given.next();
        match (&first, given.next()) {
            (Some(first), Some(second)) => {
                let message = format!("`{}` and `{}` both constrain the answer: give one", first.param, second.param);
                Err(Error::invalid(&second.param, message))
            }
            _ => Ok(first),
        }
    }
}

impl Structured {
    fn source(self) -> Result<Source, Error> {
        let all = [
            self.json.map(|value| schema("structured_outputs", value)).transpose()?,
            self.json_object.filter(|is_object| *is_object).map(|_| Source::Json),
            self.regex.map(Source::Regex),
            self.choice.map(Source::Choice),
            self.grammar.map(grammar),
        ];
        let mut given = all.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(source), None) => Ok(source),
            _ => {
                let message =
                    "`structured_outputs` must have one of `json`, `json_object`, `regex`, `choice`, `grammar`";
                Err(Error::invalid("structured_outputs", message))
            }
        }
    }
}

/// GBNF, or Lark where nothing is defined as in GBNF.
fn grammar(text: String) -> Source {
    if text.contains("::=") { Source::Gbnf(text) } else { Source::Lark(text) }
}

/// A schema, or its text.
fn schema(param: &str, value: Value) -> Result<Source, Error> {
    let value = match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| Error::invalid(param, format!("`{param}` is a text that is no JSON: {error}")))?,
        value => value,
    };
    Ok(Source::Schema(value))
}

/// OpenAI's `response_format`; `None` for text.
fn response_format(mut format: Value) -> Result<Option<Source>, Error> {
    const PARAM: &str = "response_format";
    if format.is_null() {
        return Ok(None);
    }
    let nested = format.get_mut("json_schema").and_then(|inner| inner.get_mut("schema")).map(Value::take);
    let own = nested.or_else(|| format.get_mut("schema").map(Value::take)).filter(|schema| !schema.is_null());
    match (format["type"].as_str().unwrap_or_default(), own) {
        ("text", _) => Ok(None),
        ("json_object" | "json_schema", Some(value)) => schema(PARAM, value).map(Some),
        ("json_object", None) => Ok(Some(Source::Json)),
        ("json_schema", None) => Err(Error::invalid(PARAM, "`response_format.json_schema.schema` is missing")),
        _ => {
            let message = format!(
                "`response_format.type` is {}, expected \"text\", \"json_object\" or \"json_schema\"",
                format["type"]
            );
            Err(Error::invalid(PARAM, message))
        }
    }
}
