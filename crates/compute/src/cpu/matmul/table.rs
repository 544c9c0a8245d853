//! The forms of packed weights, one row of [`FORMS`] each, and their kernels for every instruction set.

#[cfg(target_arch = "x86_64")]
use super::both::Both;
use super::forms;
use super::kernel::{self, BLOCK, Form, Kernel, Number, ROWS, Record};
use super::pack;
use super::scalar::Plain;
#[cfg(target_arch = "x86_64")]
use super::scaled;
use super::wide::{self, SuperBlocks};
use super::{coded, expand};
use crate::cpu::Isa;
use crate::quant::*;
use crate::{DType, Encoding, MatrixData};

/// What of a tile a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Records of int8 with a scale per 32.
    Int8,
    /// Records of int8 with a scale per 128.
    Wide,
    /// Floats.
    Float,
    /// Pairs of bf16.
    Pairs,
}

impl Input {
    /// Every one.
    pub const ALL: [Input; 4] = [Input::Int8, Input::Wide, Input::Float, Input::Pairs];

    /// Bytes of `n_in` inputs of a column in a tile.
    pub fn bytes(self, n_in: usize) -> usize {
        match self {
            Input::Int8 => n_in.div_ceil(BLOCK) * Record::bytes(1),
            Input::Wide => n_in.div_ceil(wide::SPAN) * wide::Record::bytes(1),
            Input::Float => n_in * 4,
            Input::Pairs => n_in.div_ceil(2) * 4,
        }
    }
}

/// Writes a panel of the rows `first .. first + n` of a matrix: `(matrix, first, n, panel)`.
pub(super) type Packer = fn(&MatrixData, usize, usize, &mut [u8]);

/// One form of packed weights.
pub(super) struct FormRow {
    /// What the kernels take.
    pub input: Input,
    /// Weights of a row in a group.
    pub weights: usize,
    /// Bytes of a group of 16 rows.
    pub bytes: usize,
    /// Packs rows `first .. first + n <= first + 16` of a matrix into a zeroed panel.
    pub pack: Packer,
    /// Whether panels are made each time they are used, as they are larger than the file's rows.
    pub each_time: bool,
    unpacking: &'static [Unpacking],
    /// Whether a matrix can be packed so.
    pub takes: fn(&MatrixData) -> bool,
    scalar: &'static [Kernel],
    #[cfg(target_arch = "x86_64")]
    avx2: &'static [Kernel],
    #[cfg(target_arch = "x86_64")]
    avx512: &'static [Kernel],
    #[cfg(target_arch = "aarch64")]
    neon: &'static [Kernel],
    #[cfg(target_arch = "aarch64")]
    dotprod: &'static [Kernel],
}

/// How panels are unpacked for many columns.
pub(super) struct Unpacking {
    isas: &'static [Isa],
    /// Columns from which on writing and reading them costs less than it saves (`matmul_bench`).
    from: usize,
    /// Bytes of a group of 16 rows.
    pub bytes: usize,
    /// Unpacks the first `n` blocks of a panel, see `Unpacked::unpack`.
    pub unpack: unsafe fn(panel: *const u8, n: usize, out: *mut u8),
    /// The kernel of unpacked panels, for tiles of the greatest width.
    pub kernel: Kernel,
}

impl FormRow {
    /// How panels are unpacked for `n_col` columns, where that pays: for many columns, where products of bytes are one instruction,
    /// so that what else a kernel does counts, or tiles are narrow, so that panels would be decoded often.
    pub fn unpacking(&self, isa: Isa, n_col: usize) -> Option<&Unpacking> {
        self.unpacking.iter().find(|unpacking| n_col >= unpacking.from && unpacking.isas.contains(&isa))
    }

    /// Bytes that a panel needs besides the packed ones to be multiplied with `n_col` columns.
    pub fn scratch_bytes(&self, isa: Isa, n_in: usize, n_col: usize) -> usize {
        match self.unpacking(isa, n_col) {
            _ if self.each_time => self.panel_bytes(n_in),
            Some(unpacking) => n_in / self.weights * unpacking.bytes,
            None => 0,
        }
    }

    /// The kernel for tiles of `width` columns, one of [`widths`].
    pub fn kernel(&self, isa: Isa, width: usize) -> Kernel {
        let kernels = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => self.avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 => self.avx512,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => self.neon,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::NeonI8mm | Isa::NeonBf16 => self.dotprod,
            _ => self.scalar,
        };
        let i = widths(isa).iter().position(|&w| w == width);
        kernels[i.expect("tiles have the widths of the table")]
    }

    /// Bytes of a packed panel of rows of `n_in` weights.
    pub fn panel_bytes(&self, n_in: usize) -> usize {
        n_in / self.weights * self.bytes
    }
}

/// The numbers of columns for which there are kernels, rising. Tiles of other numbers are filled up. Not every number has
/// a kernel, as they take long to compile.
pub(super) fn widths(isa: Isa) -> &'static [usize] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::WIDTHS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Avx512Bf16 => avx512::WIDTHS,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::WIDTHS,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod | Isa::NeonI8mm | Isa::NeonBf16 => dotprod::WIDTHS,
        _ => scalar::WIDTHS,
    }
}

/// The kernels of an instruction set, which differ in nothing but vectors (`one`: of one column, and of floats), the module of those
/// of super-blocks, features and the number of columns.
macro_rules! isa {
    ($name:ident, $simd:ty, one $one:ty, $wide:ident, [$($n:literal)*] $(, $features:literal)?) => {
        mod $name {
            use super::*;

            pub(super) const WIDTHS: &[usize] = &[$($n),*];

            $(#[target_feature(enable = $features)])?
            unsafe fn run_int<F: Form, const N: usize>(args: &kernel::Args) {
                // SAFETY: passed on to the caller; the features are enabled here.
                unsafe {
                    match N {
                        1 => kernel::int::<$one, F, N>(args),
                        _ => kernel::int::<$simd, F, N>(args),
                    }
                }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn run_wide<F: SuperBlocks, const N: usize>(args: &kernel::Args) {
                // SAFETY: passed on to the caller; the features are enabled here.
                unsafe {
                    match N {
                        1 => $wide::int::<$one, F, N>(args),
                        _ => $wide::int::<$simd, F, N>(args),
                    }
                }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn run_float<F: Number, const N: usize>(args: &kernel::Args) {
                // SAFETY: passed on to the caller; the features are enabled here.
                unsafe { kernel::float::<$one, F, N>(args) }
            }

            pub(super) const fn int<F: Form>() -> &'static [Kernel] {
                &[$(run_int::<F, $n>),*]
            }

            pub(super) const fn wide<F: SuperBlocks>() -> &'static [Kernel] {
                &[$(run_wide::<F, $n>),*]
            }

            pub(super) const fn float<F: Number>() -> &'static [Kernel] {
                &[$(run_float::<F, $n>),*]
            }
        }
    };
}

/// The kernels of an instruction set that multiplies pairs of bf16, for the same numbers of columns.
macro_rules! pairs {
    ($name:ident, $isa:ident, $simd:ty, [$($n:literal)*] $(, $features:literal)?) => {
        mod $name {
            use super::*;

            pub(super) const KERNELS: &[Kernel] = &[$(run_pairs::<$n>),*];
            const _: () = assert!(KERNELS.len() == $isa::WIDTHS.len());

            $(#[target_feature(enable = $features)])?
            unsafe fn run_pairs<const N: usize>(args: &kernel::Args) {
                // SAFETY: passed on to the caller; the features are enabled here.
                unsafe { kernel::float::<$simd, forms::Bf16Pairs, N>(args) }
            }
        }
    };
}

isa!(scalar, Plain, one Plain, wide, [1]);
pairs!(scalar_pairs, scalar, Plain, [1]);
#[cfg(target_arch = "x86_64")]
isa!(
    avx2,
    crate::cpu::matmul::avx2::Avx2,
    one Both<crate::cpu::matmul::avx2::Avx2>,
    scaled,
    [1 2 4],
    "avx2,fma,f16c"
);
#[cfg(target_arch = "x86_64")]
mod avx2_unpacked {
    use super::*;
    use crate::cpu::matmul::avx2::Avx2;
    use crate::cpu::matmul::scaled::{self, Unpacked};

    const N: usize = 4;
    const _: () = assert!(matches!(avx2::WIDTHS, [.., N]));

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack<F: SuperBlocks>(panel: *const u8, n: usize, out: *mut u8) {
        // SAFETY: passed on to the caller; the features are enabled here.
        unsafe { Unpacked::<F>::unpack::<Both<Avx2>>(panel, n, out) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run_unpacked<F: SuperBlocks>(args: &kernel::Args) {
        // SAFETY: passed on to the caller; the features are enabled here.
        unsafe { scaled::unpacked::<Avx2, F, N>(args) }
    }

    pub(super) const fn unpacking<F: SuperBlocks>() -> Unpacking {
        const ISAS: &[Isa] = &[Isa::Avx2];
        let (bytes, unpack, kernel) = (Unpacked::<F>::BYTES, unpack::<F>, run_unpacked::<F>);
        Unpacking { isas: ISAS, from: 32, bytes, unpack, kernel }
    }
}
#[cfg(target_arch = "x86_64")]
isa!(
    avx512,
    crate::cpu::matmul::avx512::Avx512,
    one crate::cpu::matmul::avx512::Avx512,
    wide,
    [1 2 3 4 6 8 12 16],
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c"
);
#[cfg(target_arch = "x86_64")]
pairs!(
    avx512_pairs,
    avx512,
    crate::cpu::matmul::avx512::Avx512,
    [1 2 3 4 6 8 12 16],
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c,avx512bf16"
);
#[cfg(target_arch = "x86_64")]
mod avx512_unpacked {
    use super::*;
    use crate::cpu::matmul::avx512::Avx512;
    use crate::cpu::matmul::unpack::{self, Unpacked};

    const N: usize = 16;
    const _: () = assert!(matches!(avx512::WIDTHS, [.., N]));

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    unsafe fn unpack<F: SuperBlocks>(panel: *const u8, n: usize, out: *mut u8) {
        // SAFETY: passed on to the caller; the features are enabled here.
        unsafe { Unpacked::<F>::unpack::<Avx512>(panel, n, out) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    unsafe fn run_unpacked<F: SuperBlocks>(args: &kernel::Args) {
        // SAFETY: passed on to the caller; the features are enabled here.
        unsafe { unpack::int::<Avx512, F, N>(args) }
    }

    pub(super) const fn unpacking<F: SuperBlocks>() -> Unpacking {
        const ISAS: &[Isa] = &[Isa::Avx512Vnni, Isa::Avx512Bf16];
        let (bytes, unpack, kernel) = (Unpacked::<F>::BYTES, unpack::<F>, run_unpacked::<F>);
        Unpacking { isas: ISAS, from: 64, bytes, unpack, kernel }
    }
}
#[cfg(target_arch = "aarch64")]
isa!(neon, crate::cpu::matmul::neon::Neon, one crate::cpu::matmul::neon::Neon, wide, [1 4], "neon");
#[cfg(target_arch = "aarch64")]
isa!(dotprod, crate::cpu::matmul::neon::Dotprod, one crate::cpu::matmul::neon::Dotprod, wide, [1 2 4 8], "neon,dotprod");
#[cfg(target_arch = "aarch64")]
pairs!(dotprod_pairs, dotprod, crate::cpu::matmul::neon::Dotprod, [1 2 4 8], "neon,dotprod,bf16");

/// A row, given its fields but for the kernels, which are `$kernels` of each instruction set for the form.
macro_rules! row {
    ($kernels:ident<$form:ty>, $($field:tt)*) => {
        FormRow {
            scalar: scalar::$kernels::<$form>(),
            #[cfg(target_arch = "x86_64")]
            avx2: avx2::$kernels::<$form>(),
            #[cfg(target_arch = "x86_64")]
            avx512: avx512::$kernels::<$form>(),
            #[cfg(target_arch = "aarch64")]
            neon: neon::$kernels::<$form>(),
            #[cfg(target_arch = "aarch64")]
            dotprod: dotprod::$kernels::<$form>(),
            each_time: false,
            unpacking: &[],
            $($field)*
        }
    };
}

const fn int<F: Form, B: pack::Pack>() -> FormRow {
    assert!(F::BYTES == ROWS * B::BYTES && F::BLOCKS * BLOCK == B::DTYPE.block());
    int_packed::<F>(pack::blocks::<B>, pack::takes::<B>)
}

const fn int_packed<F: Form>(pack: Packer, takes: fn(&MatrixData) -> bool) -> FormRow {
    row!(int<F>, input: Input::Int8, weights: F::BLOCKS * BLOCK, bytes: F::BYTES, pack, takes)
}

/// How panels of a form are unpacked.
#[cfg(target_arch = "x86_64")]
trait Unpackings: SuperBlocks + Sized {
    const ALL: &[Unpacking] = match (Self::COSTLY, Self::MERGED) {
        (true, true) => &[avx2_unpacked::unpacking::<Self>(), avx512_unpacked::unpacking::<Self>()],
        (true, false) => &[avx2_unpacked::unpacking::<Self>()],
        (false, true) => &[avx512_unpacked::unpacking::<Self>()],
        (false, false) => &[],
    };
}

#[cfg(target_arch = "x86_64")]
impl<F: SuperBlocks> Unpackings for F {}

/// A form in super-blocks, whose inputs have a scale per 128.
const fn wide<F: SuperBlocks, B: pack::Pack>() -> FormRow {
    assert!(F::BYTES == ROWS * B::BYTES && F::BLOCKS * BLOCK == B::DTYPE.block());
    wide_packed::<F>(pack::blocks::<B>, pack::takes::<B>)
}

const fn wide_packed<F: SuperBlocks>(pack: Packer, takes: fn(&MatrixData) -> bool) -> FormRow {
    FormRow {
        #[cfg(target_arch = "x86_64")]
        unpacking: F::ALL,
        ..row!(wide<F>, input: Input::Wide, weights: F::BLOCKS * BLOCK, bytes: F::BYTES, pack, takes)
    }
}

const fn float<F: Number, const SIZE: usize>(takes: fn(&MatrixData) -> bool) -> FormRow {
    assert!(F::SIZE == SIZE);
    row!(float<F>, input: Input::Float, weights: 1, bytes: ROWS * SIZE, pack: pack::numbers::<SIZE>, takes)
}

const fn bf16_pairs() -> FormRow {
    FormRow {
        input: Input::Pairs,
        weights: 2,
        bytes: ROWS * 4,
        pack: pack::numbers::<4>,
        takes: |m| m.encoding == Encoding::Blocks(DType::BF16) && m.n_in.is_multiple_of(2),
        scalar: scalar_pairs::KERNELS,
        #[cfg(target_arch = "x86_64")]
        avx2: &[],
        #[cfg(target_arch = "x86_64")]
        avx512: avx512_pairs::KERNELS,
        #[cfg(target_arch = "aarch64")]
        neon: &[],
        #[cfg(target_arch = "aarch64")]
        dotprod: dotprod_pairs::KERNELS,
        each_time: false,
        unpacking: &[],
    }
}

const fn codebook<B: coded::Coded>() -> FormRow {
    wide_packed::<forms::Codebook<B>>(coded::blocks::<B>, coded::takes::<B>)
}

/// The form of a matrix: the first row that the instruction set has and that takes it.
pub(super) fn form(matrix: &MatrixData, isa: Isa) -> &'static FormRow {
    let has = |f: &&FormRow| (f.input != Input::Pairs || isa.multiplies_bf16()) && (f.takes)(matrix);
    FORMS.iter().find(has).expect("the last row takes everything")
}

static FORMS: [FormRow; 33] = [
    bf16_pairs(),
    float::<forms::F32, 4>(|m| m.encoding == Encoding::Blocks(DType::F32)),
    float::<forms::F16, 2>(|m| m.encoding == Encoding::Blocks(DType::F16)),
    float::<forms::BF16, 2>(|m| m.encoding == Encoding::Blocks(DType::BF16)),
    int::<forms::Q4_0, BlockQ4_0>(),
    int::<forms::Q4_1, BlockQ4_1>(),
    int::<forms::Q5_0, BlockQ5_0>(),
    int::<forms::Q5_1, BlockQ5_1>(),
    int::<forms::Q8_0, BlockQ8_0>(),
    wide::<forms::Q2_K, BlockQ2_K>(),
    wide::<forms::Q3_K, BlockQ3_K>(),
    wide::<forms::Q4_K, BlockQ4_K>(),
    wide::<forms::Q5_K, BlockQ5_K>(),
    wide::<forms::Q6_K, BlockQ6_K>(),
    wide::<forms::Q8_K, BlockQ8_K>(),
    int::<forms::IQ4_NL, BlockIQ4_NL>(),
    wide::<forms::IQ4_XS, BlockIQ4_XS>(),
    int::<forms::Fp4, BlockMXFP4>(),
    int::<forms::NVFP4, BlockNVFP4>(),
    int_packed::<forms::Affine4<1>>(pack::affine::<4, 1>, pack::takes_affine::<4, 1>),
    int_packed::<forms::Affine4<2>>(pack::affine::<4, 2>, pack::takes_affine::<4, 2>),
    int_packed::<forms::Affine8<1>>(pack::affine::<8, 1>, pack::takes_affine::<8, 1>),
    int_packed::<forms::Affine8<2>>(pack::affine::<8, 2>, pack::takes_affine::<8, 2>),
    wide::<forms::IQ1_S, BlockIQ1_S>(),
    codebook::<BlockIQ1_M>(),
    codebook::<BlockIQ2_XXS>(),
    codebook::<BlockIQ2_XS>(),
    codebook::<BlockIQ2_S>(),
    codebook::<BlockIQ3_XXS>(),
    codebook::<BlockIQ3_S>(),
    codebook::<BlockTQ1_0>(),
    codebook::<BlockTQ2_0>(),
    FormRow { pack: expand::floats, each_time: true, ..float::<forms::F32, 4>(|_| true) },
];
