//! `mlx-run perplexity` against a file of logits that llama-perplexity wrote:
//! `llama-perplexity -m stories260K-f32.gguf -f greedy-200.txt -c 64 -b 64 --chunks 2 -ctk f32 -ctv f32
//! --save-all-logits stories260k-64x2.logits`, which printed `PPL = 1.9664 +/- 0.16846`.

use serde_json::Value;

use crate::common::{Temp, fixtures, mlx_run, stdout, succeed};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stories260k-64x2.logits");

fn json(home: &Temp, args: &[&str]) -> Value {
    let args = [&["perplexity", "--json"], args].concat();
    serde_json::from_str(stdout(&succeed(home, &args))).expect("JSON")
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).expect(pointer)
}

#[test]
fn figures_and_logits_agree_with_llama_perplexity() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("perplexity");
    let folder = fixtures.join("stories260k");
    let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    let (model, story, own) = (path("stories260K-f32.gguf"), path("greedy-200.txt"), home.file("own.logits"));

    // The text to our file.
    let found = json(&home, &["-m", &model, "-f", &story, "-c", "64", "--chunks", "2", "--save-all-logits", &own]);
    assert_eq!(found["n_token"], 62);
    assert!((number(&found, "/ppl/value") - 1.9664).abs() < 3e-4, "{found}");
    assert!((number(&found, "/ppl/error") - 0.16846).abs() < 3e-4, "{found}");

    // Header, windows and tokens are llama.cpp's, byte for byte; log probabilities differ by its 16-bit arithmetic.
    let (ours, theirs) = (std::fs::read(&own).expect("written"), std::fs::read(BASE).expect("in the repository"));
    assert_eq!((ours.len(), &ours[..20 + 2 * 64 * 4]), (theirs.len(), &theirs[..20 + 2 * 64 * 4]));
    for (base, least, most) in [(BASE, 1e-8, 1e-5), (own.as_str(), 0.0, 1e-6)] {
        let found = json(&home, &["-m", &model, "--kl-divergence-base", base]);
        let divergence = number(&found, "/kld/value").abs();
        assert!((least..most).contains(&divergence), "{base}: {divergence}");
        assert_eq!(number(&found, "/same_top/value"), 1.0);
        assert!((number(&found, "/ppl_base/value") - 1.9664).abs() < 3e-4, "{found}");
    }

    // Four bits are seen: another model's distance is orders of magnitude larger.
    let found = json(&home, &["-m", &path("mlx-4bit"), "--kl-divergence-base", BASE]);
    assert!(number(&found, "/kld/value") > 1e-3, "{found}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("perplexity-refused");
    let path = |name: &str| fixtures.join(name).to_str().expect("text").to_owned();
    let (model, story) = (path("stories260k/stories260K-f32.gguf"), path("stories260k/greedy-200.txt"));
    let short = home.file("short.logits");
    std::fs::write(&short, &std::fs::read(BASE).expect("in the repository")[..1000]).expect("a file");
    let rows: [(&[&str], &str); 6] = [
        (&["-m", &model, "-f", &story], "1024 are needed for windows of 512"),
        (&["-m", &model, "-f", &story, "-c", "2"], "a window of 2 tokens scores none"),
        (&["-m", &model, "-f", &story, "-c", "1000000"], "2000000 are needed"),
        (&["-m", &model, "--kl-divergence-base", &story], "does not begin with `_logits_`"),
        (&["-m", &model, "--kl-divergence-base", &short], "cut short"),
        (&["-m", &model, "--kl-divergence-base", BASE, "-c", "512"], "has windows of 64"),
    ];
    for (args, want) in rows {
        let output = mlx_run(&home, &[&["perplexity"], args].concat()).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(want), "{args:?}: {stderr}");
    }
}
