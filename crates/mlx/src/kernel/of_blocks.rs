//! The kernels made of `blocks_matmul.metal` and `blocks_decode.metal`: a few rows times a matrix in blocks, rows times a matrix for
//! each, and blocks as f16. A type is its header, and what is defined before it.

use super::Kernel;

/// A text for the blocks of a type.
macro_rules! text {
    ($defined:expr, $header:literal, $name:literal) => {
        concat!(
            $defined,
            include_str!("../../kernels/blocks/begin.h"),
            include_str!(concat!("../../kernels/blocks/", $header, ".h")),
            include_str!("../../kernels/blocks/rest.h"),
            include_str!(concat!("../../kernels/", $name, ".metal")),
            include_str!("../../kernels/blocks/end.h"),
            "#undef EXPERTS\n#undef TILE\n#undef ADDED\n#undef BITS\n#undef W\n"
        )
    };
}

/// The three kernels of a type: its name and groups of a multiprocessor, see [`Kernel::n_group`].
macro_rules! of {
    ($type:literal, $n_group:literal) => {
        of!($type, $n_group, "", $type)
    };
    ($type:literal, $n_group:literal, $defined:literal, $header:literal) => {
        [
            Kernel {
                name: concat!($type, "_matmul"),
                body: text!(
                    concat!(
                        $defined,
                        "#define W w\n#define EXPERTS 0\n#define TILE n_tok\n#define ADDED(at) (ADD == 1 ? residual[at] : 0.0f)\n"
                    ),
                    $header,
                    "blocks_matmul"
                ),
                inputs: &[ROWS[0], ROWS[1], MATRIX[0], MATRIX[1], ("residual", "float"), ("sizes", "uint")],
                written: &[],
                outputs: &[("y", "float")],
                constants: &["N", "R", "COLUMNS", "ROWS", "ADD", "GROUP"],
                n_wave: 8,
                n_group: $n_group,
            },
            Kernel {
                name: concat!($type, "_experts"),
                body: text!(
                    concat!(
                        $defined,
                        "#define W (group_z == 0 ? w : w2)\n#define EXPERTS 1\n#define ADDED(at) 0.0f\n"
                    ),
                    $header,
                    "blocks_matmul"
                ),
                inputs: &[
                    ROWS[0],
                    ROWS[1],
                    MATRIX[0],
                    ("w2", "uint"),
                    MATRIX[1],
                    ("experts", "uint"),
                    ("order", "uint"),
                    ("sizes", "uint"),
                ],
                written: &[],
                outputs: &[("y", "float"), ("y2", "float")],
                constants: &["N", "R", "COLUMNS", "ROWS", "TILE", "SHARE", "GROUP"],
                n_wave: 8,
                n_group: $n_group,
            },
            Kernel {
                name: concat!($type, "_decode"),
                body: text!(concat!($defined, "#define W w\n"), $header, "blocks_decode"),
                inputs: &[MATRIX[0], MATRIX[1], ("sizes", "uint")],
                written: &[],
                outputs: &[("y", "uint")],
                constants: &["GROUP"],
                n_wave: 8,
                n_group: 0,
            },
        ]
    };
}

const ROWS: [(&str, &str); 2] = [("x_half", "uint"), ("x_scales", "float")];
const MATRIX: [(&str, &str); 2] = [("w", "uint"), ("codes", "uint")];

/// Those of every type.
pub(super) const KERNELS: [[Kernel; 3]; 22] = [
    of!("q2_k", 3),
    of!("q3_k", 0),
    of!("q6_k", 0),
    of!("iq4_nl", 3),
    of!("iq4_xs", 3),
    of!("iq1_s", 3),
    of!("iq1_m", 3),
    of!("iq2_xxs", 3),
    of!("iq2_xs", 3),
    of!("iq2_s", 3),
    of!("iq3_xxs", 0),
    of!("iq3_s", 3),
    of!("bnb4", 3),
    of!("affine2", 3, "#define BITS 2\n", "affine"),
    of!("affine3", 3, "#define BITS 3\n", "affine"),
    of!("affine4", 3, "#define BITS 4\n", "affine"),
    of!("affine5", 3, "#define BITS 5\n", "affine"),
    of!("affine6", 0, "#define BITS 6\n", "affine"),
    of!("affine8", 0),
    of!("mxfp4", 3),
    of!("nvfp4", 3),
    of!("mxfp8", 0),
];
