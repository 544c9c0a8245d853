//! Plain Rust, for CPUs without any of the other instruction sets; also what they are tested against.

use super::{LANES, Lanes, Vector};

/// Arrays. Needs nothing of the CPU.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

#[inline(always)]
fn map(a: Lanes<f32>, f: impl Fn(f32) -> f32) -> Lanes<f32> {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip(a: Lanes<f32>, b: Lanes<f32>, f: impl Fn(f32, f32) -> f32) -> Lanes<f32> {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Vector for Plain {
    type F = Lanes<f32>;
    const ROWS: usize = 4;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes<f32> {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &Lanes<f32>) -> Lanes<f32> {
        *x
    }

    #[inline(always)]
    fn store(self, x: &mut Lanes<f32>, v: Lanes<f32>) {
        *x = v;
    }

    #[inline(always)]
    fn load_f16(self, x: &Lanes<u16>) -> Lanes<f32> {
        x.map(|x| half::f16::from_bits(x).to_f32())
    }

    #[inline(always)]
    fn store_f16(self, x: &mut Lanes<u16>, v: Lanes<f32>) {
        *x = v.map(|v| half::f16::from_f32(v).to_bits());
    }

    #[inline(always)]
    fn load_i8(self, x: &Lanes<i8>) -> Lanes<f32> {
        x.map(f32::from)
    }

    #[inline(always)]
    fn store_i8(self, x: &mut Lanes<i8>, v: Lanes<f32>) {
        *x = v.map(|v| v.round_ties_even() as i8);
    }

    #[inline(always)]
    fn load_bf16(self, x: &Lanes<u16>) -> Lanes<f32> {
        x.map(|x| f32::from_bits(u32::from(x) << 16))
    }

    #[inline(always)]
    fn add(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| a / b)
    }

    // Rounded twice: a fused product without the instruction is a call into libm.
    #[inline(always)]
    fn fma(self, a: Lanes<f32>, b: Lanes<f32>, c: Lanes<f32>) -> Lanes<f32> {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn min(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn abs(self, a: Lanes<f32>) -> Lanes<f32> {
        map(a, f32::abs)
    }

    #[inline(always)]
    fn round(self, a: Lanes<f32>) -> Lanes<f32> {
        map(a, f32::round_ties_even)
    }

    #[inline(always)]
    fn pow2(self, n: Lanes<f32>) -> Lanes<f32> {
        map(n, |n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }

    #[inline(always)]
    fn where_less(self, a: Lanes<f32>, b: Lanes<f32>, x: Lanes<f32>, y: Lanes<f32>) -> Lanes<f32> {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }

    #[inline(always)]
    fn swap_pairs(self, a: Lanes<f32>) -> Lanes<f32> {
        std::array::from_fn(|i| a[i ^ 1])
    }

    #[inline(always)]
    fn prefetch<T>(self, x: &T) {
        let _ = x; // no instruction for it
    }

    #[inline(always)]
    fn sum(self, a: Lanes<f32>) -> f32 {
        a.iter().sum()
    }

    #[inline(always)]
    fn greatest(self, a: Lanes<f32>) -> f32 {
        a.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
}
