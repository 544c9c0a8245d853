//! Pages on the disk: over a restart, over an arena that is too small, and with everything that can be wrong with files.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Fake, collect, continuation, greedy, submit};
use mlxr_engine::disk::{Disk, DiskConfig, DiskStats, Maker};
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::sampler::Rng;
use mlxr_engine::{Config, Engine, Parts, TokenId};
use mlxr_testing::Temp;

const DAY_S: u64 = 24 * 60 * 60;
const MAKER: Maker = Maker([7; 32]);

fn config(folder: &Temp) -> DiskConfig {
    DiskConfig { folder: folder.0.clone(), max_bytes: 1 << 30, max_bytes_day: 1 << 30 }
}

fn open(config: DiskConfig) -> Disk {
    Disk::open(config, Arc::new(|| DAY_S)).expect("a folder that can be made")
}

/// An engine whose arena is new, on what lies on the disk.
fn engine(disk: &Disk, maker: Maker, n_page: usize) -> Engine {
    let fake = Fake::new(n_page);
    // Time stands still: reading is always worth it.
    let parts = Parts { disk: Some((disk.clone(), maker)), ..fake.parts() };
    Engine::spawn_with_clock(parts, Config::default(), Arc::new(|| Duration::ZERO)).expect("valid limits")
}

/// What a request finds cached, after its text was checked.
fn cached(engine: &Engine, prompt: &[TokenId]) -> usize {
    let (_ticket, events) = submit(engine, greedy(prompt.to_vec(), 10));
    let (tokens, _, usage) = collect(&events);
    assert_eq!(tokens, continuation(prompt, 10));
    usage.n_cached
}

/// Waits for what a thread does; the deadline only ends a test that fails.
fn wait_for(what: &str, is_done: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_done() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {what}");
        std::thread::yield_now();
    }
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![folder.to_owned()] };
    let all = entries.flat_map(|entry| pages(&entry.expect("an entry").path()));
    all.filter(|path| path.extension().is_some_and(|ext| ext == "page")).collect()
}

#[test]
fn a_conversation_goes_on_after_a_restart() {
    let folder = Temp::new("restart");
    let prompt: Vec<TokenId> = (0..45).collect();
    {
        let disk = open(config(&folder));
        let engine = engine(&disk, MAKER, 64);
        assert_eq!(cached(&engine, &prompt), 0);
        engine.shutdown();
    }
    // 54 of 55 tokens were stored, in three whole pages, of which the prompt has two.
    assert_eq!(pages(&folder.0).len(), 3);
    let disk = open(config(&folder));
    let engine = engine(&disk, MAKER, 64);
    assert_eq!(cached(&engine, &prompt), 32);
    let mut longer = prompt.clone();
    longer.extend(continuation(&prompt, 9));
    assert_eq!(cached(&engine, &longer), 48);
    let DiskStats { pages, n_read, n_broken, .. } = disk.stats();
    assert_eq!((n_read, n_broken), (2, 0), "the third page was computed with the first reply");
    assert!(pages >= 3);
    assert_eq!(engine.stats().n_restored, 32);
    engine.shutdown();
    let other = self::engine(&disk, Maker([8; 32]), 64);
    assert_eq!(cached(&other, &prompt), 0, "another model's pages");
}

#[test]
fn a_recurrent_model_goes_on_at_a_state() {
    let folder = Temp::new("recurrent");
    let prompt: Vec<TokenId> = (0..45).collect();
    let engine = |disk: &Disk| {
        let parts = Parts { disk: Some((disk.clone(), MAKER)), ..Fake::recurrent(64, 8).parts() };
        let config = Config { max_draft: 0, ..Config::default() };
        Engine::spawn_with_clock(parts, config, Arc::new(|| Duration::ZERO)).expect("valid limits")
    };
    {
        let engine = engine(&open(config(&folder)));
        assert_eq!(cached(&engine, &prompt), 0);
        engine.shutdown();
    }
    // Three pages, and the states at the last border of the prompt and of the reply.
    assert_eq!(pages(&folder.0).len(), 5);
    let disk = open(config(&folder));
    let engine = engine(&disk);
    let mut longer = prompt.clone();
    longer.extend(continuation(&prompt, 9));
    assert_eq!(cached(&engine, &longer), 48);
    assert_eq!(engine.stats().n_restored, 48);
    let mut other = prompt[..40].to_vec();
    other.extend([7; 20]);
    assert_eq!(cached(&engine, &other), 32, "the state at the prompt's last border is read though its pages are there");
    assert_eq!(disk.stats().n_broken, 0);
}

#[test]
fn pages_that_the_arena_had_no_room_for_come_back() {
    let folder = Temp::new("pressure");
    let disk = open(config(&folder));
    let engine = engine(&disk, MAKER, 6);
    let prompts: Vec<Vec<TokenId>> = (0..5).map(|i| (i..i + 60).map(|token| token % 50).collect()).collect();
    prompts.iter().for_each(|prompt| assert_eq!(cached(&engine, prompt), 0));
    wait_for("pages on the disk", || disk.stats().pages >= 20);
    prompts.iter().for_each(|prompt| assert_eq!(cached(&engine, prompt), 48));
}

#[test]
fn a_file_that_is_wrong_is_a_miss() {
    let prompt: Vec<TokenId> = (0..45).collect();
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("cut", |path| {
            let bytes = fs::read(path).expect("it is there");
            fs::write(path, &bytes[..bytes.len() / 2]).expect("it may be written");
        }),
        ("changed", |path| {
            let mut bytes = fs::read(path).expect("it is there");
            let n = bytes.len();
            bytes[n - 40] ^= 1;
            fs::write(path, bytes).expect("it may be written");
        }),
        ("empty", |path| fs::write(path, "").expect("it may be written")),
        ("gone", |path| fs::remove_file(path).expect("it is there")),
        ("a folder", |path| {
            fs::remove_file(path).expect("it is there");
            fs::create_dir(path).expect("it may be made");
        }),
        ("huge", |path| fs::write(path, vec![0; 1 << 20]).expect("it may be written")),
    ];
    for (name, harm) in harms {
        let folder = Temp::new(&format!("harm-{}", name.replace(' ', "-")));
        {
            let engine = engine(&open(config(&folder)), MAKER, 64);
            cached(&engine, &prompt);
            engine.shutdown();
        }
        let disk = open(config(&folder));
        pages(&folder.0).iter().for_each(|path| harm(path));
        let engine = engine(&disk, MAKER, 64);
        assert_eq!(cached(&engine, &prompt), 0, "{name}");
        assert!(disk.stats().n_broken > 0, "{name}");
    }
}

#[test]
fn budgets_of_size_and_day_are_kept() {
    let folder = Temp::new("budget");
    let file = (4 * PAGE_TOKENS + mlxr_engine::disk::file::OVERHEAD) as u64;
    let now = Arc::new(AtomicU64::new(10 * DAY_S));
    let clock = {
        let now = now.clone();
        Arc::new(move || now.load(Ordering::SeqCst))
    };
    let limits = DiskConfig { max_bytes: 4 * file, max_bytes_day: 6 * file, ..config(&folder) };
    let disk = Disk::open(limits.clone(), clock.clone()).expect("a folder");
    let model = disk.of(MAKER, 4 * PAGE_TOKENS);
    let name = |i: u32| mlxr_engine::prefix::PrefixHash::root(&i.to_le_bytes());
    let write = |i: u32| {
        let n = disk.stats().n_written;
        let is_taken = model.write(name(i), (i, 1), |out| out.extend([1; 4 * PAGE_TOKENS]));
        wait_for("written page", || !is_taken || disk.stats().n_written > n);
        is_taken
    };
    let taken: Vec<bool> = (0..8).map(write).collect();
    assert_eq!(taken, [true, true, true, true, true, true, false, false]);
    let stats = disk.stats();
    assert_eq!((stats.pages, stats.bytes, stats.bytes_today, stats.n_dropped), (4, 4 * file, 6 * file, 2));
    // Pages of one use: the deepest go first, and the page that is being written is none of them.
    assert_eq!((0..8).filter(|i| model.contains(&name(*i))).collect::<Vec<_>>(), [0, 1, 2, 5]);
    drop((model, disk));
    let disk = Disk::open(limits.clone(), clock.clone()).expect("a folder");
    assert_eq!(disk.stats().bytes_today, 6 * file, "a restart does not begin a new day");
    now.fetch_add(DAY_S, Ordering::SeqCst);
    assert!(disk.of(MAKER, 4 * PAGE_TOKENS).takes());
    drop(disk);
    let smaller = DiskConfig { max_bytes: file, ..limits };
    assert_eq!(Disk::open(smaller, clock).expect("a folder").stats().pages, 1);
}

#[test]
fn a_folder_that_cannot_be_written_stops_nothing() {
    let folder = Temp::new("readonly");
    let disk = open(config(&folder));
    fs::remove_dir_all(&folder.0).expect("it was made");
    fs::write(&folder.0, "no folder").expect("it may be written");
    let engine = engine(&disk, MAKER, 64);
    let prompt: Vec<TokenId> = (0..45).collect();
    cached(&engine, &prompt);
    assert_eq!(cached(&engine, &prompt), 32, "the arena still has it");
    wait_for("failure", || disk.stats().n_failed > 0);
    assert!(disk.take_failure().is_some_and(|text| text.contains("readonly")));
    engine.shutdown();
    fs::remove_file(&folder.0).expect("it is there");
}

#[test]
fn random_prompts_over_random_restarts_get_their_text() {
    for seed in 0..6 {
        println!("seed {seed}");
        let folder = Temp::new(&format!("random-{seed}"));
        let mut rng = Rng::new(seed);
        let mut below = |n: usize| (rng.next_u64() % n as u64) as usize;
        for _ in 0..4 {
            let disk = open(DiskConfig { max_bytes: 1000 + below(20_000) as u64, ..config(&folder) });
            let engine = engine(&disk, MAKER, 8 + below(20));
            let mut requests = Vec::new();
            for _ in 0..20 {
                let (family, n) = (below(3) as TokenId, 1 + below(70));
                let prompt: Vec<TokenId> = (0..n).map(|at| (family + at as TokenId * 3) % 50).collect();
                let request = submit(&engine, greedy(prompt.clone(), 1 + below(30)));
                if below(5) > 0 {
                    requests.push((prompt, request));
                }
            }
            for (prompt, (_ticket, events)) in requests {
                let (tokens, _, _) = collect(&events);
                assert_eq!(tokens, continuation(&prompt, tokens.len()));
            }
            engine.shutdown();
            assert_eq!(engine.stats().pages_used, 0);
        }
    }
}
