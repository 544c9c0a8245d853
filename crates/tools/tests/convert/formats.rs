//! Every type that a conversion can write: matrices get it, and logits move by no more than its bits allow.

use std::path::{Path, PathBuf};

use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{DType, Encoding};
use mlxr_models::convert::{self, Form};
use mlxr_tools::convert::{Report, folder, gguf};

use crate::common::{Temp, logits, nmse};

/// A golden checkpoint. Its matrices have 32 columns.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/data/hf").join(name)
}

/// One with experts.
const EXPERTS: &str = "qwen3-moe";

fn to_gguf(from: &Path, out: &Path, dtype: DType) -> Report {
    let checkpoint = mlxr_weights::open(from).expect("a checkpoint");
    let plan = convert::plan(&checkpoint, Form::Gguf).expect("a plan");
    gguf::write(&checkpoint, plan, (out, gguf::Type::Of(dtype), 2), &[], &mut |_| ()).expect("it is written")
}

fn to_mlx(from: &Path, out: &Path, scheme: folder::Scheme) -> Report {
    let _ = std::fs::remove_dir_all(out);
    let checkpoint = mlxr_weights::open(from).expect("a checkpoint");
    let plan = convert::plan(&checkpoint, Form::Mlx).expect("a plan");
    let how = (out, scheme, plan.n_layer(), 2);
    folder::write(&checkpoint, plan, how, &[], None, &mut |_| ()).expect("it is written")
}

/// Whether tensors became a type with this name.
fn became(report: &Report, name: &str) -> bool {
    report.tensors.keys().any(|text| text.split(" -> ").last().is_some_and(|to| to.split(", ").next() == Some(name)))
}

#[test]
fn every_type_of_a_gguf_file_is_written() {
    let temp = Temp::new("gguf-types");
    let (source, out) = (source(EXPERTS), temp.0.join("model.gguf"));
    let want = logits(&source).expect("a model");
    for (dtype, limit) in [(DType::F32, 1e-12), (DType::BF16, 1e-12), (DType::F16, 1e-9), (DType::Q8_0, 1e-2)] {
        let report = to_gguf(&source, &out, dtype);
        assert!(became(&report, dtype.name()), "{dtype:?}: {:?}", report.tensors);
        let error = nmse(&logits(&out).expect("a model"), &want);
        assert!(error <= limit, "{dtype:?}: nmse {error:.1e}");
    }
}

#[test]
fn every_format_of_mlx_is_written() {
    let temp = Temp::new("mlx-formats");
    let (source, out) = (source(EXPERTS), temp.0.join("out"));
    let want = logits(&source).expect("a model");
    let affine = |bits| Encoding::MlxAffine { bits, group: 32, scale: DType::BF16 };
    let float = |kind| (Encoding::MlxFloat(kind), None);
    let mut rows: Vec<(Encoding, Option<Encoding>)> = [2, 3, 4, 5, 6, 8].map(|bits| (affine(bits), None)).to_vec();
    rows.extend([MlxFloat::Mxfp4, MlxFloat::Mxfp8, MlxFloat::Nvfp4].map(float));
    rows.extend([(2, 6), (3, 4), (3, 6), (4, 6)].map(|(low, high)| (affine(low), Some(affine(high)))));
    let mut errors = Vec::new();
    for (encoding, high) in rows {
        let report = to_mlx(&source, &out, folder::Scheme::Mlx { encoding, high });
        for encoding in [Some(encoding), high].into_iter().flatten() {
            assert!(became(&report, &encoding.to_string()), "{encoding} {high:?}: {:?}", report.tensors);
        }
        let error = nmse(&logits(&out).expect("a model"), &want);
        eprintln!("{encoding} {high:?}: nmse {error:.1e}");
        errors.push(error);
    }
    // Each bit more, or the wider of two, loses less.
    assert!(errors[..6].is_sorted_by(|a, b| a > b) && errors[5] < 1e-2, "{errors:?}");
    assert!(
        errors[7] < errors[6] && errors[9] < errors[0] && errors[11] < errors[1] && errors[12] < errors[2],
        "{errors:?}"
    );
}

#[test]
fn blocks_of_a_gguf_file_keep_their_values_for_mlx_or_it_is_said() {
    let temp = Temp::new("gguf-mlx");
    let (file, out) = (temp.0.join("model.gguf"), temp.0.join("out"));
    for (dtype, becomes) in [
        (DType::Q4_0, "mlx 4-bit g32, exact"),
        (DType::Q4_1, "mlx 4-bit g32, exact"),
        (DType::Q5_0, "mlx 5-bit g32, exact"),
        (DType::Q5_1, "mlx 5-bit g32, exact"),
        (DType::Q8_0, "mlx 8-bit g32, exact"),
        (DType::MXFP4, "mlx mxfp4, exact"),
        (DType::IQ4_NL, "mlx 4-bit g32, rounded"),
    ] {
        to_gguf(&source("llama"), &file, dtype);
        let report = to_mlx(&file, &out, folder::Scheme::MlxKeep);
        let text = format!("{} -> {becomes}", dtype.name());
        assert!(report.tensors.contains_key(&text), "{text}: {:?}", report.tensors);
        let error = nmse(&logits(&out).expect("a model"), &logits(&file).expect("a model"));
        // Models of random weights feel four bits; those of another model have an error of 2.
        let limit = if becomes.ends_with("exact") { 1e-12 } else { 3e-1 };
        assert!(error <= limit, "{text}: nmse {error:.1e}");
    }
}
