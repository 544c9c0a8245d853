//! The key-value pairs of a GGUF file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::value::{Element, FromElement, Value};
use crate::OpenError;
use crate::error::{DAMAGED, printable};

/// Key-value pairs in the order of the file. Empty for checkpoints that are no GGUF.
///
/// Getters accept any width: `get::<u32>` reads a `u64` or `i32` that fits, `get::<f32>` any number. A key that is
/// present with another type is an error, not an absence.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    path: PathBuf,
    pairs: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// No pairs; `path` is named in errors.
    pub fn new(path: &Path) -> Metadata {
        Metadata { path: path.to_owned(), ..Metadata::default() }
    }

    /// Sets a pair. A key that is there already keeps its place and gets the new value, and the old one is returned.
    pub fn set(&mut self, key: &str, value: Value) -> Option<Value> {
        if let Some(&i) = self.index.get(key) {
            return Some(std::mem::replace(&mut self.pairs[i].1, value));
        }
        self.index.insert(key.to_owned(), self.pairs.len());
        self.pairs.push((key.to_owned(), value));
        None
    }

    /// Removes a pair, if it is there.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(key)?;
        let (_, value) = self.pairs.remove(at);
        self.index.values_mut().filter(|i| **i > at).for_each(|i| *i -= 1);
        Some(value)
    }

    /// The file that the pairs come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// All pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The value of a key, typed as the file has it.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.pairs[i].1)
    }

    /// The value of a key as `T`: `u32`, `i64`, `f32`, `bool`, `&str`, `&[u8]`, `&Strings`, `&Array`, ...
    ///
    /// # Errors
    /// If the key has a value that is no `T`.
    pub fn get<'a, T: FromElement<'a>>(&'a self, key: &str) -> Result<Option<T>, OpenError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match T::from_element(value.element()) {
            Some(t) => Ok(Some(t)),
            None => Err(self.error(key, value.describe(), T::EXPECTED.to_owned())),
        }
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// If it is missing or no `T`.
    pub fn need<'a, T: FromElement<'a>>(&'a self, key: &str) -> Result<T, OpenError> {
        self.get(key)?.ok_or_else(|| self.error(key, "no such key".to_owned(), T::EXPECTED.to_owned()))
    }

    /// An array as a list of `T`.
    ///
    /// # Errors
    /// If the key has a value that is no array, or an element is no `T`.
    pub fn list<'a, T: FromElement<'a>>(&'a self, key: &str) -> Result<Option<Vec<T>>, OpenError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let list = match value {
            Value::Array(array) => array.to_vec(),
            _ => None,
        };
        let expected = || format!("an array, each element {}", T::EXPECTED);
        list.map(Some).ok_or_else(|| self.error(key, value.describe(), expected()))
    }

    /// A value for each of `n_layer` layers: the file has either one for all or an array of at least that many.
    ///
    /// # Errors
    /// If the key has a value that is neither.
    pub fn per_layer<'a, T>(&'a self, key: &str, n_layer: usize) -> Result<Option<Vec<T>>, OpenError>
    where
        T: FromElement<'a> + Clone,
    {
        let Some(value) = self.value(key) else { return Ok(None) };
        let list = match value.element() {
            Element::Array(array) if array.len() >= n_layer => array.to_vec(),
            Element::Array(_) => None,
            one => T::from_element(one).map(|one| vec![one; n_layer]),
        };
        let expected = || format!("{} or an array of {n_layer} such", T::EXPECTED);
        let mut list = list.ok_or_else(|| self.error(key, value.describe(), expected()))?;
        list.truncate(n_layer);
        Ok(Some(list))
    }

    /// Chat templates: (`default`, `tokenizer.chat_template`), then the named ones of `tokenizer.chat_templates`, each
    /// under `tokenizer.chat_template.NAME`. Source: gguf-py `gguf_writer.py` (`add_chat_template`).
    ///
    /// # Errors
    /// If a key has another type, or a listed template is missing.
    pub fn chat_templates(&self) -> Result<Vec<(String, &str)>, OpenError> {
        const KEY: &str = "tokenizer.chat_template";
        let mut templates = Vec::new();
        if let Some(text) = self.get(KEY)? {
            templates.push(("default".to_owned(), text));
        }
        for name in self.list::<String>("tokenizer.chat_templates")?.unwrap_or_default() {
            let text = self.need(&format!("{KEY}.{name}"))?;
            templates.push((name, text));
        }
        Ok(templates)
    }

    /// The error for a key of this file.
    pub(crate) fn error(&self, key: &str, found: String, expected: String) -> OpenError {
        OpenError::key(&self.path, &printable(key.as_bytes()), [found, expected], DAMAGED)
    }
}
