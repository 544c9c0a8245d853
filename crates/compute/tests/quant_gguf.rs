//! Every GGUF block type decodes as the PyPI package `gguf` does, bit for bit.

mod quant_common;

use mlxr_compute::{DType, dtype::TYPES, quant};
use quant_common::{assert_same, cases};

#[test]
fn every_block_type_decodes_as_ggml_does() {
    let mut n = 0;
    for row in TYPES.iter().filter(|row| row.block > 1) {
        for case in cases(&row.name.to_lowercase()) {
            let mut out = vec![f32::NAN; case.weights.len()];
            quant::decode(row.dtype, &case.parts[0], &mut out);
            assert_same(&out, &case.weights, row.name);
        }
        n += 1;
    }
    assert_eq!(n, 26);
}

#[test]
fn blocks_decode_at_odd_addresses() {
    for row in TYPES {
        let bytes: Vec<u8> = (0..row.bytes * 3 + 1).map(|i| (i * 37 + 11) as u8 & 0x3f).collect();
        let [mut odd, mut even] = [vec![0.0; row.block * 3], vec![1.0; row.block * 3]];
        quant::decode(row.dtype, &bytes[1..], &mut odd);
        let copy = bytes[1..].to_vec();
        quant::decode(row.dtype, &copy, &mut even);
        assert_same(&odd, &even, row.name);
    }
}

#[test]
fn plain_numbers_give_their_value() {
    let check = |dtype: DType, bytes: &[u8], expected: &[f32]| {
        let mut out = vec![0.0; expected.len()];
        quant::decode(dtype, bytes, &mut out);
        assert_same(&out, expected, dtype.name());
    };
    check(DType::F32, &[1.5f32.to_le_bytes(), (-0.0f32).to_le_bytes()].concat(), &[1.5, -0.0]);
    check(DType::F16, &[0x00, 0x3c, 0x01, 0x80], &[1.0, -2f32.powi(-24)]);
    check(DType::BF16, &[0x80, 0x3f, 0x01, 0x00], &[1.0, f32::from_bits(0x10000)]);
    check(DType::F64, &0.1f64.to_le_bytes(), &[0.1]);
    check(DType::I8, &[0xff, 0x7f], &[-1.0, 127.0]);
    check(DType::I16, &[0x00, 0x80], &[-32768.0]);
    check(DType::I32, &i32::MIN.to_le_bytes(), &[-2147483648.0]);
    check(DType::I64, &(-3i64).to_le_bytes(), &[-3.0]);
    check(DType::U8, &[255], &[255.0]);
    check(DType::U16, &[0xff, 0xff], &[65535.0]);
    check(DType::U32, &7u32.to_le_bytes(), &[7.0]);
    check(DType::U64, &9u64.to_le_bytes(), &[9.0]);
    check(DType::Bool, &[0, 1, 2], &[0.0, 1.0, 1.0]);
    check(DType::F8E4M3, &[0x38, 0xfe], &[1.0, -448.0]);
    check(DType::F8E5M2, &[0x3c, 0xfb], &[1.0, -57344.0]);
    check(DType::F8E8M0, &[127, 130], &[1.0, 8.0]);
}

#[test]
#[should_panic(expected = "bytes of 256 weights of q4_K")]
fn a_wrong_size_is_a_programming_error() {
    quant::decode(DType::Q4_K, &[0; 143], &mut [0.0; 256]);
}
