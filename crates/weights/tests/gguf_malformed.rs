//! Damaged, truncated, oversized and hostile GGUF files: each gets an error that says what and where.

#![allow(clippy::unwrap_used)] // tests

use std::path::Path;

use mlxr_compute::Bytes;
use mlxr_weights::{Limits, gguf, open_memory};

/// A file put together by hand, valid or not.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    /// Magic, version 3 and the two counts.
    fn new(n_tensor: u64, n_kv: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(n_tensor).u64(n_kv)
    }

    fn u8(mut self, x: u8) -> Raw {
        self.0.push(x);
        self
    }

    fn u32(mut self, x: u32) -> Raw {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn u64(mut self, x: u64) -> Raw {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn bytes(mut self, x: &[u8]) -> Raw {
        self.0.extend(x);
        self
    }

    fn string(self, x: &[u8]) -> Raw {
        self.u64(x.len() as u64).bytes(x)
    }

    /// A key and the type of its value.
    fn key(self, name: &str, kind: u32) -> Raw {
        self.string(name.as_bytes()).u32(kind)
    }

    /// A tensor; dimensions innermost first.
    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Raw {
        let raw = self.string(name.as_bytes()).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &d| raw.u64(d)).u32(kind).u64(offset)
    }

    /// Padding to the alignment, then `n` bytes of data.
    fn data(mut self, n: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self
    }
}

const F32: u32 = 0;
const Q4_0: u32 = 2;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U32: u32 = 4;
const BOOL: u32 = 7;

#[track_caller]
fn check(name: &str, raw: Raw, expect: &str) {
    check_with(name, raw, expect, &Limits::default());
}

#[track_caller]
fn check_with(name: &str, raw: Raw, expect: &str, limits: &Limits) {
    let found = gguf::parse(Path::new("m.gguf"), &raw.0, limits).map(|_| ());
    let found = found.expect_err(name).to_string();
    assert_eq!(found, expect, "{name}");
}

const INCOMPLETE: &str = "the download is incomplete, fetch it again";
const DAMAGED: &str = "the file is damaged: fetch or convert it again";
const TRUST: &str = "raise that limit if the file is to be trusted";
const CONVERT: &str = "convert the model to a supported type";

fn truncated(what: &str, need: u64, at: u64, left: u64) -> String {
    format!("m.gguf: {what} needs {need} bytes at byte {at}, {left} are left: {INCOMPLETE}")
}

#[test]
fn a_bad_start() {
    let magic = "give a .gguf file, or the folder of a Hugging Face or MLX model";
    check("empty", Raw(vec![]), &truncated("the magic \"GGUF\"", 4, 0, 0));
    check(
        "another format",
        Raw(b"GGML\x03\0\0\0".to_vec()),
        &format!("m.gguf: found first bytes \"GGML\", expected \"GGUF\"; {magic}"),
    );
    check(
        "a zip",
        Raw(b"PK\x03\x04".to_vec()),
        &format!("m.gguf: found first bytes \"PK\\u{{3}}\\u{{4}}\", expected \"GGUF\"; {magic}"),
    );
    check("no version", Raw(b"GGUF\x03".to_vec()), &truncated("the version", 4, 4, 1));
    let version = |n: u32| Raw(b"GGUF".to_vec()).u32(n).u64(0).u64(0);
    check(
        "version 0",
        version(0),
        "m.gguf: found GGUF version 0, expected version 2 or 3; update this program, or convert it again",
    );
    check("version 1", version(1), "m.gguf: found GGUF version 1, expected version 2 or 3; convert the model again");
    check(
        "version 4",
        version(4),
        "m.gguf: found GGUF version 4, expected version 2 or 3; update this program, or convert it again",
    );
    check(
        "big endian",
        version(3u32.swap_bytes()),
        "m.gguf: found a big-endian file of version 3, expected little endian; convert the model again without \
         --bigendian",
    );
    check("no counts", Raw(b"GGUF".to_vec()).u32(3).u32(1), &truncated("number of tensors", 8, 8, 4));
    check("one count", Raw(b"GGUF".to_vec()).u32(3).u64(0), &truncated("number of key-value pairs", 8, 16, 0));
    let limits = Limits { max_header_bytes: 100, ..Limits::default() };
    check_with(
        "a header over its limit",
        Raw::new(0, 1).key("a", STRING).string(&[b'x'; 64]),
        &format!("m.gguf: size of the header is 109, `max_header_bytes` is 100; {TRUST}"),
        &limits,
    );
}

#[test]
fn bad_counts() {
    check(
        "endless keys",
        Raw::new(0, u64::MAX),
        &format!("m.gguf: number of key-value pairs is 18446744073709551615, `max_kv` is 65536; {TRUST}"),
    );
    check("more keys than bytes", Raw::new(0, 1000), &truncated("number of key-value pairs", 14000, 24, 0));
    check(
        "endless tensors",
        Raw::new(u64::MAX, 0),
        &format!("m.gguf: number of tensors is 18446744073709551615, `max_tensors` is 1048576; {TRUST}"),
    );
    check("more tensors than bytes", Raw::new(1000, 0).data(8), &truncated("number of tensors", 25000, 24, 16));
}

#[test]
fn bad_keys() {
    check(
        "a long key",
        Raw::new(0, 1).u64(1 << 60).data(64),
        &format!("m.gguf: length of key 0 is 1152921504606846976, `max_string` is 16777216; {TRUST}"),
    );
    check("a key beyond the end", Raw::new(0, 1).u64(50).data(8), &truncated("key 0", 50, 32, 8));
    check(
        "an empty key",
        Raw::new(0, 1).string(b"").u32(U32).u32(1).data(8),
        &format!("m.gguf: found key 0 is empty, expected a name; {DAMAGED}"),
    );
    check(
        "a key of no UTF-8",
        Raw::new(0, 1).string(b"a\xff").u32(U32).u32(1),
        &format!("m.gguf: found key 0 \"a\u{fffd}\" is not UTF-8, expected UTF-8; {DAMAGED}"),
    );
    check(
        "a key twice",
        Raw::new(0, 2).key("a.b", U32).u32(1).key("a.b", BOOL).u8(1),
        &format!("m.gguf: `a.b`: found the key twice, now with bool true, expected unique keys; {DAMAGED}"),
    );
}

#[test]
fn bad_values() {
    check(
        "an unknown type",
        Raw::new(0, 1).key("a", 13).u64(0),
        &format!("m.gguf: `a`: found value type 13, expected one of 0 to 12; {DAMAGED}"),
    );
    check(
        "a bool of 2",
        Raw::new(0, 1).key("a", BOOL).u8(2),
        &format!("m.gguf: `a`: found bool 2, expected 0 or 1; {DAMAGED}"),
    );
    check("half a number", Raw::new(0, 1).key("a", 10).u32(7), &truncated("value of key `a`", 8, 37, 4));
    check("no type", Raw::new(0, 1).string(b"abcd").bytes(b"\x04\0"), &truncated("value of key `abcd`", 4, 36, 2));
    check(
        "a string beyond the end",
        Raw::new(0, 1).key("a", STRING).u64(9).u32(0),
        &truncated("value of key `a`", 9, 45, 4),
    );
    check(
        "a long string",
        Raw::new(0, 1).key("a", STRING).u64(u64::MAX).u32(0),
        &format!("m.gguf: length of value of key `a` is 18446744073709551615, `max_string` is 16777216; {TRUST}"),
    );
    check(
        "control characters in a key",
        Raw::new(0, 1).key("a\n\x1b[2J", 99),
        &format!("m.gguf: `a\\n\\u{{1b}}[2J`: found value type 99, expected one of 0 to 12; {DAMAGED}"),
    );
}

#[test]
fn bad_arrays() {
    let array = |kind: u32, n: u64| Raw::new(0, 1).key("a", ARRAY).u32(kind).u64(n);
    check(
        "an unknown element type",
        array(13, 0),
        &format!("m.gguf: `a`: found value type 13, expected one of 0 to 12; {DAMAGED}"),
    );
    check(
        "endless elements",
        array(0, u64::MAX),
        &format!("m.gguf: array in value of key `a` is 18446744073709551615, `max_array` is 16777216; {TRUST}"),
    );
    check("more elements than bytes", array(U32, 100).u64(0), &truncated("array in value of key `a`", 400, 49, 8));
    check("more strings than bytes", array(STRING, 4).u64(0), &truncated("array in value of key `a`", 32, 49, 8));
    check("a string of it beyond the end", array(STRING, 1).u64(4).u8(0), &truncated("value of key `a`", 4, 57, 1));
    check("a bool of 3", array(BOOL, 2).u8(1).u8(3), &format!("m.gguf: `a`: found bool 3, expected 0 or 1; {DAMAGED}"));
    let nested = (0..4).fold(Raw::new(0, 1).key("a", ARRAY), |raw, _| raw.u32(ARRAY).u64(1)).u32(0).u64(0);
    check(
        "arrays in arrays in arrays",
        nested,
        &format!("m.gguf: nesting of arrays in value of key `a` is 5, `max_nesting` is 4; {TRUST}"),
    );
    let limits = Limits { max_array: 10, ..Limits::default() };
    check_with(
        "over a set limit",
        array(0, 11).data(64),
        &format!("m.gguf: array in value of key `a` is 11, `max_array` is 10; {TRUST}"),
        &limits,
    );
}

#[test]
fn bad_alignments() {
    let alignment = |n: u32| Raw::new(0, 1).key("general.alignment", U32).u32(n);
    for n in [0, 24] {
        check(
            "no power of two",
            alignment(n),
            &format!("m.gguf: `general.alignment`: found {n}, expected a power of two; {DAMAGED}"),
        );
    }
    check(
        "a string",
        Raw::new(0, 1).key("general.alignment", STRING).string(b"32"),
        &format!("m.gguf: `general.alignment`: found string \"32\", expected an integer that fits u32; {DAMAGED}"),
    );
    check(
        "an alignment beyond the file",
        Raw::new(1, 1).key("general.alignment", U32).u32(1 << 31).tensor("w", &[4], F32, 0).data(16),
        &truncated("tensor `w`", 16, 1 << 31, 0),
    );
}

#[test]
fn bad_tensor_descriptions() {
    let one = |dims: &[u64], kind: u32| Raw::new(1, 0).tensor("w", dims, kind, 0).data(64);
    let bad =
        |found: &str, expected: &str| format!("m.gguf: tensor `w`: found {found}, expected {expected}; {DAMAGED}");
    let kind =
        |found: &str| format!("m.gguf: tensor `w`: found {found}, expected a type that has a decoder here; {CONVERT}");
    check(
        "no name",
        Raw::new(1, 0).tensor("", &[4], F32, 0).data(64),
        &format!("m.gguf: found name of tensor 0 is empty, expected a name; {DAMAGED}"),
    );
    check(
        "a name of no UTF-8",
        Raw::new(1, 0).string(b"\xc3\x28").data(64),
        &format!("m.gguf: found name of tensor 0 \"\u{fffd}(\" is not UTF-8, expected UTF-8; {DAMAGED}"),
    );
    check(
        "a description cut short",
        Raw::new(1, 0).string(b"weights").u32(2).bytes(&[0; 6]),
        &truncated("description of tensor `weights`", 8, 43, 6),
    );
    check(
        "9 dimensions",
        one(&[1; 9], F32),
        &format!("m.gguf: number of dimensions of tensor `w` is 9, `max_dims` is 8; {TRUST}"),
    );
    check(
        "4 billion dimensions",
        Raw::new(1, 0).string(b"w").u32(u32::MAX).data(64),
        &format!("m.gguf: number of dimensions of tensor `w` is 4294967295, `max_dims` is 8; {TRUST}"),
    );
    check("a dimension of 0", one(&[4, 0], F32), &bad("a dimension of 0", "at least 1"));
    let fits = |block: usize| format!("rows of a multiple of {block}, and a size that fits the memory");
    check(
        "a size over 64 bits",
        one(&[1 << 40, 1 << 40], F32),
        &bad("shape [1099511627776, 1099511627776] of type f32", &fits(1)),
    );
    check("a negative dimension", one(&[u64::MAX], F32), &bad("shape [18446744073709551615] of type f32", &fits(1)));
    check("rows of broken blocks", one(&[48], Q4_0), &bad("shape [48] of type q4_0", &fits(32)));
    check("rows of broken large blocks", one(&[32, 8], 12), &bad("shape [8, 32] of type q4_K", &fits(256)));
    check("a removed type", one(&[32], 4), &kind("type 4, which GGUF has removed"));
    check("a removed repacked type", one(&[32], 31), &kind("type 31, which GGUF has removed"));
    check("a type for activations", one(&[32], 9), &kind("type 9 (q8_1), which is no type for files"));
    check("an unknown type", one(&[32], 1000), &kind("unknown type 1000"));
}

#[test]
fn bad_tensor_places() {
    let one = |offset: u64| Raw::new(1, 0).tensor("w", &[16], F32, offset).data(64);
    let bad =
        |found: &str, expected: &str| format!("m.gguf: tensor `w`: found {found}, expected {expected}; {DAMAGED}");
    check("an offset between", one(4), &bad("offset 4", "a multiple of 32"));
    check("an offset beyond the end", one(1 << 20), &truncated("tensor `w`", 64, 64 + (1 << 20), 0));
    check("an offset that overflows", one(u64::MAX - 31), &truncated("tensor `w`", 64, u64::MAX, 0));
    check("data cut short", Raw::new(1, 0).tensor("w", &[16], F32, 0).data(63), &truncated("tensor `w`", 64, 64, 63));
    check("no data", Raw::new(1, 0).tensor("w", &[16], F32, 0), &truncated("tensor `w`", 64, 64, 0));
    let two =
        |a: &str, b: &str, offset: u64| Raw::new(2, 0).tensor(a, &[16], F32, 0).tensor(b, &[16], F32, offset).data(128);
    check("a name twice", two("w", "w", 64), &bad("a second tensor of that name", "unique names"));
    check("an overlap", two("v", "w", 32), &bad("an overlap with tensor `v`", "tensors side by side"));
    check("the same place", two("v", "w", 0), &bad("an overlap with tensor `v`", "tensors side by side"));
}

/// A file of a split set with one tensor of its own.
fn shard(no: u32, count: u32, total: u32, tensor: &str) -> Raw {
    let raw = Raw::new(1, 3).key("split.no", U32).u32(no).key("split.count", U32).u32(count);
    raw.key("split.tensors.count", U32).u32(total).tensor(tensor, &[16], F32, 0).data(64)
}

#[track_caller]
fn check_set(files: &[(&str, Raw)], expect: &str) {
    let files = files.iter().map(|(name, raw)| ((*name).to_owned(), Bytes::from(raw.0.clone()))).collect();
    let found = open_memory(files, &Limits::default()).map(|_| ()).unwrap_err().to_string();
    assert_eq!(found, expect);
}

#[test]
fn bad_sets() {
    let (one, two) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    let first = || (one, shard(0, 2, 2, "v"));
    let missing = "check that the path is right and may be accessed";
    check_set(&[first()], &format!("{two}: cannot open: entity not found; {missing}"));
    check_set(
        &[("m.gguf", shard(0, 2, 2, "v"))],
        "m.gguf: found a file of a split set of 2, under another name, expected a name like \
         PREFIX-00001-of-00002.gguf; give the files of the set the names that they were published with",
    );
    check_set(&[first(), (two, shard(0, 2, 2, "w"))], &format!("{two}: `split.no`: found 0, expected 1; {DAMAGED}"));
    check_set(&[first(), (two, shard(1, 3, 2, "w"))], &format!("{two}: `split.count`: found 3, expected 2; {DAMAGED}"));
    check_set(
        &[first(), (two, Raw::new(0, 0))],
        &format!("{two}: `split.no`: found no such key, expected an integer that fits u64; {DAMAGED}"),
    );
    check_set(
        &[first(), (two, shard(1, 2, 2, "v"))],
        &format!(
            "{two}: tensor `v`: found a second tensor of that name, the first is in {one}, expected unique names; {DAMAGED}"
        ),
    );
    check_set(
        &[(one, shard(0, 2, 3, "v")), (two, shard(1, 2, 3, "w"))],
        &format!(
            "{one}: `split.tensors.count`: found 3, the files have 2 tensors, expected the number of tensors; {DAMAGED}"
        ),
    );
    check_set(
        &[("m.gguf", shard(0, 65535, 2, "v"))],
        &format!("m.gguf: `split.count` is 65535, `max_shards` is 4096; {TRUST}"),
    );
}

#[test]
fn bad_folders() {
    let expected = "expected config.json with .safetensors files, or one .gguf file";
    let hint = "give a folder that has a model, or the path of a .gguf file";
    let empty = || Raw(vec![]);
    check_set(&[], &format!("files in memory: found no files, {expected}; {hint}"));
    check_set(
        &[("README.md", empty()), ("config.json", empty())],
        &format!("files in memory: found README.md, config.json, {expected}; {hint}"),
    );
    check_set(
        &[("config.json", empty()), ("pytorch_model.bin", empty())],
        &format!(
            "files in memory: found config.json, pytorch_model.bin, {expected}; pickled weights may run code and are not read: convert them to safetensors"
        ),
    );
    check_set(
        &[("a.gguf", empty()), ("b.gguf", empty())],
        "files in memory: found a.gguf, b.gguf, expected one GGUF model; give the path of the one to open",
    );
    let names: Vec<String> = (0..12).map(|i| format!("m{i:02}.txt")).collect();
    let files: Vec<(&str, Raw)> = names.iter().map(|n| (n.as_str(), empty())).collect();
    let shown = names[..8].join(", ");
    check_set(&files, &format!("files in memory: found {shown} and 4 more, {expected}; {hint}"));
}
