//! Vectors of 16 f32, the same on every instruction set, and the one place that chooses among them.
//!
//! A kernel is a struct of its arguments whose [`Kernel::run`] is written once over [`Vector`]. [`Kernels::run`] runs
//! it inside a function that enables the instruction set's features, into which the kernel and the vector's operations
//! are inlined (`#[inline(always)]`, no closures over vectors). A vector type is a token: it exists only where the CPU
//! has its instructions, so its operations are safe.
//!
//! | type | 16 numbers are |
//! |---|---|
//! | [`plain`] | an array |
//! | `avx2` | two 256-bit registers |
//! | `avx512` | one 512-bit register |
//! | `neon` | four 128-bit registers |

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod plain;

use super::Isa;

/// Numbers of a vector.
pub const LANES: usize = 16;

/// Sixteen numbers of a stored type.
pub type Lanes<T> = [T; LANES];

/// What an instruction set computes on 16 f32 at once. The value is a proof that the CPU has the instructions.
pub trait Vector: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Rows that a product's tile has, so that its accumulators stay in registers.
    const ROWS: usize;
    /// Vectors that a product's tile has in a row.
    const WIDTH: usize;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// Sixteen numbers.
    fn load(self, x: &Lanes<f32>) -> Self::F;
    /// Overwrites sixteen numbers.
    fn store(self, x: &mut Lanes<f32>, v: Self::F);
    /// Sixteen f16.
    fn load_f16(self, x: &Lanes<u16>) -> Self::F;
    /// Overwrites sixteen f16, rounding to nearest, halves to even.
    fn store_f16(self, x: &mut Lanes<u16>, v: Self::F);
    /// Sixteen signed bytes.
    fn load_i8(self, x: &Lanes<i8>) -> Self::F;
    /// Overwrites sixteen signed bytes, rounding to nearest, halves to even; numbers lie in -128..=127.
    fn store_i8(self, x: &mut Lanes<i8>, v: Self::F);
    /// Sixteen bf16.
    fn load_bf16(self, x: &Lanes<u16>) -> Self::F;

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The lesser; `b` where one is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The greater; `b` where one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `|a|`.
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest whole number, halves to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^n` for whole `n` in -126..=127.
    fn pow2(self, n: Self::F) -> Self::F;
    /// `x` where `a < b`, else `y`.
    fn where_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Lanes 2i and 2i + 1 exchanged.
    fn swap_pairs(self, a: Self::F) -> Self::F;
    /// Sum of the lanes.
    fn sum(self, a: Self::F) -> f32;
    /// Greatest lane.
    fn greatest(self, a: Self::F) -> f32;

    /// Asks for the cache line of `x`, to be read soon.
    fn prefetch<T>(self, x: &T);

    /// Up to sixteen numbers; the other lanes are 0.
    #[inline(always)]
    fn load_some(self, x: &[f32]) -> Self::F {
        let mut lanes = [0.0; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Overwrites up to sixteen numbers with the first lanes.
    #[inline(always)]
    fn store_some(self, x: &mut [f32], v: Self::F) {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        x.copy_from_slice(&lanes[..x.len()]);
    }

    /// Overwrites sixteen bf16, rounding to nearest, halves to even.
    #[inline(always)]
    fn store_bf16(self, x: &mut Lanes<u16>, v: Self::F) {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        for (x, v) in x.iter_mut().zip(lanes) {
            *x = half::bf16::from_f32(v).to_bits();
        }
    }
}

/// A computation written once for all instruction sets.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it. Implementations are `#[inline(always)]`.
    fn run<V: Vector>(self, v: V) -> Self::Output;
}

/// An instruction set that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels(Isa);

impl Kernels {
    /// Kernels for `isa`, or `None` when this CPU lacks it.
    pub fn new(isa: Isa) -> Option<Kernels> {
        isa.available().then_some(Kernels(isa))
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        self.0
    }

    /// Runs `kernel` with this instruction set.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: `new` has found that this CPU has the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 => unsafe { avx512::run(kernel) },
            // SAFETY: as above; the kernels of this file need no more than NEON.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm | Isa::NeonBf16 => unsafe { neon::run(kernel) },
            _ => kernel.run(plain::Plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation on lanes `a`, `b` and `c`, one row of results each.
    struct All([Lanes<f32>; 3]);

    impl Kernel for All {
        type Output = Vec<Lanes<f32>>;

        #[inline(always)]
        fn run<V: Vector>(self, v: V) -> Vec<Lanes<f32>> {
            let [a, b, c] = self.0;
            let (a, b, c) = (v.load(&a), v.load(&b), v.load(&c));
            let (mut f16, mut bf16, mut i8) = ([0; LANES], [0; LANES], [0; LANES]);
            v.store_f16(&mut f16, a);
            v.store_bf16(&mut bf16, a);
            v.store_i8(&mut i8, a);
            let results = [
                v.splat(3.0),
                v.load_f16(&f16),
                v.load_bf16(&bf16),
                v.load_i8(&i8),
                v.add(a, b),
                v.sub(a, b),
                v.mul(a, b),
                v.div(a, b),
                v.min(a, b),
                v.max(a, b),
                v.abs(a),
                v.round(a),
                v.pow2(v.round(a)),
                v.where_less(a, b, c, a),
                v.swap_pairs(a),
                v.splat(v.greatest(a)),
            ];
            let mut out = vec![[0.0; LANES]; results.len()];
            for (out, result) in out.iter_mut().zip(results) {
                v.store(out, result);
            }
            out
        }
    }

    /// Operations whose rounding may differ: fused or in another order.
    struct Inexact([Lanes<f32>; 3]);

    impl Kernel for Inexact {
        type Output = [f32; 2];

        #[inline(always)]
        fn run<V: Vector>(self, v: V) -> [f32; 2] {
            let [a, b, c] = self.0;
            let (a, b, c) = (v.load(&a), v.load(&b), v.load(&c));
            [v.sum(v.fma(a, b, c)), v.sum(v.load_some(&self.0[0][..5]))]
        }
    }

    #[test]
    fn every_isa_computes_the_same_lanes() {
        let lanes = |f: fn(f32) -> f32| std::array::from_fn(|i| f(i as f32 - 7.5));
        let args: [Lanes<f32>; 3] = [lanes(|x| x * 3.25), lanes(|x| 1.0 - x), lanes(|x| x * x + 0.1)];
        let want = plain::Plain;
        let want = (All(args).run(want), Inexact(args).run(want));
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let got = kernels.run(All(args));
            for (i, (got, want)) in got.iter().zip(&want.0).enumerate() {
                assert_eq!(got, want, "{}: operation {i}", kernels.isa());
            }
            for (got, want) in kernels.run(Inexact(args)).into_iter().zip(want.1) {
                assert!((got - want).abs() <= 1e-5 * want.abs(), "{}: {got}, expected {want}", kernels.isa());
            }
        }
    }

    #[test]
    fn stored_types_round_halves_to_even_on_every_isa() {
        struct Store(Lanes<f32>);
        impl Kernel for Store {
            type Output = (Lanes<u16>, Lanes<u16>, Lanes<i8>);
            #[inline(always)]
            fn run<V: Vector>(self, v: V) -> Self::Output {
                let (mut f16, mut bf16, mut i8) = ([0; LANES], [0; LANES], [0; LANES]);
                v.store_f16(&mut f16, v.load(&self.0));
                v.store_bf16(&mut bf16, v.load(&self.0));
                v.store_i8(&mut i8, v.load(&self.0));
                (f16, bf16, i8)
            }
        }
        let numbers =
            [0.5, 1.5, 2.5, -0.5, -1.5, 127.0, -127.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1e-7, 6e-8, -0.0]
                .into_iter()
                .chain([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 3.3, -3.3]);
        let numbers: Lanes<f32> = numbers.collect::<Vec<_>>().try_into().expect("sixteen");
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let (f16, bf16, i8) = kernels.run(Store(numbers));
            assert_eq!(f16, numbers.map(|x| half::f16::from_f32(x).to_bits()), "{}", kernels.isa());
            assert_eq!(bf16, numbers.map(|x| half::bf16::from_f32(x).to_bits()), "{}", kernels.isa());
            assert_eq!(i8, numbers.map(|x| x.round_ties_even() as i8), "{}", kernels.isa());
        }
    }
}
