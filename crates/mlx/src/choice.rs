//! What computes, and in which numbers.

use mlxr_compute::Error;

use crate::Mlx;
use crate::ffi::Device;
use crate::kernel::check;
use crate::kernel::source::Platform;
use crate::own::trial::{self, Trial, Way};

/// In what products with weights are computed. What lies between products is f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32: equal to the definitions, for tests; f16 weights take twice their memory.
    Full,
    /// f32, on scales of packed formats that are rounded as `Half` has them: to measure what that loses.
    Rounded,
    /// The weights' 16-bit type, or that of their scales.
    Half,
}

impl Precision {
    /// The names that choose them, and what they choose.
    pub const NAMES: [(&str, Precision); 3] =
        [("full", Precision::Full), ("rounded", Precision::Rounded), ("half", Precision::Half)];
}

/// Whose kernels compute where both can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Ours.
    Own,
    /// MLX's.
    Mlx,
}

impl Kernels {
    /// The names that choose them, and what they choose.
    pub const NAMES: [(&str, Kernels); 2] = [("own", Kernels::Own), ("mlx", Kernels::Mlx)];

    /// What computes on a device where nobody chose, and why not ours where that should be told: on CUDA ours do, which GPUs of
    /// that kind have proven; on Metal where a launch of each does what its definition says.
    pub fn preferred(device: &Device) -> (Kernels, Option<String>) {
        let Some(platform) = device.platform() else { return (Kernels::Mlx, None) };
        let failures = match platform {
            Platform::Cuda => Ok(Vec::new()),
            Platform::Metal => check::quick(device, platform),
        };
        let reason = match failures {
            Ok(failures) if failures.is_empty() => return (Kernels::Own, None),
            Ok(failures) => failures.join("; "),
            Err(error) => error.to_string(),
        };
        let text = format!("MLX's kernels compute, as ours fail on this GPU; run `mlx-run doctor`: {reason}");
        (Kernels::Mlx, Some(text))
    }
}

impl Mlx {
    /// Has a few rows multiplied by affine weights one way, whatever their number; `None`: the fastest, see [`trial`]. Without our
    /// kernels MLX multiplies.
    ///
    /// # Errors
    /// If the device fails in a trial.
    pub fn multiply_by(&mut self, way: Option<Way>) -> Result<(), Error> {
        let Some(own) = &self.own else { return Ok(()) };
        let ways = way.map_or_else(|| trial::preferred(own, &self.device), |way| Ok([way; trial::TRIED.len()]))?;
        own.ways.set(ways);
        Ok(())
    }

    /// Tries all ways to multiply a few rows; `None` without our kernels.
    ///
    /// # Errors
    /// If the device fails.
    pub fn trial(&mut self) -> Result<Option<Trial>, Error> {
        self.own.as_ref().map(|own| Trial::run(own, &self.device)).transpose()
    }
}
