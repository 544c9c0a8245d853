//! Element and block types: one row of [`TYPES`] each.
//!
//! Source of the GGUF rows: `GGML_QUANT_SIZES`, ggml `gguf-py/gguf/constants.py`, and `enum ggml_type`, `ggml.h`
//! @ d99724f2.

/// How numbers are stored. The GGUF block types decode by [`crate::quant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, non_camel_case_types)] // the field's own names; sizes are in `TYPES`
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
}

/// One row of [`TYPES`].
#[derive(Debug, Clone, Copy)]
pub struct TypeRow {
    /// The type.
    pub dtype: DType,
    /// Its name in GGUF tools, lower case as `ggml_type_name` prints it.
    pub name: &'static str,
    /// Its number in GGUF files, if it has one.
    pub ggml: Option<u32>,
    /// Weights in a block.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

const fn row(dtype: DType, name: &'static str, ggml: Option<u32>, block: usize, bytes: usize) -> TypeRow {
    TypeRow { dtype, name, ggml, block, bytes }
}

/// Every type, in the order of [`DType`].
pub const TYPES: [TypeRow; 42] = [
    row(DType::F32, "f32", Some(0), 1, 4),
    row(DType::F16, "f16", Some(1), 1, 2),
    row(DType::BF16, "bf16", Some(30), 1, 2),
    row(DType::F64, "f64", Some(28), 1, 8),
    row(DType::I8, "i8", Some(24), 1, 1),
    row(DType::I16, "i16", Some(25), 1, 2),
    row(DType::I32, "i32", Some(26), 1, 4),
    row(DType::I64, "i64", Some(27), 1, 8),
    row(DType::U8, "u8", None, 1, 1),
    row(DType::U16, "u16", None, 1, 2),
    row(DType::U32, "u32", None, 1, 4),
    row(DType::U64, "u64", None, 1, 8),
    row(DType::Bool, "bool", None, 1, 1),
    row(DType::F8E4M3, "f8_e4m3", None, 1, 1),
    row(DType::F8E5M2, "f8_e5m2", None, 1, 1),
    row(DType::F8E8M0, "f8_e8m0", None, 1, 1),
    row(DType::Q4_0, "q4_0", Some(2), 32, 18),
    row(DType::Q4_1, "q4_1", Some(3), 32, 20),
    row(DType::Q5_0, "q5_0", Some(6), 32, 22),
    row(DType::Q5_1, "q5_1", Some(7), 32, 24),
    row(DType::Q8_0, "q8_0", Some(8), 32, 34),
    row(DType::Q2_K, "q2_K", Some(10), 256, 84),
    row(DType::Q3_K, "q3_K", Some(11), 256, 110),
    row(DType::Q4_K, "q4_K", Some(12), 256, 144),
    row(DType::Q5_K, "q5_K", Some(13), 256, 176),
    row(DType::Q6_K, "q6_K", Some(14), 256, 210),
    row(DType::Q8_K, "q8_K", Some(15), 256, 292),
    row(DType::IQ1_S, "iq1_s", Some(19), 256, 50),
    row(DType::IQ1_M, "iq1_m", Some(29), 256, 56),
    row(DType::IQ2_XXS, "iq2_xxs", Some(16), 256, 66),
    row(DType::IQ2_XS, "iq2_xs", Some(17), 256, 74),
    row(DType::IQ2_S, "iq2_s", Some(22), 256, 82),
    row(DType::IQ3_XXS, "iq3_xxs", Some(18), 256, 98),
    row(DType::IQ3_S, "iq3_s", Some(21), 256, 110),
    row(DType::IQ4_NL, "iq4_nl", Some(20), 32, 18),
    row(DType::IQ4_XS, "iq4_xs", Some(23), 256, 136),
    row(DType::TQ1_0, "tq1_0", Some(34), 256, 54),
    row(DType::TQ2_0, "tq2_0", Some(35), 256, 66),
    row(DType::MXFP4, "mxfp4", Some(39), 32, 17),
    row(DType::NVFP4, "nvfp4", Some(40), 64, 36),
    row(DType::Q1_0, "q1_0", Some(41), 128, 18),
    row(DType::Q2_0, "q2_0", Some(42), 64, 18),
];

impl DType {
    /// The row of this type.
    pub const fn row(self) -> &'static TypeRow {
        &TYPES[self as usize]
    }

    /// Name as GGUF tools print it.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Weights in a block; 1 for plain numbers.
    pub const fn block(self) -> usize {
        self.row().block
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.row().bytes
    }

    /// The type with this number in GGUF files.
    pub fn from_ggml(id: u32) -> Option<DType> {
        TYPES.iter().find(|t| t.ggml == Some(id)).map(|t| t.dtype)
    }

    /// The type of this name, in any case.
    pub fn from_name(name: &str) -> Option<DType> {
        TYPES.iter().find(|t| t.name.eq_ignore_ascii_case(name)).map(|t| t.dtype)
    }

    /// Bytes of `n` weights, or `None` when `n` is no multiple of the block or the size overflows.
    pub fn bytes_of(self, n: usize) -> Option<usize> {
        let row = self.row();
        if !n.is_multiple_of(row.block) {
            return None;
        }
        (n / row.block).checked_mul(row.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_in_the_order_of_the_enum() {
        for (i, row) in TYPES.iter().enumerate() {
            assert_eq!(row.dtype as usize, i, "{}", row.name);
            assert_eq!(DType::from_name(row.name), Some(row.dtype));
            if let Some(id) = row.ggml {
                assert_eq!(DType::from_ggml(id), Some(row.dtype));
            }
        }
    }
}
