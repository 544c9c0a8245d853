//! A folder as Hugging Face or mlx-lm write it: `config.json`, safetensors, tokenizer files.

use std::collections::BTreeMap;
use std::path::Path;

use mlxr_compute::Bytes;
use serde_json::Value;

use crate::checkpoint::{Checkpoint, Kind};
use crate::error::{DAMAGED, printable};
use crate::fields::{Fields, describe};
use crate::gguf::{self, Metadata};
use crate::quantization::{self, Quantization, Scheme};
use crate::store::Store;
use crate::tensors::Tensors;
use crate::{Limits, OpenError, safetensors};

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";

/// The side files of a folder.
#[derive(Debug)]
pub(crate) struct Folder {
    store: Store,
    /// Names of its files, sorted.
    pub files: Vec<String>,
    /// `config.json`.
    pub config: Value,
    pub quantization: Quantization,
    limits: Limits,
}

impl Folder {
    /// A file of this folder, or `None` when there is none of that name.
    pub fn file(&self, name: &str) -> Result<Option<Bytes>, OpenError> {
        if self.files.iter().all(|f| f != name) {
            return Ok(None);
        }
        self.store.read(name, &self.limits).map(Some)
    }

    /// The same, as JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>, OpenError> {
        self.file(name)?.map(|bytes| parse_json(&self.store.path(name), &bytes)).transpose()
    }
}

/// Parses a side file. A byte order mark is allowed.
pub(crate) fn parse_json(path: &Path, bytes: &[u8]) -> Result<Value, OpenError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes)
        .map_err(|e| OpenError::file(path, format!("no valid JSON: {e}"), "a JSON document", DAMAGED))
}

/// Opens a folder: safetensors with `config.json`, or else the only GGUF file or set in it.
pub(crate) fn open(store: Store, limits: &Limits) -> Result<Checkpoint, OpenError> {
    let files = store.list(limits)?;
    let has = |name: &str| files.iter().any(|f| f == name);
    if has(CONFIG) && files.iter().any(|f| f.ends_with(".safetensors")) {
        return open_safetensors(store, files, limits);
    }
    let ggufs: Vec<&str> = files.iter().map(String::as_str).filter(|f| is_model_gguf(f)).collect();
    let first = match ggufs[..] {
        [] => return Err(nothing_here(store.folder(), &files)),
        [one] => one,
        [first, ..] => match gguf::shard_number(first) {
            Some((prefix, 0, count)) if is_set(&ggufs, prefix, count) => first,
            _ => {
                let hint = "give the path of the one to open";
                return Err(OpenError::file(store.folder(), several(&ggufs), "one GGUF model", hint));
            }
        },
    };
    crate::open_gguf(&store, Path::new(first), limits)
}

/// Whether a file is a GGUF model; `mmproj` files are the vision part of another one.
fn is_model_gguf(name: &str) -> bool {
    name.ends_with(".gguf") && !name.to_ascii_lowercase().contains("mmproj")
}

/// Whether all files are of the one set.
fn is_set(names: &[&str], prefix: &str, count: usize) -> bool {
    names.iter().all(|n| gguf::shard_number(n).is_some_and(|(p, _, c)| p == prefix && c == count))
}

/// `a, b, c and 7 more`.
fn several(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|n| printable(n.as_bytes())).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn nothing_here(path: &Path, files: &[String]) -> OpenError {
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let found = if names.is_empty() { "no files".to_owned() } else { several(&names) };
    let pickled = names.iter().any(|n| n.ends_with(".bin") || n.ends_with(".pth") || n.ends_with(".pt"));
    let hint = match pickled {
        true => "pickled weights may run code and are not read: convert them to safetensors",
        false => "give a folder that has a model, or the path of a .gguf file",
    };
    OpenError::file(path, found, "config.json with .safetensors files, or one .gguf file", hint)
}

fn open_safetensors(store: Store, files: Vec<String>, limits: &Limits) -> Result<Checkpoint, OpenError> {
    let path = store.folder().to_owned();
    let config_path = store.path(CONFIG);
    let config = parse_json(&config_path, &store.read(CONFIG, limits)?)?;
    let quantization = quantization::parse(&config_path, &config)?;
    let mut tensors = Tensors::default();
    let mut mlx = matches!(quantization.scheme, Scheme::Mlx(_));
    let (shards, index) = shards(&store, &files, limits)?;
    for name in shards {
        let shard = store.path(&name);
        let bytes = store.map(&name)?;
        let header = safetensors::parse(&shard, &bytes, limits)?;
        mlx |= header.metadata.iter().any(|(k, v)| k == "format" && v == "mlx");
        tensors.add(&shard, bytes, header.tensors, limits)?;
    }
    for (tensor, file) in &index {
        let there = tensors.get(tensor).map(|t| tensors.path(t));
        if there != Some(store.path(file).as_path()) {
            let found = [format!("no such tensor in {}", printable(file.as_bytes())), "the tensor".to_owned()];
            return Err(OpenError::key(&store.path(INDEX), &printable(tensor.as_bytes()), found, DAMAGED));
        }
    }
    let kind = if mlx { Kind::Mlx } else { Kind::HuggingFace };
    let limits = limits.clone();
    let meta = Metadata::new(&path);
    let folder = Some(Folder { store, files, config, quantization, limits: limits.clone() });
    Ok(Checkpoint { kind, path, meta, tensors, folder, limits })
}

/// Tensor name to file name.
type Index = BTreeMap<String, String>;

/// The safetensors files of a folder, and the index if there is one. Without an index these are all `model*`, as
/// mlx-lm reads them, or the only one.
fn shards(store: &Store, files: &[String], limits: &Limits) -> Result<(Vec<String>, Index), OpenError> {
    let path = store.folder();
    let all: Vec<&str> = files.iter().map(String::as_str).filter(|f| f.ends_with(".safetensors")).collect();
    let (mut shards, index) = if files.iter().any(|f| f == INDEX) {
        let index_path = store.path(INDEX);
        let document = parse_json(&index_path, &store.read(INDEX, limits)?)?;
        let index = parse_index(&index_path, &document)?;
        (index.values().cloned().collect(), index)
    } else {
        let model = |f: &&&str| f.starts_with("model") || all.len() == 1;
        (all.iter().filter(model).map(|f| (*f).to_owned()).collect::<Vec<_>>(), Index::new())
    };
    shards.sort();
    shards.dedup();
    if shards.is_empty() {
        let hint = "name the weights model.safetensors, or add an index";
        return Err(OpenError::file(path, several(&all), "model*.safetensors", hint));
    }
    if shards.len() as u64 > limits.max_shards {
        return Err(OpenError::limit(path, "number of files", shards.len() as u64, "max_shards", limits.max_shards));
    }
    if let Some(missing) = shards.iter().find(|s| !files.contains(s)) {
        let found = format!("no file {}", printable(missing.as_bytes()));
        return Err(OpenError::file(path, found, "all files that the index names", "fetch the missing file"));
    }
    Ok((shards, index))
}

/// Checks an index. A file name may not lead out of the folder.
pub(crate) fn parse_index(path: &Path, document: &Value) -> Result<Index, OpenError> {
    let document = Fields::new(path, document)?;
    let Some(map) = document.object("weight_map")? else {
        return Err(document.error("weight_map", "no such field", "an object of tensor and file names"));
    };
    let mut index = Index::new();
    for (tensor, file) in map.iter() {
        let Some(name) = file.as_str() else {
            return Err(map.error(tensor, describe(file), "the name of a file"));
        };
        let plain = name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0']) && !name.starts_with('.');
        if !plain {
            return Err(map.error(tensor, describe(file), "the name of a .safetensors file in the same folder"));
        }
        index.insert(tensor.to_owned(), name.to_owned());
    }
    Ok(index)
}
