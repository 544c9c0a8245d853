//! Reads the vectors of `tests/data/quant`, which `xtask/golden/quant_vectors.py` makes and describes.
#![allow(dead_code)] // each test file uses its part

use std::path::Path;

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
