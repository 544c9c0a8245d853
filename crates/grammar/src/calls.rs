//! Calls of tools as a grammar, in the syntax of the model's family.

use mlxr_text::chat::{CallSyntax, Piece};
use serde_json::{Map, Value, json};

use crate::lark;
use crate::limits::{GrammarError, Limits, Source, check_schema};
use crate::reply::Writer;

/// Most bytes of a tool's name.
const NAME_BYTES: usize = 256;
const WHAT: &str = "the call of a tool";

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Where the request has it, such as `tools[0]`.
    pub field: String,
    /// Its name.
    pub name: String,
    /// The schema of its arguments; `None`: it has none.
    pub parameters: Option<Value>,
}

/// Which calls a reply may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Calls {
    /// Of these, at least one.
    pub tools: Vec<Tool>,
    /// More than one, where the model can.
    pub parallel: bool,
    /// How they are written.
    pub syntax: CallSyntax,
}

fn invalid(message: String) -> GrammarError {
    GrammarError::Invalid { what: WHAT, message }
}

impl Tool {
    /// What the arguments must be.
    fn schema(&self) -> Value {
        match &self.parameters {
            Some(schema) if !schema.is_null() => schema.clone(),
            _ => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        }
    }

    fn check_name(&self) -> Result<(), GrammarError> {
        let fits = |c: char| c.is_alphanumeric() || "_-.:/".contains(c);
        match !self.name.is_empty() && self.name.len() <= NAME_BYTES && self.name.chars().all(fits) {
            true => Ok(()),
            false => Err(invalid(format!(
                "`{}` has the name `{}`, expected letters, digits and `_-.:/`",
                self.field, self.name
            ))),
        }
    }
}

impl Calls {
    /// Checks names and schemas.
    ///
    /// # Errors
    /// If a name cannot be written, or the schemas together are over a limit.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), GrammarError> {
        if self.tools.is_empty() {
            return Err(invalid("there are no tools".into()));
        }
        self.tools.iter().try_for_each(Tool::check_name)?;
        let all: Vec<Value> = self.tools.iter().map(Tool::schema).collect();
        check_schema(WHAT, &json!({"tools": all}), &Limits { depth: limits.depth + 2, ..*limits })
    }

    /// Writes the rule `calls`.
    pub(crate) fn write(&self, writer: &mut Writer<'_>) -> Result<(), GrammarError> {
        self.write_call(writer, "call", self.syntax.call)?;
        self.write_calls(writer, "calls", (self.syntax.begin, "call"))
    }

    /// The text that comes first, if it is a mark and no control token.
    pub(crate) fn text_mark(&self, writer: &Writer<'_>) -> Option<&'static str> {
        match self.syntax.begin.first().or(self.syntax.call.first()) {
            Some(Piece::Mark(mark)) if writer.control(mark).is_none() => Some(mark),
            _ => None,
        }
    }

    /// Whether a control token comes first.
    pub(crate) fn begins_with_token(&self, writer: &Writer<'_>) -> bool {
        match self.syntax.begin.first().or(self.syntax.call.first()) {
            Some(Piece::Mark(mark)) => writer.control(mark).is_some(),
            _ => false,
        }
    }

    /// Writes the rule `opened`: calls after the first mark.
    pub(crate) fn write_opened(&self, writer: &mut Writer<'_>) -> Result<(), GrammarError> {
        if let [_, begin @ ..] = self.syntax.begin {
            return self.write_calls(writer, "opened", (begin, "call"));
        }
        self.write_call(writer, "first", &self.syntax.call[1..])?;
        self.write_calls(writer, "opened", (&[], "first"))
    }

    /// A rule for each tool, and one for any.
    fn write_call(&self, writer: &mut Writer<'_>, name: &str, pieces: &[Piece]) -> Result<(), GrammarError> {
        let mut names = Vec::new();
        for (index, tool) in self.tools.iter().enumerate() {
            let call = self.pieces(writer, pieces, Some((index, tool)))?;
            names.push(format!("{name}{index}"));
            writer.rule(&format!("{name}{index}"), &call);
        }
        writer.rule(name, &names.join(" | "));
        Ok(())
    }

    fn write_calls(
        &self,
        writer: &mut Writer<'_>,
        name: &str,
        (begin, first): (&[Piece], &str),
    ) -> Result<(), GrammarError> {
        let begin = self.pieces(writer, begin, None)?;
        let end = self.pieces(writer, self.syntax.end, None)?;
        let more = match self.syntax.between.filter(|_| self.parallel) {
            Some(between) => format!("({} call)*", self.pieces(writer, between, None)?),
            None => String::new(),
        };
        writer.rule(name, &format!("{begin} {first} {more} {end}"));
        Ok(())
    }

    fn pieces(
        &self,
        writer: &mut Writer<'_>,
        pieces: &[Piece],
        tool: Option<(usize, &Tool)>,
    ) -> Result<String, GrammarError> {
        let mut out = Vec::new();
        let mut text = String::new();
        let flush = |text: &mut String, out: &mut Vec<String>| {
            if !text.is_empty() {
                out.push(lark::literal(&std::mem::take(text)));
            }
        };
        for piece in pieces {
            match (*piece, tool) {
                (Piece::Text(more), _) => text.push_str(more),
                (Piece::Name, Some((_, tool))) => text.push_str(&tool.name),
                (Piece::Newline, _) => {
                    flush(&mut text, &mut out);
                    out.push("\"\\n\"?".to_owned());
                }
                (Piece::Mark(mark), _) => match writer.control(mark) {
                    Some(token) => {
                        flush(&mut text, &mut out);
                        out.push(token);
                    }
                    None => text.push_str(mark),
                },
                (Piece::Arguments, Some((index, tool))) => {
                    flush(&mut text, &mut out);
                    let field = format!("{}.function.parameters", tool.field);
                    out.push(writer.part(&format!("tool{index}"), &field, &Source::Schema(tool.schema()))?);
                }
                (Piece::Parameters, Some((index, tool))) => {
                    flush(&mut text, &mut out);
                    out.push(parameters(writer, index, tool)?);
                }
                (Piece::Name | Piece::Arguments | Piece::Parameters, None) => {
                    return Err(invalid("the format names a tool where there is none".into()));
                }
            }
        }
        flush(&mut text, &mut out);
        Ok(out.join(" "))
    }
}

/// The arguments as `<parameter=key>\nvalue\n</parameter>\n`, in the order of the schema.
fn parameters(writer: &mut Writer<'_>, index: usize, tool: &Tool) -> Result<String, GrammarError> {
    let field = format!("{}.function.parameters", tool.field);
    let schema = tool.schema();
    let cannot =
        |what: &str| Err(invalid(format!("`{field}` {what}, which this model's format of calls cannot write")));
    if let Some(word) =
        ["anyOf", "oneOf", "allOf", "$ref", "patternProperties"].iter().find(|w| schema.get(w).is_some())
    {
        return cannot(&format!("has `{word}` at its top"));
    }
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
        return cannot(&format!("requires `{name}`, of which it says nothing"));
    }
    let mut out = Vec::new();
    for (at, (key, property)) in properties.iter().enumerate() {
        if key.contains(['>', '\n']) {
            return cannot(&format!("has a property `{key}`"));
        }
        let name = format!("{index}_{at}");
        let value = value(writer, &name, (&field, key), (property, &schema))?;
        writer
            .rule(&format!("parameter{name}"), &format!("{} {value}", lark::literal(&format!("<parameter={key}>\n"))));
        out.push(format!("parameter{name}{}", if required.contains(&key.as_str()) { "" } else { "?" }));
    }
    Ok(out.join(" "))
}

const CLOSE: &str = "\n</parameter>\n";

/// A value and its closing mark: text as it is, all else as JSON.
fn value(
    writer: &mut Writer<'_>,
    name: &str,
    (field, key): (&str, &str),
    (property, root): (&Value, &Value),
) -> Result<String, GrammarError> {
    let close = lark::literal(CLOSE);
    let texts = |list: &Value| -> Option<Vec<String>> {
        list.as_array()?.iter().map(|text| Some(lark::literal(text.as_str()?))).collect()
    };
    let listed = property.get("const").map_or_else(|| property["enum"].clone(), |only| json!([only]));
    if let Some(texts) = texts(&listed).filter(|texts| !texts.is_empty()) {
        return Ok(format!("({}) {close}", texts.join(" | ")));
    }
    if property["type"] == "string" {
        if let Some(word) = ["pattern", "format"].iter().find(|word| property.get(word).is_some()) {
            let message =
                format!("`{field}.properties.{key}` has `{word}`, which this model's format of calls cannot enforce");
            return Err(invalid(message));
        }
        let bound = |word: &str| property[word].as_u64();
        let range = match (bound("minLength").unwrap_or(0), bound("maxLength")) {
            (0, None) => "*".to_owned(),
            (low, None) => format!("{{{low},}}"),
            (low, Some(high)) => format!("{{{low},{high}}}"),
        };
        writer.raw(&format!("text{name}[suffix={close}]: /(?s:.){range}/"));
        return Ok(format!("text{name}"));
    }
    let mut schema = property.clone();
    for word in ["$defs", "definitions"] {
        if let (Some(map), Some(definitions)) = (schema.as_object_mut(), root.get(word)) {
            map.entry(word).or_insert_with(|| definitions.clone());
        }
    }
    let value = writer.part(&format!("value{name}"), &format!("{field}.properties.{key}"), &Source::Schema(schema))?;
    Ok(format!("{value} {close}"))
}
