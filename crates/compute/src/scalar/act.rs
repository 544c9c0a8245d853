//! Activation functions of one number, in f64.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use crate::op::Act;

impl Act {
    /// `act(x)`.
    ///
    /// # Panics
    /// For [`Act::SwigluOai`], which needs an up besides the gate.
    pub fn apply(self, x: f32) -> f32 {
        let x = f64::from(x);
        let y = match self {
            Act::Silu => x * sigmoid(x),
            Act::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
            Act::GeluErf => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
            Act::GeluQuick => x * sigmoid(1.702 * x),
            Act::Relu => x.max(0.0),
            Act::ReluSquared => x.max(0.0) * x.max(0.0),
            Act::Sigmoid => sigmoid(x),
            Act::Tanh => x.tanh(),
            Act::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Act::Clamp(limit) => x.clamp(-f64::from(limit), f64::from(limit)),
            Act::SwigluOai { .. } => panic!("SwigluOai is no function of one number: use it with a gate and an up"),
        };
        y as f32
    }

    /// `act(gate) * up`, or what [`Act::SwigluOai`] does with both.
    pub fn glu(self, gate: f32, up: f32) -> f32 {
        match self {
            Act::SwigluOai { alpha, limit } => {
                let (g, u) = (f64::from(gate.min(limit)), f64::from(up.clamp(-limit, limit)));
                (g * sigmoid(f64::from(alpha) * g) * (u + 1.0)) as f32
            }
            _ => self.apply(gate) * up,
        }
    }
}

/// `cap * tanh(x / cap)`.
pub fn softcap(x: f32, cap: f32) -> f32 {
    (f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh()) as f32
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function, by Kummer's series, whose terms are all positive:
/// `erf(x) = 2/sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!`. Source: Abramowitz and Stegun, 7.1.6.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum(); // 1 - erf(6) is 2e-17
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_the_table() {
        // Abramowitz and Stegun, table 7.1.
        for (x, want) in
            [(0.0, 0.0), (0.1, 0.1124629160), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650)]
        {
            assert!((erf(x) - want).abs() < 1e-10, "{x}");
            assert!((erf(-x) + want).abs() < 1e-10, "-{x}");
        }
    }

    #[test]
    fn activations_have_their_known_values_and_stay_finite() {
        let cases = [
            (Act::Silu, 0.731_058_6),
            (Act::GeluTanh, 0.841_192),
            (Act::GeluErf, 0.841_344_7),
            (Act::GeluQuick, 0.845_795_8),
            (Act::Relu, 1.0),
            (Act::ReluSquared, 1.0),
            (Act::Sigmoid, 0.731_058_6),
            (Act::Tanh, 0.761_594_2),
            (Act::Softplus, 1.313_261_7),
        ];
        for (act, want) in cases {
            assert!((act.apply(1.0) - want).abs() < 2e-6, "{act:?}: {}", act.apply(1.0));
            for x in [-1e4, -100.0, 0.0, 100.0, 1e4] {
                assert!(act.apply(x).is_finite(), "{act:?}({x})");
            }
        }
        let oai = Act::SwigluOai { alpha: 1.702, limit: 7.0 };
        assert!((oai.glu(1.0, 1.0) - 2.0 * 0.845_795_8).abs() < 2e-6);
        assert_eq!(oai.glu(1e3, 1e3), oai.glu(7.0, 7.0));
    }
}
