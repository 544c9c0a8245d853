//! `mlx-run imatrix` against a file that llama-imatrix wrote, and `mlx-run quant` with it:
//! `llama-imatrix -m stories260K-f32.gguf -f greedy-200.txt -c 64 -b 64 --no-ppl -o stories260k-64.imatrix.gguf`.

use std::path::Path;

use mlxr_weights::imatrix::Imatrix;

use crate::common::{Temp, fixtures, mlx_run, stdout, succeed};

const IMATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stories260k-64.imatrix.gguf");

fn model() -> Option<[String; 2]> {
    let folder = fixtures()?.join("stories260k");
    Some(["stories260K-f32.gguf", "greedy-200.txt"].map(|name| folder.join(name).to_str().expect("text").to_owned()))
}

#[test]
fn importance_agrees_with_llama_imatrix() {
    let Some([model, story]) = model() else { return };
    let home = Temp::new("imatrix");
    let own = home.file("own.gguf");
    succeed(&home, &["imatrix", "-m", &model, "-f", &story, "-o", &own, "-c", "64"]);
    let [ours, theirs] = [&own, IMATRIX].map(|path| Imatrix::read(Path::new(path)).expect("an importance matrix"));
    assert_eq!((ours.chunk_count, ours.chunk_size), (theirs.chunk_count, theirs.chunk_size));
    assert!(ours.entries.keys().eq(theirs.entries.keys()));
    for (name, sums) in &ours.entries {
        let expected = &theirs.entries[name];
        assert_eq!(sums.counts, expected.counts, "{name}");
        let largest = expected.squares.iter().copied().fold(0.0, f32::max);
        let worst = sums.squares.iter().zip(&expected.squares).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 2e-3 * largest, "{name}: off by {worst} of {largest}");
    }
}

#[test]
fn a_quantized_model_runs_and_its_loss_falls_with_its_size() {
    let Some([model, story]) = model() else { return };
    let home = Temp::new("quant");
    let mut losses = Vec::new();
    for recipe in ["Q8_0", "Q5_1", "Q4_0"] {
        let out = home.file(&format!("{recipe}.gguf"));
        succeed(&home, &["quant", "--imatrix", IMATRIX, &model, &out, recipe]);
        let base = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stories260k-64x2.logits");
        let report = succeed(&home, &["perplexity", "--json", "-m", &out, "--kl-divergence-base", base]);
        let report: serde_json::Value = serde_json::from_str(stdout(&report)).expect("JSON");
        losses.push(report.pointer("/kld/value").and_then(serde_json::Value::as_f64).expect("a divergence"));
    }
    assert!(losses.is_sorted() && losses[0] > 0.0 && losses[2] < 0.2, "{losses:?}");
    let copy = home.file("copy.gguf");
    succeed(&home, &["quant", &model, &copy, "COPY"]);
    let [before, after] = [&model, &copy].map(|path| mlxr_weights::open(Path::new(path)).expect("a model"));
    for tensor in before.tensors() {
        assert_eq!(*before.bytes(&tensor.name).expect("there"), *after.bytes(&tensor.name).expect("copied"));
    }
    let story = std::fs::read_to_string(story).expect("the story");
    let output = succeed(
        &home,
        &["run", &home.file("Q8_0.gguf"), "--raw", "--temperature", "0", "--max-tokens", "20", "Once upon a time"],
    );
    assert!(story.contains(stdout(&output).trim_end()), "{}", stdout(&output));
}

#[test]
fn what_cannot_be_quantized_is_refused_and_leaves_nothing() {
    let Some([model, story]) = model() else { return };
    let home = Temp::new("quant-refused");
    let folder = fixtures().expect("seen above").join("stories260k/hf").to_str().expect("text").to_owned();
    let (small, out) = (home.file("small.gguf"), home.file("out.gguf"));
    succeed(&home, &["quant", &model, &small, "Q8_0"]);
    std::fs::write(&out, "kept").expect("a file");
    let rows: [(&[&str], &str); 9] = [
        (&["--dry-run", &model, &out, "Q9_9"], "no recipe `Q9_9`: there are F32, F16"),
        (&[&small, &out, "Q4_0"], "is q8_0 already"),
        (&["--tensor-type", "attn_v", &model, &out, "Q4_0"], "expected REGEX=TYPE"),
        (&["--tensor-type", "(=q8_0", &model, &out, "Q4_0"], "no regular expression"),
        (&["--tensor-type", "attn_v=q9", &model, &out, "Q4_0"], "no type `q9` that can be written"),
        (&["--tensor-type", "attn_v=iq3_xxs", "--imatrix", &story, &model, &out, "Q4_0"], "importance matrix"),
        (&["--imatrix", &model, &model, &out, "Q4_0"], "a GGUF file of another kind"),
        (&[&folder, &out, "Q4_0"], "is no GGUF file"),
        (&[&model, "/no/such/folder/out.gguf", "Q4_0"], "cannot create"),
    ];
    for (args, want) in rows {
        let output = mlx_run(&home, &[&["quant"], args].concat()).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(want), "{args:?}: {stderr}");
        assert_eq!(std::fs::read(&out).expect("still there"), b"kept", "{args:?}");
    }
    let planned = succeed(&home, &["quant", "--dry-run", &model, "Q4_K_M"]);
    assert!(stdout(&planned).contains("bits a weight) ->"), "{}", stdout(&planned));
}
