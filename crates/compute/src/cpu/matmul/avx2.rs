//! [`Simd`] on AVX2: eight lanes, 256 bits, products of bytes summed in 16 bits.

use std::arch::asm;
use std::arch::x86_64::*;

use super::scaled::Narrow;
use super::simd::{Codes, Simd};
use super::unpack::Unpacks;

/// 256-bit vectors.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Writes the operations of the trait with the instruction set's features.
macro_rules! ops {
    ($($(#[$doc:meta])* fn $name:ident $(<$(const $c:ident: $ct:ty),+>)? ($($arg:ident: $ty:ty),*) -> $ret:ty $body:block)*) => {
        $($(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name $(<$(const $c: $ct),+>)? ($($arg: $ty),*) -> $ret $body)*
    };
}

/// `acc + w . a` of bytes, exact: pairs of unsigned times signed are summed in 16 bits, `RUN` vectors before the sums
/// are widened. Of signed `w`, `|w|` is multiplied with `sign(w) a`. A sum of `2 * RUN` products must fit: 15 * 127 * 16 = 30480,
/// 31 * 127 * 8 = 31496, 128 / RUN * 127 * 2 * RUN = 32512.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products<const SIGNED: bool, const G: usize, const RUN: usize>(
    acc: __m256i,
    w: &[__m256i; G],
    a: *const i8,
    stride: usize,
) -> __m256i {
    let mut acc = acc;
    let mut g = 0;
    while g < G {
        let mut sum = _mm256_setzero_si256();
        let mut i = 0;
        while i < RUN && g + i < G {
            // SAFETY: the caller's pointer is valid for group `g + i`.
            let a = _mm256_set1_epi32(unsafe { a.add((g + i) * stride).cast::<i32>().read_unaligned() });
            let w = w[g + i];
            let pairs = match SIGNED {
                true => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w)),
                false => _mm256_maddubs_epi16(w, a),
            };
            sum = _mm256_add_epi16(sum, pairs);
            i += 1;
        }
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
        g += RUN;
    }
    acc
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const SIGNED_BIAS: bool = false;
    type Bytes = __m256i;
    type Ints = __m256i;
    type Floats = __m256;

    ops! {
        fn load(p: *const u8) -> __m256i {
            // SAFETY: the caller's pointer is valid for 32 bytes.
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        fn and(a: __m256i, mask: u8) -> __m256i {
            _mm256_and_si256(a, _mm256_set1_epi8(mask as i8))
        }
        fn or(a: __m256i, b: __m256i) -> __m256i {
            _mm256_or_si256(a, b)
        }
        fn shr<const N: u32>(a: __m256i) -> __m256i {
            _mm256_srl_epi16(a, _mm_cvtsi32_si128(N as i32))
        }
        fn shl<const N: u32>(a: __m256i) -> __m256i {
            _mm256_sll_epi16(a, _mm_cvtsi32_si128(N as i32))
        }
        fn lookup(table: &[i8; 16], a: __m256i) -> __m256i {
            // SAFETY: the table has 16 bytes.
            let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), _mm256_and_si256(a, _mm256_set1_epi8(15)))
        }
        fn signed(a: __m256i, zero: u8) -> __m256i {
            if zero == 0 { a } else { _mm256_sub_epi8(a, _mm256_set1_epi8(zero as i8)) }
        }
        fn dot<const G: usize>(codes: Codes, acc: __m256i, w: &[__m256i; G], a: *const i8, stride: usize) -> __m256i {
            // SAFETY: passed on to the caller.
            unsafe {
                match codes {
                    Codes::U4 => products::<false, G, 8>(acc, w, a, stride),
                    Codes::U5 => products::<false, G, 4>(acc, w, a, stride),
                    Codes::I8 { most: ..=16, .. } => products::<true, G, 8>(acc, w, a, stride),
                    Codes::I8 { most: ..=32, .. } => products::<true, G, 4>(acc, w, a, stride),
                    Codes::I8 { most: ..=64, .. } => products::<true, G, 2>(acc, w, a, stride),
                    Codes::I8 { .. } => products::<true, G, 1>(acc, w, a, stride),
                }
            }
        }
        fn byte_pairs(a: *const u8, b: *const u8) -> __m256i {
            // SAFETY: the caller's pointers are valid for 8 bytes.
            let wide = |p: *const u8| _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(p.cast()) });
            _mm256_or_si256(wide(a), _mm256_slli_epi32::<16>(wide(b)))
        }
        fn dot_pairs(acc: __m256i, w: __m256i, a: *const u8) -> __m256i {
            // SAFETY: passed on to the caller.
            let a = _mm256_set1_epi32(unsafe { a.cast::<i32>().read_unaligned() });
            _mm256_add_epi32(acc, _mm256_madd_epi16(w, a))
        }
        fn int_zero() -> __m256i {
            _mm256_setzero_si256()
        }
        fn int_splat(p: *const i32) -> __m256i {
            // SAFETY: passed on to the caller.
            _mm256_set1_epi32(unsafe { p.read_unaligned() })
        }
        fn to_float(a: __m256i) -> __m256 {
            _mm256_cvtepi32_ps(a)
        }
        fn zero() -> __m256 {
            _mm256_setzero_ps()
        }
        fn splat(p: *const f32) -> __m256 {
            // SAFETY: passed on to the caller.
            _mm256_set1_ps(unsafe { p.read_unaligned() })
        }
        fn load_f32(p: *const u8) -> __m256 {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_loadu_ps(p.cast()) }
        }
        fn load_f16(p: *const u8) -> __m256 {
            // SAFETY: passed on to the caller.
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
        }
        fn load_bf16(p: *const u8) -> __m256 {
            // SAFETY: passed on to the caller.
            let bits = unsafe { _mm_loadu_si128(p.cast()) };
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
        }
        fn load_u8(p: *const u8) -> __m256 {
            // SAFETY: passed on to the caller.
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(p.cast()) }))
        }
        fn load_i8(p: *const u8) -> __m256 {
            // SAFETY: passed on to the caller.
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(p.cast()) }))
        }
        fn mul(a: __m256, b: __m256) -> __m256 {
            _mm256_mul_ps(a, b)
        }
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fmadd_ps(a, b, c)
        }
        fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fnmadd_ps(a, b, c)
        }
        fn pin(a: __m256) -> __m256 {
            let mut a = a;
            // SAFETY: no instruction at all.
            unsafe { asm!("/* {0} */", inout(ymm_reg) a, options(nostack, preserves_flags)) };
            a
        }
        fn store(p: *mut f32, a: __m256) -> () {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_storeu_ps(p, a) }
        }
        fn prefetch(p: *const u8) -> () {
            _mm_prefetch::<_MM_HINT_T1>(p.cast());
        }
    }
}

impl Unpacks for Avx2 {
    ops! {
        fn store_bytes(p: *mut u8, a: __m256i) -> () {
            // SAFETY: the caller's pointer is valid for 32 bytes.
            unsafe { _mm256_storeu_si256(p.cast(), a) }
        }
        fn prefetch_near(p: *const u8) -> () {
            _mm_prefetch::<_MM_HINT_T0>(p.cast());
        }
    }
}

impl Narrow for Avx2 {
    ops! {
        fn none() -> __m256i {
            _mm256_setzero_si256()
        }
        fn add_products<const SIGNED: bool>(acc: __m256i, w: __m256i, a: *const u8) -> __m256i {
            // SAFETY: passed on to the caller.
            let a = _mm256_set1_epi32(unsafe { a.cast::<i32>().read_unaligned() });
            let pairs = match SIGNED {
                true => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w)),
                false => _mm256_maddubs_epi16(w, a),
            };
            _mm256_add_epi16(acc, pairs)
        }
        fn widen(acc: __m256i, sums: __m256i, scale: __m256i) -> __m256i {
            _mm256_add_epi32(acc, _mm256_madd_epi16(sums, scale))
        }
        fn twice(p: *const u8) -> __m256i {
            // SAFETY: the caller's pointer is valid for 8 bytes.
            let wide = _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(p.cast()) });
            _mm256_blend_epi16::<0xaa>(wide, _mm256_slli_epi32::<16>(wide))
        }
        fn pairs_times(a: __m256i, b: __m256i, k: i16) -> __m256i {
            _mm256_mullo_epi16(_mm256_blend_epi16::<0xaa>(a, b), _mm256_set1_epi16(k))
        }
    }
}
