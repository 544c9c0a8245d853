//! Which backend runs a model.

use std::cell::OnceCell;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use mlxr_compute::Backend;
use mlxr_compute::cpu::{Cpu, Isa, Pool};
use mlxr_compute::op::KvType;
use mlxr_compute::recorder::{Record, Recorder, Recording};
use mlxr_compute::scalar::Scalar;
use mlxr_engine::{Draft, Reads, Runner, RunnerInfo};
use mlxr_mlx::{Device, Kernels, Kind, Mlx, Precision, Way, find};
use mlxr_models::{LoadError, LoadOptions, Model};
use mlxr_weights::Checkpoint;

use crate::CliError;
use crate::args::{BackendName, KvTypeName};

/// A backend and how it is set up. Models that are loaded with one choice share its threads, and take turns: threads that
/// wait for one model's work would keep the processors from the other's.
pub struct BackendChoice<'a> {
    /// Which.
    pub name: BackendName,
    /// Threads of the processor.
    pub n_thread: usize,
    /// Instruction set of the processor; the best if `None`.
    pub isa: Option<&'a str>,
    pool: OnceCell<Arc<Pool>>,
}

impl BackendChoice<'_> {
    /// A choice of the command line; `threads` are checked by [`n_thread`].
    ///
    /// # Errors
    /// If none or absurdly many threads are asked for.
    pub fn new(name: BackendName, threads: Option<usize>, isa: Option<&str>) -> Result<BackendChoice<'_>, CliError> {
        Ok(BackendChoice { name, n_thread: n_thread(threads)?, isa, pool: OnceCell::new() })
    }

    fn pool(&self) -> Result<Arc<Pool>, CliError> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool.clone());
        }
        let pool = Arc::new(Pool::new(self.n_thread)?);
        Ok(self.pool.get_or_init(|| pool).clone())
    }
}

impl BackendName {
    /// Its name on the command line.
    pub fn text(self) -> &'static str {
        match self {
            BackendName::Auto => "auto",
            BackendName::Cpu => "cpu",
            BackendName::Scalar => "scalar",
            BackendName::Mlx => "mlx",
        }
    }
}

impl KvTypeName {
    /// Its name on the command line.
    pub fn text(self) -> &'static str {
        match self {
            KvTypeName::F32 => "f32",
            KvTypeName::F16 => "f16",
            KvTypeName::Bf16 => "bf16",
            KvTypeName::Q8 => "q8",
            KvTypeName::Q4 => "q4",
        }
    }

    /// The store of that name.
    pub fn kv_type(self) -> KvType {
        match self {
            KvTypeName::F32 => KvType::F32,
            KvTypeName::F16 => KvType::F16,
            KvTypeName::Bf16 => KvType::BF16,
            KvTypeName::Q8 => KvType::Q8,
            KvTypeName::Q4 => KvType::Q4,
        }
    }
}

/// The threads asked for, or the processors of this machine.
///
/// # Errors
/// If none or absurdly many are asked for.
pub fn n_thread(asked: Option<usize>) -> Result<usize, CliError> {
    const LIMIT: usize = 1024;
    match asked {
        Some(n) if !(1..=LIMIT).contains(&n) => {
            Err(CliError::Usage(format!("--threads is {n}, expected 1 to {LIMIT}")))
        }
        Some(n) => Ok(n),
        None => Ok(thread::available_parallelism().map_or(1, NonZeroUsize::get)),
    }
}

/// Loads a model onto a backend, and says which it is.
///
/// # Errors
/// If this machine lacks the backend, or the model does not load.
pub fn load(
    checkpoint: &Checkpoint,
    choice: &BackendChoice,
    options: &LoadOptions,
    progress: &mut dyn FnMut(f32),
) -> Result<(Box<dyn Runner>, BackendName), CliError> {
    let on_cpu = |progress: &mut dyn FnMut(f32)| -> Result<(Box<dyn Runner>, BackendName), CliError> {
        Ok((Box::new(mlxr_models::load(checkpoint, cpu(choice)?, options, progress)?), BackendName::Cpu))
    };
    match choice.name {
        BackendName::Scalar => Ok((Box::new(mlxr_models::load(checkpoint, Scalar, options, progress)?), choice.name)),
        BackendName::Mlx => Ok((Box::new(mlxr_models::load(checkpoint, mlx()?, options, progress)?), choice.name)),
        BackendName::Auto if cfg!(target_os = "macos") => {
            let loaded = mlx().and_then(|mlx| Ok(mlxr_models::load(checkpoint, mlx, options, progress)?));
            match loaded {
                Ok(model) => Ok((Box::new(model), BackendName::Mlx)),
                Err(error @ (CliError::Mlx(_) | CliError::Load(LoadError::Compute(_)))) => {
                    eprintln!("warning: {error}; running on the processor");
                    on_cpu(progress)
                }
                Err(error) => Err(error),
            }
        }
        BackendName::Auto | BackendName::Cpu => on_cpu(progress),
    }
}

/// What is loaded beside a model.
trait Beside {
    /// What comes of it.
    type Loaded;

    /// Loads it onto a backend.
    fn load<B: Backend + Send + 'static>(self, backend: B) -> Result<Self::Loaded, LoadError>
    where
        B::Tensor: Send,
        B::Matrix: Send,
        B::Kv: Send;
}

/// Loads something onto the backend that its model was loaded onto.
fn load_beside<T: Beside>(what: T, choice: &BackendChoice, used: BackendName) -> Result<T::Loaded, CliError> {
    Ok(match used {
        BackendName::Scalar => what.load(Scalar)?,
        BackendName::Mlx => what.load(mlx()?)?,
        BackendName::Auto | BackendName::Cpu => what.load(cpu(choice)?)?,
    })
}

/// A model's layer for further tokens.
struct Next<'a>(&'a Checkpoint, &'a LoadOptions);

impl Beside for Next<'_> {
    type Loaded = Option<Box<dyn Runner>>;

    fn load<B: Backend + Send + 'static>(self, backend: B) -> Result<Self::Loaded, LoadError>
    where
        B::Tensor: Send,
        B::Matrix: Send,
        B::Kv: Send,
    {
        let next = mlxr_models::load_next(self.0, backend, self.1)?;
        Ok(next.map(|next| Box::new(next) as Box<dyn Runner>))
    }
}

/// What was trained to draft for a model.
struct Head<'a> {
    checkpoint: &'a Checkpoint,
    large: &'a Checkpoint,
    info: &'a RunnerInfo,
    options: &'a LoadOptions,
}

impl Beside for Head<'_> {
    type Loaded = Option<Draft>;

    fn load<B: Backend + Send + 'static>(self, backend: B) -> Result<Self::Loaded, LoadError>
    where
        B::Tensor: Send,
        B::Matrix: Send,
        B::Kv: Send,
    {
        let Head { checkpoint, large, info, options } = self;
        if mlxr_models::is_medusa(checkpoint) {
            let heads = mlxr_models::load_medusa(checkpoint, (info.d_model, info.n_vocab), backend)?;
            let n = heads.n_head();
            return Ok(Some(Draft { runner: Box::new(heads), reads: Reads::Heads(n) }));
        }
        if mlxr_models::is_eagle(checkpoint) {
            let (layer, taps) = mlxr_models::load_eagle(checkpoint, large, backend, options)?;
            return Ok(Some(Draft { runner: Box::new(layer), reads: Reads::Hidden(taps) }));
        }
        Ok(None)
    }
}

/// Loads a model's layer for further tokens onto the backend that the model was loaded onto; `None` if it has none.
///
/// # Errors
/// As [`load`].
pub fn load_next(
    checkpoint: &Checkpoint,
    choice: &BackendChoice,
    used: BackendName,
    options: &LoadOptions,
) -> Result<Option<Box<dyn Runner>>, CliError> {
    load_beside(Next(checkpoint, options), choice, used)
}

/// Loads what was trained to draft for the model of `large`, of which `info` says what is to be known, onto the backend that the
/// model was loaded onto; `None` if `checkpoint` is nothing of that kind.
///
/// # Errors
/// As [`load`].
pub fn load_head(
    (checkpoint, large, info): (&Checkpoint, &Checkpoint, &RunnerInfo),
    choice: &BackendChoice,
    used: BackendName,
    options: &LoadOptions,
) -> Result<Option<Draft>, CliError> {
    load_beside(Head { checkpoint, large, info, options }, choice, used)
}

/// Loads a model whose matrices' inputs are recorded; `record` says what of them.
///
/// # Errors
/// As [`load`].
pub fn load_recording(
    checkpoint: &Checkpoint,
    choice: &BackendChoice,
    options: &LoadOptions,
    record: Record,
) -> Result<(Box<dyn Runner>, Recording), CliError> {
    fn start<B: Backend + Send + 'static>(
        backend: B,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        record: Record,
    ) -> Result<(Box<dyn Runner>, Recording), CliError>
    where
        Recorder<B>: Backend,
        Model<Recorder<B>>: Runner,
    {
        let (recorder, recording) = Recorder::new(backend, record);
        Ok((Box::new(mlxr_models::load(checkpoint, recorder, options, &mut |_| ())?), recording))
    }
    match choice.name {
        BackendName::Auto | BackendName::Cpu => start(cpu(choice)?, checkpoint, options, record),
        BackendName::Scalar => start(Scalar, checkpoint, options, record),
        BackendName::Mlx => start(mlx()?, checkpoint, options, record),
    }
}

/// MLX's device: the GPU, or where it has none (its Linux build) the processor, which is for development.
///
/// # Errors
/// If MLX is not there, or is another version.
pub fn mlx_device() -> Result<Device, CliError> {
    let executable = std::env::current_exe().ok();
    let named = std::env::var_os("MLXR_MLX_DIR").map(PathBuf::from);
    Ok(find::open(find::places(executable.as_deref(), named.as_deref()))?)
}

fn mlx() -> Result<Mlx, CliError> {
    let device = mlx_device()?;
    let precision = match (named("MLXR_PRECISION", &Precision::NAMES)?, device.kind()) {
        (Some(precision), _) => precision,
        (None, Kind::Cpu) => Precision::Full,
        (None, Kind::Gpu) => Precision::Half,
    };
    let kernels = kernels(&device)?;
    let mut mlx = Mlx::new(device, precision, kernels, Box::new(|text| eprintln!("warning: {text}")));
    mlx.multiply_by(named("MLXR_PRODUCTS", &Way::NAMES)?)?;
    Ok(mlx)
}

/// Whose kernels compute on a GPU: what `MLXR_KERNELS` says, or what is best there.
fn kernels(device: &Device) -> Result<Kernels, CliError> {
    if let Some(asked) = named("MLXR_KERNELS", &Kernels::NAMES)? {
        return Ok(asked);
    }
    let (kernels, reason) = Kernels::preferred(device);
    if let Some(reason) = reason {
        eprintln!("warning: {reason}");
    }
    Ok(kernels)
}

/// What a variable chooses by its name, if it is set.
fn named<T: Copy>(variable: &str, names: &[(&str, T)]) -> Result<Option<T>, CliError> {
    let Ok(asked) = std::env::var(variable) else { return Ok(None) };
    match names.iter().find(|(name, _)| *name == asked) {
        Some((_, choice)) => Ok(Some(*choice)),
        None => {
            let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            Err(CliError::Usage(format!("{variable} is `{asked}`, expected one of {}", names.join(", "))))
        }
    }
}

/// The processor with all its threads and its best instructions.
///
/// # Errors
/// If its threads cannot be had.
pub fn cpu_default() -> Result<Cpu, CliError> {
    cpu(&BackendChoice::new(BackendName::Cpu, None, None)?)
}

fn cpu(choice: &BackendChoice) -> Result<Cpu, CliError> {
    let isa = match choice.isa {
        None => Isa::detect(),
        Some(name) => Isa::from_name(name).ok_or_else(|| {
            let names: Vec<&str> = Isa::ALL.iter().filter(|isa| isa.available()).map(|isa| isa.name()).collect();
            CliError::Usage(format!("no instruction set `{name}`: this machine has {}", names.join(", ")))
        })?,
    };
    Ok(Cpu::new(choice.pool()?, isa)?)
}

/// The instruction set that a choice means, for reports.
pub fn isa_text(choice: &BackendChoice) -> String {
    match choice.name {
        BackendName::Auto | BackendName::Cpu => {
            choice.isa.map_or_else(|| Isa::detect().name().to_owned(), str::to_owned)
        }
        BackendName::Scalar | BackendName::Mlx => choice.name.text().to_owned(),
    }
}
