//! What the writers write, the readers read; a file cut short anywhere is an error, never a panic.

#![allow(clippy::unwrap_used)] // tests

use std::path::{Path, PathBuf};

use mlxr_compute::dtype::TYPES;
use mlxr_compute::{Bytes, DType};
use mlxr_weights::gguf::{self, Array, Metadata, Strings, Value};
use mlxr_weights::{Limits, open, open_memory, safetensors};

/// SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn list<T>(&mut self, max: usize, mut one: impl FnMut(&mut Random) -> T) -> Vec<T> {
        (0..self.below(max + 1)).map(|_| one(self)).collect()
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        self.list(9, |r| ['a', 'ß', '中', '🦀', '\0', '\n', '.', ' '][r.below(8)]).into_iter().collect()
    }
}

/// A folder of its own, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("mlxr-weights-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn list(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn array(r: &mut Random, depth: usize) -> Array {
    match r.below(if depth < 3 { 13 } else { 12 }) {
        0 => Array::U8(r.list(5, |r| r.next() as u8)),
        1 => Array::I8(r.list(5, |r| r.next() as i8)),
        2 => Array::U16(r.list(5, |r| r.next() as u16)),
        3 => Array::I16(r.list(5, |r| r.next() as i16)),
        4 => Array::U32(r.list(5, |r| r.next() as u32)),
        5 => Array::I32(r.list(5, |r| r.next() as i32)),
        6 => Array::U64(r.list(5, Random::next)),
        7 => Array::I64(r.list(5, |r| r.next() as i64)),
        8 => Array::F32(r.list(5, |r| r.below(1000) as f32 / 7.0)),
        9 => Array::F64(r.list(5, |r| r.below(1000) as f64 / 7.0)),
        10 => Array::Bool(r.list(5, |r| r.below(2) == 1)),
        11 => Array::Str(r.list(5, |r| r.bytes(3)).into_iter().collect::<Strings>()),
        _ => Array::Array(r.list(3, |r| array(r, depth + 1))),
    }
}

fn value(r: &mut Random) -> Value {
    match r.below(14) {
        0 => Value::U8(r.next() as u8),
        1 => Value::I8(r.next() as i8),
        2 => Value::U16(r.next() as u16),
        3 => Value::I16(r.next() as i16),
        4 => Value::U32(r.next() as u32),
        5 => Value::I32(r.next() as i32),
        6 => Value::U64(r.next()),
        7 => Value::I64(r.next() as i64),
        8 => Value::F32(r.below(1000) as f32 / 7.0),
        9 => Value::F64(r.below(1000) as f64 / 7.0),
        10 => Value::Bool(r.below(2) == 1),
        11 => Value::RawStr(vec![0xff, r.next() as u8]),
        12 => Value::Str(r.text()),
        _ => Value::Array(array(r, 1)),
    }
}

fn metadata(r: &mut Random, path: &Path) -> Metadata {
    let mut metadata = Metadata::new(path);
    for i in 0..r.below(20) {
        metadata.set(&format!("key{i}.{}", r.text()), value(r));
    }
    if r.below(2) == 1 {
        metadata.set("general.alignment", Value::U32(1 << r.below(9)));
    }
    metadata
}

/// Name, type, shape, bytes.
type Tensor = (String, DType, Vec<usize>, Vec<u8>);

/// Random tensors of the types that `has` admits.
fn tensors(r: &mut Random, has: fn(DType) -> bool) -> Vec<Tensor> {
    let types: Vec<DType> = TYPES.iter().map(|t| t.dtype).filter(|&t| has(t)).collect();
    let one = |r: &mut Random| {
        let dtype = types[r.below(types.len())];
        let mut shape = r.list(3, |r| 1 + r.below(4));
        shape.push(dtype.block() * (1 + r.below(3)));
        let bytes = dtype.bytes_of(shape.iter().product()).unwrap();
        (dtype, shape, r.bytes(bytes))
    };
    let list = r.list(8, one);
    list.into_iter().enumerate().map(|(i, (d, s, b))| (format!("t{i}.weight"), d, s, b)).collect()
}

/// Writes a random GGUF; returns what it holds.
fn write_gguf(r: &mut Random, path: &Path) -> (Metadata, Vec<Tensor>) {
    let metadata = metadata(r, path);
    let tensors = tensors(r, |t| t.row().ggml.is_some());
    let entry =
        |(name, dtype, shape, _): &Tensor| gguf::Entry { name: name.clone(), dtype: *dtype, shape: shape.clone() };
    let entries: Vec<gguf::Entry> = tensors.iter().map(entry).collect();
    let mut writer = gguf::Writer::create(path, &metadata, &entries).unwrap();
    for (_, _, _, bytes) in &tensors {
        let (a, b) = bytes.split_at(r.below(bytes.len()));
        writer.push(a).unwrap();
        writer.push(b).unwrap();
    }
    writer.finish().unwrap();
    (metadata, tensors)
}

#[test]
fn gguf_files() {
    let folder = Folder::new("gguf");
    let path = folder.0.join("m.gguf");
    for seed in 0..60 {
        let (metadata, tensors) = write_gguf(&mut Random(seed), &path);
        let model = open(&path).unwrap();
        assert_eq!(model.meta().iter().collect::<Vec<_>>(), metadata.iter().collect::<Vec<_>>(), "seed {seed}");
        let names: Vec<&str> = tensors.iter().map(|t| t.0.as_str()).collect();
        assert_eq!(model.names().collect::<Vec<_>>(), names, "seed {seed}");
        for (name, dtype, shape, bytes) in &tensors {
            let info = model.tensor(name).unwrap();
            assert_eq!((info.dtype, &info.shape), (*dtype, shape), "seed {seed}");
            assert_eq!(&*model.bytes(name).unwrap(), &bytes[..], "seed {seed} {name}");
        }
        assert_eq!(folder.list(), ["m.gguf"], "seed {seed}: a partial file is left");
    }
}

#[test]
fn safetensors_files() {
    let folder = Folder::new("safetensors");
    let path = folder.0.join("model.safetensors");
    std::fs::write(folder.0.join("config.json"), "{}").unwrap();
    for seed in 0..60 {
        let r = &mut Random(seed);
        let tensors = tensors(r, |t| t.block() == 1);
        let entry = |(name, dtype, shape, _): &Tensor| safetensors::Entry {
            name: name.clone(),
            dtype: *dtype,
            shape: shape.clone(),
        };
        let entries: Vec<safetensors::Entry> = tensors.iter().map(entry).collect();
        let text = r.text();
        let mut writer = safetensors::Writer::create(&path, &[("format", "pt"), ("x", &text)], &entries).unwrap();
        tensors.iter().for_each(|t| writer.push(&t.3).unwrap());
        writer.finish().unwrap();
        let file = std::fs::read(&path).unwrap();
        let header = safetensors::parse(&path, &file, &Limits::default()).unwrap();
        assert_eq!(header.metadata, [("format".to_owned(), "pt".to_owned()), ("x".to_owned(), text)], "seed {seed}");
        let model = open(&folder.0).unwrap();
        assert_eq!(model.tensors().len(), tensors.len(), "seed {seed}");
        for (name, dtype, shape, bytes) in &tensors {
            let info = model.tensor(name).unwrap();
            assert_eq!((info.dtype, &info.shape), (*dtype, shape), "seed {seed}");
            assert_eq!(&*model.bytes(name).unwrap(), &bytes[..], "seed {seed} {name}");
        }
    }
}

#[test]
fn a_split_set_opens_from_each_of_its_files() {
    let folder = Folder::new("split");
    for no in 0..3u16 {
        let path = gguf::shard_path(&folder.0, "m", no.into(), 3);
        let mut metadata = Metadata::new(&path);
        metadata.set("general.name", Value::Str(format!("part {no}")));
        metadata.set("split.no", Value::U16(no));
        metadata.set("split.count", Value::U16(3));
        metadata.set("split.tensors.count", Value::I32(3));
        let entry = gguf::Entry { name: format!("t{no}"), dtype: DType::F32, shape: vec![1] };
        let mut writer = gguf::Writer::create(&path, &metadata, &[entry]).unwrap();
        writer.push(&f32::from(no).to_le_bytes()).unwrap();
        writer.finish().unwrap();
    }
    let mut paths: Vec<PathBuf> = (0..3).map(|no| gguf::shard_path(&folder.0, "m", no, 3)).collect();
    paths.push(folder.0.clone());
    for path in paths {
        let model = open(&path).unwrap();
        assert_eq!(model.meta().need::<&str>("general.name").unwrap(), "part 0");
        for no in 0..3 {
            assert_eq!(model.vector(&format!("t{no}")).unwrap(), Some((vec![1], vec![no as f32])));
        }
    }
}

#[test]
fn a_gguf_cut_short_anywhere_is_an_error() {
    let folder = Folder::new("cut");
    let path = folder.0.join("m.gguf");
    for seed in 0..20 {
        write_gguf(&mut Random(seed), &path);
        let file = std::fs::read(&path).unwrap();
        let header = gguf::parse(&path, &file, &Limits::default()).unwrap();
        let end = header.tensors.iter().map(|t| t.offset + t.bytes).max();
        let header_end = header.data_start.min(file.len()) - (header.alignment as usize - 1);
        for cut in 0..file.len() {
            let found = gguf::parse(&path, &file[..cut], &Limits::default());
            if cut < end.unwrap_or(header_end) {
                assert!(found.is_err(), "seed {seed}, {cut} of {} bytes", file.len());
            }
        }
    }
}

#[test]
fn a_damaged_byte_anywhere_never_panics() {
    let folder = Folder::new("damaged");
    let path = folder.0.join("m.gguf");
    for seed in 0..30 {
        let r = &mut Random(seed);
        write_gguf(r, &path);
        let file = std::fs::read(&path).unwrap();
        for _ in 0..300 {
            let mut file = file.clone();
            let at = r.below(file.len().min(600));
            file[at] = [r.next() as u8, 0, 0xff, 0x7f][r.below(4)];
            let Ok(model) = open_memory(vec![("m.gguf".to_owned(), Bytes::from(file))], &Limits::default()) else {
                continue;
            };
            for tensor in model.tensors() {
                let _ = (model.matrix(&tensor.name), model.experts(&tensor.name), model.vector(&tensor.name));
            }
        }
    }
}

#[test]
fn a_safetensors_cut_short_anywhere_is_an_error() {
    let header = r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([0; 16]);
    let path = Path::new("m.safetensors");
    assert_eq!(safetensors::parse(path, &file, &Limits::default()).unwrap().tensors.len(), 1);
    for cut in 0..file.len() {
        assert!(safetensors::parse(path, &file[..cut], &Limits::default()).is_err(), "{cut} of {} bytes", file.len());
    }
}

#[test]
fn writers_refuse_what_readers_would() {
    let folder = Folder::new("refused");
    let path = folder.0.join("m.gguf");
    let entry = |dtype, shape: &[usize]| gguf::Entry { name: "w".to_owned(), dtype, shape: shape.to_vec() };
    let refused = |entry: gguf::Entry, expect: &str| {
        let found = gguf::Writer::create(&path, &Metadata::new(&path), &[entry]).map(|_| ()).unwrap_err().to_string();
        assert!(found.contains(expect), "{found}");
    };
    refused(entry(DType::U8, &[4]), "found type u8, expected a type that GGUF has");
    refused(entry(DType::Q4_0, &[33]), "found shape [33] of type q4_0");
    refused(entry(DType::F32, &[0]), "found shape [0] of type f32");
    let mut writer = gguf::Writer::create(&path, &Metadata::new(&path), &[entry(DType::F32, &[1])]).unwrap();
    let found = writer.push(&[0; 5]).unwrap_err().to_string();
    assert!(found.contains("tensor `w`: found 5 bytes to write, expected 4"), "{found}");
    writer.push(&[0; 3]).unwrap();
    let found = writer.finish().unwrap_err().to_string();
    assert!(found.contains("tensor `w`: found 3 bytes written, expected 4"), "{found}");
    assert!(folder.list().is_empty(), "an unfinished file is left: {:?}", folder.list());
    let entry = safetensors::Entry { name: "w".to_owned(), dtype: DType::Q4_0, shape: vec![32] };
    let found = safetensors::Writer::create(&path, &[], &[entry]).map(|_| ()).unwrap_err().to_string();
    assert!(found.contains("found type q4_0, expected a type that safetensors has"), "{found}");
}

#[test]
fn numbers_read_in_any_width_that_fits() {
    let mut meta = Metadata::new(Path::new("m.gguf"));
    meta.set("small", Value::U8(7));
    meta.set("large", Value::U64(1 << 40));
    meta.set("negative", Value::I32(-1));
    meta.set("half", Value::F64(0.5));
    meta.set("list", Value::Array(Array::I32(vec![1, 2, 3])));
    meta.set("raw", Value::RawStr(vec![0xff]));
    assert_eq!(meta.get::<u32>("small").unwrap(), Some(7));
    assert_eq!(meta.get::<i64>("small").unwrap(), Some(7));
    assert_eq!(meta.get::<f32>("small").unwrap(), Some(7.0));
    assert_eq!(meta.get::<f32>("half").unwrap(), Some(0.5));
    assert_eq!(meta.get::<u64>("large").unwrap(), Some(1 << 40));
    assert_eq!(meta.get::<&[u8]>("raw").unwrap(), Some(&[0xff][..]));
    assert_eq!(meta.get::<u32>("none").unwrap(), None);
    assert_eq!(meta.list::<u32>("list").unwrap(), Some(vec![1, 2, 3]));
    assert_eq!(meta.per_layer::<u32>("list", 2).unwrap(), Some(vec![1, 2]));
    assert_eq!(meta.per_layer::<u32>("small", 2).unwrap(), Some(vec![7, 7]));
    let hint = "the file is damaged: fetch or convert it again";
    let check = |found: Result<(), mlxr_weights::OpenError>, expect: &str| {
        assert_eq!(found.unwrap_err().to_string(), format!("m.gguf: {expect}; {hint}"));
    };
    let u32 = "expected an integer that fits u32";
    check(meta.get::<u32>("large").map(|_| ()), &format!("`large`: found u64 1099511627776, {u32}"));
    check(meta.get::<u32>("negative").map(|_| ()), &format!("`negative`: found i32 -1, {u32}"));
    check(meta.get::<u32>("half").map(|_| ()), &format!("`half`: found f64 0.5, {u32}"));
    check(meta.need::<u32>("none").map(|_| ()), &format!("`none`: found no such key, {u32}"));
    check(meta.get::<&str>("raw").map(|_| ()), "`raw`: found string \"\u{fffd}\", expected a string of valid UTF-8");
    check(meta.get::<f32>("list").map(|_| ()), "`list`: found array of 3 i32, expected a number");
    check(
        meta.per_layer::<u32>("list", 4).map(|_| ()),
        &format!("`list`: found array of 3 i32, {u32} or an array of 4 such"),
    );
    check(
        meta.list::<&str>("list").map(|_| ()),
        "`list`: found array of 3 i32, expected an array, each element a string of valid UTF-8",
    );
}

#[test]
fn chat_templates_have_names() {
    let mut meta = Metadata::new(Path::new("m.gguf"));
    assert_eq!(meta.chat_templates().unwrap(), []);
    meta.set("tokenizer.chat_template", Value::Str("a".to_owned()));
    meta.set("tokenizer.chat_templates", Value::Array(Array::Str(["tool_use"].into_iter().collect())));
    let found = meta.chat_templates().unwrap_err().to_string();
    assert!(found.contains("`tokenizer.chat_template.tool_use`: found no such key"), "{found}");
    meta.set("tokenizer.chat_template.tool_use", Value::Str("b".to_owned()));
    assert_eq!(meta.chat_templates().unwrap(), [("default".to_owned(), "a"), ("tool_use".to_owned(), "b")]);
}
