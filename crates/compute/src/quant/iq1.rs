//! Codebook types of 1.5 bits: IQ1_S and IQ1_M. Super-blocks of 256, weights in eights from [`grids::IQ1`].
//!
//! ```text
//! IQ1_S  d f16 | qs 32 | qh 8 u16       w = d * (2 s + 1) * (grid +- 1/8)
//!        qh[k] of 32 weights: four times 3 high bits of the codes, then s (3 bits), then the sign of the 1/8
//! IQ1_M  qs 32 | qh 16 | scales 4 u16   the same; a nibble of qh per 8 weights: 3 high bits, sign of the 1/8
//!        scales[k] of 64 weights: four times s (3 bits), then four bits of d, whose low nibble is in scales[0]
//! ```
//!
//! Source: `block_iq1_s`, `block_iq1_m`, ggml `src/ggml-common.h`, and `dequantize_row_iq1_s`, `..._m`,
//! `ggml-quants.c` @ d99724f2.

use bytemuck::{Pod, Zeroable};

use super::float::Half;
use super::{Block, grids};

/// 1.5625 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ1_S {
    /// Scale.
    pub d: Half,
    /// Low bits of the codes.
    pub qs: [u8; 32],
    /// High bits, scale and shift of each 32, little-endian u16.
    pub qh: [[u8; 2]; 8],
}

/// 1.75 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ1_M {
    /// Low bits of the codes.
    pub qs: [u8; 32],
    /// High bits and shift of each 8, a nibble.
    pub qh: [u8; 16],
    /// Scales of each 64 and a quarter of `d`, little-endian u16.
    pub scales: [[u8; 2]; 4],
}

/// What is added to or subtracted from every value of the codebook.
pub const DELTA: f32 = 0.125;

impl BlockIQ1_M {
    /// The scale, gathered from its four nibbles.
    #[inline]
    pub fn d(&self) -> Half {
        let nibble = |k: usize| u16::from_le_bytes(self.scales[k]) >> 12 << (4 * k);
        Half((nibble(0) | nibble(1) | nibble(2) | nibble(3)).to_le_bytes())
    }
}

#[inline]
fn eight(out: &mut [f32; 8], scale: f32, code: usize, delta: f32) {
    let grid = grids::IQ1[code].to_le_bytes();
    for i in 0..8 {
        out[i] = scale * (f32::from(grid[i] as i8) + delta);
    }
}

impl Block<256> for BlockIQ1_S {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let word = u16::from_le_bytes(self.qh[i / 4]);
            let code = usize::from(self.qs[i]) | usize::from(word >> (3 * (i % 4)) & 7) << 8;
            let delta = if word & 0x8000 == 0 { DELTA } else { -DELTA };
            eight(out, d * f32::from(2 * (word >> 12 & 7) + 1), code, delta);
        }
    }
}

impl Block<256> for BlockIQ1_M {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d().f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let nibble = self.qh[i / 2] >> (4 * (i % 2)) & 15;
            let code = usize::from(self.qs[i]) | usize::from(nibble & 7) << 8;
            let delta = if nibble & 8 == 0 { DELTA } else { -DELTA };
            let scale = u16::from_le_bytes(self.scales[i / 8]) >> (3 * (i / 2 % 4)) & 7;
            eight(out, d * f32::from(2 * scale + 1), code, delta);
        }
    }
}
