//! Types whose weights are entries of a codebook: packed as a short code for each weight, which indexes a table of at most
//! sixteen values, so that kernels need no codebook. That takes 1.2 to 1.9 times the memory of the file's blocks and is
//! exact.

use bytemuck::Pod;

use super::kernel::ROWS;
use super::pack::{bits, half, nibbles, two_bits};
use crate::quant::float::Half;
use crate::quant::*;
use crate::{DType, Encoding, MatrixData};

/// Weights of a block, of every such type.
const WEIGHTS: usize = 256;

/// A block of 256 weights `FACTOR * d * (2 * scale + 1) * value`.
pub(super) trait Coded: Pod {
    /// Its type.
    const DTYPE: DType;
    /// Scales of a block, 8 or 16; 0 where all are 1.
    const SCALES: usize;
    /// Bits of a packed code, 2 to 4.
    const BITS: usize;
    /// Value of each code; of equal ones the first counts.
    const VALUES: [i8; 16];
    /// Code of each value, as a byte.
    const CODES: [u8; 256] = codes(Self::VALUES);
    /// Whether `(2 * scale + 1) * value` always fits a byte.
    const MERGED: bool = false;
    /// See above.
    const FACTOR: f32;

    /// The scale of the block.
    fn d(&self) -> Half;
    /// Scale `k` of `SCALES`, below 16.
    fn scale(&self, _k: usize) -> u8 {
        unreachable!("a type without scales")
    }
    /// The values of weights `8 i .. 8 i + 8` as bytes of word `i`, the first lowest.
    fn values(&self) -> [u64; WEIGHTS / 8];
}

/// Bytes of 16 rows of a block: `d` f16 `[16]`, scales `k` and `k + SCALES / 2` as nibbles `[SCALES / 2, 16]`, then the
/// lines of the codes of each 32: nibble lines; or two-bit lines, with a bit line for three bits.
pub(super) const fn group_bytes<B: Coded>() -> usize {
    lines_at::<B>() + WEIGHTS / 32 * B::BITS * 64
}

/// Where the lines of a group start.
pub(super) const fn lines_at<B: Coded>() -> usize {
    2 * ROWS + B::SCALES / 2 * ROWS
}

/// Whether a matrix holds blocks of this type.
pub(super) fn takes<B: Coded>(matrix: &MatrixData) -> bool {
    matrix.encoding == Encoding::Blocks(B::DTYPE)
}

/// Packs rows `first .. first + n` of `matrix` into `panel`, all bytes of which are zero.
pub(super) fn blocks<B: Coded>(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    let per_row = matrix.n_in / WEIGHTS;
    let rows = &matrix.parts[0][first * per_row * size_of::<B>()..][..n * per_row * size_of::<B>()];
    let blocks = bytemuck::cast_slice::<u8, B>(rows);
    for (i, group) in panel.chunks_exact_mut(group_bytes::<B>()).enumerate() {
        for row in 0..n {
            pack(&blocks[row * per_row + i], row, group);
        }
    }
}

fn pack<B: Coded>(block: &B, row: usize, group: &mut [u8]) {
    half(block.d(), row, group);
    for k in 0..B::SCALES {
        group[2 * ROWS + ROWS * (k % (B::SCALES / 2)) + row] |= block.scale(k) << (4 * (k / (B::SCALES / 2)));
    }
    let (values, table) = (block.values(), &B::CODES);
    for (values, lines) in values.as_chunks::<4>().0.iter().zip(group[lines_at::<B>()..].chunks_exact_mut(B::BITS * 64))
    {
        let mut codes = [0; 32];
        for (codes, values) in codes.as_chunks_mut::<8>().0.iter_mut().zip(values) {
            *codes = values.to_le_bytes().map(|value| table[usize::from(value)]);
        }
        match B::BITS {
            4 => nibbles(&codes, row, lines),
            n => {
                two_bits(&codes, 0, row, lines);
                if n == 3 {
                    bits(&codes, 2, row, &mut lines[128..]);
                }
            }
        }
    }
}

/// The inverse of a table of values.
const fn codes(values: [i8; 16]) -> [u8; 256] {
    let mut codes = [0; 256];
    let mut code = values.len();
    while code > 0 {
        code -= 1;
        codes[values[code] as u8 as usize] = code as u8;
    }
    codes
}

/// The values of codes that are the number of a magnitude, plus `sign` where it is negative.
const fn signed<const N: usize>(magnitudes: [i8; N], sign: usize) -> [i8; 16] {
    let mut values = [0; 16];
    let mut i = 0;
    while i < N {
        values[i] = magnitudes[i];
        values[i + sign] = -magnitudes[i];
        i += 1;
    }
    values
}

const VALUES2: [i8; 16] = signed([8, 25, 43], 4);
const VALUES3_XXS: [i8; 16] = signed([4, 12, 20, 28, 36, 44, 52, 62], 8);
const VALUES3_S: [i8; 16] = signed([1, 3, 5, 7, 9, 11, 13, 15], 8);
const VALUES1_M: [i8; 16] = signed([1, 7, 9], 4);
const TERNARY: [i8; 16] = [-1, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// For each byte of bits, a word of bytes: 0xff where the bit is set.
static SPREAD: [u64; 256] = {
    let mut out = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut k = 0;
        while k < 8 {
            out[i] |= (if i >> k & 1 == 1 { 0xff } else { 0 }) << (8 * k);
            k += 1;
        }
        i += 1;
    }
    out
};

/// Negates the bytes of `magnitudes` (none is 0) for which `signs` has a bit.
#[inline]
fn negate(magnitudes: u64, signs: u8) -> u64 {
    let mask = SPREAD[usize::from(signs)];
    (magnitudes ^ mask) + (mask & 0x0101_0101_0101_0101)
}

/// The 7-bit sign code `i` (0..4) of a word, as eight signs.
#[inline]
fn signs_of(word: u32, i: usize) -> u8 {
    grids::SIGNS[(word >> (7 * i)) as usize & 127]
}

#[inline]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn nibble(bytes: &[u8], k: usize) -> u8 {
    bytes[k / 2] >> (4 * (k % 2)) & 15
}

/// Eight values of the codebook of IQ1, times 8, plus or minus 1.
#[inline]
fn shifted(code: usize, minus: bool) -> u64 {
    const ONE: u64 = 0x0101_0101_0101_0101;
    let times_eight = (grids::IQ1[code] & (0x1f * ONE)) << 3;
    // Bytes minus 1, without a borrow from one to the next.
    if minus { ((times_eight | (0x80 * ONE)) - ONE) ^ (!times_eight & (0x80 * ONE)) } else { times_eight + ONE }
}

impl Coded for BlockIQ1_M {
    const DTYPE: DType = DType::IQ1_M;
    const SCALES: usize = 16;
    const BITS: usize = 3;
    const VALUES: [i8; 16] = VALUES1_M;
    const FACTOR: f32 = iq1::DELTA;

    fn d(&self) -> Half {
        self.d()
    }

    fn scale(&self, k: usize) -> u8 {
        (u16::from_le_bytes(self.scales[k / 4]) >> (3 * (k % 4)) & 7) as u8
    }

    fn values(&self) -> [u64; 32] {
        std::array::from_fn(|i| {
            let nibble = self.qh[i / 2] >> (4 * (i % 2)) & 15;
            let code = usize::from(self.qs[i]) | usize::from(nibble & 7) << 8;
            shifted(code, nibble & 8 != 0)
        })
    }
}

impl Coded for BlockIQ2_XXS {
    const DTYPE: DType = DType::IQ2_XXS;
    const SCALES: usize = 8;
    const BITS: usize = 3;
    const VALUES: [i8; 16] = VALUES2;
    const FACTOR: f32 = 0.125;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, k: usize) -> u8 {
        self.qs[k][7] >> 4
    }

    fn values(&self) -> [u64; 32] {
        std::array::from_fn(|i| {
            let qs = &self.qs[i / 4];
            let word = u32::from_le_bytes([qs[4], qs[5], qs[6], qs[7]]);
            negate(grids::IQ2_XXS[usize::from(qs[i % 4])], signs_of(word, i % 4))
        })
    }
}

impl Coded for BlockIQ2_XS {
    const DTYPE: DType = DType::IQ2_XS;
    const SCALES: usize = 16;
    const BITS: usize = 3;
    const VALUES: [i8; 16] = VALUES2;
    const FACTOR: f32 = 0.125;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, k: usize) -> u8 {
        nibble(&self.scales, k)
    }

    fn values(&self) -> [u64; 32] {
        self.qs.map(|qs| {
            let q = usize::from(u16::from_le_bytes(qs));
            negate(grids::IQ2_XS[q & 511], grids::SIGNS[q >> 9])
        })
    }
}

impl Coded for BlockIQ2_S {
    const DTYPE: DType = DType::IQ2_S;
    const SCALES: usize = 16;
    const BITS: usize = 3;
    const VALUES: [i8; 16] = VALUES2;
    const FACTOR: f32 = 0.125;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, k: usize) -> u8 {
        nibble(&self.scales, k)
    }

    fn values(&self) -> [u64; 32] {
        std::array::from_fn(|i| {
            let q = usize::from(self.qs[i]) | usize::from(self.qh[i / 4] >> (2 * (i % 4)) & 3) << 8;
            negate(grids::IQ2_S[q], self.signs[i])
        })
    }
}

impl Coded for BlockIQ3_XXS {
    const DTYPE: DType = DType::IQ3_XXS;
    const SCALES: usize = 8;
    const BITS: usize = 4;
    const VALUES: [i8; 16] = VALUES3_XXS;
    const FACTOR: f32 = 0.25;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, k: usize) -> u8 {
        self.signs[k][3] >> 4
    }

    fn values(&self) -> [u64; 32] {
        std::array::from_fn(|i| {
            let [low, high] = [0, 1].map(|h| grids::IQ3_XXS[usize::from(self.qs[2 * i + h])]);
            negate(pair(low, high), signs_of(u32::from_le_bytes(self.signs[i / 4]), i % 4))
        })
    }
}

impl Coded for BlockIQ3_S {
    const DTYPE: DType = DType::IQ3_S;
    const SCALES: usize = 8;
    const BITS: usize = 4;
    const VALUES: [i8; 16] = VALUES3_S;
    const FACTOR: f32 = 1.0;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, k: usize) -> u8 {
        nibble(&self.scales, k)
    }

    fn values(&self) -> [u64; 32] {
        std::array::from_fn(|i| {
            let high = usize::from(self.qh[i / 4]) >> (2 * (i % 4));
            let low = usize::from(self.qs[2 * i]) | (high & 1) << 8;
            let next = usize::from(self.qs[2 * i + 1]) | (high >> 1 & 1) << 8;
            negate(pair(grids::IQ3_S[low], grids::IQ3_S[next]), self.signs[i])
        })
    }
}

impl Coded for BlockTQ1_0 {
    const DTYPE: DType = DType::TQ1_0;
    const SCALES: usize = 0;
    const BITS: usize = 2;
    const VALUES: [i8; 16] = TERNARY;
    const MERGED: bool = true;
    const FACTOR: f32 = 1.0;

    fn d(&self) -> Half {
        self.d
    }

    fn values(&self) -> [u64; 32] {
        let mut codes = [0u8; WEIGHTS];
        let (head, tail) = codes.split_at_mut(160);
        let (middle, last) = tail.split_at_mut(80);
        for (out, bytes) in [(head, &self.qs[..32]), (middle, &self.qs[32..]), (last, &self.qh[..])] {
            let mut power = 1u8;
            for out in out.chunks_exact_mut(bytes.len()) {
                for (code, byte) in out.iter_mut().zip(bytes) {
                    *code = (((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8).wrapping_sub(1);
                }
                power = power.wrapping_mul(3);
            }
        }
        bytemuck::cast(codes)
    }
}

impl Coded for BlockTQ2_0 {
    const DTYPE: DType = DType::TQ2_0;
    const SCALES: usize = 0;
    const BITS: usize = 2;
    const VALUES: [i8; 16] = TERNARY;
    const MERGED: bool = true;
    const FACTOR: f32 = 1.0;

    fn d(&self) -> Half {
        self.d
    }

    fn values(&self) -> [u64; 32] {
        let code = |i: usize| (self.qs[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3).wrapping_sub(1);
        std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|k| code(8 * i + k))))
    }
}
