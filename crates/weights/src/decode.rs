//! Small parameters as f32.

use std::path::Path;

use half::{bf16, f16};
use mlxr_compute::DType;

use crate::OpenError;
use crate::error::printable;
use crate::tensors::TensorInfo;

/// All numbers of a tensor as f32. 64-bit numbers are rounded.
pub(crate) fn to_f32(path: &Path, tensor: &TensorInfo, bytes: &[u8]) -> Result<Vec<f32>, OpenError> {
    numbers(tensor.dtype, bytes).ok_or_else(|| {
        let found = [format!("type {}", tensor.dtype.name()), "a plain number type".to_owned()];
        let hint = "this parameter may not be quantized: convert the model again";
        OpenError::tensor(path, &printable(tensor.name.as_bytes()), found, hint)
    })
}

fn numbers(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    fn all<const N: usize>(bytes: &[u8], from: fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&c| from(c)).collect()
    }
    Some(match dtype {
        DType::F32 => all(bytes, f32::from_le_bytes),
        DType::F16 => all(bytes, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => all(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        DType::F64 => all(bytes, |b| f64::from_le_bytes(b) as f32),
        DType::F8E4M3 => all(bytes, |[b]| f8_e4m3(b)),
        DType::F8E5M2 => all(bytes, |[b]| f16::from_bits(u16::from(b) << 8).to_f32()),
        DType::F8E8M0 => all(bytes, |[b]| f8_e8m0(b)),
        DType::I8 => all(bytes, |b| f32::from(i8::from_le_bytes(b))),
        DType::U8 | DType::Bool => all(bytes, |[b]| f32::from(b)),
        DType::I16 => all(bytes, |b| f32::from(i16::from_le_bytes(b))),
        DType::U16 => all(bytes, |b| f32::from(u16::from_le_bytes(b))),
        DType::I32 => all(bytes, |b| i32::from_le_bytes(b) as f32),
        DType::U32 => all(bytes, |b| u32::from_le_bytes(b) as f32),
        DType::I64 => all(bytes, |b| i64::from_le_bytes(b) as f32),
        DType::U64 => all(bytes, |b| u64::from_le_bytes(b) as f32),
        _ => return None,
    })
}

/// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, NaN is all ones. Source: arXiv:2209.05433.
fn f8_e4m3(b: u8) -> f32 {
    let sign = if b & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(b >> 3 & 15), f32::from(b & 7));
    sign * match (exponent, b & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    }
}

/// A power of two: `2^(b - 127)`, NaN is all ones. Source: OCP Microscaling Formats 1.0, 5.4.1.
fn f8_e8m0(b: u8) -> f32 {
    match b {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(b) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_decodes() {
        let check = |dtype: DType, bytes: &[u8], expect: &[f32]| {
            assert_eq!(numbers(dtype, bytes).as_deref(), Some(expect), "{}", dtype.name());
        };
        check(DType::F32, &1.5f32.to_le_bytes(), &[1.5]);
        check(DType::F64, &1.5f64.to_le_bytes(), &[1.5]);
        check(DType::F16, &[0, 0x3c, 1, 0], &[1.0, 2f32.powi(-24)]);
        check(DType::BF16, &[0x80, 0x3f, 0xc0, 0xbf], &[1.0, -1.5]);
        check(DType::F8E4M3, &[0, 1, 0x38, 0xb8, 0x7e, 8], &[0.0, 2f32.powi(-9), 1.0, -1.0, 448.0, 2f32.powi(-6)]);
        check(DType::F8E5M2, &[0, 1, 0x3c, 0x7b, 0xbc], &[0.0, 2f32.powi(-16), 1.0, 57344.0, -1.0]);
        check(DType::F8E8M0, &[0, 1, 127, 254], &[2f32.powi(-127), 2f32.powi(-126), 1.0, 2f32.powi(127)]);
        check(DType::I8, &[255], &[-1.0]);
        check(DType::U8, &[255], &[255.0]);
        check(DType::Bool, &[1, 0], &[1.0, 0.0]);
        check(DType::I16, &[0xfe, 0xff], &[-2.0]);
        check(DType::U16, &[0xfe, 0xff], &[65534.0]);
        check(DType::I32, &(-3i32).to_le_bytes(), &[-3.0]);
        check(DType::U32, &3u32.to_le_bytes(), &[3.0]);
        check(DType::I64, &(-3i64).to_le_bytes(), &[-3.0]);
        check(DType::U64, &3u64.to_le_bytes(), &[3.0]);
        assert!(numbers(DType::F8E4M3, &[0x7f]).expect("a float type")[0].is_nan());
        assert_eq!(numbers(DType::Q4_0, &[0; 18]), None);
    }
}
