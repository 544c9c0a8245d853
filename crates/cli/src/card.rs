//! The model card of a Hugging Face folder: what a GGUF file keeps as `general.*` stands at the head of `README.md`, in
//! YAML between lines of `---`.
//!
//! Of YAML this reads what such heads are made of: `key: text`, `key: [a, b]`, and a list of lines `- text` below `key:`.
//! What is nested deeper is not read, here as by llama.cpp's converter, whose names for the fields these are.

use mlxr_weights::gguf::{Array, Strings, Value};
use mlxr_weights::{Checkpoint, Metadata};

use crate::CliError;

/// The file.
pub const NAME: &str = "README.md";

/// Names in a card, the one to write first; the key in GGUF below `general.`; whether it is a list.
const FIELDS: [(&[&str], &str, bool); 10] = [
    (&["license"], "license", false),
    (&["license_name"], "license.name", false),
    (&["license_link"], "license.link", false),
    (&["language", "languages"], "languages", true),
    (&["tags"], "tags", true),
    (&["model_name", "name"], "name", false),
    (&["author", "model_author"], "author", false),
    (&["organization", "model_organization"], "organization", false),
    (&["version", "model_version"], "version", false),
    (&["description", "model_description"], "description", false),
];

/// The metadata that a folder's card says, by key; nothing without one.
///
/// # Errors
/// If the file cannot be read.
pub fn metadata(checkpoint: &Checkpoint) -> Result<Vec<(String, Value)>, CliError> {
    let Some(bytes) = checkpoint.file(NAME)? else { return Ok(Vec::new()) };
    let text = String::from_utf8_lossy(&bytes);
    let head = head(&text);
    let field = |(names, key, list): &(&[&str], &str, bool)| {
        let items = names.iter().find_map(|name| head.iter().find(|(own, _)| own == name))?.1.clone();
        let value = match items.as_slice() {
            [] => return None,
            items if *list => {
                let mut strings = Strings::new();
                items.iter().for_each(|item| strings.push(item.as_bytes()));
                Value::Array(Array::Str(strings))
            }
            [first, ..] => Value::Str(first.clone()),
        };
        Some((format!("general.{key}"), value))
    };
    Ok(FIELDS.iter().filter_map(field).collect())
}

/// The card that says what a GGUF file's metadata says, if that says more than a name.
pub fn write(meta: &Metadata) -> Option<String> {
    let (mut head, mut n_field) = (String::new(), 0);
    for (names, key, list) in FIELDS {
        let key = format!("general.{key}");
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        if list {
            let Some(items) = meta.get::<&Strings>(&key).ok().flatten() else { continue };
            head += &format!("{}:\n", names[0]);
            items.iter().for_each(|item| head += &format!("- {}\n", quoted(&String::from_utf8_lossy(item))));
        } else {
            let Some(text) = meta.get::<&str>(&key).ok().flatten() else { continue };
            head += &format!("{}: {}\n", names[0], quoted(text));
        }
        n_field += usize::from(key != "general.name");
    }
    let title = meta.get::<&str>("general.name").ok().flatten().map(|name| format!("\n# {name}\n"));
    let about = meta.get::<&str>("general.description").ok().flatten().map(|about| format!("\n{about}\n"));
    (n_field > 0).then(|| format!("---\n{head}---\n{}{}", title.unwrap_or_default(), about.unwrap_or_default()))
}

/// The fields at a card's head, each with its items.
fn head(text: &str) -> Vec<(String, Vec<String>)> {
    let mut lines = text.trim_start_matches('\u{feff}').lines();
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    if lines.next().map(str::trim_end) != Some("---") {
        return fields;
    }
    let lines: Vec<&str> = lines.collect();
    let Some(end) = lines.iter().position(|line| line.trim_end() == "---") else { return fields };
    for line in &lines[..end] {
        let item = line.trim_start().strip_prefix("- ");
        match (item, fields.last_mut()) {
            (Some(item), Some((_, items))) if !is_nested(item) => items.extend(scalar(item)),
            (Some(_), _) => {}
            (None, _) if line.starts_with([' ', '\t', '#']) || line.is_empty() => {}
            (None, _) => {
                let Some((key, value)) = line.split_once(':') else { continue };
                let value = value.trim();
                let list = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let items = match list {
                    Some(list) => list.split(',').filter_map(scalar).collect(),
                    None => scalar(value).into_iter().collect(),
                };
                fields.push((key.trim().to_owned(), items));
            }
        }
    }
    fields
}

/// Whether an item of a list is a map.
fn is_nested(item: &str) -> bool {
    !item.trim_start().starts_with(['"', '\'']) && item.split_once(": ").is_some()
}

/// The text of a scalar; nothing of an empty one, and of texts that go on below.
fn scalar(value: &str) -> Option<String> {
    let value = value.trim();
    if let Some(inner) = value.strip_prefix('\'') {
        return Some(inner.strip_suffix('\'').unwrap_or(inner).replace("''", "'"));
    }
    if value.starts_with('"') {
        return serde_json::from_str(value).ok();
    }
    let value = value.split(" #").next().unwrap_or_default().trim();
    let text = !value.is_empty() && !matches!(value, "|" | ">" | ">-" | "|-" | "null" | "~");
    text.then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_far_as_they_are_flat() {
        let text = "---\nlicense: cc-by-sa-4.0 # share\nlanguage:\n- en\n- 'de'\ntags: [a, \"b c\"]\nname: \"A: \\\"b\\\"\"\n\
                    model-index:\n- name: x\n  results:\n    - task: y\ndescription: >\n  long\n  text\nempty:\n---\nlicense: no\n";
        let items = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let expected = [
            ("license", items(&["cc-by-sa-4.0"])),
            ("language", items(&["en", "de"])),
            ("tags", items(&["a", "b c"])),
            ("name", items(&["A: \"b\""])),
            ("model-index", items(&[])),
            ("description", items(&[])),
            ("empty", items(&[])),
        ];
        assert_eq!(head(text), expected.map(|(key, items)| (key.to_owned(), items)));
        for other in ["", "# Title\n", "---\nlicense: x\n", "--\nlicense: x\n--\n"] {
            assert!(head(other).is_empty(), "{other:?}");
        }
    }
}
