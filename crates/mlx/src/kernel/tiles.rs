//! The kernels made of `affine_tiles.metal`, by what differs between them: how one picks its matrices and outputs, what it adds,
//! where pairs go, whether it rotates and appends, whether it normalizes. What differs is not defined beyond the text, as a
//! program holds several.

use super::Kernel;

/// If these kernels read a matrix of rows of `n_in` integers of MLX of so many bits in such groups, whose scales are of 16 bits.
pub(crate) fn read(bits: u8, group: u16, n_in: usize) -> bool {
    [4, 8].contains(&bits) && [32, 64, 128].contains(&group) && n_in.is_multiple_of(128)
}

/// Nothing is rotated or appended.
macro_rules! append_nothing {
    () => {
        "#define APPEND 0\n#define HEAD 16\n#define DIMS 0\n#define PAIRED 1\n#define POSITION(token) 0\n\
         #define PLACE(token) 0\n#define TURN(i) 0.0f\n#define KEEP(part, query, at, number) (void)(number)\n\
         #define DONE() (void)0\n"
    };
}

/// The rows come from `rows_half`.
macro_rules! rows_as_made {
    () => {
        "#define NORMED 0\n#define TOKENS sizes[0]\n#define EPSILON 0.0f\n\
         #define INPUT(i) LOAD4(x_half, i)\n#define SCALE(token) x_scales[token]\n"
    };
}

/// The one row is normalized here.
macro_rules! row_to_norm {
    () => {
        "#define NORMED 1\n#define TOKENS 1\n#define EPSILON factors[0]\n\
         #define INPUT(i) ((void)(i), shared_x[0])\n#define SCALE(token) 0.0f\n"
    };
}

macro_rules! text {
    ($append:expr, $rows:expr, $($line:literal),*) => {
        concat!(
            $append,
            $rows,
            $("#define ", $line, "\n",)*
            include_str!("../../kernels/glu.h"),
            include_str!("../../kernels/affine_tiles.metal"),
            "#undef APPEND\n#undef HEAD\n#undef DIMS\n#undef PAIRED\n#undef POSITION\n#undef PLACE\n#undef TURN\n",
            "#undef KEEP\n#undef DONE\n#undef NORMED\n#undef TOKENS\n#undef EPSILON\n",
            "#undef INPUT\n#undef SCALE\n#undef ROWS_OF\n#undef PARTS\n#undef GLU\n#undef LAYOUT\n#undef PICK\n#undef OUT\n",
            "#undef ADDED\n#undef PAIRS\n#undef GATED\n"
        )
    };
}

/// Rows times a matrix, a residual added.
pub(super) const PLAIN: Kernel = Kernel {
    name: "affine_tiles",
    body: text!(
        append_nothing!(),
        rows_as_made!(),
        "PARTS 1",
        "ROWS_OF(part) ROWS",
        "GLU 0",
        "LAYOUT 0",
        "PICK(part, a, b, c) a",
        "OUT(part, a, b, c) a",
        "ADDED(at) (ADD == 1 ? residual[at] : 0.0f)",
        "PAIRS(at, pair) (void)(at), (void)(pair)"
    ),
    inputs: &[
        ("x_half", "uint"),
        ("x_scales", "float"),
        ("sizes", "uint"),
        ("w", "uint"),
        ("scales", "T"),
        ("biases", "T"),
        ("residual", "float"),
    ],
    written: &[],
    outputs: &[("y", "float")],
    constants: &["N", "R", "BITS", "GROUP", "RUN", "COLUMNS", "WAVES", "ROWS", "ADD"],
    n_wave: 8,
    n_group: 3,
};

macro_rules! gated {
    ($name:literal, $rows:expr, [$($input:expr),*], $n_group:literal) => {
        Kernel {
            name: $name,
            body: text!(
                append_nothing!(),
                $rows,
                "PARTS 1",
                "ROWS_OF(part) ROWS",
                "PICK(part, a, b, c) ((part) == 0 ? a : b)",
                "OUT(part, a, b, c) a",
                "ADDED(at) 0.0f",
                "PAIRS(at, pair) pairs[at] = pair"
            ),
            inputs: &[
                $($input,)*
                ("w", "uint"),
                ("scales", "T"),
                ("biases", "T"),
                ("w2", "uint"),
                ("scales2", "T"),
                ("biases2", "T"),
            ],
            written: &[],
            outputs: &[("y", "float"), ("pairs", "uint")],
            constants: &["N", "R", "BITS", "GROUP", "RUN", "COLUMNS", "WAVES", "ROWS", "GLU", "LAYOUT"],
            n_wave: 8,
            n_group: $n_group,
        }
    };
}

/// A gate and what it lets through.
pub(super) const GATED: Kernel =
    gated!("affine_tiles_gated", rows_as_made!(), [("x_half", "uint"), ("x_scales", "float"), ("sizes", "uint")], 3);
/// The same of one row that is normalized before.
pub(super) const GATED_NORMED: Kernel =
    gated!("affine_tiles_gated_normed", row_to_norm!(), [("x", "float"), ("weight", "float"), ("factors", "float")], 4);

/// Three matrices.
pub(super) const THREE: Kernel = Kernel {
    name: "affine_tiles_three",
    body: text!(
        append_nothing!(),
        rows_as_made!(),
        "PARTS 3",
        "ROWS_OF(part) PICK(part, ROWS, ROWS2, ROWS3)",
        "GLU 0",
        "LAYOUT 0",
        "PICK(part, a, b, c) ((part) == 0 ? a : (part) == 1 ? b : c)",
        "OUT(part, a, b, c) ((part) == 0 ? a : (part) == 1 ? b : c)",
        "ADDED(at) 0.0f",
        "PAIRS(at, pair) (void)(at), (void)(pair)"
    ),
    inputs: &[
        ("x_half", "uint"),
        ("x_scales", "float"),
        ("sizes", "uint"),
        ("w", "uint"),
        ("scales", "T"),
        ("biases", "T"),
        ("w2", "uint"),
        ("scales2", "T"),
        ("biases2", "T"),
        ("w3", "uint"),
        ("scales3", "T"),
        ("biases3", "T"),
    ],
    written: &[],
    outputs: &[("y", "float"), ("y2", "float"), ("y3", "float")],
    constants: &["N", "R", "BITS", "GROUP", "RUN", "COLUMNS", "WAVES", "ROWS", "ROWS2", "ROWS3"],
    n_wave: 8,
    n_group: 3,
};

macro_rules! append {
    ($name:literal, $rows:expr, [$($input:expr),*]) => {
        Kernel {
            name: $name,
            body: text!(
                "#define APPEND 1\n",
                $rows,
                "PARTS 3",
                "ROWS_OF(part) PICK(part, ROWS, ROWS2, ROWS3)",
                "GLU 0",
                "LAYOUT 0",
                "PICK(part, a, b, c) ((part) == 0 ? a : (part) == 1 ? b : c)",
                "OUT(part, a, b, c) y",
                "ADDED(at) 0.0f",
                "PAIRS(at, pair) (void)(at), (void)(pair)",
                "POSITION(token) table[4 * (token)]",
                "PLACE(token) uint(table[4 * (token) + 1])",
                "TURN(i) turns[i]",
                "KEEP(part, query, at, number) if (part == 0) y[query] = number; else if (part == 1) WRITE(k_store, half, \
                 at, number); else WRITE(v_store, half, at, number)",
                "DONE() done[0] = 0"
            ),
            inputs: &[
                $($input,)*
                ("w", "uint"),
                ("scales", "T"),
                ("biases", "T"),
                ("w2", "uint"),
                ("scales2", "T"),
                ("biases2", "T"),
                ("w3", "uint"),
                ("scales3", "T"),
                ("biases3", "T"),
                ("k_store", "half"),
                ("v_store", "half"),
                ("table", "int"),
                ("turns", "float"),
                ("before", "int"),
            ],
            written: &["k_store", "v_store"],
            outputs: &[("y", "float"), ("done", "int")],
            constants: &["N", "R", "BITS", "GROUP", "RUN", "COLUMNS", "WAVES", "ROWS", "ROWS2", "ROWS3", "HEAD", "DIMS", "PAIRED"],
            n_wave: 8,
            n_group: 3,
        }
    };
}

/// Queries, keys and values, rotated and appended.
pub(super) const APPEND: Kernel =
    append!("affine_tiles_append", rows_as_made!(), [("x_half", "uint"), ("x_scales", "float"), ("sizes", "uint")]);
/// The same of one row that is normalized before.
pub(super) const APPEND_NORMED: Kernel =
    append!("affine_tiles_append_normed", row_to_norm!(), [("x", "float"), ("weight", "float"), ("factors", "float")]);
