//! Whatever passes `MatrixData::check` decodes, gives rows and repacks without a panic, and consistently.

mod quant_common;

use mlxr_compute::dtype::TYPES;
use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{Bytes, DType, Encoding, Error, MatrixData};
use quant_common::assert_same;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    fn group(&mut self) -> u32 {
        let odd = self.below(70) as u32;
        self.of(&[0, 1, 8, 16, 32, 48, 64, 128, odd, u32::MAX])
    }

    fn size(&mut self) -> usize {
        let odd = self.below(90) as usize;
        self.of(&[0, 1, 8, 16, 32, 64, 96, 128, 256, odd, odd, usize::MAX / 3])
    }

    fn encoding(&mut self) -> Encoding {
        let scale = self.of(&[DType::F32, DType::F16, DType::BF16, DType::F16, DType::Q4_0]);
        let dtype = self.of(&TYPES).dtype;
        match self.below(7) {
            0 => Encoding::Blocks(dtype),
            1 => {
                let group = self.of(&[32, 64, 128, 16]);
                Encoding::MlxAffine { bits: self.below(10) as u8, group, scale }
            }
            2 => Encoding::MlxFloat(self.of(&[MlxFloat::Mxfp4, MlxFloat::Mxfp8, MlxFloat::Nvfp4])),
            3 => {
                let (bits, v1) = (self.of(&[2, 3, 4, 8, 5]), self.below(2) == 0);
                Encoding::Gptq { bits, group: self.group(), zero_plus_one: v1, scale }
            }
            4 => Encoding::Awq { group: self.group(), scale },
            5 => {
                let nested_block = self.of(&[0, 0, 1, 4, 256]);
                Encoding::Bnb4 { block: self.group(), nested_block, nested_offset: 0.5 }
            }
            _ => {
                let dtype = self.of(&[DType::F8E4M3, DType::F8E5M2]);
                Encoding::Fp8 { dtype, rows: self.group(), cols: self.group(), scale }
            }
        }
    }
}

/// A matrix that passes its check, or `None` where its shape is refused or too large to be worth a test.
fn valid(random: &mut Random) -> Option<MatrixData> {
    let (n_out, n_in, encoding) = (random.size(), random.size(), random.encoding());
    for n_part in 1..6 {
        let parts = (0..n_part).map(|_| Bytes::from(Vec::new())).collect();
        let mut matrix = MatrixData { name: "random".to_owned(), n_out, n_in, encoding, parts };
        // The check tells which part is wrong and how large it has to be.
        while let Err(Error::Size { expected, found, .. }) = matrix.check() {
            let part = matrix.parts.iter().position(|p| p.is_empty() && found == 0)?;
            if expected > 1 << 20 {
                return None;
            }
            matrix.parts[part] = (0..expected).map(|_| random.next() as u8).collect::<Vec<u8>>().into();
        }
        if matrix.check().is_ok() {
            return Some(matrix);
        }
    }
    None
}

#[test]
fn checked_matrices_decode_take_rows_and_repack() {
    const SEED: u64 = 20_261_123;
    eprintln!("seed {SEED}");
    let mut random = Random(SEED);
    let mut tested = [0; 7];
    for _ in 0..20_000 {
        let Some(matrix) = valid(&mut random) else { continue };
        let what = format!("{:?} [{}, {}]", matrix.encoding, matrix.n_out, matrix.n_in);
        let mut whole = vec![0.0; matrix.n_out * matrix.n_in];
        matrix.decode_rows(0, matrix.n_out, &mut whole);
        let rows: Vec<usize> = (0..1 + random.below(20)).map(|_| random.below(matrix.n_out as u64) as usize).collect();
        let taken = matrix.take_rows(&rows).expect("rows within");
        taken.check().unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut out = vec![0.0; rows.len() * matrix.n_in];
        taken.decode_rows(0, rows.len(), &mut out);
        let expected: Vec<f32> =
            rows.iter().flat_map(|row| &whole[row * matrix.n_in..][..matrix.n_in]).copied().collect();
        assert_same(&out, &expected, &what);
        if let Some(dtype) = matrix.gguf_type() {
            let blocks = matrix.to_gguf_blocks(dtype).unwrap_or_else(|| panic!("{what}: not as {}", dtype.name()));
            blocks.check().unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut out = vec![0.0; whole.len()];
            blocks.decode_rows(0, blocks.n_out, &mut out);
            let differs = out.iter().zip(&whole).position(|(a, b)| a != b && !(a.is_nan() && b.is_nan()));
            assert_eq!(differs, None, "{what} -> {}", blocks.encoding);
        }
        tested[match matrix.encoding {
            Encoding::Blocks(_) => 0,
            Encoding::MlxAffine { .. } => 1,
            Encoding::MlxFloat(_) => 2,
            Encoding::Gptq { .. } => 3,
            Encoding::Awq { .. } => 4,
            Encoding::Bnb4 { .. } => 5,
            Encoding::Fp8 { .. } => 6,
        }] += 1;
    }
    eprintln!("{tested:?} matrices of each encoding");
    assert!(tested.iter().all(|n| *n > 40), "{tested:?}");
}
