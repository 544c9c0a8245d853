//! Functions of 16 numbers at once.
//!
//! The polynomials were fitted by iteratively reweighted least squares on Chebyshev points; the error named with each
//! is that of the fit, before rounding to f32.

use super::vector::Vector;

/// `exp(x)`, relative error below 2e-7; 0 below -87, and as at 88 above.
///
/// `exp(x) = 2^n exp(r)`, `n = round(x / ln 2)`; `ln 2` in two parts, so that `r` is exact. The polynomial's relative
/// error is 3.1e-9.
#[inline(always)]
pub fn exp<V: Vector>(v: V, x: V::F) -> V::F {
    let clamped = v.max(v.min(x, v.splat(88.0)), v.splat(-87.0));
    let n = v.round(v.mul(clamped, v.splat(std::f32::consts::LOG2_E)));
    let r = v.fma(n, v.splat(-0.693_359_4), clamped);
    let r = v.fma(n, v.splat(2.121_944_4e-4), r);
    let mut p = v.splat(0.001_381_432);
    for c in [0.008_368_851, 0.041_668_4, 0.166_665_2, 0.499_999_94, 1.0, 1.0] {
        p = v.fma(p, r, v.splat(c));
    }
    let y = v.mul(p, v.pow2(n));
    v.where_less(x, v.splat(-87.0), v.splat(0.0), y)
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub fn sigmoid<V: Vector>(v: V, x: V::F) -> V::F {
    let e = exp(v, v.sub(v.splat(0.0), x));
    v.div(v.splat(1.0), v.add(v.splat(1.0), e))
}

/// `tanh(x)`: near 0 the odd polynomial (error 4.2e-9), else `1 - 2 / (exp(2 |x|) + 1)` with the sign of `x`.
#[inline(always)]
pub fn tanh<V: Vector>(v: V, x: V::F) -> V::F {
    let magnitude = v.abs(x);
    let e = exp(v, v.add(magnitude, magnitude));
    let far = v.sub(v.splat(1.0), v.div(v.splat(2.0), v.add(e, v.splat(1.0))));
    let far = v.where_less(x, v.splat(0.0), v.sub(v.splat(0.0), far), far);
    let z = v.mul(x, x);
    let mut p = v.splat(-0.005_707_139);
    for c in [0.020_642_117, -0.053_741_034, 0.133_314_64, -0.333_332_84] {
        p = v.fma(p, z, v.splat(c));
    }
    let near = v.fma(v.mul(p, z), x, x);
    v.where_less(magnitude, v.splat(0.625), near, far)
}

/// The error function, absolute error below 3e-7. Source: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
pub fn erf<V: Vector>(v: V, x: V::F) -> V::F {
    let magnitude = v.abs(x);
    let t = v.div(v.splat(1.0), v.fma(magnitude, v.splat(0.327_591_1), v.splat(1.0)));
    let mut p = v.splat(1.061_405_4);
    for c in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = v.fma(p, t, v.splat(c));
    }
    let e = exp(v, v.sub(v.splat(0.0), v.mul(x, x)));
    let y = v.sub(v.splat(1.0), v.mul(v.mul(p, t), e));
    v.where_less(x, v.splat(0.0), v.sub(v.splat(0.0), y), y)
}

/// `ln(1 + exp(x))`. One number at a time: only mamba's step sizes need it, a number a head.
#[inline(always)]
pub fn softplus<V: Vector>(v: V, x: V::F) -> V::F {
    let mut lanes = [0.0; super::vector::LANES];
    v.store(&mut lanes, x);
    for x in &mut lanes {
        *x = x.max(0.0) + (-x.abs()).exp().ln_1p();
    }
    v.load(&lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;
    use crate::cpu::vector::{Kernel, Kernels, Lanes};
    use crate::scalar::act;

    struct All(f32);

    impl Kernel for All {
        type Output = [f32; 5];

        #[inline(always)]
        fn run<V: Vector>(self, v: V) -> [f32; 5] {
            let x = v.splat(self.0);
            let mut lanes: Lanes<f32> = [0.0; 16];
            let results = [exp(v, x), sigmoid(v, x), tanh(v, x), erf(v, x), softplus(v, x)];
            let mut out = [0.0; 5];
            for (out, result) in out.iter_mut().zip(results) {
                v.store(&mut lanes, result);
                *out = lanes[7];
            }
            out
        }
    }

    #[test]
    fn functions_are_accurate_over_their_range() {
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            for i in -4000..4000 {
                let x = i as f32 * 0.0217;
                let [exp, sigmoid, tanh, erf, softplus] = kernels.run(All(x));
                let d = f64::from(x);
                let near = |name, got: f32, want: f64, relative: f64, absolute: f64| {
                    let off = (f64::from(got) - want).abs();
                    assert!(
                        off <= relative * want.abs() + absolute,
                        "{}: {name}({x}) = {got}, not {want}",
                        kernels.isa()
                    );
                };
                near("exp", exp, d.exp(), 3e-7, 2e-38);
                near("sigmoid", sigmoid, act::sigmoid(d), 5e-7, 2e-38);
                near("tanh", tanh, d.tanh(), 5e-7, 0.0);
                near("erf", erf, act::erf(d), 0.0, 3e-7);
                near("softplus", softplus, d.max(0.0) + (-d.abs()).exp().ln_1p(), 5e-7, 0.0);
            }
        }
    }

    #[test]
    fn extremes_stay_finite_and_minus_infinity_gives_zero() {
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            assert_eq!(kernels.run(All(f32::NEG_INFINITY))[0], 0.0);
            for x in [-1e30, -1e4, 1e4, 1e30] {
                assert!(kernels.run(All(x))[..4].iter().all(|y| y.is_finite()), "{}: {x}", kernels.isa());
            }
            assert_eq!(kernels.run(All(1e4))[1..4], [1.0; 3]);
            assert_eq!(kernels.run(All(-1e4))[2..4], [-1.0; 2]);
        }
    }
}
