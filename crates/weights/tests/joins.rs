//! The parts of every quantized encoding come together, and mean the weights that they should.

#![allow(clippy::unwrap_used)] // tests

use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{Bytes, DType, Encoding};
use mlxr_weights::safetensors::{Entry, Writer};
use mlxr_weights::{Checkpoint, Kind, Limits, OpenError, open_memory};

/// Tensors of a file: name, type, shape, bytes.
type Tensor<'a> = (&'a str, DType, &'a [usize], Vec<u8>);

/// A folder in memory with this configuration and these tensors.
fn folder(config: &str, tensors: &[Tensor<'_>]) -> Result<Checkpoint, OpenError> {
    let path =
        std::env::temp_dir().join(format!("mlxr-joins-{}-{:?}", std::process::id(), std::thread::current().id()));
    let entry = |t: &Tensor<'_>| Entry { name: t.0.to_owned(), dtype: t.1, shape: t.2.to_vec() };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    let mut writer = Writer::create(&path, &[], &entries).unwrap();
    tensors.iter().for_each(|t| writer.push(&t.3).unwrap());
    writer.finish().unwrap();
    let weights = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let files = [("config.json", config.as_bytes().to_vec()), ("model.safetensors", weights)];
    let files = files.map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes)));
    open_memory(files.to_vec(), &Limits::default())
}

fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn u32s(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// All weights of the matrix of stem `w`.
fn weights(config: &str, tensors: &[Tensor<'_>]) -> (Encoding, Vec<f32>) {
    let matrix = folder(config, tensors).unwrap().matrix("w").unwrap().unwrap();
    let mut out = vec![0.0; matrix.n_out * matrix.n_in];
    matrix.decode_rows(0, matrix.n_out, &mut out);
    (matrix.encoding, out)
}

#[track_caller]
fn check_error(config: &str, tensors: &[Tensor<'_>], expect: &str) {
    let found = folder(config, tensors).and_then(|c| c.matrix("w").map(|_| ())).unwrap_err().to_string();
    assert_eq!(found, expect);
}

const MLX: &str = r#"{"quantization":{"group_size":32,"bits":4}}"#;
const DAMAGED: &str = "the file is damaged: fetch or convert it again";
const CONVERT: &str = "convert the model to a supported type";

/// MLX affine, 4 bits: rows of 32 codes 0..16 twice, `w = 0.5 * q - 1` and `2 * q`.
fn mlx_tensors() -> Vec<Tensor<'static>> {
    let row = [0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98];
    vec![
        ("w.weight", DType::U32, &[2, 4], u32s(&[row, row].concat())),
        ("w.scales", DType::F32, &[2, 1], f32s(&[0.5, 2.0])),
        ("w.biases", DType::F32, &[2, 1], f32s(&[-1.0, 0.0])),
    ]
}

#[test]
fn mlx_affine() {
    let (encoding, found) = weights(MLX, &mlx_tensors());
    assert_eq!(encoding, Encoding::MlxAffine { bits: 4, group: 32, scale: DType::F32 });
    let code = |i: usize| (i % 16) as f32;
    let expect: Vec<f32> = (0..64).map(|i| if i < 32 { 0.5 * code(i) - 1.0 } else { 2.0 * code(i) }).collect();
    assert_eq!(found, expect);
}

#[test]
fn mlx_overrides_of_a_layer() {
    // The same bytes as 8 bits and groups of 32 would have one more group a row, so only the override fits.
    let tensors = |group: usize| -> Vec<Tensor<'static>> {
        let shape: &'static [usize] = if group == 32 { &[1, 2] } else { &[1, 1] };
        vec![
            ("w.weight", DType::U32, &[1, 16], u32s(&[0x0302_0100; 16])),
            ("w.scales", DType::F32, shape, f32s(&vec![1.0; shape[1]])),
            ("w.biases", DType::F32, shape, f32s(&vec![0.0; shape[1]])),
        ]
    };
    let config = r#"{"quantization":{"group_size":64,"bits":4,"w":{"group_size":32,"bits":8}}}"#;
    let (encoding, found) = weights(config, &tensors(32));
    assert_eq!(encoding, Encoding::MlxAffine { bits: 8, group: 32, scale: DType::F32 });
    assert_eq!(found[..5], [0.0, 1.0, 2.0, 3.0, 0.0]);
    let off = r#"{"quantization":{"group_size":64,"bits":4,"w":false}}"#;
    let (encoding, found) = weights(off, &[("w.weight", DType::F32, &[1, 2], f32s(&[3.0, 4.0]))]);
    assert_eq!((encoding, &found[..]), (Encoding::Blocks(DType::F32), &[3.0, 4.0][..]));
    let expect = "packed weights of a layer that `quantization` says is not quantized, expected a float type";
    check_error(off, &tensors(64), &format!("model.safetensors: tensor `w.weight`: found {expect}; {DAMAGED}"));
}

#[test]
fn mlx_float_modes() {
    // e2m1 codes 0..16: 0 .5 1 1.5 2 3 4 6 and their negatives; scale 2^1.
    let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
    let words = u32s(&[0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98]);
    let config = |mode: &str| format!(r#"{{"quantization":{{"mode":"{mode}"}}}}"#);
    let tensors: [Tensor<'_>; 2] =
        [("w.weight", DType::U32, &[1, 4], words.clone()), ("w.scales", DType::U8, &[1, 1], vec![128])];
    let (encoding, found) = weights(&config("mxfp4"), &tensors);
    assert_eq!(encoding, Encoding::MlxFloat(MlxFloat::Mxfp4));
    assert_eq!(found, [values, values].concat().iter().map(|v| 2.0 * v).collect::<Vec<_>>());

    // A scale of e4m3: 0x38 is 1, 0x40 is 2.
    let tensors: [Tensor<'_>; 2] =
        [("w.weight", DType::U32, &[1, 4], words), ("w.scales", DType::U8, &[1, 2], vec![0x38, 0x40])];
    let (encoding, found) = weights(&config("nvfp4"), &tensors);
    assert_eq!(encoding, Encoding::MlxFloat(MlxFloat::Nvfp4));
    assert_eq!(found, [values, values.map(|v| 2.0 * v)].concat());

    let tensors: [Tensor<'_>; 2] =
        [("w.weight", DType::U32, &[1, 8], vec![0x38; 32]), ("w.scales", DType::U8, &[1, 1], vec![126])];
    let (encoding, found) = weights(&config("mxfp8"), &tensors);
    assert_eq!(encoding, Encoding::MlxFloat(MlxFloat::Mxfp8));
    assert_eq!(found, vec![0.5; 32]);
}

#[test]
fn mlx_stacks() {
    let model = folder(
        MLX,
        &[
            ("w.weight", DType::U32, &[3, 1, 4], u32s(&[[0; 4], [0x1111_1111; 4], [0x2222_2222; 4]].concat())),
            ("w.scales", DType::F32, &[3, 1, 1], f32s(&[1.0, 1.0, 2.0])),
            ("w.biases", DType::F32, &[3, 1, 1], f32s(&[5.0, 0.0, 0.0])),
        ],
    )
    .unwrap();
    let experts = model.experts("w").unwrap().unwrap();
    let first = |i: usize| {
        let mut row = [0.0; 32];
        experts[i].decode_rows(0, 1, &mut row);
        row[0]
    };
    assert_eq!([first(0), first(1), first(2)], [5.0, 1.0, 4.0]);
    assert_eq!(model.kind, Kind::Mlx);
    let found = model.matrix("w").unwrap_err().to_string();
    assert!(found.contains("found shape [3, 1, 32], expected a matrix of two dimensions"), "{found}");
}

#[test]
fn mlx_parts_that_do_not_fit() {
    let without = |name: &str| mlx_tensors().into_iter().filter(|t| t.0 != name).collect::<Vec<_>>();
    let with = |tensor: Tensor<'static>| {
        let mut tensors = without(tensor.0);
        tensors.push(tensor);
        tensors
    };
    let error = |tensor: &str, what: &str| format!("model.safetensors: tensor `{tensor}`: {what}; {DAMAGED}");
    for part in ["w.scales", "w.biases"] {
        let what = format!("found no such tensor, expected a tensor `{part}` with it");
        check_error(MLX, &without(part), &error("w.weight", &what));
    }
    let needs = "as a weight of shape [2, 4] with 4 bits in groups of 32 needs";
    for part in ["w.scales", "w.biases"] {
        let tensors = with((part, DType::F32, &[1, 2], f32s(&[1.0; 2])));
        check_error(MLX, &tensors, &error(part, &format!("found shape [1, 2], expected [2, 1], {needs}")));
    }
    let tensors = with(("w.scales", DType::U8, &[2, 1], vec![0; 2]));
    check_error(MLX, &tensors, &error("w.scales", "found type u8, expected f16 or bf16 or f32"));
    let tensors = with(("w.biases", DType::F16, &[2, 1], vec![0; 4]));
    check_error(MLX, &tensors, &error("w.biases", "found type f16, expected f32"));
    let tensors = with(("w.weight", DType::U32, &[2, 3], u32s(&[0; 6])));
    let expect = "found shape [2, 3], expected rows of whole groups of 32 weights of 4 bits";
    check_error(MLX, &tensors, &error("w.weight", expect));
    let found = "found no quantization, and a tensor `w.weight`, expected the `quantization` block of MLX";
    check_error("{}", &mlx_tensors(), &format!("config.json: `quantization_config`: {found}; {DAMAGED}"));
}

#[test]
fn mxfp4_of_gpt_oss() {
    let config = r#"{"quantization_config":{"quant_method":"mxfp4"}}"#;
    let blocks = [[0x21; 16], [0x43; 16]].concat(); // codes 1 2 1 2 .. and 3 4 3 4 ..
    let tensors: [Tensor<'_>; 2] =
        [("w_blocks", DType::U8, &[2, 1, 1, 16], blocks), ("w_scales", DType::U8, &[2, 1, 1], vec![127, 128])];
    let model = folder(config, &tensors).unwrap();
    let experts = model.experts("w").unwrap().unwrap();
    assert_eq!(experts.len(), 2);
    let mut row = [0.0; 32];
    experts[0].decode_rows(0, 1, &mut row);
    assert_eq!(row[..4], [0.5, 1.0, 0.5, 1.0]);
    experts[1].decode_rows(0, 1, &mut row);
    assert_eq!(row[..4], [3.0, 4.0, 3.0, 4.0]);
    let error = |tensor: &str, what: &str| format!("model.safetensors: tensor `{tensor}`: {what}; {DAMAGED}");
    let tensors: [Tensor<'_>; 2] =
        [("w_blocks", DType::U8, &[1, 1, 1, 16], vec![0; 16]), ("w_scales", DType::U8, &[1, 2], vec![0; 2])];
    let expect = "found shape [1, 2], expected [1, 1, 1], as blocks of shape [1, 1, 1, 16] needs";
    check_error(config, &tensors, &error("w_scales", expect));
    let tensors: [Tensor<'_>; 2] =
        [("w_blocks", DType::U8, &[1, 1, 8], vec![0; 8]), ("w_scales", DType::U8, &[1, 1], vec![0; 1])];
    check_error(config, &tensors, &error("w_blocks", "found shape [1, 1, 8], expected [.., n_out, n_in / 32, 16]"));
}

/// GPTQ, 4 bits: 8 inputs, 8 outputs, one group. Code of input i is i, for every output; zero 1 (stored 0).
fn gptq_tensors(g_idx: &[u32]) -> Vec<Tensor<'static>> {
    vec![
        ("w.qweight", DType::I32, &[1, 8], u32s(&[0x7654_3210; 8])),
        ("w.qzeros", DType::I32, &[2, 1], u32s(&[0, 0x1111_1111])),
        ("w.scales", DType::F32, &[2, 8], f32s(&[[1.0; 8], [2.0; 8]].concat())),
        ("w.g_idx", DType::I32, &[8], u32s(g_idx)),
    ]
}

const GPTQ: &str = r#"{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":4}}"#;

#[test]
fn gptq() {
    let (encoding, found) = weights(GPTQ, &gptq_tensors(&[0, 0, 0, 0, 1, 1, 1, 1]));
    assert_eq!(encoding, Encoding::Gptq { bits: 4, group: 4, zero_plus_one: true, scale: DType::F32 });
    assert_eq!(found[..8], [-1.0, 0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    let (_, found) = weights(GPTQ, &gptq_tensors(&[1, 1, 1, 1, 0, 0, 0, 0]));
    assert_eq!(found[..8], [-4.0, -2.0, 0.0, 2.0, 3.0, 4.0, 5.0, 6.0], "act-order");
    let v2 = GPTQ.replace(r#""bits":4"#, r#""bits":4,"checkpoint_format":"gptq_v2""#);
    let (_, found) = weights(&v2, &gptq_tensors(&[0, 0, 0, 0, 1, 1, 1, 1]));
    assert_eq!(found[..8], [0.0, 1.0, 2.0, 3.0, 6.0, 8.0, 10.0, 12.0], "v2");
}

#[test]
fn gptq_without_groups_in_disorder_carries_no_g_idx() {
    let parts = |g_idx: &[u32]| {
        let model = folder(GPTQ, &gptq_tensors(g_idx)).unwrap();
        model.matrix("w").unwrap().unwrap().parts[3].len()
    };
    assert_eq!(parts(&[0, 0, 0, 0, 1, 1, 1, 1]), 0);
    assert_eq!(parts(&[0, 0, 0, 1, 0, 1, 1, 1]), 32);
}

#[test]
fn gptq_parts_that_do_not_fit() {
    let error = |tensor: &str, what: &str| format!("model.safetensors: tensor `{tensor}`: {what}; {DAMAGED}");
    let order = [0, 0, 0, 0, 1, 1, 1, 1];
    let replaced = |i: usize, tensor: Tensor<'static>| {
        let mut tensors = gptq_tensors(&order);
        tensors[i] = tensor;
        tensors
    };
    for part in ["w.qzeros", "w.scales"] {
        let tensors: Vec<_> = gptq_tensors(&order).into_iter().filter(|t| t.0 != part).collect();
        let what = format!("found no such tensor, expected a tensor `{part}` with it");
        check_error(GPTQ, &tensors, &error("w.qweight", &what));
    }
    let tensors = replaced(1, ("w.qzeros", DType::I32, &[2, 2], u32s(&[0; 4])));
    let expect = "found shape [2, 2], expected 4 bits for each of the scales, whose shape is [2, 8]";
    check_error(GPTQ, &tensors, &error("w.qzeros", expect));
    let tensors = replaced(0, ("w.qweight", DType::I32, &[1, 7], u32s(&[0; 7])));
    let expect = "found shape [1, 7], expected [1, 8], as 4 bits and scales of [2, 8] needs";
    check_error(GPTQ, &tensors, &error("w.qweight", expect));
    let tensors = replaced(3, ("w.g_idx", DType::I32, &[7], u32s(&[0; 7])));
    let expect = "found shape [7], expected [8], as a matrix of 8 inputs needs";
    check_error(GPTQ, &tensors, &error("w.g_idx", expect));
    let tensors = replaced(2, ("w.scales", DType::I32, &[2, 8], u32s(&[0; 16])));
    check_error(GPTQ, &tensors, &error("w.scales", "found type i32, expected f16 or bf16 or f32"));
    let config = GPTQ.replace(r#""group_size":4"#, r#""group_size":8"#);
    let expect = "found shape [2, 8], expected 1 groups of 8 for 8 inputs";
    check_error(&config, &gptq_tensors(&order), &error("w.scales", expect));
    let found = "model.safetensors: tensor `w.qweight`: g_idx has the group 2, expected groups 0 to 1";
    check_error(
        GPTQ,
        &gptq_tensors(&[0, 0, 0, 0, 1, 1, 1, 2]),
        found.replace("model.safetensors", "files in memory").as_str(),
    );
    let found = "found no quantization, and a tensor `w.qweight`, expected gptq or awq";
    check_error("{}", &gptq_tensors(&order), &format!("config.json: `quantization_config`: {found}; {DAMAGED}"));
}

#[test]
fn awq() {
    let config = r#"{"quantization_config":{"quant_method":"awq","bits":4,"group_size":2,"version":"gemm"}}"#;
    let tensors: [Tensor<'_>; 3] = [
        ("w.qweight", DType::I32, &[2, 1], u32s(&[0x7531_6420, 0x7531_6420])), // outputs 0 to 7 have codes 0 to 7
        ("w.qzeros", DType::I32, &[1, 1], u32s(&[0x1111_1111])),
        ("w.scales", DType::F16, &[1, 8], [0, 0x40].repeat(8)), // 2
    ];
    let (encoding, found) = weights(config, &tensors);
    assert_eq!(encoding, Encoding::Awq { group: 2, scale: DType::F16 });
    let expect: Vec<f32> = (0..16).map(|i| 2.0 * (i / 2) as f32 - 2.0).collect();
    assert_eq!(found, expect);
}

#[test]
fn bitsandbytes() {
    let config = r#"{"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true}}"#;
    let map: Vec<f32> = (0..16).map(|i| i as f32 / 8.0).collect();
    let state = |json: &str| json.as_bytes().to_vec();
    let plain = state(r#"{"quant_type":"nf4","blocksize":2,"dtype":"bfloat16","shape":[2,2]}"#);
    let n = plain.len();
    let mut tensors: Vec<Tensor<'_>> = vec![
        ("w.weight", DType::U8, &[2, 1], vec![0x12, 0x34]),
        ("w.weight.absmax", DType::F32, &[2], f32s(&[1.0, 2.0])),
        ("w.weight.quant_map", DType::F32, &[16], f32s(&map)),
    ];
    check_error(
        config,
        &tensors,
        &format!(
            "model.safetensors: tensor `w.weight`: found no such tensor, expected a tensor \
             `w.weight.quant_state.bitsandbytes__nf4` with it; {DAMAGED}"
        ),
    );
    let shape = [n];
    tensors.push(("w.weight.quant_state.bitsandbytes__nf4", DType::U8, &shape, plain));
    let (encoding, found) = weights(config, &tensors);
    assert_eq!(encoding, Encoding::Bnb4 { block: 2, nested_block: 0, nested_offset: 0.0 });
    assert_eq!(found, [0.125, 0.25, 0.75, 1.0]);

    let nested = state(r#"{"blocksize":2,"shape":[2,2],"nested_blocksize":256,"nested_offset":0.5}"#);
    let codes: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let shape = [nested.len()];
    tensors[1] = ("w.weight.absmax", DType::U8, &[2], vec![1, 3]);
    tensors[3] = ("w.weight.quant_state.bitsandbytes__fp4", DType::U8, &shape, nested);
    tensors.push(("w.weight.nested_absmax", DType::F32, &[1], f32s(&[0.5])));
    tensors.push(("w.weight.nested_quant_map", DType::F32, &[256], f32s(&codes)));
    let (encoding, found) = weights(config, &tensors);
    assert_eq!(encoding, Encoding::Bnb4 { block: 2, nested_block: 256, nested_offset: 0.5 });
    assert_eq!(found, [0.125, 0.25, 0.75, 1.0], "absmax 1 and 2");
}

/// FP8 2 x 4: 0x38 is 1, 0x40 is 2.
fn fp8(name: &'static str, scales: Tensor<'static>) -> Vec<Tensor<'static>> {
    vec![(name, DType::F8E4M3, &[2, 4], vec![0x38, 0x38, 0x38, 0x38, 0x40, 0x40, 0x40, 0x40]), scales]
}

#[test]
fn fp8_scales() {
    let config = |body: &str| format!(r#"{{"quantization_config":{{"quant_method":{body}}}}}"#);
    let plain = config(r#""fp8""#);
    let (encoding, found) = weights(&plain, &fp8("w.weight", ("w.weight_scale", DType::F32, &[], f32s(&[3.0]))));
    let all = u32::MAX;
    assert_eq!(encoding, Encoding::Fp8 { dtype: DType::F8E4M3, rows: all, cols: all, scale: DType::F32 });
    assert_eq!(found, [3.0, 3.0, 3.0, 3.0, 6.0, 6.0, 6.0, 6.0]);

    let compressed = config(r#""compressed-tensors","format":"float-quantized""#);
    let scales = ("w.weight_scale", DType::BF16, &[2, 1][..], vec![0x80, 0x3f, 0x00, 0x3f]); // 1 and 0.5
    let (encoding, found) = weights(&compressed, &fp8("w.weight", scales));
    assert_eq!(encoding, Encoding::Fp8 { dtype: DType::F8E4M3, rows: 1, cols: 4, scale: DType::BF16 });
    assert_eq!(found, [1.0; 8]);

    let tiled = config(r#""fp8","weight_block_size":[2,3]"#);
    let scales = ("w.weight_scale_inv", DType::F32, &[1, 2][..], f32s(&[1.0, 4.0]));
    let (encoding, found) = weights(&tiled, &fp8("w.weight", scales));
    assert_eq!(encoding, Encoding::Fp8 { dtype: DType::F8E4M3, rows: 2, cols: 3, scale: DType::F32 });
    assert_eq!(found, [1.0, 1.0, 1.0, 4.0, 2.0, 2.0, 2.0, 8.0]);

    let (_, found) = weights(&plain, &fp8("w", ("w.scale", DType::U8, &[2, 2], vec![127, 128, 127, 127])));
    assert_eq!(found, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], "power-of-two scales in bytes");
    let (_, found) = weights(&plain, &fp8("w.weight", ("w.input_scale", DType::F32, &[], f32s(&[9.0]))));
    assert_eq!(found, [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], "no scale");
    let bad = fp8("w.weight", ("w.weight_scale", DType::F32, &[3], f32s(&[1.0; 3])));
    let expect = "found shape [3], expected one scale, or one for each row or tile of a [2, 4] matrix";
    check_error(&plain, &bad, &format!("model.safetensors: tensor `w.weight_scale`: {expect}; {DAMAGED}"));
}

#[test]
fn fp8_stacks() {
    let config = r#"{"quantization_config":{"quant_method":"fp8"}}"#;
    for (shape, scales, expect) in [
        (&[][..], vec![3.0], [3.0, 3.0]),
        (&[2][..], vec![3.0, 4.0], [3.0, 4.0]),
        (&[2, 1, 1][..], vec![3.0, 4.0], [3.0, 4.0]),
        (&[2, 2, 1][..], vec![3.0, 9.0, 4.0, 9.0], [3.0, 4.0]),
    ] {
        let weight: Tensor<'_> = ("w", DType::F8E4M3, &[2, 2, 4], vec![0x38; 16]);
        let model = folder(config, &[weight, ("w_scale_inv", DType::F32, shape, f32s(&scales))]).unwrap();
        let experts = model.experts("w").unwrap().unwrap();
        let first = |i: usize| {
            let mut row = [0.0; 4];
            experts[i].decode_rows(0, 1, &mut row);
            row[0]
        };
        assert_eq!([first(0), first(1)], expect, "{shape:?}");
    }
}

#[test]
fn types_without_a_meaning() {
    let tensors: [Tensor<'_>; 1] = [("w.weight", DType::I8, &[1, 4], vec![0; 4])];
    let found = "found no quantization, and a tensor `w.weight`, expected a quantization that explains its type";
    check_error("{}", &tensors, &format!("config.json: `quantization_config`: {found}; {DAMAGED}"));
    let tensors: [Tensor<'_>; 1] = [("w.weight_packed", DType::I32, &[1, 4], vec![0; 16])];
    let found = "found no quantization, and a tensor `w.weight_packed`, expected compressed-tensors";
    check_error("{}", &tensors, &format!("config.json: `quantization_config`: {found}; {DAMAGED}"));
}

fn compressed(format: &str) -> String {
    format!(r#"{{"quantization_config":{{"quant_method":"compressed-tensors","format":"{format}"}}}}"#)
}

#[test]
fn packed_integers() {
    let config = compressed("pack-quantized");
    let row = [0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98]; // codes 0 to 15, twice
    let mut tensors: Vec<Tensor<'_>> = vec![
        ("w.weight_packed", DType::I32, &[2, 8], u32s(&[row, row, row, row].concat())),
        ("w.weight_scale", DType::BF16, &[2, 2], [0x80, 0x3f, 0x00, 0x40, 0x80, 0x3f, 0x80, 0x3f].to_vec()), // 1 2 1 1
        ("w.weight_shape", DType::I64, &[2], [2u64.to_le_bytes(), 64u64.to_le_bytes()].concat()),
    ];
    let (encoding, found) = weights(&config, &tensors);
    assert_eq!(encoding, Encoding::MlxAffine { bits: 4, group: 32, scale: DType::F32 });
    assert_eq!([found[0], found[15], found[32], found[47], found[64]], [-8.0, 7.0, -16.0, 14.0, -8.0]);

    // Zeros of rows 0 and 1 in the nibbles of a column's word: 1 and 2; 3 and 4.
    tensors.push(("w.weight_zero_point", DType::I32, &[1, 2], u32s(&[0x21, 0x43])));
    let (_, found) = weights(&config, &tensors);
    assert_eq!([found[0], found[32], found[64], found[96]], [-1.0, -6.0, -2.0, -4.0]);

    let order: Vec<u32> = (0..64).map(|i| i / 32).collect();
    tensors.push(("w.weight_g_idx", DType::I32, &[64], u32s(&order)));
    assert_eq!(weights(&config, &tensors).1, found);
    tensors[4].3[0] = 1;
    check_error(
        &config,
        &tensors,
        &format!(
            "model.safetensors: tensor `w.weight_g_idx`: found columns whose groups are in disorder (act-order), \
             expected groups in order; {CONVERT}"
        ),
    );
    let error = |tensor: &str, what: &str| format!("model.safetensors: tensor `{tensor}`: {what}; {DAMAGED}");
    tensors.truncate(3);
    tensors[1] = ("w.weight_scale", DType::F32, &[2, 3], f32s(&[1.0; 6]));
    let expect = "found shape [2, 3], expected one scale for each row or group of a [2, 64] matrix";
    check_error(&config, &tensors, &error("w.weight_scale", expect));
    tensors[2] = ("w.weight_shape", DType::I64, &[2], [2u64.to_le_bytes(), 63u64.to_le_bytes()].concat());
    let expect = "found shape [2, 8] for a matrix [2, 63], expected rows of 2, 3, 4, 5, 6 or 8 bits a weight";
    check_error(&config, &tensors, &error("w.weight_packed", expect));
}

#[test]
fn signed_bytes() {
    let codes: Vec<u8> = (0..64).map(|i| if i < 32 { i as u8 } else { (-(i as i8)) as u8 }).collect();
    let weight = || -> Tensor<'static> { ("w.weight", DType::I8, &[2, 32], codes.clone()) };
    let scales = ("w.weight_scale", DType::F32, &[2, 1][..], f32s(&[0.5, 2.0]));
    let (encoding, found) = weights(&compressed("int-quantized"), &[weight(), scales.clone()]);
    assert_eq!(encoding, Encoding::MlxAffine { bits: 8, group: 32, scale: DType::F32 });
    assert_eq!([found[0], found[31], found[32], found[63]], [0.0, 15.5, -64.0, -126.0]);
    let zeros = ("w.weight_zero_point", DType::I8, &[2, 1][..], vec![1, 0xff]);
    let (_, found) = weights(&compressed("int-quantized"), &[weight(), scales, zeros]);
    assert_eq!([found[0], found[32]], [-0.5, -62.0]);
    let bnb = r#"{"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true}}"#;
    let (_, found) = weights(bnb, &[weight(), ("w.SCB", DType::F32, &[2], f32s(&[127.0, 254.0]))]);
    assert_eq!([found[0], found[31], found[32], found[63]], [0.0, 31.0, -64.0, -126.0]);
}

#[test]
fn mxfp4_of_compressed_tensors() {
    let config = compressed("mxfp4-pack-quantized");
    let mut tensors: Vec<Tensor<'_>> = vec![
        ("w.weight_packed", DType::U8, &[1, 16], vec![0x21; 16]),
        ("w.weight_scale", DType::U8, &[1, 1], vec![128]),
    ];
    let (encoding, found) = weights(&config, &tensors);
    assert_eq!(encoding, Encoding::MlxFloat(MlxFloat::Mxfp4));
    assert_eq!(found[..4], [1.0, 2.0, 1.0, 2.0]);
    tensors.push(("w.weight_global_scale", DType::F32, &[1], f32s(&[1.0])));
    let found = "found nvfp4 with a global scale, expected mxfp4, or nvfp4 as MLX packs it";
    check_error(&config, &tensors, &format!("model.safetensors: tensor `w.weight_global_scale`: {found}; {CONVERT}"));
}

#[test]
fn stems_and_names() {
    let model =
        folder("{}", &[("a.weight", DType::F32, &[2, 1], f32s(&[1.0, 2.0])), ("b", DType::F32, &[3], f32s(&[1.0; 3]))]);
    let model = model.unwrap();
    assert_eq!(model.kind, Kind::HuggingFace);
    assert_eq!(model.names().collect::<Vec<_>>(), ["a.weight", "b"]);
    for name in ["a", "a.weight"] {
        let matrix = model.matrix(name).unwrap().unwrap();
        assert_eq!([matrix.n_out, matrix.n_in], [2, 1], "{name}");
        assert_eq!(model.vector(name).unwrap(), Some((vec![2, 1], vec![1.0, 2.0])), "{name}");
    }
    let row = model.matrix("b").unwrap().unwrap();
    assert_eq!([row.n_out, row.n_in], [1, 3], "one dimension is one row");
    assert!(model.matrix("c").unwrap().is_none() && model.vector("c").unwrap().is_none());
    assert!(model.experts("c").unwrap().is_none() && model.tensor("a").is_none());
    let found = model.bytes("c").unwrap_err().to_string();
    assert!(found.contains("tensor `c`: found no such tensor"), "{found}");
}
