//! Our own kernels: one text each, for Metal, CUDA and a processor.
//!
//! | module | what |
//! |---|---|
//! | this | the table of kernels |
//! | [`source`] | a kernel's text for Metal, and programs of all of them for CUDA and a processor |
//! | [`check`] | the same launches on this machine's Metal device |
//! | [`cases`] | random launches, with the definitions' results |
//!
//! A kernel's text (`kernels/*.metal`) is a function body over named arrays, in a subset that three preludes compile. A
//! wave (simdgroup, warp) has 32 lanes on both GPUs, so sums agree. The processor's form runs in every test run, CUDA's
//! by `cargo xtask gpu-kernels` on a machine with a GPU, Metal's by `mlx-run doctor` on a Mac.

pub mod cases;
pub mod check;
pub mod source;

/// A kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: &'static str,
    /// The function's body.
    pub body: &'static str,
    /// Names and types of the arrays that it reads; a type in capitals is a parameter.
    pub inputs: &'static [(&'static str, &'static str)],
    /// Names of the f32 arrays that it writes.
    pub outputs: &'static [&'static str],
    /// Names of compile-time numbers.
    pub constants: &'static [&'static str],
    /// Waves of a group.
    pub n_wave: u32,
}

/// A kernel with its constants and type parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Place in [`KERNELS`].
    pub kernel: usize,
    /// Values of the constants.
    pub constants: Vec<u32>,
    /// What the type parameter is: `float` or `half`; unused without one.
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

/// Every kernel.
pub const KERNELS: [Kernel; 5] = [
    Kernel {
        name: "paged_attention",
        body: body!("paged_attention"),
        inputs: &[
            ("q", "float"),
            ("k", "T"),
            ("v", "T"),
            ("pages", "int"),
            ("spans", "uint"),
            ("sizes", "uint"),
            ("factors", "float"),
        ],
        outputs: &["parts", "sums"],
        constants: &["D", "G"],
        n_wave: 4,
    },
    Kernel {
        name: "attention_merge",
        body: body!("attention_merge"),
        inputs: &[("parts", "float"), ("sums", "float"), ("sinks", "float"), ("sizes", "uint")],
        outputs: &["out"],
        constants: &["D"],
        n_wave: 1,
    },
    Kernel {
        name: "affine_matmul",
        body: body!("affine_matmul"),
        inputs: &[("x", "float"), ("w", "uint"), ("scales", "T"), ("biases", "T"), ("sizes", "uint")],
        outputs: &["y"],
        constants: &["M", "BITS", "GROUP"],
        n_wave: 4,
    },
    Kernel {
        name: "q6_k_matmul",
        body: body!("q6_k_matmul"),
        inputs: &[("x", "float"), ("w", "u16"), ("sizes", "uint")],
        outputs: &["y"],
        constants: &["M"],
        n_wave: 4,
    },
    Kernel {
        name: "q6_k_decode",
        body: body!("q6_k_decode"),
        inputs: &[("w", "u8")],
        outputs: &["y"],
        constants: &[],
        n_wave: 1,
    },
];
