//! Typed access to the fields of a JSON file, with errors that name file and field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::OpenError;
use crate::error::printable;

/// What to do about a field of the wrong type.
const FIX: &str = "correct the file, or fetch the model again";

/// An object of a JSON file, such as `config.json`. A field that is `null` counts as absent.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    path: &'a Path,
    /// Names of the enclosing fields, each with a dot.
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of a JSON document; `path` is named in errors.
    ///
    /// # Errors
    /// If the document is no object.
    pub fn new(path: &'a Path, document: &'a Value) -> Result<Fields<'a>, OpenError> {
        match document {
            Value::Object(map) => Ok(Fields { path, prefix: String::new(), map }),
            other => Err(OpenError::file(path, describe(other), "a JSON object", FIX)),
        }
    }

    /// The file.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// A field, untyped.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, OpenError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        get(value).map(Some).ok_or_else(|| self.error(key, describe(value), expected))
    }

    /// An integer that is not negative; a float without fraction is one.
    ///
    /// # Errors
    /// If the field has another type. The same holds for the other getters.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, OpenError> {
        let whole = |f: f64| (f >= 0.0 && f < 2f64.powi(53) && f.fract() == 0.0).then_some(f as u64);
        self.typed(key, "an integer of at least 0", |v| v.as_u64().or_else(|| v.as_f64().and_then(whole)))
    }

    /// An integer.
    #[allow(clippy::missing_errors_doc)]
    pub fn i64(&self, key: &str) -> Result<Option<i64>, OpenError> {
        self.typed(key, "an integer", Value::as_i64)
    }

    /// A number.
    #[allow(clippy::missing_errors_doc)]
    pub fn f64(&self, key: &str) -> Result<Option<f64>, OpenError> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A boolean.
    #[allow(clippy::missing_errors_doc)]
    pub fn bool(&self, key: &str) -> Result<Option<bool>, OpenError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    #[allow(clippy::missing_errors_doc)]
    pub fn str(&self, key: &str) -> Result<Option<&'a str>, OpenError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A list.
    #[allow(clippy::missing_errors_doc)]
    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>, OpenError> {
        self.typed(key, "a list", |v| v.as_array().map(Vec::as_slice))
    }

    /// An object within.
    #[allow(clippy::missing_errors_doc)]
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, OpenError> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Fields { path: self.path, prefix: format!("{}{key}.", self.prefix), map }))
    }

    /// The error for a field of this object.
    pub fn error(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) -> OpenError {
        let key = printable(format!("{}{key}", self.prefix).as_bytes());
        OpenError::key(self.path, &key, [found.into(), expected.into()], FIX)
    }
}

/// A value for a message: its type and, if it is short, itself.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("\"{}\"", printable(s.as_bytes())),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(map) => format!("an object of {} fields", map.len()),
    }
}
