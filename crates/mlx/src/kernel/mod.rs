//! Our own kernels: one text each, for Metal, CUDA and a processor.
//!
//! | module | what |
//! |---|---|
//! | this | the table of kernels |
//! | [`blocks`] | formats of blocks that have kernels of their own |
//! | `of_blocks` | these kernels |
//! | [`pack`] | such blocks as the kernels read them |
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
mod of_blocks;
pub mod pack;
pub mod source;
pub(crate) mod tiles;

/// A kernel.
#[derive(Debug, Clone, Copy)]
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
    /// Groups of up to eight rows, and of eight waves, that a multiprocessor of CUDA is to have registers for; 0: as they come. By kernel
    /// times of an H100; of more rows all registers are needed.
    pub n_group: u32,
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

    /// Waves of a group: what the constant WAVES says, where there is one.
    pub fn n_wave(&self) -> u32 {
        let kernel = self.kernel();
        let waves = kernel.constants.iter().position(|name| *name == "WAVES");
        waves.map_or(kernel.n_wave, |i| self.constants[i])
    }

    /// What a kernel of CUDA is told of its groups before its name.
    pub fn bounds(&self) -> String {
        let (kernel, n_wave) = (self.kernel(), self.n_wave());
        match kernel.n_group {
            0 => String::new(),
            _ if self.constants[0] > 1 => String::new(),
            n_group => format!("__launch_bounds__({}, {}) ", 32 * n_wave, (8 * n_group).div_ceil(n_wave)),
        }
    }

    /// If this platform can run it: groups of Metal do not see what others write, and have less memory; and MLX's formats are left to
    /// MLX there.
    pub fn runs_on(&self, platform: source::Platform) -> bool {
        let kernel = self.kernel();
        let left = kernel.body.contains("LAST(") || self.n_wave() > 8 || blocks::of_mlx(kernel.name);
        platform == source::Platform::Cuda || !left
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

/// A text with a gate.
macro_rules! gated {
    ($body:expr) => {
        concat!(include_str!("../../kernels/glu.h"), $body, "#undef GATED\n")
    };
}

/// A text for keys and values in f16 (0), or in 8 bits with scales (1).
macro_rules! stored {
    ($q8:literal, $name:literal) => {
        concat!(
            "#define Q8 ",
            $q8,
            "\n",
            include_str!("../../kernels/join.h"),
            include_str!("../../kernels/codes.h"),
            body!($name),
            "#undef Q8\n#undef INTEGERS\n#undef FINISH\n#undef JOIN\n"
        )
    };
}

/// A kernel that attends to one kind of stored keys and values.
macro_rules! attends {
    (
        $q8:literal, $end:literal, $name:literal, [$($store:tt),*], [$($more:tt),*], [$($written:literal),*],
        $outputs:expr, $constants:expr
    ) => {
        Kernel {
            name: concat!($name, $end),
            body: stored!($q8, $name),
            inputs: &[
                ("q", "float"),
                $($store,)*
                ("table", "int"),
                $($more,)*
                ("sizes", "uint"),
                ("factors", "float"),
                ("sinks", "float"),
                $(($written, "uint"),)*
            ],
            written: &[$($written),*],
            outputs: $outputs,
            constants: $constants,
            n_wave: 4,
            n_group: 0,
        }
    };
}

/// All of them.
macro_rules! attention {
    ($q8:literal, $end:literal, $store:tt) => {
        [
            attends!($q8, $end, "paged_attention", $store, [], [], PARTS, &["D", "G"]),
            attends!(
                $q8,
                $end,
                "paged_attention_tiles",
                $store,
                [],
                ["arrived"],
                &[("out", "float"), ("pairs", "uint"), ("parts", "float"), ("sums", "float")],
                &["D", "G", "PAGE", "HEADS", "ALONE", "LAYOUT"]
            ),
            attends!(
                $q8,
                $end,
                "prompt_attention",
                $store,
                [("tiles", "int")],
                [],
                &[("out", "float")],
                &["D", "G", "PAGE"]
            ),
        ]
    };
}

const PARTS: &[(&str, &str)] = &[("parts", "float"), ("sums", "float")];
const OF_HALVES: [Kernel; 3] = attention!("0", "", [("k", "half"), ("v", "half")]);
const OF_Q8: [Kernel; 3] =
    attention!("1", "_q8", [("k", "i8"), ("v", "i8"), ("k_scales", "float"), ("v_scales", "float")]);

/// Rotation and append to one kind of stored keys and values.
macro_rules! rotate_append {
    ($q8:literal, $end:literal, [$($store:tt),*], $written:expr) => {
        Kernel {
            name: concat!("rotate_append", $end),
            body: stored!($q8, "rotate_append"),
            inputs: &[
                ("q", "float"),
                ("k", "float"),
                ("v", "float"),
                $($store,)*
                ("table", "int"),
                ("turns", "float"),
                ("sizes", "uint"),
                ("before", "int"),
            ],
            written: $written,
            outputs: &[("out", "float"), ("done", "int")],
            constants: &["D", "DIMS", "PAIRED"],
            n_wave: 1,
            n_group: 0,
        }
    };
}

/// Every kernel.
pub static KERNELS: [Kernel; OTHERS.len() + 3 * of_blocks::KERNELS.len()] = {
    let mut all = [OTHERS[0]; OTHERS.len() + 3 * of_blocks::KERNELS.len()];
    let mut i = 0;
    while i < all.len() {
        let past = i.saturating_sub(OTHERS.len());
        all[i] = if i < OTHERS.len() { OTHERS[i] } else { of_blocks::KERNELS[past / 3][past % 3] };
        i += 1;
    }
    all
};

/// Those that do not read blocks.
const OTHERS: [Kernel; 21] = [
    OF_HALVES[0],
    OF_HALVES[1],
    OF_HALVES[2],
    OF_Q8[0],
    OF_Q8[1],
    OF_Q8[2],
    Kernel {
        name: "attention_merge",
        body: concat!(include_str!("../../kernels/join.h"), body!("attention_merge"), "#undef FINISH\n#undef JOIN\n"),
        inputs: &[("parts", "float"), ("sums", "float"), ("sinks", "float"), ("sizes", "uint")],
        written: &[],
        outputs: &[("out", "float"), ("pairs", "uint")],
        constants: &["D", "LAYOUT"],
        n_wave: 1,
        n_group: 0,
    },
    rotate_append!("0", "", [("k_store", "half"), ("v_store", "half")], &["k_store", "v_store"]),
    rotate_append!(
        "1",
        "_q8",
        [("k_store", "i8"), ("v_store", "i8"), ("k_scales", "float"), ("v_scales", "float")],
        &["k_store", "v_store", "k_scales", "v_scales"]
    ),
    Kernel {
        name: "rows_half",
        body: gated!(body!("rows_half")),
        inputs: &[("x", "float"), ("weight", "float"), ("other", "float"), ("sizes", "uint"), ("factors", "float")],
        written: &[],
        outputs: &[("x_half", "uint"), ("x_scales", "float")],
        constants: &["NORM", "LAYOUT", "GLU"],
        n_wave: 8,
        n_group: 0,
    },
    Kernel {
        name: "rows_finish",
        body: gated!(body!("rows_finish")),
        inputs: &[("y", "T"), ("z", "T"), ("x_scales", "float"), ("residual", "float"), ("sizes", "uint")],
        written: &[],
        outputs: &[("out", "float")],
        constants: &["GLU", "ADD"],
        n_wave: 8,
        n_group: 0,
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
        n_group: 0,
    },
    Kernel {
        name: "route",
        body: body!("route"),
        inputs: &[("logits", "float"), ("bias", "float"), ("factors", "float"), ("sizes", "uint")],
        written: &[],
        outputs: &[("experts", "uint"), ("weights", "float")],
        constants: &["E", "GATING", "BIAS", "GROUPED", "NORMALIZE"],
        n_wave: 1,
        n_group: 0,
    },
    Kernel {
        name: "experts_sum",
        body: body!("experts_sum"),
        inputs: &[("y", "T"), ("y_scales", "float"), ("weights", "float"), ("place", "uint"), ("sizes", "uint")],
        written: &[],
        outputs: &[("out", "float")],
        constants: &["SCALED", "PLACED"],
        n_wave: 8,
        n_group: 0,
    },
    Kernel {
        name: "affine_matmul",
        body: body!("affine_matmul"),
        inputs: &[("x", "float"), ("w", "uint"), ("scales", "T"), ("biases", "T"), ("sizes", "uint")],
        written: &[],
        outputs: &[("y", "float")],
        constants: &["M", "BITS", "GROUP"],
        n_wave: 4,
        n_group: 0,
    },
];
