//! Importance matrices as llama-imatrix writes them: for each matrix of a model the squares of its inputs, summed over
//! the tokens of a text. A column whose inputs are large matters more when the matrix is quantized.
//!
//! ```text
//! GGUF   general.type "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size
//!        NAME.in_sum2 f32 [n_matrix, n_in]   sums of squares; n_matrix is 1, or the number of experts
//!        NAME.counts  f32 [n_matrix, 1]      tokens summed
//! .dat   i32 n, n x (i32 length, name, i32 calls, i32 n_value, f32 value x n_value), i32 chunks, i32 length, dataset
//!        a value is calls * (mean of squares)
//! ```
//! Source: llama.cpp `tools/imatrix/imatrix.cpp` and `common/imatrix-loader.cpp`.

use std::collections::BTreeMap;
use std::path::Path;

use mlxr_compute::{Bytes, DType, quant};

use crate::error::printable;
use crate::gguf::{Array, Entry, Metadata, Strings, Value, Writer};
use crate::{Checkpoint, Limits, OpenError};

const KIND: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
/// What to do about a damaged file.
const AGAIN: &str = "make the importance matrix again by `mlx-run imatrix`";

/// Sums of one matrix, or of the matrices of all experts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sums {
    /// Squares of each input, summed over the tokens: `[n_matrix, n_in]`.
    pub squares: Vec<f32>,
    /// Tokens of each matrix.
    pub counts: Vec<u64>,
}

impl Sums {
    /// The mean square of each input; 1 for experts that no token reached.
    #[must_use]
    pub fn means(&self) -> Vec<f32> {
        let n_in = self.squares.len() / self.counts.len().max(1);
        let of = |(squares, count): (&[f32], &u64)| -> Vec<f32> {
            let count = *count as f32;
            squares.iter().map(|sum| if count > 0.0 { sum / count } else { 1.0 }).collect()
        };
        self.squares.chunks(n_in.max(1)).zip(&self.counts).flat_map(of).collect()
    }
}

/// An importance matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Imatrix {
    /// Texts that it was made from.
    pub datasets: Vec<String>,
    /// Chunks of text that went into it.
    pub chunk_count: u32,
    /// Tokens of a chunk; 0 if not known.
    pub chunk_size: u32,
    /// Sums by the name of the tensor (`blk.0.attn_q.weight`).
    pub entries: BTreeMap<String, Sums>,
}

impl Imatrix {
    /// Reads a file of either format.
    ///
    /// # Errors
    /// If it cannot be read, is damaged or no importance matrix, or a number is not finite or negative.
    pub fn read(path: &Path) -> Result<Imatrix, OpenError> {
        Imatrix::parse(path, std::fs::read(path).map_err(OpenError::io(path, "read"))?)
    }

    /// Reads the bytes of a file of either format; `path` is for messages.
    ///
    /// # Errors
    /// As [`Imatrix::read`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Imatrix, OpenError> {
        let imatrix = if bytes.starts_with(b"GGUF") {
            let name = path.to_string_lossy();
            Imatrix::of_gguf(&crate::open_memory_gguf(&name, Bytes::from(bytes), &Limits::default())?)?
        } else {
            Imatrix::of_dat(path, &bytes)?
        };
        for (name, sums) in &imatrix.entries {
            if let Some(bad) = sums.squares.iter().find(|x| !x.is_finite() || **x < 0.0) {
                let found = [format!("the sum {bad}"), "finite sums of squares".to_owned()];
                return Err(OpenError::tensor(path, &printable(name.as_bytes()), found, AGAIN));
            }
        }
        Ok(imatrix)
    }

    fn of_gguf(file: &Checkpoint) -> Result<Imatrix, OpenError> {
        let (meta, path) = (file.meta(), file.path());
        if meta.get::<&str>(KIND)? != Some("imatrix") {
            return Err(OpenError::file(path, "a GGUF file of another kind", "an importance matrix", AGAIN));
        }
        let mut entries: BTreeMap<String, Sums> = BTreeMap::new();
        for tensor in file.tensors() {
            let bad = |found: String, expected: &str| {
                let found = [found, expected.to_owned()];
                Err(OpenError::tensor(path, &printable(tensor.name.as_bytes()), found, AGAIN))
            };
            if tensor.dtype != DType::F32 {
                return bad(format!("type {}", tensor.dtype.name()), "f32");
            }
            let mut numbers = vec![0.0; tensor.elements()];
            quant::decode(DType::F32, &file.bytes(&tensor.name)?, &mut numbers);
            if let Some(name) = tensor.name.strip_suffix(".in_sum2") {
                entries.entry(name.to_owned()).or_default().squares = numbers;
            } else if let Some(name) = tensor.name.strip_suffix(".counts") {
                entries.entry(name.to_owned()).or_default().counts = numbers.iter().map(|n| n.round() as u64).collect();
            }
        }
        for (name, sums) in &entries {
            let (n, counts) = (sums.squares.len(), sums.counts.len());
            if n == 0 || counts == 0 || n % counts != 0 {
                let found = [format!("{n} sums and {counts} counts"), "as many sums for each count".to_owned()];
                return Err(OpenError::tensor(path, &printable(name.as_bytes()), found, AGAIN));
            }
        }
        Ok(Imatrix {
            datasets: meta.list(DATASETS)?.unwrap_or_default(),
            chunk_count: meta.get(CHUNK_COUNT)?.unwrap_or(0),
            chunk_size: meta.get(CHUNK_SIZE)?.unwrap_or(0),
            entries,
        })
    }

    fn of_dat(path: &Path, bytes: &[u8]) -> Result<Imatrix, OpenError> {
        let mut at = Dat { path, bytes, at: 0 };
        let mut imatrix = Imatrix::default();
        for _ in 0..at.count("number of entries")? {
            let length = at.count("length of a name")?;
            let name = String::from_utf8_lossy(at.take(length, "a name")?).into_owned();
            let calls = at.count("number of calls")?.max(1);
            let n = at.count("number of values")?;
            let values = at.take(n.saturating_mul(4), "values")?.as_chunks::<4>().0;
            let squares = values.iter().map(|x| f32::from_le_bytes(*x)).collect();
            imatrix.entries.insert(name, Sums { squares, counts: vec![calls as u64] });
        }
        if imatrix.entries.is_empty() {
            return Err(OpenError::file(path, "no entries", "an importance matrix", AGAIN));
        }
        if at.at < bytes.len() {
            imatrix.chunk_count = at.count("number of chunks")? as u32;
            let length = at.count("length of the dataset")?;
            imatrix.datasets.push(String::from_utf8_lossy(at.take(length, "the dataset")?).into_owned());
        }
        Ok(imatrix)
    }

    /// Writes the GGUF format.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), OpenError> {
        let mut meta = Metadata::new(path);
        meta.set(KIND, Value::Str("imatrix".to_owned()));
        let mut datasets = Strings::new();
        self.datasets.iter().for_each(|name| datasets.push(name.as_bytes()));
        meta.set(DATASETS, Value::Array(Array::Str(datasets)));
        meta.set(CHUNK_COUNT, Value::U32(self.chunk_count));
        meta.set(CHUNK_SIZE, Value::U32(self.chunk_size));
        let entry = |name: String, shape| Entry { name, dtype: DType::F32, shape };
        let mut tensors = Vec::new();
        for (name, sums) in &self.entries {
            let n = sums.counts.len().max(1);
            tensors.push(entry(format!("{name}.in_sum2"), vec![n, sums.squares.len() / n]));
            tensors.push(entry(format!("{name}.counts"), vec![n, 1]));
        }
        let mut writer = Writer::create(path, &meta, &tensors)?;
        for sums in self.entries.values() {
            writer.push(&sums.squares.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
            writer.push(&sums.counts.iter().flat_map(|n| (*n as f32).to_le_bytes()).collect::<Vec<u8>>())?;
        }
        writer.finish()
    }
}

/// Reads the old format.
struct Dat<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Dat<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], OpenError> {
        let left = &self.bytes[self.at..];
        if n > left.len() {
            let found = format!("{} bytes for {what} at byte {}", left.len(), self.at);
            return Err(OpenError::file(self.path, found, format!("{n}, as an importance matrix has"), AGAIN));
        }
        self.at += n;
        Ok(&left[..n])
    }

    fn count(&mut self, what: &str) -> Result<usize, OpenError> {
        let bytes = self.take(4, what)?;
        let n = i32::from_le_bytes(bytes.try_into().expect("four bytes"));
        usize::try_from(n)
            .map_err(|_| OpenError::file(self.path, format!("{n} as {what}"), "a number that is not negative", AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("mlxr-imatrix-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        path
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = folder("round");
        let sums = Sums { squares: vec![2.0, 4.0, 1.0, 9.0], counts: vec![2, 0] };
        assert_eq!(sums.means(), [1.0, 2.0, 1.0, 1.0], "an expert without tokens counts evenly");
        let entries = BTreeMap::from([("blk.0.ffn_up_exps.weight".to_owned(), sums)]);
        let imatrix = Imatrix { datasets: vec!["a.txt".into()], chunk_count: 3, chunk_size: 512, entries };
        let path = folder.join("i.gguf");
        imatrix.write(&path).expect("written");
        assert_eq!(Imatrix::read(&path).expect("read"), imatrix);
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn the_old_format_is_read_and_cut_files_are_refused() {
        let folder = folder("dat");
        let mut bytes = Vec::new();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as i32).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        bytes.extend(1i32.to_le_bytes());
        text(&mut bytes, "blk.0.attn_q.weight");
        bytes.extend([4i32, 2].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend([8.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend(4i32.to_le_bytes());
        text(&mut bytes, "wiki");
        let path = folder.join("i.dat");
        std::fs::write(&path, &bytes).expect("written");
        let read = Imatrix::read(&path).expect("read");
        assert_eq!(read.entries["blk.0.attn_q.weight"].means(), [2.0, 0.5]);
        assert_eq!((read.datasets, read.chunk_count), (vec!["wiki".to_owned()], 4));
        for n in [0, 3, 10, 30, 38] {
            std::fs::write(&path, &bytes[..n]).expect("written");
            assert!(Imatrix::read(&path).expect_err("cut").to_string().contains("mlx-run imatrix"), "{n}");
        }
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
