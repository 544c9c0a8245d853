//! Our kernels on this machine's Metal device, against the definitions.

use mlxr_compute::Error;

use super::cases::{self, Case};
use super::source::{self, Launch};
use crate::ffi::{Array, Device, Dtype};

/// What is wrong, launch by launch; empty when every kernel computes what the definitions say.
///
/// # Errors
/// If the device has no Metal.
pub fn on_metal(device: &Device, seed: u64) -> Result<Vec<String>, Error> {
    let mut failures = Vec::new();
    for case in cases::all(seed) {
        match run(device, &case) {
            Ok(outputs) => failures.extend(case.judge(&outputs)),
            Err(error @ Error::Device { .. }) if device.has_metal() => {
                failures.push(format!("{}: {error}", case.title))
            }
            Err(error) => return Err(error),
        }
    }
    Ok(failures)
}

fn run(device: &Device, case: &Case) -> Result<Vec<Vec<f32>>, Error> {
    let Launch { instance, grid, inputs, outputs } = &case.launch;
    let kernel = instance.kernel();
    let names: Vec<&str> = kernel.inputs.iter().map(|(name, _)| *name).collect();
    let text = source::metal(instance);
    let made = device.metal_kernel(&instance.name(), [&names, kernel.outputs], [source::METAL_HEADER, &text])?;
    let array = |(bytes, (_, kind)): (&Vec<u8>, &(&str, &str))| {
        let dtype = match (*kind, instance.parameter) {
            ("T", "half") => Dtype::F16,
            ("uint", _) => Dtype::U32,
            ("int", _) => Dtype::I32,
            ("u8", _) => Dtype::U8,
            ("u16", _) => Dtype::U16,
            _ => Dtype::F32,
        };
        device.from_slice(bytes, &[bytes.len() / dtype.size()], dtype)
    };
    let arrays: Vec<Array> = inputs.iter().zip(kernel.inputs).map(array).collect();
    let results = device.launch(&made, &arrays.iter().collect::<Vec<_>>(), outputs, *grid, 32 * kernel.n_wave);
    results.iter().map(|a| device.read(a, bytemuck::pod_collect_to_vec::<u8, f32>)).collect()
}
