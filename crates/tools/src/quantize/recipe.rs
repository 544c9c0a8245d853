//! The recipes of llama-quantize, a row each, and which type each gives to a tensor.
//!
//! A recipe has one type for most matrices and rules that give others more or fewer bits, by the tensor's role and
//! layer. Source: `llama_tensor_get_type_impl` and `llama_ftype_get_default_type`, llama.cpp `src/llama-quant.cpp`;
//! the tests hold the choices against llama.cpp's own tables (`tests/snapshots`).

use mlxr_compute::DType;
use mlxr_compute::DType::{
    BF16, F16, F32, IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS, MXFP4, NVFP4, Q1_0, Q2_0,
    Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TQ1_0, TQ2_0,
};

/// One row of [`RECIPES`].
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Name on the command line, in any case.
    pub name: &'static str,
    /// `general.file_type` of the result.
    pub file_type: u32,
    /// Type of most matrices; `None` copies the tensors as they are.
    pub dtype: Option<DType>,
    /// What it is for.
    pub about: &'static str,
}

const fn row(name: &'static str, file_type: u32, dtype: DType, about: &'static str) -> Recipe {
    Recipe { name, file_type, dtype: Some(dtype), about }
}

/// Every recipe. File types are llama.cpp's `llama_ftype`.
pub const RECIPES: [Recipe; 41] = [
    row("F32", 0, F32, "32-bit floats"),
    row("F16", 1, F16, "16-bit floats"),
    row("BF16", 32, BF16, "16-bit floats of the range of f32"),
    row("Q8_0", 7, Q8_0, "8.5 bits, as good as lossless"),
    row("Q6_K", 18, Q6_K, "6.6 bits"),
    row("Q5_K_M", 17, Q5_K, "5.7 bits"),
    row("Q5_K_S", 16, Q5_K, "5.5 bits"),
    row("Q5_1", 9, Q5_1, "6 bits, older"),
    row("Q5_0", 8, Q5_0, "5.5 bits, older"),
    row("Q4_K_M", 15, Q4_K, "4.8 bits, the usual choice"),
    row("Q4_K_S", 14, Q4_K, "4.6 bits"),
    row("IQ4_NL", 25, IQ4_NL, "4.5 bits"),
    row("IQ4_XS", 30, IQ4_XS, "4.3 bits"),
    row("Q4_1", 3, Q4_1, "5 bits, older"),
    row("Q4_0", 2, Q4_0, "4.5 bits, older, fast"),
    row("MXFP4_MOE", 38, MXFP4, "4.3 bits for experts, 8.5 for the rest"),
    row("MXFP4", 38, MXFP4, "4.3 bits"),
    row("NVFP4", 39, NVFP4, "4.5 bits"),
    row("Q3_K_L", 13, Q3_K, "4.3 bits"),
    row("Q3_K_M", 12, Q3_K, "3.9 bits"),
    row("Q3_K_S", 11, Q3_K, "3.5 bits"),
    row("IQ3_M", 27, IQ3_S, "3.7 bits"),
    row("IQ3_S", 26, IQ3_S, "3.4 bits"),
    row("IQ3_XS", 22, IQ3_S, "3.3 bits"),
    row("IQ3_XXS", 23, IQ3_XXS, "3.1 bits, wants an importance matrix"),
    row("Q2_K", 10, Q2_K, "3.0 bits"),
    row("Q2_K_S", 21, Q2_K, "2.7 bits, wants an importance matrix"),
    row("IQ2_M", 29, IQ2_S, "2.7 bits, wants an importance matrix"),
    row("IQ2_S", 28, IQ2_XS, "2.5 bits, wants an importance matrix"),
    row("IQ2_XS", 20, IQ2_XS, "2.3 bits, wants an importance matrix"),
    row("IQ2_XXS", 19, IQ2_XXS, "2.1 bits, wants an importance matrix"),
    row("IQ1_M", 31, IQ1_M, "1.8 bits, wants an importance matrix"),
    row("IQ1_S", 24, IQ1_S, "1.6 bits, wants an importance matrix"),
    row("Q2_0", 41, Q2_0, "2.3 bits"),
    row("TQ2_0", 37, TQ2_0, "2.1 bits, for models trained ternary"),
    row("TQ1_0", 36, TQ1_0, "1.7 bits, for models trained ternary"),
    row("Q1_0", 40, Q1_0, "1.1 bits, for models trained binary"),
    row("Q5_K", 17, Q5_K, "Q5_K_M"),
    row("Q4_K", 15, Q4_K, "Q4_K_M"),
    row("Q3_K", 12, Q3_K, "Q3_K_M"),
    Recipe { name: "COPY", file_type: 0, dtype: None, about: "the tensors as they are, a split set as one file" },
];

impl Recipe {
    /// The recipe of this name, in any case.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Recipe> {
        RECIPES.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name))
    }

    /// Whether it is one of these, by its llama.cpp number, so that aliases count.
    fn is(&self, names: &[&str]) -> bool {
        names.iter().any(|name| Recipe::find(name).is_some_and(|other| other.file_type == self.file_type))
    }

    fn is_mxfp4_moe(&self) -> bool {
        self.name == "MXFP4_MOE"
    }
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Output,
    TokenEmbd,
    /// Values, also within one matrix of q, k and v or of k and v: the most sensitive of attention.
    AttnV,
    AttnK,
    AttnQ,
    AttnOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

impl Role {
    /// The role of a tensor by its name; of several parts of a name that fit, the first here counts.
    pub(super) fn of(name: &str) -> Role {
        const WHOLE: [(&str, Role); 3] = [
            ("output.weight", Role::Output),
            ("token_embd.weight", Role::TokenEmbd),
            ("per_layer_token_embd.weight", Role::TokenEmbd),
        ];
        const PARTS: [(&str, Role); 9] = [
            ("attn_qkv.weight", Role::AttnV),
            ("attn_kv_b.weight", Role::AttnV),
            ("attn_v.weight", Role::AttnV),
            ("attn_k.weight", Role::AttnK),
            ("attn_q.weight", Role::AttnQ),
            ("attn_output.weight", Role::AttnOutput),
            ("ffn_up", Role::FfnUp),
            ("ffn_gate", Role::FfnGate),
            ("ffn_down", Role::FfnDown),
        ];
        let whole = WHOLE.iter().find(|(text, _)| *text == name);
        let part = || PARTS.iter().find(|(text, _)| name.contains(text));
        whole.or_else(part).map_or(Role::Other, |(_, role)| *role)
    }
}

/// Where a matrix stands in its model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    /// Falcon has rules of its own.
    pub falcon: bool,
    pub role: Role,
    /// Which of its role this is.
    pub nth: usize,
    /// Its layer; without experts, `nth`.
    pub layer: usize,
    /// Layers of the model, or for values the number of such matrices.
    pub n_layer: usize,
    /// Query heads of a key head.
    pub n_gqa: usize,
    pub n_expert: usize,
    /// LLaMA's 70B shape: 80 layers with shared keys.
    pub is_70b: bool,
    /// Whether the matrix holds several experts.
    pub is_experts: bool,
    /// Whether there is an importance matrix.
    pub imatrix: bool,
    /// Columns.
    pub n_in: usize,
}

impl Site {
    fn early(&self) -> bool {
        self.layer < self.n_layer / 8
    }

    fn middle(&self) -> bool {
        self.layer >= self.n_layer / 8 && self.layer < 7 * self.n_layer / 8
    }

    /// The first and last eighth, and every third between.
    fn more_bits(&self) -> bool {
        let (i, n) = (self.layer, self.n_layer);
        i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
    }

    fn gqa4(&self) -> bool {
        self.n_gqa >= 4
    }

    fn eight(&self) -> bool {
        self.n_expert == 8
    }
}

/// A choice of a type: for these recipes (all, if empty), where the condition holds.
type Rule = (&'static [&'static str], fn(&Site) -> bool, DType);

const LOW: &[&str] = &["IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ2_S", "IQ2_M", "IQ1_M"];
const IQ2_SM: &[&str] = &["IQ2_S", "IQ2_M"];
const ANY: &[&str] = &[];

const OUTPUT: &[Rule] = &[
    (&["MXFP4_MOE"], |_| true, Q8_0),
    (ANY, |s| s.falcon, Q8_0),
    (&["IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ2_S", "IQ2_M", "IQ1_M"], |_| true, Q5_K),
    (&["Q8_0"], |_| true, Q8_0),
    (ANY, |_| true, Q6_K),
];

const TOKEN_EMBD: &[Rule] = &[
    (&["IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"], |_| true, Q2_K),
    (&["IQ2_S", "IQ2_M", "IQ3_XXS"], |_| true, IQ3_S),
    (&["TQ1_0", "TQ2_0", "Q2_0"], |_| true, Q4_K),
];

const ATTN_V: &[Rule] = &[
    (LOW, |s| s.gqa4() || s.n_expert >= 4, Q4_K),
    (IQ2_SM, |_| true, IQ3_S),
    (LOW, |_| true, Q2_K),
    (ANY, |s| s.eight(), Q8_0),
    (&["Q2_K"], |s| s.gqa4(), Q4_K),
    (&["Q2_K"], |_| true, Q3_K),
    (&["Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ3_S"], |s| s.gqa4(), Q4_K),
    (&["IQ3_XXS"], |s| !s.imatrix, IQ3_S),
    (&["IQ3_M"], |_| true, Q4_K),
    (&["Q3_K_M"], |s| s.nth < 2, Q5_K),
    (&["Q3_K_M"], |_| true, Q4_K),
    (&["Q3_K_L"], |_| true, Q5_K),
    (&["IQ4_NL", "IQ4_XS"], |s| s.gqa4(), Q5_K),
    (&["Q4_K_M", "Q5_K_M"], |s| s.more_bits(), Q6_K),
    (&["Q4_K_S"], |s| s.nth < 4, Q5_K),
];

const ATTN_K: &[Rule] = &[
    (LOW, |s| s.eight(), Q4_K),
    (&["IQ3_XS"], |s| !s.eight(), IQ3_XXS),
    (&["IQ3_XXS"], |s| !s.eight(), IQ2_S),
    (ANY, |s| s.eight(), Q8_0),
];

const ATTN_Q: &[Rule] = &[(&["IQ3_XS"], |_| true, IQ3_XXS), (&["IQ3_XXS"], |_| true, IQ2_S)];

const ATTN_OUTPUT: &[Rule] = &[
    (LOW, |s| s.eight(), Q5_K),
    (&["IQ1_S", "IQ1_M"], |_| true, IQ2_XXS),
    (IQ2_SM, |_| true, IQ3_S),
    (&["Q3_K_L"], |s| s.falcon, Q4_K),
    (
        &["Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"],
        |s| !s.falcon && s.eight(),
        Q5_K,
    ),
    (&["Q2_K"], |s| !s.falcon && !s.eight(), Q3_K),
    (&["IQ3_XXS"], |s| !s.falcon && !s.eight(), IQ3_S),
    (&["Q3_K_M", "IQ3_M"], |s| !s.falcon && !s.eight(), Q4_K),
    (&["Q3_K_L"], |s| !s.falcon && !s.eight(), Q5_K),
];

const FFN_DOWN: &[Rule] = &[
    (IQ2_SM, |s| s.nth < s.n_layer / 8, IQ3_S),
    (LOW, |s| s.nth < s.n_layer / 8, Q2_K),
    (&["Q2_K"], |_| true, Q3_K),
    (&["Q2_K_S"], Site::early, Q4_K),
    (&["IQ3_XXS"], |s| !s.imatrix && s.early(), Q4_K),
    (&["IQ3_XXS"], |s| !s.imatrix, Q3_K),
    (&["Q3_K_M"], |s| s.layer < s.n_layer / 16, Q5_K),
    (&["Q3_K_M"], |s| !s.falcon || s.more_bits(), Q4_K),
    (&["IQ3_M"], |s| s.early() || (s.eight() && s.more_bits()), Q4_K),
    (&["Q3_K_L"], |s| s.falcon, Q4_K),
    (&["Q3_K_L"], |_| true, Q5_K),
    (&["Q4_K_M"], |s| s.falcon && s.layer < s.n_layer / 16, Q6_K),
    (&["Q4_K_M"], |s| s.falcon && s.more_bits(), Q5_K),
    (&["Q4_K_M"], |s| !s.falcon && s.more_bits(), Q6_K),
    (&["IQ4_NL", "IQ4_XS"], |s| s.early() && !s.imatrix, Q5_K),
    (&["Q5_K_M"], Site::more_bits, Q6_K),
    (&["Q4_K_S"], |s| !s.falcon && s.early(), Q5_K),
    (&["Q4_0"], |s| s.imatrix && s.early(), Q4_1),
    (&["Q5_0"], |s| s.imatrix && s.early(), Q5_1),
];

const FFN_GATE_UP: &[Rule] = &[(&["IQ3_XS"], Site::middle, IQ3_XXS)];

/// Rules of each role; the first that fits counts.
const RULES: [(Role, &[Rule]); 9] = [
    (Role::Output, OUTPUT),
    (Role::TokenEmbd, TOKEN_EMBD),
    (Role::AttnV, ATTN_V),
    (Role::AttnK, ATTN_K),
    (Role::AttnQ, ATTN_Q),
    (Role::AttnOutput, ATTN_OUTPUT),
    (Role::FfnUp, FFN_GATE_UP),
    (Role::FfnGate, FFN_GATE_UP),
    (Role::FfnDown, FFN_DOWN),
];

/// The type that a recipe of the default type `dtype` gives to a matrix, whatever its number of columns.
pub(super) fn choose(recipe: &Recipe, dtype: DType, site: &Site) -> DType {
    if site.role == Role::Output && !site.n_in.is_multiple_of(dtype.block()) {
        return Q8_0;
    }
    if recipe.is_mxfp4_moe() && site.role != Role::Output {
        return if site.is_experts { MXFP4 } else { Q8_0 };
    }
    let rules = RULES.iter().find(|(role, _)| *role == site.role).map_or(&[][..], |(_, rules)| *rules);
    let applies = |(recipes, when, _): &&Rule| (recipes.is_empty() || recipe.is(recipes)) && when(site);
    let chosen = rules.iter().find(applies).map_or(dtype, |(_, _, dtype)| *dtype);
    let bump = site.role == Role::AttnV && site.is_70b && !recipe.is(LOW) && matches!(chosen, Q3_K | Q4_K);
    if bump { Q5_K } else { chosen }
}

/// The type to use where a row is not whole blocks of `dtype`. Source: `tensor_type_fallback`.
pub(super) fn fallback(dtype: DType, n_in: usize) -> DType {
    const FALLBACKS: [(&[DType], DType); 5] = [
        (&[IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_XS], IQ4_NL),
        (&[Q1_0, Q2_0, Q2_K, Q3_K, TQ1_0, TQ2_0, NVFP4], Q4_0),
        (&[Q4_K], Q5_0),
        (&[Q5_K], Q5_1),
        (&[Q6_K], Q8_0),
    ];
    if n_in.is_multiple_of(dtype.block()) {
        return dtype;
    }
    let row = FALLBACKS.iter().find(|(from, _)| from.contains(&dtype));
    row.map(|(_, to)| *to).filter(|to| n_in.is_multiple_of(to.block())).unwrap_or(F16)
}

/// Whether the result is worthless without an importance matrix. Source: `tensor_requires_imatrix`.
pub(super) fn needs_importance(name: &str, dtype: DType, recipe: &Recipe) -> bool {
    let low = matches!(dtype, IQ3_XXS | IQ2_XXS | IQ2_XS | IQ2_S | IQ1_M | IQ1_S);
    let outside = matches!(Role::of(name), Role::Output | Role::TokenEmbd);
    !outside && (low || (dtype == Q2_K && recipe.is(&["Q2_K_S"])))
}
