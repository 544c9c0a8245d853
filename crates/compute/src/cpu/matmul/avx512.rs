//! [`Simd`] on AVX-512 with VNNI and VBMI: sixteen lanes, 512 bits.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::transmute;

use super::simd::{Codes, Pairs, Simd};
use super::unpack::Unpacks;

/// 512-bit vectors.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Writes the operations of the trait with the instruction set's features.
macro_rules! ops {
    ($($(#[$doc:meta])* fn $name:ident $(<$(const $c:ident: $ct:ty),+>)? ($($arg:ident: $ty:ty),*) -> $ret:ty $body:block)*) => {
        $($(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
        unsafe fn $name $(<$(const $c: $ct),+>)? ($($arg: $ty),*) -> $ret $body)*
    };
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const SIGNED_BIAS: bool = true;
    type Bytes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;

    ops! {
        fn load(p: *const u8) -> __m512i {
            // SAFETY: the caller's pointer is valid for 64 bytes.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        fn and(a: __m512i, mask: u8) -> __m512i {
            _mm512_and_si512(a, _mm512_set1_epi8(mask as i8))
        }
        fn or(a: __m512i, b: __m512i) -> __m512i {
            _mm512_or_si512(a, b)
        }
        fn shr<const N: u32>(a: __m512i) -> __m512i {
            _mm512_srli_epi16::<N>(a)
        }
        fn shl<const N: u32>(a: __m512i) -> __m512i {
            _mm512_slli_epi16::<N>(a)
        }
        fn lookup(table: &[i8; 16], a: __m512i) -> __m512i {
            // SAFETY: the table has 16 bytes.
            let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
            // Of an index of six bits, the upper two find the table again.
            let biased = _mm_xor_si128(table, _mm_set1_epi8(-128));
            _mm512_permutexvar_epi8(a, _mm512_broadcast_i32x4(biased))
        }
        fn signed(a: __m512i, zero: u8) -> __m512i {
            _mm512_add_epi8(a, _mm512_set1_epi8(128u8.wrapping_sub(zero) as i8))
        }
        fn dot<const G: usize>(_codes: Codes, acc: __m512i, w: &[__m512i; G], a: *const i8, stride: usize) -> __m512i {
            // Two sums where there are many products: a chain of eight is longer than what a processor looks ahead can hide.
            let mut sums = [acc, _mm512_setzero_si512()];
            for (g, w) in w.iter().enumerate() {
                let sum = if G == 8 { &mut sums[g % 2] } else { &mut sums[0] };
                // SAFETY: the caller's pointer is valid for group `g`.
                let a = unsafe { a.add(g * stride).cast::<i32>().read_unaligned() };
                *sum = _mm512_dpbusd_epi32(*sum, *w, _mm512_set1_epi32(a));
            }
            if G == 8 { _mm512_add_epi32(sums[0], sums[1]) } else { sums[0] }
        }
        fn byte_pairs(a: *const u8, b: *const u8) -> __m512i {
            // SAFETY: the caller's pointers are valid for 16 bytes.
            let wide = |p: *const u8| _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(p.cast()) });
            _mm512_or_si512(wide(a), _mm512_slli_epi32::<16>(wide(b)))
        }
        fn dot_pairs(acc: __m512i, w: __m512i, a: *const u8) -> __m512i {
            // SAFETY: passed on to the caller.
            _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(unsafe { a.cast::<i32>().read_unaligned() }))
        }
        fn int_zero() -> __m512i {
            _mm512_setzero_si512()
        }
        fn int_splat(p: *const i32) -> __m512i {
            // SAFETY: passed on to the caller.
            _mm512_set1_epi32(unsafe { p.read_unaligned() })
        }
        fn to_float(a: __m512i) -> __m512 {
            _mm512_cvtepi32_ps(a)
        }
        fn zero() -> __m512 {
            _mm512_setzero_ps()
        }
        fn splat(p: *const f32) -> __m512 {
            // SAFETY: passed on to the caller.
            _mm512_set1_ps(unsafe { p.read_unaligned() })
        }
        fn load_f32(p: *const u8) -> __m512 {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_loadu_ps(p.cast()) }
        }
        fn load_f16(p: *const u8) -> __m512 {
            // SAFETY: passed on to the caller.
            _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(p.cast()) })
        }
        fn load_bf16(p: *const u8) -> __m512 {
            // SAFETY: passed on to the caller.
            let bits = unsafe { _mm256_loadu_si256(p.cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }
        fn load_u8(p: *const u8) -> __m512 {
            // SAFETY: passed on to the caller.
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(p.cast()) }))
        }
        fn load_i8(p: *const u8) -> __m512 {
            // SAFETY: passed on to the caller.
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(p.cast()) }))
        }
        fn mul(a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }
        fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fnmadd_ps(a, b, c)
        }
        fn pin(a: __m512) -> __m512 {
            let mut a = a;
            // SAFETY: no instruction at all.
            unsafe { asm!("/* {0} */", inout(zmm_reg) a, options(nostack, preserves_flags)) };
            a
        }
        fn store(p: *mut f32, a: __m512) -> () {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_storeu_ps(p, a) }
        }
        fn prefetch(p: *const u8) -> () {
            _mm_prefetch::<_MM_HINT_T1>(p.cast());
        }
    }
}

impl Unpacks for Avx512 {
    ops! {
        fn store_bytes(p: *mut u8, a: __m512i) -> () {
            // SAFETY: the caller's pointer is valid for 64 bytes.
            unsafe { _mm512_storeu_si512(p.cast(), a) }
        }
        fn prefetch_near(p: *const u8) -> () {
            _mm_prefetch::<_MM_HINT_T0>(p.cast());
        }
    }
}

impl Pairs for Avx512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn fma_pair(w: __m512i, a: *const u8, acc: __m512) -> __m512 {
        // SAFETY: passed on to the caller; both types are 64 bytes of any value.
        unsafe {
            let a = _mm512_set1_epi32(a.cast::<i32>().read_unaligned());
            _mm512_dpbf16_ps(acc, transmute::<__m512i, __m512bh>(w), transmute::<__m512i, __m512bh>(a))
        }
    }
}
