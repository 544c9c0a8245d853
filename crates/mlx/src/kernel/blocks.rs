//! GGUF types whose blocks our kernels read as they are in the file: `TYPE_matmul` and `TYPE_decode`, from one text each in
//! which only `kernels/blocks/TYPE.h` differs.

use mlxr_compute::DType;
use mlxr_compute::quant::grids;

/// A type.
#[derive(Debug)]
pub struct Blocks {
    /// The type.
    pub dtype: DType,
    /// Its name in kernels.
    pub name: &'static str,
    codes: Codes,
}

/// What a type's codes index.
#[derive(Debug)]
enum Codes {
    /// Nothing: they are numbers.
    None,
    /// Bytes.
    Bytes(&'static [i8; 16]),
    /// Vectors of eight.
    Eights(&'static [u64]),
    /// Vectors of four.
    Fours(&'static [u32]),
}

/// Every type.
pub static BLOCKS: [Blocks; 12] = [
    Blocks { dtype: DType::Q2_K, name: "q2_k", codes: Codes::None },
    Blocks { dtype: DType::Q3_K, name: "q3_k", codes: Codes::None },
    Blocks { dtype: DType::Q6_K, name: "q6_k", codes: Codes::None },
    Blocks { dtype: DType::IQ4_NL, name: "iq4_nl", codes: Codes::Bytes(&grids::IQ4_VALUES) },
    Blocks { dtype: DType::IQ4_XS, name: "iq4_xs", codes: Codes::Bytes(&grids::IQ4_VALUES) },
    Blocks { dtype: DType::IQ1_S, name: "iq1_s", codes: Codes::Eights(&grids::IQ1) },
    Blocks { dtype: DType::IQ1_M, name: "iq1_m", codes: Codes::Eights(&grids::IQ1) },
    Blocks { dtype: DType::IQ2_XXS, name: "iq2_xxs", codes: Codes::Eights(&grids::IQ2_XXS) },
    Blocks { dtype: DType::IQ2_XS, name: "iq2_xs", codes: Codes::Eights(&grids::IQ2_XS) },
    Blocks { dtype: DType::IQ2_S, name: "iq2_s", codes: Codes::Eights(&grids::IQ2_S) },
    Blocks { dtype: DType::IQ3_XXS, name: "iq3_xxs", codes: Codes::Fours(&grids::IQ3_XXS) },
    Blocks { dtype: DType::IQ3_S, name: "iq3_s", codes: Codes::Fours(&grids::IQ3_S) },
];

impl Blocks {
    /// The row of a type, if it has one.
    pub fn of(dtype: DType) -> Option<&'static Blocks> {
        BLOCKS.iter().find(|row| row.dtype == dtype)
    }

    /// The codebook as kernels take it: at least eight numbers.
    pub fn codes(&self) -> Vec<u32> {
        let mut codes = match self.codes {
            Codes::None => Vec::new(),
            Codes::Bytes(values) => {
                values.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(four.map(|x| x as u8))).collect()
            }
            Codes::Eights(grid) => grid.iter().flat_map(|eight| [*eight as u32, (eight >> 32) as u32]).collect(),
            Codes::Fours(grid) => grid.to_vec(),
        };
        codes.resize(codes.len().max(8), 0);
        codes
    }
}
