//! Two vectors side by side as one: a panel of 16 rows is read in one pass where a single vector would need two, each of
//! which touches every cache line. That pays where few columns share what is read.

use std::marker::PhantomData;

use super::scaled::Narrow;
use super::simd::{Codes, Simd};
use super::unpack::Unpacks;

/// Twice the lanes of `S`.
#[derive(Clone, Copy)]
pub(super) struct Both<S>(PhantomData<S>);

/// Writes operations on each half. `p [n]`: a pointer, whose second half begins `n` units of its type later.
macro_rules! halves {
    ($($name:ident $(<const $c:ident: u32>)? ($($p:ident [$step:expr]),* ; $($v:ident: $ty:ident),* ; $($s:ident: $sty:ty),*) -> $ret:ident)*) => {
        $(#[inline(always)]
        unsafe fn $name $(<const $c: u32>)? ($($p: *const u8,)* $($v: Self::$ty,)* $($s: $sty),*) -> Self::$ret {
            // SAFETY: passed on to the caller.
            unsafe {
                [
                    S::$name $(::<$c>)? ($($p,)* $($v[0],)* $($s),*),
                    S::$name $(::<$c>)? ($($p.add($step),)* $($v[1],)* $($s),*),
                ]
            }
        })*
    };
}

impl<S: Simd> Simd for Both<S> {
    const LANES: usize = 2 * S::LANES;
    const SIGNED_BIAS: bool = S::SIGNED_BIAS;
    type Bytes = [S::Bytes; 2];
    type Ints = [S::Ints; 2];
    type Floats = [S::Floats; 2];

    halves! {
        load(p [4 * S::LANES];;) -> Bytes
        and(; a: Bytes; mask: u8) -> Bytes
        or(; a: Bytes, b: Bytes;) -> Bytes
        shr<const N: u32>(; a: Bytes;) -> Bytes
        shl<const N: u32>(; a: Bytes;) -> Bytes
        signed(; a: Bytes; zero: u8) -> Bytes
        byte_pairs(a [S::LANES], b [S::LANES];;) -> Bytes
        int_zero(;;) -> Ints
        int_splat(;; p: *const i32) -> Ints
        to_float(; a: Ints;) -> Floats
        zero(;;) -> Floats
        splat(;; p: *const f32) -> Floats
        load_f32(p [4 * S::LANES];;) -> Floats
        load_f16(p [2 * S::LANES];;) -> Floats
        load_bf16(p [2 * S::LANES];;) -> Floats
        load_u8(p [S::LANES];;) -> Floats
        load_i8(p [S::LANES];;) -> Floats
        mul(; a: Floats, b: Floats;) -> Floats
        fma(; a: Floats, b: Floats, c: Floats;) -> Floats
        fnma(; a: Floats, b: Floats, c: Floats;) -> Floats
        pin(; a: Floats;) -> Floats
    }

    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], a: Self::Bytes) -> Self::Bytes {
        // SAFETY: passed on to the caller.
        unsafe { [S::lookup(table, a[0]), S::lookup(table, a[1])] }
    }

    #[inline(always)]
    unsafe fn dot<const G: usize>(
        codes: Codes,
        acc: Self::Ints,
        w: &[Self::Bytes; G],
        a: *const i8,
        stride: usize,
    ) -> Self::Ints {
        // SAFETY: passed on to the caller.
        unsafe {
            [S::dot(codes, acc[0], &w.map(|w| w[0]), a, stride), S::dot(codes, acc[1], &w.map(|w| w[1]), a, stride)]
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(acc: Self::Ints, w: Self::Bytes, a: *const u8) -> Self::Ints {
        // SAFETY: passed on to the caller.
        unsafe { [S::dot_pairs(acc[0], w[0], a), S::dot_pairs(acc[1], w[1], a)] }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, a: Self::Floats) {
        // SAFETY: passed on to the caller.
        unsafe {
            S::store(p, a[0]);
            S::store(p.add(S::LANES), a[1]);
        }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: passed on to the caller.
        unsafe { S::prefetch(p) }
    }
}

impl<S: Unpacks> Unpacks for Both<S> {
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, a: Self::Bytes) {
        // SAFETY: passed on to the caller.
        unsafe {
            S::store_bytes(p, a[0]);
            S::store_bytes(p.add(4 * S::LANES), a[1]);
        }
    }

    #[inline(always)]
    unsafe fn prefetch_near(p: *const u8) {
        // SAFETY: passed on to the caller.
        unsafe { S::prefetch_near(p) }
    }
}

impl<S: Narrow> Narrow for Both<S> {
    halves! {
        none(;;) -> Bytes
        widen(; acc: Ints, sums: Bytes, scale: Bytes;) -> Ints
        twice(p [S::LANES];;) -> Bytes
        pairs_times(; a: Bytes, b: Bytes; k: i16) -> Bytes
    }

    #[inline(always)]
    unsafe fn add_products<const SIGNED: bool>(acc: Self::Bytes, w: Self::Bytes, a: *const u8) -> Self::Bytes {
        // SAFETY: passed on to the caller.
        unsafe { [S::add_products::<SIGNED>(acc[0], w[0], a), S::add_products::<SIGNED>(acc[1], w[1], a)] }
    }
}
