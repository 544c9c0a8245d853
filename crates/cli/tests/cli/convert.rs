//! `mlx-run convert`: a model tells the same story in another form.

use std::path::Path;

use mlxr_weights::gguf::Strings;

use crate::common::{Temp, fixtures, mlx_run, stdout, succeed};

/// Two hundred tokens of the story that `model` tells, greedily.
fn story(home: &Temp, model: &str) -> String {
    let args = ["run", model, "--raw", "--temperature", "0", "--max-tokens", "200", "--kv-type", "f32", ""];
    stdout(&succeed(home, &args)).to_owned()
}

#[test]
fn stories_stay_the_same_as_gguf() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("convert");
    let folder = fixtures.join("stories260k");
    let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    let want = std::fs::read_to_string(folder.join("greedy-200.txt")).expect("the fixture");
    let out = home.file("whole.gguf");
    let output = succeed(&home, &["convert", &path("hf"), &out]);
    assert!(stdout(&output).contains("32.00 bits a weight"), "{}", stdout(&output));
    assert_eq!(story(&home, &out), want);
    // Every value of MLX's four bits is an f32.
    let out = home.file("short.gguf");
    let output = succeed(&home, &["convert", &path("mlx-4bit"), &out, "--type", "f32", "--json"]);
    assert!(stdout(&output).contains("mlx 4-bit g32 -> f32, exact"), "{}", stdout(&output));
    assert_eq!(story(&home, &out)[..20], story(&home, &path("mlx-4bit"))[..20]);
}

#[test]
fn stories_stay_the_same_in_folders() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("convert-folders");
    let folder = fixtures.join("stories260k");
    let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    let want = std::fs::read_to_string(folder.join("greedy-200.txt")).expect("the fixture");
    let gguf = path("stories260K-f32.gguf");
    for (i, (model, to)) in [(&gguf, "hf"), (&gguf, "mlx"), (&path("hf"), "mlx")].into_iter().enumerate() {
        let out = home.file(&format!("folder-{i}"));
        succeed(&home, &["convert", model, &out, "--to", to]);
        assert_eq!(story(&home, &out), want, "{model} to {to}");
    }
    // Blocks of 8 bits in MLX's format, with the same values: the same story.
    let [blocks, short] = ["blocks.gguf", "short"].map(|name| home.file(name));
    succeed(&home, &["convert", &path("hf"), &blocks, "--type", "q8_0"]);
    let output = succeed(&home, &["convert", &blocks, &short]);
    assert!(stdout(&output).contains("q8_0 -> mlx 8-bit g32, exact"), "{}", stdout(&output));
    assert_eq!(story(&home, &short)[..40], story(&home, &blocks)[..40]);
    for (i, how) in [["--bits", "4"], ["--mode", "mxfp4"], ["--recipe", "mixed_3_6"]].into_iter().enumerate() {
        let out = home.file(&format!("quantized-{i}"));
        succeed(&home, &["convert", &path("hf"), &out, how[0], how[1], "--group", "32"]);
        assert!(story(&home, &out).starts_with("Once upon a time"), "{how:?}");
    }
}

#[test]
fn tokenizer_template_and_defaults_travel_along() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("convert-carry");
    let hf = fixtures.join("stories260k/hf");
    let names = ["source", "model.gguf", "back", "mlx", "mlx.gguf"].map(|name| home.file(name));
    let [source, file, back, mlx, again] = &names;
    std::fs::create_dir_all(source).expect("a folder");
    for entry in std::fs::read_dir(&hf).expect("the fixture") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), Path::new(source).join(entry.file_name())).expect("a copy");
    }
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let defaults = serde_json::json!({"temperature": 0.7, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.1});
    std::fs::write(Path::new(source).join("chat_template.jinja"), template).expect("a file");
    std::fs::write(Path::new(source).join("generation_config.json"), defaults.to_string()).expect("a file");
    let card = "---\nlicense: cc-by-sa-4.0\nlanguage:\n- en\n- de\ntags: [stories]\nmodel_name: \"Small: tales\"\nbase_model: x\n---\n# Else\n";
    std::fs::write(Path::new(source).join("README.md"), card).expect("a file");
    succeed(&home, &["convert", source, file]);
    succeed(&home, &["convert", file, back, "--to", "hf"]);
    succeed(&home, &["convert", file, mlx]);
    succeed(&home, &["convert", mlx, again]);
    let told = |args: &[&str]| stdout(&succeed(&home, args)).to_owned();
    let text = "Once upon a time, Lily's \u{e9}t\u{e9} <s> was 12 days long.\n  The end.";
    let ids = |model: &str| told(&["tokenize", "--model", model, "--json", "--add-special", "--parse-special", text]);
    let want = ids(source);
    for model in &names[1..] {
        assert_eq!(ids(model), want, "{model}");
        assert_eq!(told(&["template", "--model", model, "--source"]).trim_end(), template, "{model}");
    }
    for folder in [back, mlx] {
        let text = std::fs::read_to_string(Path::new(folder).join("generation_config.json")).expect("it is written");
        let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(defaults.as_object().expect("fields").iter().all(|(name, value)| found[name] == *value), "{found}");
    }
    let checkpoint = mlxr_weights::open(Path::new(again)).expect("it is written");
    let number = |key: &str| checkpoint.meta().get::<f32>(&format!("general.sampling.{key}")).ok().flatten();
    let found = ["temp", "top_k", "top_p", "penalty_repeat"].map(number);
    assert_eq!(found, [Some(0.7), Some(30.0), Some(0.9), Some(1.1)]);
    // What the card says.
    let text = |key: &str| checkpoint.meta().get::<&str>(&format!("general.{key}")).ok().flatten();
    assert_eq!([text("name"), text("license"), text("author")], [Some("Small: tales"), Some("cc-by-sa-4.0"), None]);
    let list = |key: &str| checkpoint.meta().get::<&Strings>(&format!("general.{key}")).ok().flatten();
    let list = |key: &str| list(key).map(|all| all.iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
    assert_eq!(list("languages"), Some(vec![b"en".to_vec(), b"de".to_vec()]));
    assert_eq!(list("tags"), Some(vec![b"stories".to_vec()]));
}

#[test]
fn calibration_lowers_the_loss_of_mlx_formats() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("convert-calibrate");
    let folder = fixtures.join("stories260k");
    let model = folder.join("hf").to_str().expect("text").to_owned();
    let story = std::fs::read_to_string(folder.join("greedy-200.txt")).expect("the fixture");
    let text = home.file("text.txt");
    std::fs::write(&text, story.repeat(8)).expect("a file");
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stories260k-64x2.logits");
    // A row of this model is two groups of floats, of which the second makes up for the first.
    for (i, (how, most)) in [(["--bits", "3"], 0.8), (["--mode", "mxfp4"], 0.95)].into_iter().enumerate() {
        let mut losses = Vec::new();
        for calibrate in [&[][..], &["--calibrate", &text, "--calibrate-chunks", "2"]] {
            let out = home.file(&format!("folder-{i}-{}", losses.len()));
            let args = [&["convert", &model, &out, "--group", "32"], &how[..], calibrate].concat();
            let printed = succeed(&home, &args);
            assert_eq!(stdout(&printed).contains(", calibrated"), !calibrate.is_empty(), "{}", stdout(&printed));
            let report = succeed(&home, &["perplexity", "--json", "-m", &out, "--kl-divergence-base", base]);
            let report: serde_json::Value = serde_json::from_str(stdout(&report)).expect("JSON");
            losses.push(report.pointer("/kld/value").and_then(serde_json::Value::as_f64).expect("a divergence"));
        }
        assert!(losses[1] < most * losses[0], "{how:?}: {losses:?}");
    }
    let out = home.file("refused");
    let output = mlx_run(&home, &["convert", &model, &out, "--calibrate", &text]).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("add --bits, --mode or --recipe"), "{stderr}");
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("convert-refused");
    let path = |name: &str| fixtures.join(name).to_str().expect("text").to_owned();
    let rows = [
        (path("stories260k/stories260K-f32.gguf"), home.file("a.gguf"), "it is a GGUF file already"),
        (path("stories260k/hf"), home.file("no/such/folder/a.gguf"), "cannot create"),
        (path("stories260k"), home.file("a.gguf"), ""),
    ];
    for (model, out, want) in rows {
        let output = mlx_run(&home, &["convert", &model, &out]).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(want), "{model}: {stderr}");
        assert!(!Path::new(&out).exists(), "{out}");
    }
}
