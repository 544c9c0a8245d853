//! Our kernels on this machine's GPU, against the definitions.

use mlxr_compute::Error;

use super::cases::{self, Case};
use super::source::{Launch, Platform};
use crate::ffi::{Array, Device, Output};
use crate::own::{self, Own};

/// What is wrong, launch by launch; empty when every kernel computes what the definitions say.
///
/// # Errors
/// If the device compiles no kernels.
pub fn on_gpu(device: &Device, platform: Platform, seed: u64) -> Result<Vec<String>, Error> {
    let (own, mut failures) = (Own::new(platform), Vec::new());
    for case in cases::all(seed).into_iter().filter(|case| case.launch.instance.runs_on(platform)) {
        failures.extend(judged(device, &own, &case)?);
    }
    Ok(failures)
}

/// What is wrong of one launch of each kernel that common models use; empty when nothing is.
///
/// # Errors
/// As [`on_gpu`].
pub fn quick(device: &Device, platform: Platform) -> Result<Vec<String>, Error> {
    let (own, mut seen, mut failures) = (Own::new(platform), Vec::new(), Vec::new());
    for case in cases::all(1) {
        let name = case.launch.instance.kernel().name;
        // Types with codebooks are rare, and there are many.
        if seen.contains(&name) || name.starts_with("iq") || !case.launch.instance.runs_on(platform) {
            continue;
        }
        seen.push(name);
        failures.extend(judged(device, &own, &case)?);
    }
    Ok(failures)
}

/// What is wrong of a launch: what it computes, or what the device says of it.
fn judged(device: &Device, own: &Own, case: &Case) -> Result<Option<String>, Error> {
    match run(device, own, case) {
        Ok(outputs) => Ok(case.judge(&outputs)),
        Err(error @ Error::Device { .. }) => Ok(Some(format!("{}: {error}", case.title))),
        Err(error) => Err(error),
    }
}

fn run(device: &Device, own: &Own, case: &Case) -> Result<Vec<Vec<f32>>, Error> {
    let Launch { instance, grid, inputs, outputs } = &case.launch;
    let kernel = instance.kernel();
    let made = own::made(device, own.platform, instance)?;
    let array = |(bytes, (_, kind)): (&Vec<u8>, &(&str, &str))| {
        let dtype = own::number(kind, instance.parameter);
        device.from_slice(bytes, &[bytes.len() / dtype.size()], dtype)
    };
    let arrays: Vec<Array> = inputs.iter().zip(kernel.inputs).map(array).collect();
    let shapes: Vec<[usize; 1]> = outputs.iter().map(|&n| [n]).collect();
    let outputs = shapes.iter().zip(kernel.outputs);
    let outputs: Vec<Output<'_>> =
        outputs.map(|(shape, (_, kind))| Output { shape, dtype: own::number(kind, instance.parameter) }).collect();
    let inputs: Vec<&Array> = arrays.iter().collect();
    own.provide(device, instance, &inputs);
    let results = device.launch(&made, &inputs, &outputs, *grid, 32 * instance.n_wave());
    // The written inputs are read after the outputs, on which the writing depends.
    let written = case.launch.written().into_iter().map(|i| arrays[i].clone());
    let results: Vec<Array> = results.into_iter().chain(written).collect();
    results.iter().map(|a| device.read(a, bytemuck::pod_collect_to_vec::<u8, f32>)).collect()
}
