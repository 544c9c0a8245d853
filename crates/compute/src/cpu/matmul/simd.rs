//! The vector operations that the kernels are written in, once for all instruction sets.
//!
//! A kernel's body is generic over [`Simd`] and `#[inline(always)]`; each instruction set wraps it in a function that
//! enables the features (`avx512.rs`, `avx2.rs`, `neon.rs`), into which body and operations are inlined.

/// How large the codes of a weight are, which decides how products may be summed in 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    /// 0..=15.
    U4,
    /// 0..=31.
    U5,
    /// Bytes that mean `code - zero`, wrapping, in -128..=127; prepared by [`Simd::signed`].
    I8 {
        /// The code of a weight of 0.
        zero: u8,
        /// The largest magnitude of `code - zero`.
        most: u8,
    },
}

impl Codes {
    /// Whether products are computed with 128 added to the codes.
    pub const fn is_biased<S: Simd>(self) -> bool {
        matches!(self, Codes::I8 { .. }) && S::SIGNED_BIAS
    }
}

/// Instruction sets that multiply pairs of bf16.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Pairs: Simd {
    /// `acc[l] + w[2 l] * a[0] + w[2 l + 1] * a[1]`, of bf16. Subnormal numbers may count as 0.
    unsafe fn fma_pair(w: Self::Bytes, a: *const u8, acc: Self::Floats) -> Self::Floats;
}

/// Vectors of `LANES` numbers, a lane a row of the panel.
///
/// # Safety
/// Every function needs the features of the instruction set. Pointers are valid for what the function reads or writes
/// and need no alignment.
pub(super) trait Simd: Copy {
    /// Lanes of 32 bits; divides 16.
    const LANES: usize;
    /// Whether products of signed codes are computed with 128 added to the codes.
    const SIGNED_BIAS: bool;
    /// `4 * LANES` bytes.
    type Bytes: Copy;
    /// `LANES` i32.
    type Ints: Copy;
    /// `LANES` f32.
    type Floats: Copy;

    unsafe fn load(p: *const u8) -> Self::Bytes;
    /// `a & mask` in every byte.
    unsafe fn and(a: Self::Bytes, mask: u8) -> Self::Bytes;
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Shifts the bytes right; the upper `N` bits of a byte hold anything afterwards.
    unsafe fn shr<const N: u32>(a: Self::Bytes) -> Self::Bytes;
    /// Shifts the bytes left; the lower `N` bits of a byte hold anything afterwards.
    unsafe fn shl<const N: u32>(a: Self::Bytes) -> Self::Bytes;
    /// `table[a % 16]` in every byte, as `dot` takes it for [`Codes::I8`].
    unsafe fn lookup(table: &[i8; 16], a: Self::Bytes) -> Self::Bytes;
    /// Makes codes into what `dot` takes for [`Codes::I8`].
    unsafe fn signed(a: Self::Bytes, zero: u8) -> Self::Bytes;

    /// `acc[l] + sum over g, i of w[g][4 l + i] * a[g * stride + i]`.
    unsafe fn dot<const G: usize>(
        codes: Codes,
        acc: Self::Ints,
        w: &[Self::Bytes; G],
        a: *const i8,
        stride: usize,
    ) -> Self::Ints;
    /// Bytes `a[l]` and `b[l]`, side by side as i16.
    unsafe fn byte_pairs(a: *const u8, b: *const u8) -> Self::Bytes;
    /// `acc[l] + w[2 l] * a[0] + w[2 l + 1] * a[1]`, of i16.
    unsafe fn dot_pairs(acc: Self::Ints, w: Self::Bytes, a: *const u8) -> Self::Ints;
    unsafe fn int_zero() -> Self::Ints;
    unsafe fn int_splat(p: *const i32) -> Self::Ints;
    unsafe fn to_float(a: Self::Ints) -> Self::Floats;

    unsafe fn zero() -> Self::Floats;
    unsafe fn splat(p: *const f32) -> Self::Floats;
    unsafe fn load_f32(p: *const u8) -> Self::Floats;
    unsafe fn load_f16(p: *const u8) -> Self::Floats;
    unsafe fn load_bf16(p: *const u8) -> Self::Floats;
    unsafe fn load_u8(p: *const u8) -> Self::Floats;
    unsafe fn load_i8(p: *const u8) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `c - a * b`.
    unsafe fn fnma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `a`, computed before anything that follows: keeps the compiler from interleaving columns, for which it would run
    /// out of registers. The processor overlaps them well enough.
    unsafe fn pin(a: Self::Floats) -> Self::Floats;
    unsafe fn store(p: *mut f32, a: Self::Floats);
    /// Asks for the cache line at `p`, which may lie outside any allocation, in the second-level cache.
    unsafe fn prefetch(p: *const u8);
}
