//! Our own kernels: one text each, for Metal, CUDA and a processor.
//!
//! | module | what |
//! |---|---|
//! | this | the table of kernels |
//! | [`blocks`] | GGUF types that have kernels of their own |
//! | `tiles` | those made of `affine_tiles.metal` |
//! | [`source`] | a kernel's text for Metal, and programs of all of them for CUDA and a processor |
//! | [`check`] | the same launches on this machine's Metal device |
//! | [`cases`] | random launches, with the definitions' results |
//!
//! A kernel's text (`kernels/*.metal`) is a function body over named arrays, in a subset that three preludes compile. A
//! wave (simdgroup, warp) has 32 lanes on both GPUs, so sums agree. The processor's form runs in every test run, CUDA's
//! by `cargo xtask gpu-kernels` on a machine with a GPU, Metal's by `mlx-run doctor` on a Mac.

pub mod blocks;
pub mod cases;
pub mod check;
pub mod source;
mod tiles;

/// A kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: &'static str,
    /// The function's body.
    pub body: &'static str,
    /// Names and types of the arrays that it reads; a type in capitals is a parameter.
    pub inputs: &'static [(&'static str, &'static str)],
    /// Names of the inputs that it writes in place.
    pub written: &'static [&'static str],
    /// Names and types of the arrays that it makes, of numbers of 32 bits.
    pub outputs: &'static [(&'static str, &'static str)],
    /// Names of compile-time numbers.
    pub constants: &'static [&'static str],
    /// Waves of a group.
    pub n_wave: u32,
}

/// A kernel with its constants and type parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Place in [`KERNELS`].
    pub kernel: usize,
    /// Values of the constants.
    pub constants: Vec<u32>,
    /// What the type parameter is: `float`, `half` or `bfloat`; unused without one.
    pub parameter: &'static str,
}

impl Instance {
    /// An instance of the kernel of this name.
    ///
    /// # Panics
    /// If there is none, or it has another number of constants.
    pub fn new(name: &str, constants: &[u32], parameter: &'static str) -> Instance {
        let kernel = KERNELS.iter().position(|k| k.name == name).expect("a kernel of this name");
        assert_eq!(KERNELS[kernel].constants.len(), constants.len(), "constants of {name}");
        Instance { kernel, constants: constants.to_vec(), parameter }
    }

    /// The kernel.
    pub fn kernel(&self) -> &'static Kernel {
        &KERNELS[self.kernel]
    }

    /// A name that tells it from others.
    pub fn name(&self) -> String {
        let constants: Vec<String> = self.constants.iter().map(u32::to_string).collect();
        format!("{}_{}_{}", self.kernel().name, constants.join("_"), self.parameter)
    }
}

macro_rules! body {
    ($name:literal) => {
        include_str!(concat!("../../kernels/", $name, ".metal"))
    };
}

/// A text for the blocks of a type.
macro_rules! blocks {
    ($type:literal, $name:literal) => {
        concat!(
            include_str!("../../kernels/blocks/begin.h"),
            include_str!(concat!("../../kernels/blocks/", $type, ".h")),
            body!($name),
            include_str!("../../kernels/blocks/end.h")
        )
    };
}

/// A few rows times a matrix in blocks.
macro_rules! matmul {
    ($type:literal) => {
        Kernel {
            name: concat!($type, "_matmul"),
            body: blocks!($type, "blocks_matmul"),
            inputs: &[
                ("x_half", "uint"),
                ("x_scales", "float"),
                ("w", "u16"),
                ("codes", "uint"),
                ("residual", "float"),
                ("sizes", "uint"),
            ],
            written: &[],
            outputs: &[("y", "float")],
            constants: &["M", "ADD"],
            n_wave: 4,
        }
    };
}

/// Blocks as f16.
macro_rules! decode {
    ($type:literal) => {
        Kernel {
            name: concat!($type, "_decode"),
            body: blocks!($type, "blocks_decode"),
            inputs: &[("w", "u16"), ("codes", "uint"), ("sizes", "uint")],
            written: &[],
            outputs: &[("y", "uint")],
            constants: &[],
            n_wave: 8,
        }
    };
}

/// What the kernels that attend to one token of a sequence read and write.
const PAGED_INPUTS: &[(&str, &str)] = &[
    ("q", "float"),
    ("k", "half"),
    ("v", "half"),
    ("table", "int"),
    ("sizes", "uint"),
    ("factors", "float"),
    ("sinks", "float"),
];
const PARTS: &[(&str, &str)] = &[("parts", "float"), ("sums", "float")];

/// Every kernel.
pub const KERNELS: [Kernel; 39] = [
    Kernel {
        name: "paged_attention",
        body: body!("paged_attention"),
        inputs: PAGED_INPUTS,
        written: &[],
        outputs: PARTS,
        constants: &["D", "G"],
        n_wave: 4,
    },
    Kernel {
        name: "paged_attention_tiles",
        body: body!("paged_attention_tiles"),
        inputs: PAGED_INPUTS,
        written: &[],
        outputs: PARTS,
        constants: &["D", "G", "PAGE"],
        n_wave: 4,
    },
    Kernel {
        name: "prompt_attention",
        body: body!("prompt_attention"),
        inputs: &[
            ("q", "float"),
            ("k", "half"),
            ("v", "half"),
            ("table", "int"),
            ("tiles", "int"),
            ("sizes", "uint"),
            ("factors", "float"),
            ("sinks", "float"),
        ],
        written: &[],
        outputs: &[("out", "float")],
        constants: &["D", "G", "PAGE"],
        n_wave: 4,
    },
    Kernel {
        name: "attention_merge",
        body: body!("attention_merge"),
        inputs: &[("parts", "float"), ("sums", "float"), ("sinks", "float"), ("sizes", "uint")],
        written: &[],
        outputs: &[("out", "float"), ("pairs", "uint")],
        constants: &["D", "LAYOUT"],
        n_wave: 4,
    },
    Kernel {
        name: "rotate_append",
        body: body!("rotate_append"),
        inputs: &[
            ("q", "float"),
            ("k", "float"),
            ("v", "float"),
            ("k_store", "half"),
            ("v_store", "half"),
            ("table", "int"),
            ("turns", "float"),
            ("sizes", "uint"),
            ("before", "int"),
        ],
        written: &["k_store", "v_store"],
        outputs: &[("out", "float"), ("done", "int")],
        constants: &["D", "DIMS", "PAIRED"],
        n_wave: 1,
    },
    Kernel {
        name: "rows_half",
        body: body!("rows_half"),
        inputs: &[("x", "float"), ("weight", "float"), ("sizes", "uint"), ("factors", "float")],
        written: &[],
        outputs: &[("x_half", "uint"), ("x_scales", "float")],
        constants: &["NORM", "LAYOUT"],
        n_wave: 8,
    },
    Kernel {
        name: "rows_finish",
        body: body!("rows_finish"),
        inputs: &[("y", "T"), ("z", "T"), ("x_scales", "float"), ("residual", "float"), ("sizes", "uint")],
        written: &[],
        outputs: &[("out", "float")],
        constants: &["GLU", "ADD"],
        n_wave: 8,
    },
    tiles::PLAIN,
    tiles::GATED,
    tiles::GATED_NORMED,
    tiles::THREE,
    tiles::APPEND,
    tiles::APPEND_NORMED,
    Kernel {
        name: "best",
        body: body!("best"),
        inputs: &[("x", "float"), ("sizes", "uint")],
        written: &[],
        outputs: &[("out", "float")],
        constants: &["K", "E", "PAIRED"],
        n_wave: 8,
    },
    Kernel {
        name: "affine_matmul",
        body: body!("affine_matmul"),
        inputs: &[("x", "float"), ("w", "uint"), ("scales", "T"), ("biases", "T"), ("sizes", "uint")],
        written: &[],
        outputs: &[("y", "float")],
        constants: &["M", "BITS", "GROUP"],
        n_wave: 4,
    },
    matmul!("q2_k"),
    decode!("q2_k"),
    matmul!("q3_k"),
    decode!("q3_k"),
    matmul!("q6_k"),
    decode!("q6_k"),
    matmul!("iq4_nl"),
    decode!("iq4_nl"),
    matmul!("iq4_xs"),
    decode!("iq4_xs"),
    matmul!("iq1_s"),
    decode!("iq1_s"),
    matmul!("iq1_m"),
    decode!("iq1_m"),
    matmul!("iq2_xxs"),
    decode!("iq2_xxs"),
    matmul!("iq2_xs"),
    decode!("iq2_xs"),
    matmul!("iq2_s"),
    decode!("iq2_s"),
    matmul!("iq3_xxs"),
    decode!("iq3_xxs"),
    matmul!("iq3_s"),
    decode!("iq3_s"),
];
