//! A conversion that stops leaves nothing behind, and what it writes has its name only in the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mlxr_compute::DType;
use mlxr_models::convert::{self, Form};
use mlxr_tools::convert::{Progress, folder, gguf};

use crate::common::Temp;

fn llama() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/data/hf/llama")
}

/// Converts; `progress` hears of each tensor.
fn run(out: &Path, form: Form, progress: &mut dyn FnMut(Progress<'_>)) {
    let checkpoint = mlxr_weights::open(&llama()).expect("a golden checkpoint");
    let plan = convert::plan(&checkpoint, form).expect("a plan");
    let plain = folder::Scheme::Plain(None);
    match form {
        Form::Gguf => {
            gguf::write(&checkpoint, plan, (out, gguf::Type::Of(DType::F16), 1), &[], progress).expect("it is written")
        }
        _ => folder::write(&checkpoint, plan, (out, plain, 2, 1), &[], None, progress).expect("it is written"),
    };
}

#[test]
fn nothing_has_the_name_before_it_is_whole() {
    let temp = Temp::new("whole");
    for (form, name) in [(Form::Gguf, "model.gguf"), (Form::Mlx, "folder")] {
        let out = temp.0.join(name);
        let mut steps = Vec::new();
        run(&out, form, &mut |progress| {
            assert!(!out.exists(), "{name} exists after {} of {} tensors", progress.n_done, progress.n_tensor);
            steps.push(progress.n_done);
        });
        assert!(out.exists(), "{name}");
        assert_eq!(steps, (0..steps.len()).collect::<Vec<_>>(), "{name}: progress is told for each tensor");
    }
}

#[test]
fn a_stopped_conversion_leaves_nothing() {
    let temp = Temp::new("stopped");
    for (form, name) in [(Form::Gguf, "model.gguf"), (Form::HuggingFace, "folder")] {
        let stop = AssertUnwindSafe(|| {
            run(&temp.0.join(name), form, &mut |progress| assert!(progress.n_done < 5, "stopped on purpose"));
        });
        assert!(catch_unwind(stop).is_err(), "{name}: it was stopped");
        let left: Vec<_> = std::fs::read_dir(&temp.0).expect("a folder").collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}
