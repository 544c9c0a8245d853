//! NEON: four registers are a vector.

// NEON is part of every aarch64 target, so intrinsics without pointers are safe here; the macro serves both kinds.
#![allow(unused_unsafe)]

use std::arch::aarch64::*;

use super::{Kernel, Lanes, Vector};

/// Exists only within [`run`].
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// Runs `kernel`.
#[target_feature(enable = "neon")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// An expression of intrinsics.
macro_rules! intrinsics {
    ($e:expr) => {
        // SAFETY: a `Neon` exists only within `run`, whose caller knows that the CPU has NEON. Pointers come from
        // references to as many numbers as are read or written.
        unsafe { $e }
    };
}

/// An intrinsic on all quarters.
macro_rules! each {
    ($f:expr, $($a:expr),+) => {
        intrinsics!([$f($($a[0]),+), $f($($a[1]),+), $f($($a[2]),+), $f($($a[3]),+)])
    };
}

impl Vector for Neon {
    type F = [float32x4_t; 4];
    const ROWS: usize = 4;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        intrinsics!([vdupq_n_f32(x); 4])
    }

    #[inline(always)]
    fn load(self, x: &Lanes<f32>) -> Self::F {
        let p = x.as_ptr();
        intrinsics!([vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))])
    }

    #[inline(always)]
    fn store(self, x: &mut Lanes<f32>, v: Self::F) {
        let p = x.as_mut_ptr();
        intrinsics!({
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
            vst1q_f32(p.add(8), v[2]);
            vst1q_f32(p.add(12), v[3]);
        });
    }

    #[inline(always)]
    fn load_f16(self, x: &Lanes<u16>) -> Self::F {
        let p = x.as_ptr();
        intrinsics!({
            let halves = [vld1_u16(p), vld1_u16(p.add(4)), vld1_u16(p.add(8)), vld1_u16(p.add(12))];
            let halves = each!(vreinterpret_f16_u16, halves);
            each!(vcvt_f32_f16, halves)
        })
    }

    #[inline(always)]
    fn store_f16(self, x: &mut Lanes<u16>, v: Self::F) {
        let halves = each!(vcvt_f16_f32, v);
        let halves = each!(vreinterpret_u16_f16, halves);
        let p = x.as_mut_ptr();
        intrinsics!({
            vst1_u16(p, halves[0]);
            vst1_u16(p.add(4), halves[1]);
            vst1_u16(p.add(8), halves[2]);
            vst1_u16(p.add(12), halves[3]);
        });
    }

    #[inline(always)]
    fn load_i8(self, x: &Lanes<i8>) -> Self::F {
        intrinsics!({
            let bytes = vld1q_s8(x.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let ints = [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ];
            each!(vcvtq_f32_s32, ints)
        })
    }

    #[inline(always)]
    fn store_i8(self, x: &mut Lanes<i8>, v: Self::F) {
        let ints = each!(vcvtnq_s32_f32, v);
        intrinsics!({
            let low = vcombine_s16(vqmovn_s32(ints[0]), vqmovn_s32(ints[1]));
            let high = vcombine_s16(vqmovn_s32(ints[2]), vqmovn_s32(ints[3]));
            vst1q_s8(x.as_mut_ptr(), vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
        });
    }

    #[inline(always)]
    fn load_bf16(self, x: &Lanes<u16>) -> Self::F {
        let p = x.as_ptr();
        intrinsics!({
            let halves = [vld1_u16(p), vld1_u16(p.add(4)), vld1_u16(p.add(8)), vld1_u16(p.add(12))];
            let wide = each!(vshll_n_u16::<16>, halves);
            each!(vreinterpretq_f32_u32, wide)
        })
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vaddq_f32, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vsubq_f32, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vmulq_f32, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vdivq_f32, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(vfmaq_f32, c, a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        self.where_less(a, b, a, b)
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        self.where_less(b, a, a, b)
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        each!(vabsq_f32, a)
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        each!(vrndnq_f32, a)
    }

    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        let whole = each!(vcvtnq_s32_f32, n);
        let bias = intrinsics!([vdupq_n_s32(127); 4]);
        let exponent = each!(vaddq_s32, whole, bias);
        let bits = each!(vshlq_n_s32::<23>, exponent);
        each!(vreinterpretq_f32_s32, bits)
    }

    #[inline(always)]
    fn where_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        let less = each!(vcltq_f32, a, b);
        each!(vbslq_f32, less, x, y)
    }

    #[inline(always)]
    fn swap_pairs(self, a: Self::F) -> Self::F {
        each!(vrev64q_f32, a)
    }

    #[inline(always)]
    fn prefetch<T>(self, x: &T) {
        let p: *const T = x;
        // The intrinsic is not stable. A hint: it neither traps nor changes anything.
        intrinsics!(std::arch::asm!("prfm pldl1keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags)));
    }

    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        intrinsics!(vaddvq_f32(vaddq_f32(vaddq_f32(a[0], a[1]), vaddq_f32(a[2], a[3]))))
    }

    #[inline(always)]
    fn greatest(self, a: Self::F) -> f32 {
        intrinsics!(vmaxvq_f32(vmaxq_f32(vmaxq_f32(a[0], a[1]), vmaxq_f32(a[2], a[3]))))
    }
}
