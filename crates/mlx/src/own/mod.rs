//! Our own kernels in place of MLX's operations, where they win.
//!
//! | module | what |
//! |---|---|
//! | this | launches; what stays the same from step to step |
//! | `product` | rows times quantized matrices |
//! | `blocks` | rows times those in blocks, and experts |
//! | `experts` | mixtures of experts: routing, their feed-forward in blocks, their sum |
//! | `form` | rows in 16 bits |
//! | `attend` | rotation, append and attention over pages |
//! | `best` | the largest logits |
//! | [`table`] | where a batch's tokens lie, as the kernels read it |
//! | [`trial`] | which products of a few rows win on this GPU |

pub(crate) mod attend;
pub(crate) mod best;
pub(crate) mod blocks;
pub(crate) mod experts;
pub(crate) mod form;
pub(crate) mod product;
pub mod table;
pub mod trial;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;

use crate::ffi::{Array, Compiler, Device, Dtype, GpuKernel, Output, Text};
use crate::kernel::Instance;
use crate::kernel::source::{self, Platform};
use crate::own::trial::{TRIED, Way, Ways};

/// Small arrays that are kept; a model has a few for each kind of layer.
const MAX_KEPT: usize = 4096;

/// KV heads of tokens whose groups count themselves, at most: those that have room for two shares each.
const MAX_COUNTERS: usize = attend::BUSY_TILES / 2;

/// Steps that a kernel's first use makes longer.
const FRESH_STEPS: u32 = 2;

/// Launches our kernels on one device.
pub(crate) struct Own {
    pub(crate) platform: Platform,
    kernels: RefCell<HashMap<Instance, GpuKernel>>,
    /// By type and bits of their numbers.
    kept: RefCell<HashMap<(bool, Vec<u32>), Array>>,
    /// Of groups that count themselves, for each run of a step.
    counters: RefCell<Vec<Array>>,
    /// Steps whose times are not to be learned from, see [`Own::compiled`].
    fresh: Cell<u32>,
    /// Bits of the weights that were multiplied last, whose layout what comes next is likely to be read in.
    bits: Cell<u32>,
    /// What multiplies a few rows by affine weights.
    pub(crate) ways: Cell<Ways>,
    /// What compiles kernels for this machine's GPU once and for all, on CUDA.
    compiler: OnceCell<Option<Compiler>>,
    /// Why it does not, until that is told.
    complaint: RefCell<Option<String>>,
}

impl Own {
    pub(crate) fn new(platform: Platform) -> Own {
        Own {
            platform,
            kernels: RefCell::default(),
            kept: RefCell::default(),
            counters: RefCell::default(),
            fresh: Cell::new(0),
            bits: Cell::new(4),
            ways: Cell::new([Way::Tiles; TRIED.len()]),
            compiler: OnceCell::new(),
            complaint: RefCell::default(),
        }
    }

    /// The platform whose choice of what blocks to read is right here: where all products of MLX's formats are left to MLX, as on Metal.
    pub(crate) fn reads_as(&self) -> Platform {
        if self.ways.get().iter().all(|way| *way == Way::Mlx) { Platform::Metal } else { self.platform }
    }

    /// What multiplies so many rows by affine weights.
    pub(crate) fn way(&self, n_tok: usize) -> Way {
        trial::way(&self.ways.get(), n_tok)
    }

    /// Whole numbers that recur, as an array; at least eight, as kernels on Metal need them.
    pub(crate) fn sizes(&self, d: &Device, numbers: &[usize]) -> Array {
        let mut numbers: Vec<u32> = numbers.iter().map(|&n| n as u32).collect();
        numbers.resize(numbers.len().max(8), 0);
        self.keep(d, false, numbers)
    }

    /// Numbers that recur, as an array.
    pub(crate) fn floats(&self, d: &Device, numbers: &[f32]) -> Array {
        let mut bits: Vec<u32> = numbers.iter().map(|x| x.to_bits()).collect();
        bits.resize(bits.len().max(8), 0);
        self.keep(d, true, bits)
    }

    /// Zeros by which groups of a run of tokens of a step count themselves: as many as there may be groups at once. Runs of one number
    /// follow each other, as what a layer attends to is made of what the layer before made.
    pub(crate) fn counters(&self, d: &Device, run: usize) -> Array {
        let mut counters = self.counters.borrow_mut();
        while counters.len() <= run {
            let zeros = d.from_slice(&[0u32; MAX_COUNTERS], &[MAX_COUNTERS], Dtype::U32);
            counters.push(d.resident(&zeros).unwrap_or(zeros));
        }
        counters[run].clone()
    }

    /// Whether a kernel was first used in this step or the one before: MLX compiles it when it runs, in the step after if that was
    /// built ahead. `warn` hears once why each process compiles them anew, if that is so.
    pub(crate) fn compiled(&self, warn: &mut dyn FnMut(&str)) -> bool {
        if let Some(complaint) = self.complaint.borrow_mut().take() {
            warn(&complaint);
        }
        let n_left = self.fresh.get();
        self.fresh.set(n_left.saturating_sub(1));
        n_left > 0
    }

    fn keep(&self, d: &Device, float: bool, bits: Vec<u32>) -> Array {
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        let dtype = if float { Dtype::F32 } else { Dtype::U32 };
        let make = |(_, bits): &(bool, Vec<u32>)| d.from_slice(bits, &[bits.len()], dtype);
        kept.entry((float, bits)).or_insert_with_key(make).clone()
    }

    /// The outputs of an instance, whose shapes are given.
    pub(crate) fn launch<const N: usize>(
        &self,
        d: &Device,
        instance: Instance,
        inputs: &[&Array],
        shapes: &[&[usize]; N],
        grid: [usize; 3],
    ) -> [Array; N] {
        let kernel = instance.kernel();
        assert_eq!(kernel.outputs.len(), N, "outputs of {}", kernel.name);
        let mut kernels = self.kernels.borrow_mut();
        if !kernels.contains_key(&instance) {
            self.provide(d, &instance, inputs);
            match made(d, self.platform, &instance) {
                Ok(made) => {
                    kernels.insert(instance.clone(), made);
                    self.fresh.set(FRESH_STEPS);
                }
                Err(error) => return std::array::from_fn(|_| d.failed_array(&error.to_string())),
            }
        }
        let output = |i: usize| Output { shape: shapes[i], dtype: number(kernel.outputs[i].1, instance.parameter) };
        let outputs: [Output<'_>; N] = std::array::from_fn(output);
        let mut made =
            d.launch(&kernels[&instance], inputs, &outputs, grid.map(|n| n as u32), 32 * instance.n_wave()).into_iter();
        std::array::from_fn(|_| made.next().expect("an array for each output"))
    }

    /// Compiles an instance for all processes to come, unless an earlier one has, on CUDA.
    pub(crate) fn provide(&self, d: &Device, instance: &Instance, inputs: &[&Array]) {
        if self.platform != Platform::Cuda {
            return;
        }
        let complain = |why: String| {
            self.complaint.borrow_mut().get_or_insert(format!("each start compiles our kernels anew, as {why}"));
        };
        let Some(compiler) = self.compiler.get_or_init(|| d.compiler().map_err(complain).ok()) else { return };
        let [header, body] = source::for_mlx(self.platform, instance);
        let name = instance.name();
        let text = Text::new(&name, [&header, &body], instance, inputs.iter().map(|array| array.dtype()));
        let _ = compiler.provide(&text).map_err(complain);
    }
}

/// Compiles nothing yet: MLX does when the kernel first runs.
///
/// # Errors
/// If MLX has no such platform.
pub(crate) fn made(d: &Device, platform: Platform, instance: &Instance) -> Result<GpuKernel, mlxr_compute::Error> {
    let kernel = instance.kernel();
    let names = |all: &'static [(&'static str, &'static str)]| all.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let [header, text] = source::for_mlx(platform, instance);
    d.kernel(platform, &instance.name(), [&names(kernel.inputs), &names(kernel.outputs)], [&header, &text])
}

/// The numbers of an array of a kernel's table.
pub(crate) fn number(kind: &str, parameter: &str) -> Dtype {
    match if kind == "T" { parameter } else { kind } {
        "half" => Dtype::F16,
        "bfloat" => Dtype::BF16,
        "uint" => Dtype::U32,
        "int" => Dtype::I32,
        "i8" => Dtype::I8,
        "u8" => Dtype::U8,
        "u16" => Dtype::U16,
        _ => Dtype::F32,
    }
}
