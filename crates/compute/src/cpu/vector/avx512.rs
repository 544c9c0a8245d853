//! AVX-512: one register is a vector.

use std::arch::x86_64::*;

use super::{Kernel, Lanes, Vector};

/// Exists only within [`run`].
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs `kernel`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// An expression of intrinsics.
macro_rules! intrinsics {
    ($e:expr) => {
        // SAFETY: an `Avx512` exists only within `run`, whose caller knows that the CPU has these features. Pointers
        // come from references to as many numbers as are read or written.
        unsafe { $e }
    };
}

impl Vector for Avx512 {
    type F = __m512;
    const ROWS: usize = 8;
    const WIDTH: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        intrinsics!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, x: &Lanes<f32>) -> __m512 {
        intrinsics!(_mm512_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn store(self, x: &mut Lanes<f32>, v: __m512) {
        intrinsics!(_mm512_storeu_ps(x.as_mut_ptr(), v));
    }

    #[inline(always)]
    fn load_f16(self, x: &Lanes<u16>) -> __m512 {
        intrinsics!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn store_f16(self, x: &mut Lanes<u16>, v: __m512) {
        intrinsics!(_mm256_storeu_si256(x.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)));
    }

    #[inline(always)]
    fn load_i8(self, x: &Lanes<i8>) -> __m512 {
        intrinsics!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }

    #[inline(always)]
    fn store_i8(self, x: &mut Lanes<i8>, v: __m512) {
        intrinsics!(_mm_storeu_si128(x.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))));
    }

    #[inline(always)]
    fn load_bf16(self, x: &Lanes<u16>) -> __m512 {
        intrinsics!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsics!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        intrinsics!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        intrinsics!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        intrinsics!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn where_less(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        intrinsics!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }

    #[inline(always)]
    fn swap_pairs(self, a: __m512) -> __m512 {
        intrinsics!(_mm512_permute_ps::<0b10_11_00_01>(a))
    }

    #[inline(always)]
    fn prefetch<T>(self, x: &T) {
        intrinsics!(_mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(x).cast()));
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        intrinsics!(_mm512_reduce_add_ps(a))
    }

    #[inline(always)]
    fn greatest(self, a: __m512) -> f32 {
        intrinsics!(_mm512_reduce_max_ps(a))
    }
}
