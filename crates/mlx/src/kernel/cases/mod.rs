//! Random launches of every kernel with the definitions' results.

mod attention;
mod experts;
mod product;
mod tiles;

use mlxr_compute::DType;
use mlxr_compute::conformance::Random;
use mlxr_compute::op::{Act, Gating, RopePairs, Window};

use super::Instance;
use super::blocks::{BLOCKS, Blocks};
use super::source::Launch;

/// A launch, and what the definitions make of its inputs.
pub struct Case {
    /// What to run.
    pub launch: Launch,
    /// Its shapes, for messages.
    pub title: String,
    want: Vec<f32>,
    /// Numbers of a row of `want`, over which errors are relative.
    n_col: usize,
    finish: Finish,
    limit: Limit,
}

/// How far numbers may be off.
enum Limit {
    /// Of the largest of their row.
    Row(f32),
    /// Each by what the roundings of its sum may come to: sums may cancel, and a gate may magnify what is left.
    Each(Vec<f32>),
    /// As far as they like: the launch is to be timed.
    None,
}

/// How outputs become what the definition defines.
enum Finish {
    /// The first output is it.
    First,
    /// Shares of attention are joined: shares, dimensions, sinks of the heads.
    Merge(usize, usize, Vec<f32>),
    /// Pairs in a layout of `rows_half` and scales become rows: layout, columns.
    Rows(u32, usize),
    /// The outputs one after the other.
    Parts,
    /// The two f16 of each word.
    Halves,
    /// The first output, then the rows that pairs beside it stand for, if there are: layout, columns. A written array is zeros.
    Joined(u32, usize),
    /// The first output, then the rows that pairs beside it stand for: layout, columns, what they were divided by.
    Beside(u32, usize, f32),
    /// The first output, then the written inputs, which are f16; the second output is a token.
    Stores,
    /// The first output, then the written inputs: codes of keys and of values, and scales of both, of heads of so many numbers.
    Codes(usize),
}

/// Errors of sums in f32.
const SINGLE: f32 = 2e-5;
/// Errors where numbers are rounded to f16, or to bf16.
const HALF: f32 = 1e-3;
const BFLOAT: f32 = 1e-2;

impl Case {
    /// What is wrong with the outputs, if anything.
    pub fn judge(&self, outputs: &[Vec<f32>]) -> Option<String> {
        if matches!(self.limit, Limit::None) {
            return None;
        }
        let got = match &self.finish {
            Finish::First => outputs[0].clone(),
            Finish::Merge(n_share, d, sinks) => attention::merge(&outputs[0], &outputs[1], sinks, [*n_share, *d]),
            Finish::Rows(layout, n_in) => product::rows(&outputs[0], &outputs[1], *layout, *n_in),
            Finish::Parts => outputs.concat(),
            Finish::Halves => halves(&outputs[0]),
            Finish::Joined(layout, n_col) => {
                if outputs[4..].concat().iter().any(|count| count.to_bits() != 0) {
                    return Some(format!("{}: groups are counted still", self.title));
                }
                let ones = vec![1.0; outputs[0].len() / n_col];
                let rows = if *layout > 0 { product::rows(&outputs[1], &ones, *layout, *n_col) } else { Vec::new() };
                [outputs[0].clone(), rows].concat()
            }
            Finish::Beside(layout, n_col, scale) => {
                let scales = vec![*scale; outputs[0].len() / n_col];
                [outputs[0].clone(), product::rows(&outputs[1], &scales, *layout, *n_col)].concat()
            }
            Finish::Stores => {
                outputs[..1].iter().cloned().chain(outputs[2..].iter().map(|o| halves(o))).flatten().collect()
            }
            Finish::Codes(d) => {
                let codes =
                    |words: &Vec<f32>| words.iter().flat_map(|word| word.to_bits().to_le_bytes()).collect::<Vec<u8>>();
                let number = |i: usize| {
                    let scales = &outputs[4 + i];
                    let numbers = codes(&outputs[2 + i]).into_iter().enumerate();
                    numbers.map(|(j, code)| f32::from(code as i8) * scales[j / d]).collect::<Vec<f32>>()
                };
                [outputs[0].clone(), number(0), number(1)].concat()
            }
        };
        if got.len() != self.want.len() {
            return Some(format!("{}: {} numbers, expected {}", self.title, got.len(), self.want.len()));
        }
        let rows = self.want.chunks(self.n_col).zip(got.chunks(self.n_col));
        for (i, (want, got)) in rows.enumerate() {
            let largest = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            for (j, (w, g)) in want.iter().zip(got).enumerate() {
                let (off, limit) = (
                    (w - g).abs(),
                    match &self.limit {
                        Limit::Row(part) => part * largest,
                        Limit::Each(limits) => limits[i * self.n_col + j],
                        Limit::None => f32::INFINITY,
                    },
                );
                if off.is_nan() || off > limit {
                    return Some(format!("{}: [{i}, {j}] is {g}, expected {w}, at most {limit:e} off", self.title));
                }
            }
        }
        None
    }
}

/// The two f16 in each word.
fn halves(words: &[f32]) -> Vec<f32> {
    let both = |word: &f32| [0, 16].map(|shift| half::f16::from_bits((word.to_bits() >> shift) as u16).to_f32());
    words.iter().flat_map(both).collect()
}

fn bytes<T: bytemuck::NoUninit>(numbers: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(numbers).to_vec()
}

/// Whole numbers as kernels take them: eight at least.
fn sizes(numbers: &[usize]) -> Vec<u8> {
    let mut words: Vec<u32> = numbers.iter().map(|&n| n as u32).collect();
    words.resize(words.len().max(8), 0);
    bytes(&words)
}

/// The largest numbers of rows of `n`, by slices; where they are `paired` with places, these are shuffled.
fn best(random: &mut Random, [k, each, paired]: [u32; 3], [n_row, n]: [usize; 2]) -> Case {
    let (width, n_best) = (256 * each as usize, k as usize);
    let n_slice = n.div_ceil(width);
    // Few different numbers, so that some are equal.
    let rows: Vec<Vec<f32>> =
        (0..n_row).map(|_| random.normals(n).iter().map(|x| (x * 500.0).round()).collect()).collect();
    let places: Vec<f32> = random.shuffled(n).iter().map(|&place| place as f32).collect();
    let mut want = Vec::new();
    for slice in rows.iter().flat_map(|row| (0..n_slice).map(move |slice| (row, slice * width))) {
        let (row, first) = slice;
        let mut order: Vec<usize> = (first..n.min(first + width)).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let found = order.iter().map(|&i| [row[i], if paired == 1 { places[i] } else { i as f32 }]);
        want.extend(found.chain(std::iter::repeat([-3e38, 0.0])).take(n_best).flatten());
    }
    let paired_row = |row: &Vec<f32>| row.iter().zip(&places).flat_map(|(x, p)| [*x, *p]).collect::<Vec<f32>>();
    let x: Vec<f32> = if paired == 1 { rows.iter().flat_map(paired_row).collect() } else { rows.concat() };
    let instance = Instance::new("best", &[k, each, paired], "float");
    let title = format!("{}, {n_row} rows of {n}", instance.name());
    let outputs = vec![want.len()];
    let grid = [n_slice as u32, n_row as u32, 1];
    let launch = Launch { instance, grid, inputs: vec![bytes(&x), sizes(&[n, n_slice])], outputs };
    Case { launch, title, want, n_col: 2, finish: Finish::First, limit: Limit::Row(0.0) }
}

/// Cases of every kernel.
pub fn all(seed: u64) -> Vec<Case> {
    let mut random = Random::new(seed);
    let mut cases = of_attention(&mut random);
    for (bits, group) in [(2, 32), (3, 64), (4, 32), (4, 64), (5, 32), (6, 128), (8, 64)] {
        for (i, m) in [1, 2, 5, 16].into_iter().enumerate() {
            let scale = if i % 2 == 0 { DType::F16 } else { DType::F32 };
            let shape = [1 + random.below(40), usize::from(group) * (1 + random.below(20))];
            cases.push(product::affine(&mut random, m, (bits, group, scale), shape));
        }
    }
    cases.extend(of_tiles(&mut random));
    cases.extend(of_appends(&mut random));
    for (k, each, paired, n) in [(1, 8, 0, 5000), (8, 8, 0, 2048), (64, 8, 0, 2500), (8, 2, 1, 300), (64, 1, 1, 256)] {
        let shape = [1 + random.below(3), n - random.below(200)];
        cases.push(best(&mut random, [k, each, paired], shape));
    }
    for (i, layout) in [0, 1, 4, 8].into_iter().enumerate() {
        let gate = [Act::Silu, Act::GeluTanh, Act::SwigluOai { alpha: 1.702, limit: 1.5 }][i % 3];
        let merged = if i % 2 == 0 { product::Of::Gate(gate) } else { product::Of::Merged(gate) };
        for of in [product::Of::Rows, product::Of::Norm, merged] {
            let granule = if matches!(of, product::Of::Norm) { 128 } else { 32 };
            let shape = [1 + random.below(19), granule * (1 + random.below(20 + i))];
            cases.push(product::rows_half(&mut random, shape, layout, of));
        }
    }
    for i in 0..6 {
        let share = 1 + i as usize % 4;
        let shape = [share * (1 + random.below(9)), 1 + random.below(600)];
        cases.push(product::rows_finish(
            &mut random,
            (shape, share),
            [i % 3, i / 3],
            if i % 2 == 0 { "half" } else { "bfloat" },
        ));
    }
    for (i, row) in BLOCKS.iter().enumerate() {
        let block = row.block();
        for (j, m) in [1, [3, 8, 16, 27][i % 4]].into_iter().enumerate() {
            // One of them goes round all waves.
            let n_block = if j == 0 { 1 + random.below(20) } else { 1 + random.below(5) };
            let shape = [1 + random.below(40), block * n_block];
            cases.push(product::blocks(&mut random, m, row, shape, (i + j) % 2 == 0));
        }
        let shape = [1 + random.below(40), block * (1 + random.below(5))];
        let n_row = [1 + random.below(9), 12 + random.below(30), 96 + random.below(20)][i % 3];
        let share = 1 + i % 4;
        let n_product = n_row.next_multiple_of(share);
        let pair = i % 2 == 0 && !row.has_own_codes();
        let of = experts::Products { n_product, n_expert: 3, share, sorted: i % 3 > 0, pair };
        cases.push(experts::products(&mut random, of, row, shape));
        let shape = [1 + random.below(5), block * (1 + random.below(9))];
        cases.push(product::blocks_decode(&mut random, row, shape));
    }
    cases.extend(of_routing(&mut random));
    cases
}

fn of_routing(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    let gatings = [Gating::Softmax, Gating::Sigmoid, Gating::SoftmaxOfChosen, Gating::SparseMixer];
    for (i, gating) in gatings.into_iter().cycle().take(16).enumerate() {
        let groups = [None, Some((8, 3)), None, Some((4, 2))][(i + i / 4) % 4].filter(|_| i % 4 < 2);
        let n_expert = 8 * (1 + random.below([2, 8, 16, 64][i / 4]));
        let n_used = 1 + random.below(n_expert.min(if i / 4 == 3 { 32 } else { 10 }));
        let normalize = random.below(2) == 0;
        // A bias beside groups would make sums that differ in their rounding alone.
        let how = experts::Choice { gating, bias: i % 4 == 1 && groups.is_none(), groups, normalize };
        let shape = [1 + random.below(4), n_expert, n_used];
        cases.push(experts::route(random, shape, how));
        let shape = [1 + random.below(4), 1 + random.below(9), 1 + random.below(700)];
        let parameter = ["float", "half", "bfloat"][i % 3];
        cases.push(experts::sum(random, shape, parameter, i / 3 % 2 == 0));
    }
    cases
}

fn of_attention(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    let heads = [[64, 1], [64, 4], [96, 2], [128, 4], [128, 8], [256, 2]];
    for (i, [d, group]) in heads.into_iter().enumerate() {
        let windows = [Window::Full, Window::Sliding(20), Window::Chunked(16)];
        let cap = if i % 3 == 0 { Some(3.0) } else { None };
        let lengths: Vec<usize> = (0..1 + random.below(3)).map(|_| 1 + random.below(90)).collect();
        for n_share in [1, 2 + random.below(4)] {
            let how =
                attention::How { window: windows[(i + n_share) % 3], softcap: cap, sinks: (i + n_share) % 2 == 0 };
            let shape = [d, group, 1 + i % 3, n_share];
            cases.push(attention::paged(random, "paged_attention", shape, &lengths, how));
            if [64, 128].contains(&d) {
                cases.push(attention::paged(random, "paged_attention_tiles", shape, &lengths, how));
            }
            if d != 96 {
                let name = if d == 64 || n_share == 1 { "paged_attention_q8" } else { "paged_attention_tiles_q8" };
                cases.push(attention::paged(random, name, shape, &lengths, how));
            }
        }
        if [64, 128].contains(&d) {
            // A sequence alone, whose first pages are read ahead.
            let name = if d == 128 && group == 8 { "paged_attention_tiles_q8" } else { "paged_attention_tiles" };
            let how = attention::How { window: windows[i % 2], softcap: cap, sinks: i % 2 == 0 };
            let n_share = 2 + random.below(3);
            let length = 64 * n_share + random.below(90);
            cases.push(attention::paged(random, name, [d, group, 2, n_share], &[length], how));
        }
        let how = attention::How { window: windows[(i + 1) % 3], softcap: cap, sinks: i % 2 == 0 };
        let lengths: Vec<usize> = (0..1 + random.below(3)).map(|_| 5 + random.below(90)).collect();
        let n_toks: Vec<usize> = lengths.iter().map(|n| n - random.below(n - 1)).collect();
        for name in ["prompt_attention", "prompt_attention_q8"].into_iter().take(if d == 96 { 1 } else { 2 }) {
            cases.push(attention::prompts(random, name, [d, group, 1 + i % 2], [&lengths, &n_toks], how));
        }
        let [n_share, n_head] = [1 + random.below(70), 1 + random.below(9)];
        let (n_share, n_head) = (n_share, if i % 2 == 0 { 4 * n_head } else { n_head });
        let layout = if n_head * d % 128 == 0 { [0, 4, 8][i % 3] } else { 0 };
        cases.push(attention::joined(random, [d, n_head, n_share], layout));
        let dims = [d, d / 2, 0][i % 3];
        let pairs = if i % 2 == 0 { RopePairs::HalfSplit } else { RopePairs::Interleaved };
        let shape = [d, group, 1 + i % 3, 1 + random.below(20)];
        for name in ["rotate_append", "rotate_append_q8"] {
            cases.push(attention::rotate_append(random, name, shape, (dims, pairs)));
        }
    }
    cases
}

fn of_tiles(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, m) in [1, 7, 8, 13, 17, 32].into_iter().enumerate() {
        for (j, (bits, group)) in [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64)].into_iter().enumerate() {
            let scale = if (i + j) % 2 == 0 { DType::F16 } else { DType::BF16 };
            // Some in runs of neighbouring blocks, some not.
            let n_block = if random.below(2) == 0 { 4 * (1 + random.below(5)) } else { 1 + random.below(10) };
            let shape = [1 + random.below(70), 128 * n_block];
            let packing = (bits, group, scale);
            cases.push(match (i + j) % 4 {
                0 => tiles::plain(random, m, packing, shape, false),
                1 => tiles::plain(random, m, packing, shape, true),
                2 => {
                    let [b, c] = [(); 2].map(|()| 1 + random.below(40));
                    tiles::three(random, m, packing, [shape[0], b, c, shape[1]])
                }
                _ => {
                    let layout = [0, 4, 8][i % 3];
                    let n_out = if layout > 0 { 128 * (1 + random.below(2)) } else { shape[0] };
                    let name = if m == 1 { "affine_tiles_gated_normed" } else { "affine_tiles_gated" };
                    tiles::gated(random, (name, m), packing, [n_out, shape[1]], [1 + j as u32 % 2, layout])
                }
            });
        }
    }
    cases.push(tiles::plain(random, 8, (4, 64, DType::BF16), [70, 9 * 512], true));
    cases.push(tiles::plain(random, 1, (4, 32, DType::F16), [70, 11 * 256], false));
    cases.push(tiles::gated(random, ("affine_tiles_gated", 25), (4, 64, DType::F16), [40, 2 * 512], [1, 0]));
    let shape = [128 * (1 + random.below(2)), 128 * (1 + random.below(33))];
    let name = "affine_tiles_gated_normed";
    cases.push(tiles::gated(random, (name, 1), (4, 64, DType::BF16), shape, [1, 4]));
    cases
}

fn of_appends(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, m) in [1, 8, 13, 32].into_iter().enumerate() {
        for (j, d) in [64, 96, 128].into_iter().enumerate() {
            let (bits, scale) = (if j == 1 { 8 } else { 4 }, if (i + j) % 2 == 0 { DType::F16 } else { DType::BF16 });
            let shape = [d, 1 + (i + j) % 3, 1 + j % 2, 128 * (1 + random.below(9))];
            let turned = match (i + j) % 4 {
                0 | 1 => (d, RopePairs::HalfSplit),
                2 => (d / 2, RopePairs::Interleaved),
                _ => (0, RopePairs::HalfSplit),
            };
            let name = if m == 1 && j != 1 { "affine_tiles_append_normed" } else { "affine_tiles_append" };
            cases.push(tiles::append(random, (name, m), (bits, 64, scale), shape, turned));
        }
    }
    cases
}

/// Launches of an 8B Llama's shapes, to be timed, of kernels in whose names `only` is.
pub fn large(seed: u64, only: &str) -> Vec<Case> {
    let mut random = Random::new(seed);
    let mut cases = Vec::new();
    for m in [1, 8, 32] {
        large_products(&mut random, (&mut cases, only), m);
    }
    let wanted = |name: &str| name.contains(only);
    for m in [1, 8].into_iter().filter(|_| wanted("affine_matmul")) {
        cases.push(product::affine(&mut random, m, (4, 64, DType::F16), [14336, 4096]));
    }
    // Groups of MLX's that are most common.
    let common = |row: &&Blocks| [0, 64].contains(&row.planes.group);
    let named = |row: &&Blocks| common(row) && wanted(&format!("{}_matmul", row.name));
    for (row, m) in BLOCKS.iter().filter(named).flat_map(|row| [1, 8, 32].map(|m| (row, m))) {
        cases.push(product::blocks_to_time(&mut random, m, row, [4096, 14336]));
        if row.is_mlx() && m == 8 {
            cases.push(product::blocks_to_time(&mut random, m, row, [14336, 4096]));
        }
    }
    let named = |row: &&Blocks| common(row) && wanted(&format!("{}_experts", row.name));
    for row in BLOCKS.iter().filter(named) {
        for (n_row, n_expert) in [(8, 32), (64, 32), (64, 128), (512, 32), (2048, 32)] {
            for shape in [[768, 2048], [2048, 768]] {
                let of = experts::Products { n_product: n_row, n_expert, share: 1, sorted: n_row > 8, pair: false };
                cases.push(experts::products_to_time(&mut random, of, row, shape));
            }
        }
    }
    let plain = attention::How { window: Window::Full, softcap: None, sinks: false };
    let sequences = [(1, 4096, [64, 32, 32]), (1, 8192, [66, 49, 49]), (1, 32768, [66, 49, 49]), (8, 4096, [8, 6, 6])];
    for (n_seq, length, n_shares) in sequences {
        let names = ["paged_attention", "paged_attention_tiles", "paged_attention_tiles_q8"];
        for (name, n_share) in names.into_iter().zip(n_shares).filter(|(name, _)| wanted(name)) {
            cases.push(attention::paged(&mut random, name, [128, 4, 8, n_share], &vec![length; n_seq], plain));
        }
    }
    for (lengths, n_toks) in [(&[512][..], &[512][..]), (&[2048], &[256]), (&[700, 300], &[200, 300])] {
        for name in ["prompt_attention", "prompt_attention_q8"].into_iter().filter(|name| wanted(name)) {
            cases.push(attention::prompts(&mut random, name, [128, 4, 8], [lengths, n_toks], plain));
        }
    }
    if wanted("attention_merge") {
        cases.push(attention::joined(&mut random, [128, 32, 64], 4));
    }
    for name in ["rotate_append", "rotate_append_q8"].into_iter().filter(|name| wanted(name)) {
        cases.push(attention::rotate_append(&mut random, name, [128, 4, 8, 32], (128, RopePairs::HalfSplit)));
    }
    cases
}

/// Those of [`large`] that have `m` rows.
fn large_products(random: &mut Random, (cases, only): (&mut Vec<Case>, &str), m: usize) {
    let wanted = |name: &str| name.contains(only);
    let packing = (4, 64, DType::F16);
    if wanted("affine_tiles") {
        cases.push(tiles::plain(random, m, packing, [4096, 4096], true));
        cases.push(tiles::plain(random, m, packing, [4096, 14336], true));
        cases.push(tiles::plain(random, m, (8, 64, DType::F16), [14336, 4096], false));
        cases.push(tiles::three(random, m, packing, [4096, 1024, 1024, 4096]));
        let ends: &[&str] = if m == 1 { &["", "_normed"] } else { &[""] };
        for end in ends {
            let (heads, turned) = ([128, 4, 8, 4096], (128, RopePairs::HalfSplit));
            cases.push(tiles::append(random, (&format!("affine_tiles_append{end}"), m), packing, heads, turned));
            cases.push(tiles::gated(random, (&format!("affine_tiles_gated{end}"), m), packing, [14336, 4096], [1, 4]));
        }
    }
    for k in [1, 64].into_iter().filter(|_| wanted("best")) {
        cases.push(best(random, [k, 8, 0], [m, 128_256]));
        let each = (63 * k as usize).div_ceil(256).next_power_of_two() as u32;
        cases.push(best(random, [k, each, 1], [m, 63 * k as usize]));
    }
    if wanted("rows_half") {
        cases.push(product::rows_half(random, [m, 4096], 4, product::Of::Norm));
        cases.push(product::rows_half(random, [m, 14336], 4, product::Of::Rows));
    }
}
