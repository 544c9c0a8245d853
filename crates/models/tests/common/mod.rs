//! What golden tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlxr_compute::Backend;
use mlxr_compute::cpu::{Cpu, Isa, Pool};
use mlxr_compute::op::KvType;
use mlxr_compute::scalar::Scalar;
use mlxr_engine::runner::{Batch, PAGE_TOKENS, PageId, Row, Runner, SeqId, Want};
use mlxr_mlx::{Device, Kernels, Mlx, Precision, Way, find};
use mlxr_models::{Arena, LoadOptions};

/// Tokens and logits of a `.logits` file: `i32 n, i32 v`, `n` ids, `n * v` f32.
pub fn golden(path: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("golden logits");
    let word = |i: usize| <[u8; 4]>::try_from(&bytes[i * 4..i * 4 + 4]).expect("four bytes");
    let (n, v) = (u32::from_le_bytes(word(0)) as usize, u32::from_le_bytes(word(1)) as usize);
    let ids = (0..n).map(|i| u32::from_le_bytes(word(2 + i))).collect();
    (ids, (0..n * v).map(|i| f32::from_le_bytes(word(2 + n + i))).collect())
}

/// One row that wants all logits, on pages from `first_page` on.
fn push(batch: &mut Batch, seq: u64, start: usize, tokens: &[u32], first_page: usize) {
    let n_page = (start + tokens.len()).div_ceil(PAGE_TOKENS);
    let (t, p) = (batch.tokens.len(), batch.pages.len());
    batch.tokens.extend_from_slice(tokens);
    batch.pages.extend((0..n_page).map(|i| PageId((first_page + i) as u32)));
    batch.rows.push(Row {
        seq: SeqId(seq),
        start,
        tokens: (t, batch.tokens.len()),
        pages: (p, batch.pages.len()),
        slot: seq as usize,
        parents: None,
        want: Want::All,
    });
}

fn run(model: &mut dyn Runner, batch: &Batch) -> Vec<f32> {
    model.submit(batch).expect("the batch fits");
    model.wait().expect("the backend works").data.to_vec()
}

/// Squared error over squared magnitude.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
    error / want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()
}

fn options(kv_type: KvType) -> LoadOptions {
    LoadOptions { n_ctx: Some(48), kv_type, arena: Arena::Tokens(1024), ..LoadOptions::default() }
}

/// The loaded model as a runner, or what went wrong.
fn load<B: Backend + Send + 'static>(path: &Path, backend: B, kv_type: KvType) -> Result<Box<dyn Runner>, String>
where
    B::Tensor: Send,
    B::Matrix: Send,
    B::Kv: Send,
{
    let checkpoint = mlxr_weights::open(path).map_err(|e| e.to_string())?;
    let model = mlxr_models::load(&checkpoint, backend, &options(kv_type), &mut |_| ()).map_err(|e| e.to_string())?;
    Ok(Box::new(model))
}

/// How far logits of 16-bit arithmetic may be off: bf16 rounds by up to 2^-9, in each of a few dozen products and stores.
const HALF: f64 = 1e-2;
/// With keys and values in 8 bits, too, whose rounding lets small random models choose other experts: phimoe 3.6e-2, deepseek-v32 2.2e-2
/// on a GPU, the others below 1e-2.
const EIGHTH: f64 = 5e-2;

/// MLX, or `None` with a loud word.
fn device() -> Option<Device> {
    let Some(folder) = std::env::var_os("MLXR_MLX_DIR").map(PathBuf::from) else {
        eprintln!("SKIPPED: run `cargo xtask mlx` and set MLXR_MLX_DIR to target/mlx to test the MLX backend");
        return None;
    };
    Some(find::open(find::places(None, Some(&folder))).expect("MLXR_MLX_DIR names a folder with MLX"))
}

/// Where a checkpoint is computed: a name for it, the loaded model, and how far off it may be.
type Place = (&'static str, Box<dyn FnOnce() -> Result<Box<dyn Runner>, String>>, f64);

/// The defining backend, the CPU backend with its best instructions for f32 and its best for bf16, and MLX, on a GPU also with our
/// kernels; of these those whose name has the text of `MLXR_GOLDEN_ON` in it, all without it. MLX's own kernels for quantized f32
/// take a GPU minutes to compile, so that `our kernels` is worth asking for there.
fn places(path: &Path, limits: [f64; 2]) -> Vec<Place> {
    let pool = Arc::new(Pool::new(2).expect("threads"));
    let cpu = |isa| {
        let (path, pool) = (path.to_owned(), pool.clone());
        move || load(&path, Cpu::new(pool, isa).expect("the machine has these instructions"), KvType::F32)
    };
    let mlx = |(precision, kernels, way), kv_type| {
        let path = path.to_owned();
        move || {
            let mut mlx = Mlx::new(device().expect("it was there"), precision, kernels, Box::new(|_| ()));
            mlx.multiply_by(Some(way)).map_err(|e| e.to_string())?;
            load(&path, mlx, kv_type)
        }
    };
    let scalar = path.to_owned();
    let mut places: Vec<Place> = vec![
        ("scalar", Box::new(move || load(&scalar, Scalar, KvType::F32)), limits[0]),
        ("cpu", Box::new(cpu(Isa::detect_f32())), limits[1]),
    ];
    if Isa::detect() != Isa::detect_f32() {
        // Products of bf16 pairs round inputs.
        places.push(("cpu with bf16 pairs", Box::new(cpu(Isa::detect())), HALF.max(limits[1])));
    }
    if let Some(device) = device() {
        places.push(("mlx", Box::new(mlx((Precision::Full, Kernels::Mlx, Way::Mlx), KvType::F32)), limits[0]));
        if device.platform().is_some() {
            let own = |way, kv_type| Box::new(mlx((Precision::Half, Kernels::Own, way), kv_type));
            places.push(("mlx with our kernels on f16", own(Way::Tiles, KvType::F16), HALF));
            places.push(("mlx with our kernels, products by vectors", own(Way::Vectors, KvType::F16), HALF));
            places.push(("mlx with our kernels, products MLX's", own(Way::Mlx, KvType::F16), HALF));
            places.push(("mlx with our kernels on q8", own(Way::Tiles, KvType::Q8), EIGHTH));
        }
    }
    let asked = std::env::var("MLXR_GOLDEN_ON").unwrap_or_default();
    places.retain(|(name, ..)| name.contains(&asked));
    assert!(!places.is_empty(), "MLXR_GOLDEN_ON: nothing here has '{asked}' in its name");
    places
}

/// By each of [`places`]: loads a checkpoint, computes the golden tokens whole and in parts, and describes each that misses the
/// golden logits by more than its limit (squared error over squared magnitude). `limits[0]` holds for exact arithmetic; quantized
/// weights on the CPU backend meet 8-bit activations, for which `limits[1]` holds.
pub fn compare(path: &Path, logits: &Path, limits: [f64; 2]) -> Vec<String> {
    let name = path.file_stem().expect("name").to_string_lossy().into_owned();
    let mut failures = Vec::new();
    for (backend, load, limit) in places(path, limits) {
        let run = || match load() {
            Ok(mut model) => misses(&name, backend, &mut *model, &golden(logits), limit),
            Err(e) => vec![format!("{name} on {backend}: {e}")],
        };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        failures.extend(run.unwrap_or_else(|_| vec![format!("{name} on {backend}: panicked")]));
    }
    failures
}

/// Computes the tokens whole; then in two chunks as another sequence beside a third; then the second half of them one by one, in
/// two sequences at once.
fn misses(name: &str, backend: &str, model: &mut dyn Runner, golden: &(Vec<u32>, Vec<f32>), limit: f64) -> Vec<String> {
    let (ids, want) = golden;
    let mut batch = Batch::default();
    push(&mut batch, 0, 0, ids, 0);
    let whole = run(model, &batch);
    let half = ids.len() / 2 + 1;
    batch.clear();
    push(&mut batch, 1, 0, &ids[..half], 8);
    push(&mut batch, 2, 0, &ids[..3], 20);
    let first = run(model, &batch);
    batch.clear();
    push(&mut batch, 1, half, &ids[half..], 8);
    let second = run(model, &batch);
    let n_vocab = want.len() / ids.len();
    let parts = [&first[..half * n_vocab], &second].concat();
    batch.clear();
    let pages = [32, 44];
    (0..2).for_each(|i| push(&mut batch, 3 + i as u64, 0, &ids[..half], pages[i]));
    let begun = run(model, &batch);
    let mut singly = [0, 1].map(|i| begun[i * half * n_vocab..][..half * n_vocab].to_vec());
    for at in half..ids.len() {
        batch.clear();
        (0..2).for_each(|i| push(&mut batch, 3 + i as u64, at, &ids[at..=at], pages[i]));
        let logits = run(model, &batch);
        (0..2).for_each(|i| singly[i].extend_from_slice(&logits[i * n_vocab..][..n_vocab]));
    }
    let [one, other] = &singly;
    let mut failures = Vec::new();
    for (how, got) in [("whole", &whole), ("in parts", &parts), ("one by one", one), ("beside it", other)] {
        let error = nmse(got, want);
        eprintln!("{name} on {backend} {how}: nmse {error:.2e}");
        if error.is_nan() || error > limit {
            failures.push(format!("{name} on {backend} {how}: nmse {error:.2e}"));
        }
    }
    failures
}

/// What a layer that drafts computes by its definition.
struct Further {
    ids: Vec<u32>,
    /// Tokens that have logits.
    spoken: Vec<u32>,
    /// By place.
    logits: Vec<f32>,
    states: Vec<f32>,
}

/// `golden.next` of a checkpoint, of layers that speak some tokens or all; all but `n_more` of its tokens are places.
fn further(path: &Path, speaks_some: bool, n_more: usize) -> Further {
    let bytes = std::fs::read(path.join("golden.next")).expect("golden logits");
    let words = bytes.as_chunks::<4>().0;
    let mut words = words.iter().copied();
    let mut integers = |n: usize| words.by_ref().take(n).map(u32::from_le_bytes).collect::<Vec<u32>>();
    let [n, v, d] = integers(3).try_into().expect("three numbers");
    let ids = integers(n as usize);
    let spoken = if speaks_some { integers(v as usize) } else { (0..v).collect() };
    let mut floats: Vec<f32> = words.map(f32::from_le_bytes).collect();
    let n_place = n as usize - n_more;
    let states = floats.split_off(n_place * v as usize);
    assert_eq!(states.len(), n_place * d as usize);
    Further { ids, spoken, logits: floats, states }
}

/// How a layer misses its definition by more than `limit`. It reads `parts`: tokens, and states of the large model with them, or
/// none for the layer's own state of the place before.
fn layer_misses(
    name: &str,
    model: &mut dyn Runner,
    parts: &[(&[u32], &[f32])],
    want: &Further,
    limit: f64,
) -> Vec<String> {
    let d_model = model.info().d_model;
    let (mut logits, mut states) = (Vec::new(), Vec::<f32>::new());
    let mut batch = Batch::default();
    for (tokens, features) in parts {
        batch.clear();
        batch.wants_hidden = true;
        push(&mut batch, 1, states.len() / d_model, tokens, 4);
        let own = &states[states.len().saturating_sub(d_model)..];
        batch.features.extend_from_slice(if features.is_empty() { own } else { features });
        for row in run(model, &batch).chunks_exact(model.info().n_vocab) {
            logits.extend(want.spoken.iter().map(|&token| row[token as usize]));
            assert_eq!(row.iter().filter(|logit| logit.is_finite()).count(), want.spoken.len(), "{name}");
        }
        states.extend_from_slice(model.hidden());
    }
    batch.features.pop();
    assert!(model.submit(&batch).is_err(), "hidden states must fit the tokens");
    let mut failures = Vec::new();
    for (what, got, want) in [("logits", &logits, &want.logits), ("states", &states, &want.states)] {
        let error = nmse(got, want);
        eprintln!("{name}, {what}: nmse {error:.2e}");
        if error.is_nan() || error > limit {
            failures.push(format!("{name}, {what}: nmse {error:.2e}"));
        }
    }
    failures
}

/// The CPU backend with its best instructions for f32.
fn cpu() -> Cpu {
    let pool = Arc::new(Pool::new(2).expect("threads"));
    Cpu::new(pool, Isa::detect_f32()).expect("the machine has these instructions")
}

/// Hidden states of a model, of all tokens but the last.
fn states(large: &mut dyn Runner, ids: &[u32]) -> Vec<f32> {
    let mut batch = Batch { wants_hidden: true, ..Batch::default() };
    push(&mut batch, 0, 0, ids, 0);
    run(large, &batch);
    let states = large.hidden();
    states[..states.len() / ids.len() * (ids.len() - 1)].to_vec()
}

/// A layer that predicts further tokens: reads the large model's hidden states, whole and in parts, and describes what misses
/// the golden logits and states by more than `limit`.
pub fn compare_next(path: &Path, limit: f64) -> Vec<String> {
    let want = further(path, false, 1);
    let (checkpoint, options) = (mlxr_weights::open(path).expect("a checkpoint"), options(KvType::F32));
    let features = states(&mut *load(path, Scalar, KvType::F32).expect("the model loads"), &want.ids);
    let scalar = mlxr_models::load_next(&checkpoint, Scalar, &options).expect("it loads").expect("it is there");
    let cpu = mlxr_models::load_next(&checkpoint, cpu(), &options).expect("it loads").expect("it is there");
    let models: [(&str, Box<dyn Runner>); 2] = [("scalar", Box::new(scalar)), ("cpu", Box::new(cpu))];
    let (n, d) = (want.ids.len(), features.len() / (want.ids.len() - 1));
    let parts = [0..5, 5..6, 6..n - 1].map(|p| (&want.ids[p.start + 1..=p.end], &features[p.start * d..p.end * d]));
    let misses = |(backend, mut model): (&str, Box<dyn Runner>)| {
        layer_misses(&format!("{} on {backend}", path.display()), &mut *model, &parts, &want, limit)
    };
    models.into_iter().flat_map(misses).collect()
}

/// An EAGLE 3 layer for the model at `large`: reads that one's states, in parts, and then its own.
pub fn compare_eagle(path: &Path, large: &Path, limit: f64) -> Vec<String> {
    let mut failures = eagle_misses((path, large), "scalar", || Scalar, limit);
    failures.extend(eagle_misses((path, large), "cpu", cpu, limit));
    if device().is_some() {
        let mlx = || Mlx::new(device().expect("it was there"), Precision::Full, Kernels::Mlx, Box::new(|_| ()));
        failures.extend(eagle_misses((path, large), "mlx", mlx, limit));
    }
    failures
}

fn eagle_misses<B: Backend + Send + 'static>(
    (path, large): (&Path, &Path),
    name: &str,
    backend: impl Fn() -> B,
    limit: f64,
) -> Vec<String>
where
    B::Tensor: Send,
    B::Matrix: Send,
    B::Kv: Send,
{
    let want = further(path, true, 0);
    let [checkpoint, model] = [path, large].map(|path| mlxr_weights::open(path).expect("a checkpoint"));
    let mut large = load(large, backend(), KvType::F32).expect("the model loads");
    let (mut layer, taps) =
        mlxr_models::load_eagle(&checkpoint, &model, backend(), &options(KvType::F32)).expect("the layer loads");
    assert!(!large.reveal(&[2, 1]) && !large.reveal(&[9]) && large.reveal(&taps));
    let features = states(&mut *large, &want.ids);
    let (n, d) = (want.ids.len(), features.len() / (want.ids.len() - 1));
    let part = |from: usize, to: usize| (&want.ids[from + 1..=to], &features[from * d..to * d]);
    let parts = [part(0, 5), part(5, 6), part(6, n - 1), (&want.ids[3..4], &[])];
    layer_misses(&format!("{} on {name}", path.display()), &mut layer, &parts, &want, limit)
}
