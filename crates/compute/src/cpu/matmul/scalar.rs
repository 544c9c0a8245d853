//! [`Simd`] in plain Rust: the reference of the kernels, and what runs where nothing better is known.

use super::simd::{Codes, Pairs, Simd};
use crate::quant::float;

/// Sixteen lanes in arrays.
#[derive(Clone, Copy)]
pub(super) struct Plain;

unsafe fn array<T: Copy, const N: usize>(p: *const T) -> [T; N] {
    // SAFETY: the caller's pointer is valid for `N` values; `read_unaligned` needs no alignment.
    unsafe { p.cast::<[T; N]>().read_unaligned() }
}

impl Simd for Plain {
    const LANES: usize = 16;
    const SIGNED_BIAS: bool = false;
    type Bytes = [u8; 64];
    type Ints = [i32; 16];
    type Floats = [f32; 16];

    #[inline(always)]
    unsafe fn load(p: *const u8) -> [u8; 64] {
        // SAFETY: passed on to the caller.
        unsafe { array(p) }
    }

    #[inline(always)]
    unsafe fn and(a: [u8; 64], mask: u8) -> [u8; 64] {
        a.map(|a| a & mask)
    }

    #[inline(always)]
    unsafe fn or(a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    unsafe fn shr<const N: u32>(a: [u8; 64]) -> [u8; 64] {
        a.map(|a| a >> N)
    }

    #[inline(always)]
    unsafe fn shl<const N: u32>(a: [u8; 64]) -> [u8; 64] {
        a.map(|a| a << N)
    }

    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], a: [u8; 64]) -> [u8; 64] {
        a.map(|a| table[usize::from(a & 15)] as u8)
    }

    #[inline(always)]
    unsafe fn signed(a: [u8; 64], zero: u8) -> [u8; 64] {
        a.map(|a| a.wrapping_sub(zero))
    }

    #[inline(always)]
    unsafe fn dot<const G: usize>(
        _: Codes,
        mut acc: [i32; 16],
        w: &[[u8; 64]; G],
        a: *const i8,
        stride: usize,
    ) -> [i32; 16] {
        for (g, w) in w.iter().enumerate() {
            // SAFETY: the caller's pointer is valid for group `g`.
            let a: [i8; 4] = unsafe { array(a.add(g * stride)) };
            for (lane, acc) in acc.iter_mut().enumerate() {
                *acc += (0..4).map(|i| i32::from(w[4 * lane + i] as i8) * i32::from(a[i])).sum::<i32>();
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn byte_pairs(a: *const u8, b: *const u8) -> [u8; 64] {
        // SAFETY: the caller's pointers are valid for 16 bytes.
        let (a, b): ([u8; 16], [u8; 16]) = unsafe { (array(a), array(b)) };
        std::array::from_fn(|i| [a[i / 4], 0, b[i / 4], 0][i % 4])
    }

    #[inline(always)]
    unsafe fn dot_pairs(acc: [i32; 16], w: [u8; 64], a: *const u8) -> [i32; 16] {
        // SAFETY: the caller's pointer is valid for two numbers.
        let a: [i16; 2] = unsafe { array(a.cast()) };
        let w = |i: usize| i32::from(i16::from_le_bytes([w[2 * i], w[2 * i + 1]]));
        std::array::from_fn(|l| acc[l] + w(2 * l) * i32::from(a[0]) + w(2 * l + 1) * i32::from(a[1]))
    }

    #[inline(always)]
    unsafe fn int_zero() -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn int_splat(p: *const i32) -> [i32; 16] {
        // SAFETY: passed on to the caller.
        [unsafe { p.read_unaligned() }; 16]
    }

    #[inline(always)]
    unsafe fn to_float(a: [i32; 16]) -> [f32; 16] {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    unsafe fn zero() -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    unsafe fn splat(p: *const f32) -> [f32; 16] {
        // SAFETY: passed on to the caller.
        [unsafe { p.read_unaligned() }; 16]
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> [f32; 16] {
        // SAFETY: passed on to the caller.
        unsafe { array(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> [f32; 16] {
        // SAFETY: passed on to the caller.
        unsafe { array::<u16, 16>(p.cast()) }.map(float::f16)
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> [f32; 16] {
        // SAFETY: passed on to the caller.
        unsafe { array::<u16, 16>(p.cast()) }.map(float::bf16)
    }

    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> [f32; 16] {
        // SAFETY: passed on to the caller.
        unsafe { array::<u8, 16>(p) }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> [f32; 16] {
        // SAFETY: passed on to the caller.
        unsafe { array::<i8, 16>(p.cast()) }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn fnma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn pin(a: [f32; 16]) -> [f32; 16] {
        a
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, a: [f32; 16]) {
        // SAFETY: passed on to the caller.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(a) }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}

impl Pairs for Plain {
    #[inline(always)]
    unsafe fn fma_pair(w: [u8; 64], a: *const u8, acc: [f32; 16]) -> [f32; 16] {
        // SAFETY: passed on to the caller.
        let a = unsafe { array::<u16, 2>(a.cast()) }.map(float::bf16);
        let w = |i: usize| float::bf16(u16::from_le_bytes([w[2 * i], w[2 * i + 1]]));
        std::array::from_fn(|l| acc[l] + w(2 * l) * a[0] + w(2 * l + 1) * a[1])
    }
}
