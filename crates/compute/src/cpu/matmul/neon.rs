//! [`Simd`] on NEON: four lanes, 128 bits, with and without the dot product instruction.
//!
//! `sdot` and `bfdot` are written as assembly, since their intrinsics are not stable yet (Rust issue 117224).

use std::arch::aarch64::*;
use std::arch::asm;

use super::simd::{Codes, Pairs, Simd};

/// 128-bit vectors; `DOT`: the features include `dotprod`.
#[derive(Clone, Copy)]
pub(super) struct Arm<const DOT: bool>;

/// Without `dotprod`.
pub(super) type Neon = Arm<false>;
/// With `dotprod`.
pub(super) type Dotprod = Arm<true>;

/// `acc[l] + sum over i < 4 of w[4 l + i] * a[4 l + i]`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) w, in(vreg) a,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Likewise, by long multiplications and pairwise sums.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_and_sum(acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)));
    let high = vpaddlq_s16(vmull_high_s8(w, a));
    vaddq_s32(acc, vpaddq_s32(low, high))
}

/// Writes the operations of the trait with the instruction set's features.
macro_rules! ops {
    ($($(#[$doc:meta])* fn $name:ident $(<$(const $c:ident: $ct:ty),+>)? ($($arg:ident: $ty:ty),*) -> $ret:ty $body:block)*) => {
        $($(#[$doc])*
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn $name $(<$(const $c: $ct),+>)? ($($arg: $ty),*) -> $ret $body)*
    };
}

impl<const DOT: bool> Simd for Arm<DOT> {
    const LANES: usize = 4;
    const SIGNED_BIAS: bool = false;
    type Bytes = uint8x16_t;
    type Ints = int32x4_t;
    type Floats = float32x4_t;

    ops! {
        fn load(p: *const u8) -> uint8x16_t {
            // SAFETY: the caller's pointer is valid for 16 bytes.
            unsafe { vld1q_u8(p) }
        }
        fn and(a: uint8x16_t, mask: u8) -> uint8x16_t {
            vandq_u8(a, vdupq_n_u8(mask))
        }
        fn or(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
            vorrq_u8(a, b)
        }
        fn shr<const N: u32>(a: uint8x16_t) -> uint8x16_t {
            vshlq_u8(a, vdupq_n_s8(-(N as i8)))
        }
        fn shl<const N: u32>(a: uint8x16_t) -> uint8x16_t {
            vshlq_u8(a, vdupq_n_s8(N as i8))
        }
        fn lookup(table: &[i8; 16], a: uint8x16_t) -> uint8x16_t {
            // SAFETY: the table has 16 bytes.
            let table = unsafe { vld1q_s8(table.as_ptr()) };
            vreinterpretq_u8_s8(vqtbl1q_s8(table, vandq_u8(a, vdupq_n_u8(15))))
        }
        fn signed(a: uint8x16_t, zero: u8) -> uint8x16_t {
            if zero == 0 { a } else { vsubq_u8(a, vdupq_n_u8(zero)) }
        }
        fn byte_pairs(a: *const u8, b: *const u8) -> uint8x16_t {
            // SAFETY: the caller's pointers are valid for 4 bytes.
            let four = |p: *const u8| vcreate_u8(u64::from(unsafe { p.cast::<u32>().read_unaligned() }));
            vreinterpretq_u8_u16(vmovl_u8(vzip1_u8(four(a), four(b))))
        }
        fn dot_pairs(acc: int32x4_t, w: uint8x16_t, a: *const u8) -> int32x4_t {
            // SAFETY: passed on to the caller.
            let a = vreinterpretq_s16_s32(unsafe { vld1q_dup_s32(a.cast()) });
            let w = vreinterpretq_s16_u8(w);
            let (low, high) = (vmull_s16(vget_low_s16(w), vget_low_s16(a)), vmull_high_s16(w, a));
            vaddq_s32(acc, vpaddq_s32(low, high))
        }
        fn int_zero() -> int32x4_t {
            vdupq_n_s32(0)
        }
        fn int_splat(p: *const i32) -> int32x4_t {
            // SAFETY: passed on to the caller.
            unsafe { vld1q_dup_s32(p) }
        }
        fn to_float(a: int32x4_t) -> float32x4_t {
            vcvtq_f32_s32(a)
        }
        fn zero() -> float32x4_t {
            vdupq_n_f32(0.0)
        }
        fn splat(p: *const f32) -> float32x4_t {
            // SAFETY: passed on to the caller.
            unsafe { vld1q_dup_f32(p) }
        }
        fn load_f32(p: *const u8) -> float32x4_t {
            // SAFETY: passed on to the caller.
            unsafe { vld1q_f32(p.cast()) }
        }
        fn load_f16(p: *const u8) -> float32x4_t {
            // SAFETY: passed on to the caller.
            let bits = unsafe { vld1_u16(p.cast()) };
            vcvt_f32_f16(vreinterpret_f16_u16(bits))
        }
        fn load_bf16(p: *const u8) -> float32x4_t {
            // SAFETY: passed on to the caller.
            vreinterpretq_f32_u32(vshll_n_u16::<16>(unsafe { vld1_u16(p.cast()) }))
        }
        fn load_u8(p: *const u8) -> float32x4_t {
            // SAFETY: passed on to the caller.
            let four = vcreate_u8(u64::from(unsafe { p.cast::<u32>().read_unaligned() }));
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four))))
        }
        fn load_i8(p: *const u8) -> float32x4_t {
            // SAFETY: passed on to the caller.
            let four = vcreate_s8(u64::from(unsafe { p.cast::<u32>().read_unaligned() }));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))))
        }
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            vmulq_f32(a, b)
        }
        fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            vfmaq_f32(c, a, b)
        }
        fn fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            vfmsq_f32(c, a, b)
        }
        fn pin(a: float32x4_t) -> float32x4_t {
            let mut a = a;
            // SAFETY: no instruction at all.
            unsafe { asm!("/* {0:v} */", inout(vreg) a, options(nostack, preserves_flags)) };
            a
        }
        fn store(p: *mut f32, a: float32x4_t) -> () {
            // SAFETY: passed on to the caller.
            unsafe { vst1q_f32(p, a) }
        }
        fn prefetch(p: *const u8) -> () {
            // SAFETY: a prefetch never faults.
            unsafe { asm!("prfm pldl2keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly)) };
        }
    }

    #[inline(always)]
    unsafe fn dot<const G: usize>(
        _: Codes,
        mut acc: int32x4_t,
        w: &[uint8x16_t; G],
        a: *const i8,
        stride: usize,
    ) -> int32x4_t {
        for (g, w) in w.iter().enumerate() {
            // SAFETY: the caller's pointer is valid for group `g`, and `DOT` says whether the feature is there.
            unsafe {
                let a = vreinterpretq_s8_s32(vld1q_dup_s32(a.add(g * stride).cast()));
                let w = vreinterpretq_s8_u8(*w);
                acc = if DOT { sdot(acc, w, a) } else { multiply_and_sum(acc, w, a) };
            }
        }
        acc
    }
}

impl Pairs for Dotprod {
    #[inline]
    #[target_feature(enable = "neon,bf16")]
    unsafe fn fma_pair(w: uint8x16_t, a: *const u8, mut acc: float32x4_t) -> float32x4_t {
        // SAFETY: passed on to the caller; one instruction on registers.
        unsafe {
            let a = vld1q_dup_u32(a.cast());
            asm!("bfdot {0:v}.4s, {1:v}.8h, {2:v}.8h", inout(vreg) acc, in(vreg) w, in(vreg) a,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }
}
