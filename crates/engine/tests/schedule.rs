//! The schedule as traces: each line is a step, `name:NNp` NN prompt tokens, `name:1d` a decoded one, `(+NN)` found cached.

use std::collections::BTreeMap;
use std::fmt::Write;

use mlxr_engine::prefix::PrefixHash;
use mlxr_engine::sampler::Rng;
use mlxr_engine::schedule::{Limits, Past, Schedule};
use mlxr_engine::sequence::Arrival;
use mlxr_engine::{Batch, ClientId, SeqId, TokenId, Want};

/// A request of a script: `name@arrival prompt+output`, and perhaps `!priority`, `xSTEP` (cancelled before that step) or
/// `=TEXT` (its prompt begins as those of other requests with the same text do) or `@CLIENT`.
#[derive(Debug, Clone)]
struct Script {
    name: char,
    arrival: usize,
    n_prompt: usize,
    n_output: usize,
    priority: i32,
    cancelled: Option<usize>,
    family: TokenId,
    client: u64,
}

fn parse(line: &str) -> Script {
    let mut words = line.split_whitespace();
    let (name, arrival) = words.next().expect("name").split_once('@').expect("name@arrival");
    let (n_prompt, n_output) = words.next().expect("lengths").split_once('+').expect("prompt+output");
    let name = name.chars().next().expect("a letter");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let mut script = Script {
        name,
        arrival: number(arrival),
        n_prompt: number(n_prompt),
        n_output: number(n_output),
        priority: 0,
        cancelled: None,
        family: name as TokenId,
        client: 0,
    };
    for word in words {
        match word.split_at(1) {
            ("!", rest) => script.priority = rest.parse().expect("a priority"),
            ("x", rest) => script.cancelled = Some(number(rest)),
            ("=", rest) => script.family = rest.chars().next().expect("a letter") as TokenId,
            ("@", rest) => script.client = number(rest) as u64,
            _ => panic!("{word}"),
        }
    }
    script
}

/// Plays a script and returns its trace. Every step is checked against the invariants and against what each sequence must
/// compute: no token is left out, none is computed twice unless its sequence was preempted.
fn play(limits: Limits, scripts: &[Script]) -> String {
    let mut schedule = Schedule::new(limits);
    let (mut batch, mut trace) = (Batch::default(), String::new());
    let mut stored: BTreeMap<SeqId, usize> = BTreeMap::new();
    let mut n_left: BTreeMap<SeqId, usize> = BTreeMap::new();
    for step in 0.. {
        for (i, script) in scripts.iter().enumerate() {
            let id = SeqId(i as u64);
            if script.arrival == step {
                let tokens = (0..script.n_prompt).map(|at| script.family * 1000 + at as TokenId);
                let (tokens, priority, root) = (tokens.collect(), script.priority, PrefixHash::root(b""));
                schedule.push(Arrival {
                    id,
                    tokens,
                    priority,
                    client: ClientId(script.client),
                    root,
                    wants_all: false,
                });
                n_left.insert(id, script.n_output);
            }
            if script.cancelled == Some(step) && n_left.remove(&id).is_some() {
                schedule.remove(id).expect("it waits or runs");
            }
        }
        schedule.check();
        if n_left.is_empty() && scripts.iter().all(|script| script.arrival <= step) {
            assert_eq!(schedule.pages().n_used(), 0, "pages leak");
            return trace;
        }
        assert!(step < 10_000, "the schedule stands still:\n{trace}");
        schedule.plan(&mut batch, limits.step_tokens);
        schedule.check();
        assert!(batch.tokens.len() <= limits.step_tokens && batch.rows.len() <= limits.n_running);
        assert_eq!(batch.rows.is_empty(), n_left.is_empty(), "a step does nothing, step {step}");
        drop(schedule.ops());
        write!(trace, "{step}:").expect("a string");
        for row in &batch.rows {
            let script = &scripts[row.seq.0 as usize];
            let n = row.tokens.1 - row.tokens.0;
            let known = stored.get(&row.seq).copied().unwrap_or(0);
            let is_decode = row.start >= script.n_prompt && n == 1;
            write!(trace, " {}:{n}{}", script.name, if is_decode { 'd' } else { 'p' }).expect("a string");
            if row.start > known {
                write!(trace, "(+{})", row.start - known).expect("a string");
            } else {
                assert!(row.start == known || row.start % 16 == 0, "computes from {} of {known}", row.start);
            }
            assert!((row.pages.1 - row.pages.0) * 16 >= row.start + n, "too few pages");
            stored.insert(row.seq, row.start + n);
        }
        trace.push('\n');
        let n_kept: Vec<usize> = batch.rows.iter().map(|row| row.tokens.1 - row.tokens.0).collect();
        schedule.commit(&batch, &n_kept);
        drop(schedule.ops());
        for row in batch.rows.iter().filter(|row| row.want == Want::Last) {
            let left = n_left.get_mut(&row.seq).expect("it runs");
            *left -= 1;
            if *left == 0 {
                n_left.remove(&row.seq);
                schedule.remove(row.seq).expect("it runs");
            } else {
                schedule.append(row.seq, 500_000 + *left as TokenId);
            }
        }
    }
    unreachable!()
}

fn check(limits: Limits, script: &str, expect: &str) {
    let scripts: Vec<Script> = script.lines().map(parse).collect();
    let want: String = expect.trim().lines().map(|line| format!("{}\n", line.trim())).collect();
    let got = play(limits, &scripts);
    assert!(got == want, "script:\n{script}\ngot:\n{got}\nexpected:\n{want}");
}

const LIMITS: Limits = Limits { step_tokens: 32, n_running: 8, n_page: 64, n_running_client: 8, past: Past::Pages };

#[test]
fn a_long_prompt_does_not_stall_a_running_decode() {
    check(
        LIMITS,
        "a@0 16+3\nb@1 64+2",
        "0: a:16p
         1: a:1d b:31p
         2: a:1d b:31p
         3: b:2p
         4: b:1d",
    );
}

#[test]
fn prompts_share_a_step_in_order_of_arrival() {
    check(
        LIMITS,
        "a@0 20+2\nb@0 20+2\nc@0 4+1",
        "0: a:20p b:12p
         1: a:1d b:8p c:4p
         2: b:1d",
    );
}

#[test]
fn a_higher_priority_is_admitted_first() {
    check(
        Limits { n_running: 1, ..LIMITS },
        "a@0 32+1\nb@0 32+1\nc@0 32+1 !5",
        "0: c:32p
         1: a:32p
         2: b:32p",
    );
}

#[test]
fn no_more_sequences_run_than_allowed() {
    check(
        Limits { n_running: 2, ..LIMITS },
        "a@0 4+2\nb@0 4+3\nc@0 4+1",
        "0: a:4p b:4p
         1: a:1d b:1d
         2: b:1d c:4p",
    );
}

#[test]
fn a_prompt_that_does_not_fit_waits_for_pages() {
    check(
        Limits { n_page: 4, ..LIMITS },
        "a@0 32+2\nb@0 40+1",
        "0: a:32p
         1: a:1d
         2: b:32p
         3: b:8p",
    );
}

#[test]
fn the_last_sequence_gives_up_its_pages_and_finds_its_prefix_again() {
    // Four pages. At step 17 both need a third one: b gives up its two, of which a takes the younger; b's first page is
    // still there when b comes back, and only what lay in the other is computed again.
    check(
        Limits { n_page: 4, ..LIMITS },
        "a@0 16+20\nb@0 16+20",
        "0: a:16p b:16p
         1: a:1d b:1d
         2: a:1d b:1d
         3: a:1d b:1d
         4: a:1d b:1d
         5: a:1d b:1d
         6: a:1d b:1d
         7: a:1d b:1d
         8: a:1d b:1d
         9: a:1d b:1d
         10: a:1d b:1d
         11: a:1d b:1d
         12: a:1d b:1d
         13: a:1d b:1d
         14: a:1d b:1d
         15: a:1d b:1d
         16: a:1d b:1d
         17: a:1d
         18: a:1d
         19: a:1d
         20: b:17p
         21: b:1d
         22: b:1d",
    );
}

#[test]
fn a_cancelled_sequence_frees_its_pages_at_once() {
    check(
        Limits { n_page: 4, ..LIMITS },
        "a@0 48+9 x2\nb@1 48+1",
        "0: a:32p
         1: a:16p
         2: b:32p
         3: b:16p",
    );
}

#[test]
fn a_known_prefix_is_not_computed_again() {
    check(
        LIMITS,
        "a@0 30+3 =s\nb@5 30+1 =s\nc@6 16+1 =s",
        "0: a:30p
         1: a:1d
         2: a:1d
         3:
         4:
         5: b:14p(+16)
         6: c:16p",
    );
}

#[test]
fn a_recurrent_prompt_is_cut_where_its_state_is_worth_saving() {
    // b finds a's pages up to 32, but a state only after 16 of them has been saved: at a's last border, which is 32. c parts
    // from both after 16: it computes all, and stops where it parts, so that d begins there.
    check(
        Limits { past: Past::Recurrent { n_saved: 4, n_rewind: 0 }, ..LIMITS },
        "a@0 40+1 =s\nb@3 36+1 =s\nc@6 20+1 =s\nd@9 20+1 =s",
        "0: a:32p
         1: a:8p
         2:
         3: b:4p(+32)
         4:
         5:
         6: c:16p
         7: c:4p
         8:
         9: d:4p(+16)",
    );
}

#[test]
fn the_client_that_was_served_least_is_next() {
    // The second client comes as one who was served as little as the first one was, and not less: b is next by arrival.
    // From then on they take turns, however many requests the first one has.
    check(
        Limits { n_running: 1, ..LIMITS },
        "a@0 32+1 @1\nb@0 32+1 @1\nc@0 32+1 @1\nd@1 32+1 @2\ne@1 32+1 @2\nf@0 32+1 @1",
        "0: a:32p
         1: b:32p
         2: d:32p
         3: c:32p
         4: e:32p
         5: f:32p",
    );
}

#[test]
fn a_client_runs_no_more_than_its_share() {
    check(
        Limits { n_running_client: 1, ..LIMITS },
        "a@0 8+2 @1\nb@0 8+1 @1\nc@0 8+1 @2",
        "0: a:8p c:8p
         1: a:1d
         2: b:8p",
    );
}

#[test]
fn invariants_hold_over_random_scripts() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut below = |n: usize| (rng.next_u64() % n as u64) as usize;
        let n_running = 1 + below(6);
        let limits = Limits {
            step_tokens: n_running + below(40),
            n_running,
            n_page: 6 + below(20),
            n_running_client: 1 + below(6),
            past: match below(4) {
                0 => Past::Recurrent { n_saved: below(4), n_rewind: 0 },
                1 => Past::Window(1 + below(50)),
                _ => Past::Pages,
            },
        };
        let scripts: Vec<Script> = (0..12)
            .map(|i| Script {
                name: char::from(b'a' + i),
                arrival: below(60),
                n_prompt: 1 + below(60),
                n_output: 1 + below(36),
                priority: below(3) as i32 - 1,
                cancelled: (below(4) == 0).then(|| below(120)),
                family: below(3) as TokenId,
                client: below(3) as u64,
            })
            .collect();
        println!("seed {seed}: {limits:?}\n{scripts:#?}");
        play(limits, &scripts);
    }
}
