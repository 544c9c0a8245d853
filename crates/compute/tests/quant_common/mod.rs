//! Reads the vectors of `tests/data/quant`, which `xtask/golden/quant_vectors.py` makes and describes.
#![allow(dead_code)] // each test file uses its part

use std::path::Path;

use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{Bytes, DType, Encoding, MatrixData};

/// Encoded weights and what they mean.
pub struct Case {
    pub shape: [usize; 2],
    pub params: Vec<u32>,
    pub parts: Vec<Vec<u8>>,
    pub weights: Vec<f32>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes(4).try_into().expect("four bytes"))
    }

    fn size(&mut self) -> usize {
        self.u32() as usize
    }
}

/// The cases of `name`.bin.
pub fn cases(name: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/quant/{name}.bin"));
    let data = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut reader = Reader(&data);
    let mut cases = Vec::new();
    while !reader.0.is_empty() {
        let shape = [reader.size(), reader.size()];
        let params = (0..reader.u32()).map(|_| reader.u32()).collect();
        let parts = (0..reader.u32())
            .map(|_| {
                let size = reader.size();
                reader.bytes(size).to_vec()
            })
            .collect();
        let weights = (0..shape[0] * shape[1]).map(|_| f32::from_bits(reader.u32())).collect();
        cases.push(Case { shape, params, parts, weights });
    }
    assert!(!cases.is_empty(), "{name}: no cases");
    cases
}

/// Panics unless both are equal bit for bit; all NaN are equal.
pub fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{what}: weight {i} is {found:e}, expected {expected:e}");
    }
}

const SCALES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F8E8M0];

/// The encoding of a case of file `name`, from the parameters that `quant_vectors.py` lists.
fn encoding(name: &str, params: &[u32]) -> Encoding {
    match (name, params) {
        ("mlx_affine", &[bits, group, scale]) => {
            Encoding::MlxAffine { bits: bits as u8, group: group as u16, scale: SCALES[scale as usize] }
        }
        ("mlx_float", &[kind]) => {
            Encoding::MlxFloat([MlxFloat::Mxfp4, MlxFloat::Mxfp8, MlxFloat::Nvfp4][kind as usize])
        }
        ("gptq", &[bits, group, v1, scale]) => {
            let scale = SCALES[scale as usize];
            Encoding::Gptq { bits: bits as u8, group, zero_plus_one: v1 == 1, scale }
        }
        ("awq", &[group, scale]) => Encoding::Awq { group, scale: SCALES[scale as usize] },
        ("bnb", &[block, nested_block, offset]) => {
            Encoding::Bnb4 { block, nested_block, nested_offset: f32::from_bits(offset) }
        }
        ("fp8", &[dtype, rows, cols, scale]) => {
            let dtype = [DType::F8E4M3, DType::F8E5M2][dtype as usize];
            Encoding::Fp8 { dtype, rows, cols, scale: SCALES[scale as usize] }
        }
        _ => panic!("{name}: parameters {params:?}"),
    }
}

/// The matrix of a case of file `name`.
pub fn matrix(name: &str, case: &Case) -> MatrixData {
    let [n_out, n_in] = case.shape;
    let parts = case.parts.iter().map(|part| Bytes::from(part.clone())).collect();
    MatrixData { name: name.to_owned(), n_out, n_in, encoding: encoding(name, &case.params), parts }
}

/// Files of encodings of several parts.
pub const FILES: [&str; 6] = ["mlx_affine", "mlx_float", "gptq", "awq", "bnb", "fp8"];
