//! A GGUF file, or the split set that it belongs to.

use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use super::read::{Header, parse};
use crate::error::DAMAGED;
use crate::store::Store;
use crate::tensors::Tensors;
use crate::{Limits, OpenError};

/// `PREFIX-00002-of-00003.gguf` as (`PREFIX`, 1, 3), counting from 0.
pub(crate) fn shard_number(file_name: &str) -> Option<(&str, usize, usize)> {
    let stem = file_name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, no) = rest.rsplit_once('-')?;
    let number = |s: &str| (s.len() == 5).then(|| s.parse::<usize>().ok()).flatten();
    let (no, count) = (number(no)?, number(count)?);
    (1..=count).contains(&no).then(|| (prefix, no - 1, count))
}

/// Path of file `no` (from 0) of a set of `count`. Source: llama.cpp `llama_split_path`.
pub fn shard_path(folder: &Path, prefix: &str, no: usize, count: usize) -> PathBuf {
    folder.join(format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1))
}

/// Opens a GGUF file and, if it is one of a set, all others. The metadata is that of the first.
pub(crate) fn open_set(store: &Store, name: &Path, limits: &Limits) -> Result<(Metadata, Tensors), OpenError> {
    let path = &store.path(name);
    let bytes = store.map(name)?;
    let header = parse(path, &bytes, limits)?;
    let count = header.metadata.get::<u64>("split.count")?.unwrap_or(1);
    let mut tensors = Tensors::default();
    if count <= 1 {
        tensors.add(path, bytes, header.tensors, limits)?;
        return Ok((header.metadata, tensors));
    }
    if count > limits.max_shards {
        return Err(OpenError::limit(path, "`split.count`", count, "max_shards", limits.max_shards));
    }
    let count = count as usize;
    let name = name.to_str().unwrap_or_default();
    let Some((prefix, _, _)) = shard_number(name).filter(|&(_, _, named)| named == count) else {
        let expected = format!("a name like PREFIX-00001-of-{count:05}.gguf");
        let hint = "give the files of the set the names that they were published with";
        return Err(OpenError::file(
            path,
            format!("a file of a split set of {count}, under another name"),
            expected,
            hint,
        ));
    };
    let mut metadata = None;
    for no in 0..count {
        let name = shard_path(Path::new(""), prefix, no, count);
        let path = store.path(&name);
        let bytes = store.map(&name)?;
        let header = parse(&path, &bytes, limits)?;
        check_shard(&header, no, count)?;
        tensors.add(&path, bytes, header.tensors, limits)?;
        metadata.get_or_insert(header.metadata);
    }
    let metadata = metadata.expect("a set has at least one file");
    if let Some(total) = metadata.get::<u64>("split.tensors.count")?
        && total != tensors.list.len() as u64
    {
        let found = format!("{total}, the files have {} tensors", tensors.list.len());
        return Err(metadata.error("split.tensors.count", found, "the number of tensors".to_owned()));
    }
    Ok((metadata, tensors))
}

fn check_shard(header: &Header, no: usize, count: usize) -> Result<(), OpenError> {
    for (key, expected) in [("split.no", no), ("split.count", count)] {
        let found = header.metadata.need::<u64>(key)?;
        if found != expected as u64 {
            let path = header.metadata.path();
            return Err(OpenError::key(path, key, [found.to_string(), expected.to_string()], DAMAGED));
        }
    }
    Ok(())
}
