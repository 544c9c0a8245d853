//! Damaged, truncated, oversized and hostile safetensors files, configurations and indexes.

#![allow(clippy::unwrap_used)] // tests

use std::path::Path;

use mlxr_compute::Bytes;
use mlxr_weights::{Limits, open_memory, safetensors};

const INCOMPLETE: &str = "the download is incomplete, fetch it again";
const DAMAGED: &str = "the file is damaged: fetch or convert it again";
const TRUST: &str = "raise that limit if the file is to be trusted";
const CONVERT: &str = "convert the model to a supported type";
const FIX: &str = "correct the file, or fetch the model again";

/// Formats of compressed-tensors.
const COMPRESSED: &str = "float-quantized, naive-quantized, int-quantized, pack-quantized, mxfp4-pack-quantized, \
                          mxfp8-quantized, mixed-precision, dense";

/// A file of this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

#[track_caller]
fn check(bytes: &[u8], expect: &str) {
    let found = safetensors::parse(Path::new("m.safetensors"), bytes, &Limits::default()).map(|_| ());
    assert_eq!(found.unwrap_err().to_string(), expect);
}

/// One tensor `w` of this entry, with 64 bytes of data.
#[track_caller]
fn check_entry(entry: &str, expect: &str) {
    check(&file(&format!(r#"{{"w":{entry}}}"#), 64), expect);
}

fn truncated(what: &str, need: u64, at: u64, left: u64) -> String {
    format!("m.safetensors: {what} needs {need} bytes at byte {at}, {left} are left: {INCOMPLETE}")
}

fn no_json(why: &str) -> String {
    format!("m.safetensors: found a header that is no valid JSON: {why}, expected a safetensors header; {DAMAGED}")
}

#[test]
fn bad_headers() {
    check(b"", &truncated("the size of the header", 8, 0, 0));
    check(b"\x10\0\0", &truncated("the size of the header", 8, 0, 3));
    check(
        &[0xff; 9],
        &format!("m.safetensors: size of the header is 18446744073709551615, `max_header_bytes` is 268435456; {TRUST}"),
    );
    check(&file("{}", 0)[..9], &truncated("the header", 2, 8, 1));
    check(&file("", 0), &no_json("EOF while parsing a value at line 1 column 0"));
    check(&file("{", 0), &no_json("EOF while parsing an object at line 1 column 1"));
    check(&file("{} x", 0), &no_json("trailing characters at line 1 column 4"));
    check(&file("[]", 0), &no_json("invalid type: sequence, expected an object of tensors at line 1 column 0"));
    check(
        &file(r#"{"__metadata__":{"a":1}}"#, 0),
        &no_json("`__metadata__`: invalid type: integer `1`, expected a string at line 1 column 22"),
    );
    check(&file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), &no_json("`__metadata__` twice at line 1 column 33"));
    check(
        &file(&"[".repeat(100_000), 0),
        &no_json("invalid type: sequence, expected an object of tensors at line 1 column 0"),
    );
    let deep = format!(r#"{{"w":{}"#, r#"{"dtype":"#.repeat(1000));
    check(&file(&deep, 0), &no_json("`w`: invalid type: map, expected a string at line 1 column 14"));
    let mut bad = file(r#"{"x":1}"#, 0);
    bad[10] = 0xff;
    check(&bad, &no_json("invalid unicode code point at line 1 column 3"));
}

#[test]
fn bad_entries() {
    let tensor = |found: &str, expected: &str| {
        format!("m.safetensors: tensor `w`: found {found}, expected {expected}; {DAMAGED}")
    };
    check_entry(
        "1",
        &no_json(
            "`w`: invalid type: integer `1`, expected an object of dtype, shape and data_offsets at line 1 column 6",
        ),
    );
    check_entry(r#"{"dtype":"F32","shape":[4]}"#, &no_json("`w`: missing field `data_offsets` at line 1 column 32"));
    check_entry(
        r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":0}"#,
        &no_json("`w`: unknown field `x`, expected one of `dtype`, `shape`, `data_offsets` at line 1 column 57"),
    );
    check_entry(
        r#"{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}"#,
        &no_json("`w`: invalid value: integer `-4`, expected u64 at line 1 column 31"),
    );
    check_entry(
        r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16,32]}"#,
        &no_json("`w`: trailing characters at line 1 column 54"),
    );
    let known = "F32 F16 BF16 F64 I8 I16 I32 I64 U8 U16 U32 U64 BOOL F8_E4M3 F8_E5M2 F8_E8M0";
    check_entry(
        r#"{"dtype":"F4","shape":[4],"data_offsets":[0,2]}"#,
        &format!("m.safetensors: tensor `w`: found type \"F4\", expected {known}; {CONVERT}"),
    );
    check_entry(
        r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}"#,
        &format!("m.safetensors: number of dimensions of tensor `w` is 9, `max_dims` is 8; {TRUST}"),
    );
    check_entry(
        r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#,
        &tensor("shape [4294967296, 4294967296]", "a size that fits the memory"),
    );
    check_entry(
        r#"{"dtype":"F32","shape":[4],"data_offsets":[0,15]}"#,
        &tensor("data_offsets [0, 15]", "16 bytes, as shape [4] of F32 needs"),
    );
    check_entry(
        r#"{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#,
        &tensor("data_offsets [16, 0]", "16 bytes, as shape [4] of F32 needs"),
    );
    check_entry(
        r#"{"dtype":"F32","shape":[4],"data_offsets":[18446744073709551600,18446744073709551615]}"#,
        &tensor("data_offsets [18446744073709551600, 18446744073709551615]", "16 bytes, as shape [4] of F32 needs"),
    );
    check_entry(
        r#"{"dtype":"F32","shape":[3],"data_offsets":[18446744073709551600,18446744073709551612]}"#,
        &tensor("data_offsets [18446744073709551600, 18446744073709551612]", "offsets within the file"),
    );
    check_entry(r#"{"dtype":"F32","shape":[4],"data_offsets":[56,72]}"#, &truncated("tensor `w`", 16, 120, 8));
    check_entry(
        r#"{"dtype":"F32","shape":[4],"data_offsets":[1000000,1000016]}"#,
        &truncated("tensor `w`", 16, 138, 0),
    );
    check(
        &file(r#"{"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#, 1),
        &format!("m.safetensors: tensor ``: found an empty name, expected a name; {DAMAGED}"),
    );
    check(
        &file(
            r#"{"v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#,
            5,
        ),
        &tensor("an overlap with v", "tensors side by side"),
    );
}

/// Opens a folder of a configuration, perhaps an index, and one file with the tensor `w`.
#[track_caller]
fn check_folder(config: &str, index: Option<&str>, expect: &str) {
    let weights = file(r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, 16);
    let mut files = vec![("config.json", config.as_bytes().to_vec()), ("model.safetensors", weights)];
    files.extend(index.map(|i| ("model.safetensors.index.json", i.as_bytes().to_vec())));
    let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes))).collect();
    let found = open_memory(files, &Limits::default()).map(|_| ()).unwrap_err().to_string();
    assert_eq!(found, expect, "{config} {index:?}");
}

#[test]
fn bad_configurations() {
    let check = |config: &str, expect: &str| check_folder(config, None, &format!("config.json: {expect}"));
    let json = |why: &str| format!("found no valid JSON: {why}, expected a JSON document; {DAMAGED}");
    check("", &json("EOF while parsing a value at line 1 column 0"));
    check("{'a': 1}", &json("key must be a string at line 1 column 2"));
    check(&"[".repeat(200_000), &json("recursion limit exceeded at line 1 column 128"));
    check("[]", &format!("found a list of 0, expected a JSON object; {FIX}"));
    let quant = |body: &str| format!(r#"{{"quantization_config":{body}}}"#);
    let field = |key: &str, found: &str, expected: &str| format!("`{key}`: found {found}, expected {expected}; {FIX}");
    check(r#"{"quantization":true}"#, &field("quantization", "true", "an object"));
    check(&quant("4"), &field("quantization_config", "4", "an object"));
    let cases: [(&str, &str, &str, &str); 16] = [
        ("{}", "quant_method", "no such field", "the name of a method"),
        (r#"{"quant_method":7}"#, "quant_method", "7", "a string"),
        (
            r#"{"quant_method":"hqq"}"#,
            "quant_method",
            "\"hqq\"",
            "gptq, awq, auto-round, bitsandbytes, fp8, fbgemm_fp8, compressed-tensors, modelopt, mxfp4",
        ),
        (r#"{"quant_method":"gptq","bits":5}"#, "bits", "5", "2, 3, 4 or 8"),
        (r#"{"quant_method":"gptq","bits":"4"}"#, "bits", "\"4\"", "an integer of at least 0"),
        (r#"{"quant_method":"gptq","group_size":0}"#, "group_size", "0", "at least 1, or -1 for one group"),
        (r#"{"quant_method":"gptq","group_size":1.5}"#, "group_size", "1.5", "an integer"),
        (
            r#"{"quant_method":"gptq","checkpoint_format":"marlin"}"#,
            "checkpoint_format",
            "marlin, a layout for one GPU",
            "gptq or gptq_v2",
        ),
        (r#"{"quant_method":"gptq","checkpoint_format":"x"}"#, "checkpoint_format", "\"x\"", "gptq or gptq_v2"),
        (r#"{"quant_method":"awq","bits":8}"#, "bits", "8", "4"),
        (r#"{"quant_method":"awq","version":"GEMV"}"#, "version", "\"gemv\"", "gemm"),
        (r#"{"quant_method":"fp8","weight_block_size":[128]}"#, "weight_block_size", "[128]", "[rows, columns]"),
        (r#"{"quant_method":"fp8","weight_block_size":[0,128]}"#, "weight_block_size", "[0,128]", "[rows, columns]"),
        (r#"{"quant_method":"compressed-tensors"}"#, "format", "no such field", COMPRESSED),
        (r#"{"quant_method":"compressed-tensors","format":"marlin-24"}"#, "format", "\"marlin-24\"", COMPRESSED),
        (r#"{"quant_method":"modelopt","quant_algo":"NVFP4"}"#, "quant_algo", "\"NVFP4\"", "FP8"),
    ];
    for (body, key, found, expected) in cases {
        check(&quant(body), &field(&format!("quantization_config.{key}"), found, expected));
    }
    let mlx: [(&str, &str, &str, &str); 6] = [
        (r#"{"bits":7}"#, "bits", "7", "2, 3, 4, 5, 6 or 8"),
        (r#"{"group_size":48}"#, "group_size", "48", "32, 64 or 128"),
        (r#"{"mode":"int4"}"#, "mode", "\"int4\"", "affine, mxfp4, mxfp8 or nvfp4"),
        (r#"{"mode":"nvfp4","group_size":32}"#, "group_size", "32", "16 for mode nvfp4"),
        (r#"{"mode":"mxfp8","bits":4}"#, "bits", "4", "8 for mode mxfp8"),
        (r#"{"bits":4,"model.layers.0":{"bits":1}}"#, "model.layers.0.bits", "1", "2, 3, 4, 5, 6 or 8"),
    ];
    for (body, key, found, expected) in mlx {
        let config = format!(r#"{{"quantization":{body}}}"#);
        check(&config, &field(&format!("quantization.{key}"), found, expected));
    }
}

#[test]
fn bad_indexes() {
    let name = "model.safetensors.index.json";
    let check = |index: &str, expect: &str| check_folder("{}", Some(index), &format!("{name}: {expect}"));
    let map = |file: &str| format!(r#"{{"weight_map":{{"w":{file}}}}}"#);
    check(
        "{",
        &format!(
            "found no valid JSON: EOF while parsing an object at line 1 column 1, expected a JSON document; {DAMAGED}"
        ),
    );
    check("7", &format!("found 7, expected a JSON object; {FIX}"));
    check("{}", &format!("`weight_map`: found no such field, expected an object of tensor and file names; {FIX}"));
    check(r#"{"weight_map":[]}"#, &format!("`weight_map`: found a list of 0, expected an object; {FIX}"));
    check(&map("1"), &format!("`weight_map.w`: found 1, expected the name of a file; {FIX}"));
    let inside = "the name of a .safetensors file in the same folder";
    for path in [
        "../x.safetensors",
        "/etc/x.safetensors",
        r"..\\x.safetensors",
        "c:x.safetensors",
        ".x.safetensors",
        "x.bin",
        "",
    ] {
        check(&map(&format!("\"{path}\"")), &format!("`weight_map.w`: found \"{path}\", expected {inside}; {FIX}"));
    }
    check_folder(
        "{}",
        Some(&map("\"other.safetensors\"")),
        "files in memory: found no file other.safetensors, expected all files that the index names; fetch the missing file",
    );
    check_folder(
        "{}",
        Some(r#"{"weight_map":{}}"#),
        "files in memory: found model.safetensors, expected model*.safetensors; name the weights model.safetensors, or \
         add an index",
    );
    check(
        r#"{"weight_map":{"w":"model.safetensors","x":"model.safetensors"}}"#,
        &format!("`x`: found no such tensor in model.safetensors, expected the tensor; {DAMAGED}"),
    );
}

#[test]
fn a_tensor_in_two_files() {
    let weights = || Bytes::from(file(r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, 16));
    let names = ["config.json", "model-1.safetensors", "model-2.safetensors"];
    let files = names.map(|n| (n.to_owned(), if n == "config.json" { Bytes::from(b"{}".to_vec()) } else { weights() }));
    let found = open_memory(files.to_vec(), &Limits::default()).map(|_| ()).unwrap_err().to_string();
    let expect = "model-2.safetensors: tensor `w`: found a second tensor of that name, the first is in \
                  model-1.safetensors, expected unique names";
    assert_eq!(found, format!("{expect}; {DAMAGED}"));
}

#[test]
fn limits_of_folders() {
    let weights = Bytes::from(file(r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, 16));
    let config = Bytes::from(b"{          }".to_vec());
    let files = vec![("config.json".to_owned(), config), ("model.safetensors".to_owned(), weights)];
    let check = |limits: Limits, expect: &str| {
        let found = open_memory(files.clone(), &limits).map(|_| ()).unwrap_err().to_string();
        assert_eq!(found, format!("{expect}; {TRUST}"));
    };
    check(
        Limits { max_side_file: 11, ..Limits::default() },
        "config.json: size of the file is 12, `max_side_file` is 11",
    );
    check(
        Limits { max_tensors: 0, ..Limits::default() },
        "model.safetensors: number of tensors is 1, `max_tensors` is 0",
    );
    check(Limits { max_shards: 0, ..Limits::default() }, "files in memory: number of files is 1, `max_shards` is 0");
    let limits = Limits { max_vector: 3, ..Limits::default() };
    let found = open_memory(files.clone(), &limits).unwrap().vector("w").unwrap_err().to_string();
    assert_eq!(found, format!("model.safetensors: number of elements of tensor `w` is 4, `max_vector` is 3; {TRUST}"));
}
