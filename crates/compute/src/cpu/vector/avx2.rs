//! AVX2, FMA and F16C: two registers are a vector.

use std::arch::x86_64::*;

use super::{Kernel, Lanes, Vector};

/// Exists only within [`run`].
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `kernel`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// An expression of intrinsics.
macro_rules! intrinsics {
    ($e:expr) => {
        // SAFETY: an `Avx2` exists only within `run`, whose caller knows that the CPU has these features. Pointers come
        // from references to as many numbers as are read or written.
        unsafe { $e }
    };
}

/// An intrinsic on both halves.
macro_rules! both {
    ($f:expr, $($a:expr),+) => {
        intrinsics!([$f($($a[0]),+), $f($($a[1]),+)])
    };
}

impl Vector for Avx2 {
    type F = [__m256; 2];
    const ROWS: usize = 4;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        intrinsics!([_mm256_set1_ps(x); 2])
    }

    #[inline(always)]
    fn load(self, x: &Lanes<f32>) -> Self::F {
        intrinsics!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }

    #[inline(always)]
    fn store(self, x: &mut Lanes<f32>, v: Self::F) {
        intrinsics!({
            _mm256_storeu_ps(x.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(x.as_mut_ptr().add(8), v[1]);
        });
    }

    #[inline(always)]
    fn load_f16(self, x: &Lanes<u16>) -> Self::F {
        let p: *const __m128i = x.as_ptr().cast();
        intrinsics!([_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))])
    }

    #[inline(always)]
    fn store_f16(self, x: &mut Lanes<u16>, v: Self::F) {
        let p: *mut __m128i = x.as_mut_ptr().cast();
        intrinsics!({
            _mm_storeu_si128(p, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        });
    }

    #[inline(always)]
    fn load_i8(self, x: &Lanes<i8>) -> Self::F {
        intrinsics!({
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_srli_si128::<8>(bytes);
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
        })
    }

    #[inline(always)]
    fn store_i8(self, x: &mut Lanes<i8>, v: Self::F) {
        intrinsics!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            // Packing works within halves of a register: put the quarters in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(x.as_mut_ptr().cast(), bytes);
        });
    }

    #[inline(always)]
    fn load_bf16(self, x: &Lanes<u16>) -> Self::F {
        let p: *const __m128i = x.as_ptr().cast();
        intrinsics!({
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(1)));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        })
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        let sign = intrinsics!([_mm256_set1_ps(-0.0); 2]);
        both!(_mm256_andnot_ps, sign, a)
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        both!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>, a)
    }

    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        let whole = both!(_mm256_cvtps_epi32, n);
        let bias = intrinsics!([_mm256_set1_epi32(127); 2]);
        let exponent = both!(_mm256_add_epi32, whole, bias);
        let bits = both!(_mm256_slli_epi32::<23>, exponent);
        both!(_mm256_castsi256_ps, bits)
    }

    #[inline(always)]
    fn where_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        let less = both!(_mm256_cmp_ps::<_CMP_LT_OQ>, a, b);
        both!(_mm256_blendv_ps, y, x, less)
    }

    #[inline(always)]
    fn swap_pairs(self, a: Self::F) -> Self::F {
        both!(_mm256_permute_ps::<0b10_11_00_01>, a)
    }

    #[inline(always)]
    fn prefetch<T>(self, x: &T) {
        intrinsics!(_mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(x).cast()));
    }

    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        intrinsics!({
            let eight = _mm256_add_ps(a[0], a[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn greatest(self, a: Self::F) -> f32 {
        intrinsics!({
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
}
