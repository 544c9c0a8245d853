//! Where the files of a model lie: on the disk or in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use mlxr_compute::Bytes;

use crate::{Limits, OpenError, map};

/// The files of one folder.
#[derive(Debug)]
pub(crate) enum Store {
    Disk(PathBuf),
    Memory(BTreeMap<PathBuf, Bytes>),
}

impl Store {
    /// The folder, for messages.
    pub fn folder(&self) -> &Path {
        match self {
            Store::Disk(folder) => folder,
            Store::Memory(_) => Path::new("files in memory"),
        }
    }

    /// A file, for messages.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        match self {
            Store::Disk(folder) => folder.join(name),
            Store::Memory(_) => name.as_ref().to_owned(),
        }
    }

    /// Names of all files, sorted. Links count as what they point to: the Hugging Face cache consists of links.
    pub fn list(&self, limits: &Limits) -> Result<Vec<String>, OpenError> {
        let folder = match self {
            Store::Disk(folder) => folder,
            Store::Memory(files) => return Ok(files.keys().filter_map(|n| n.to_str().map(str::to_owned)).collect()),
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(OpenError::io(folder, "list"))? {
            let entry = entry.map_err(OpenError::io(folder, "list"))?;
            let is_file = fs::metadata(entry.path()).is_ok_and(|m| m.is_file());
            if let (true, Some(name)) = (is_file, entry.file_name().to_str()) {
                names.push(name.to_owned());
            }
            if names.len() as u64 > limits.max_files {
                let n = names.len() as u64;
                return Err(OpenError::limit(folder, "number of files", n, "max_files", limits.max_files));
            }
        }
        names.sort();
        Ok(names)
    }

    fn in_memory(&self, name: &Path) -> Option<Result<Bytes, OpenError>> {
        let Store::Memory(files) = self else { return None };
        let missing = || OpenError::io(name, "open")(std::io::ErrorKind::NotFound.into());
        Some(files.get(name).cloned().ok_or_else(missing))
    }

    /// A file of tensors, mapped.
    pub fn map(&self, name: impl AsRef<Path>) -> Result<Bytes, OpenError> {
        let name = name.as_ref();
        self.in_memory(name).unwrap_or_else(|| map::map(&self.path(name)))
    }

    /// A side file, read.
    pub fn read(&self, name: impl AsRef<Path>, limits: &Limits) -> Result<Bytes, OpenError> {
        let path = self.path(&name);
        let max = limits.max_side_file;
        let bytes = match self.in_memory(name.as_ref()) {
            Some(bytes) => bytes?,
            None => {
                let file = fs::File::open(&path).map_err(OpenError::io(&path, "open"))?;
                let mut bytes = Vec::new();
                file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(OpenError::io(&path, "read"))?;
                Bytes::from(bytes)
            }
        };
        if bytes.len() as u64 > max {
            let size = fs::metadata(&path).map_or(bytes.len() as u64, |m| m.len());
            return Err(OpenError::limit(&path, "size of the file", size, "max_side_file", max));
        }
        Ok(bytes)
    }
}
