//! `mlx-run doctor`: what this machine can run, and whether it computes what the definitions say.

use std::io::{self, Write};

use mlxr_compute::conformance::{self, Options};
use mlxr_compute::cpu::Isa;
use mlxr_mlx::own::trial::{self, Trial};
use mlxr_mlx::{Kernels, Kind, Mlx, Precision, Way, kernel};

use crate::args::DoctorArgs;
use crate::{CliError, backend};

/// How far products in 16 bits may be from their definition, as a factor on the suite's limits for f32.
const HALF_SLACK: f32 = 2000.0;

/// Prints what is there and checks every backend; fails if one computes something else.
///
/// # Errors
/// If a backend computes something else than the definitions say.
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let out = &mut io::stdout();
    let n_thread = backend::n_thread(None)?;
    writeln!(out, "processor: {n_thread} threads, {}", Isa::detect().name())?;
    let mut n_failed = report("cpu", conformance::run(&mut backend::cpu_default()?, &options(args, 1.0)))?;
    match backend::mlx_device() {
        Err(error) => writeln!(out, "mlx: not used: {error}")?,
        Ok(device) => {
            let (limit, active) = device.memory();
            let kind = if device.kind() == Kind::Gpu { "GPU" } else { "processor, for development" };
            writeln!(out, "mlx: {kind}, {} MiB of memory to use, {} MiB in use", limit >> 20, active >> 20)?;
            let platform = device.platform();
            if let Some(platform) = platform {
                let failures = kernel::check::on_gpu(&device, platform, args.seed)?;
                n_failed += failures.len();
                writeln!(out, "mlx: {} of our {platform:?} kernels' launches fail", failures.len())?;
                failures.iter().try_for_each(|failure| writeln!(out, "  FAILED {failure}"))?;
            }
            let mut modes = vec![
                ("mlx f32", Precision::Full, Kernels::Mlx, 1.0),
                ("mlx 16 bits", Precision::Half, Kernels::Mlx, HALF_SLACK),
            ];
            if platform.is_some() {
                modes.push(("mlx 16 bits, our kernels", Precision::Half, Kernels::Own, HALF_SLACK));
            }
            for (name, precision, kernels, slack) in modes {
                let mut mlx = Mlx::new(backend::mlx_device()?, precision, kernels, Box::new(|_| ()));
                if let Some(trial) = mlx.trial()? {
                    tell(out, &trial)?;
                }
                n_failed += report(name, conformance::run(&mut mlx, &options(args, slack)))?;
            }
        }
    }
    if n_failed > 0 {
        return Err(CliError::Failed(format!("{n_failed} checks failed; send this output with the machine's name")));
    }
    writeln!(out, "everything computes what its definition says")?;
    Ok(())
}

fn options(args: &DoctorArgs, slack: f32) -> Options {
    Options { seed: args.seed, slack, only: args.only.clone().unwrap_or_default() }
}

/// Prints what each way to multiply a few rows took, and which is chosen.
fn tell(out: &mut impl Write, trial: &Trial) -> io::Result<()> {
    writeln!(out, "rows times 4096 x 4096 weights of 4 bits, us:")?;
    for ((rows, times), chosen) in trial::TRIED.iter().zip(trial.times).zip(trial.ways()) {
        let each: Vec<String> =
            Way::NAMES.iter().zip(times).map(|((n, _), t)| format!("{n} {}", t.as_micros())).collect();
        let chosen = Way::NAMES.iter().find(|(_, way)| *way == chosen).map_or("", |(name, _)| name);
        writeln!(out, "  {rows}: {}; fastest: {chosen}", each.join(", "))?;
    }
    Ok(())
}

/// Prints a report and counts its failures.
fn report(name: &str, report: conformance::Report) -> io::Result<usize> {
    let (out, n) = (&mut io::stdout(), report.cases.iter().map(|(_, n)| n).sum::<usize>());
    writeln!(out, "{name}: {n} comparisons with the definitions, {} fail", report.failures.len())?;
    report.refused.iter().try_for_each(|refused| writeln!(out, "  refused {refused}"))?;
    report.failures.iter().try_for_each(|failure| writeln!(out, "  FAILED {failure}"))?;
    Ok(report.failures.len())
}
