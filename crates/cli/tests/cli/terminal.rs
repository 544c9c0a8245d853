//! The interactive conversation, in a pseudo-terminal.
use std::process::Command;

use crate::common::{Temp, fixtures};
use rexpect::session::{PtySession, spawn_command};

/// How long a word may take on a busy machine; only a failure takes as long.
const TIMEOUT_MS: u64 = 120_000;

/// A conversation with the smallest story teller.
///
/// In a `dumb` terminal lines are read as they are; in an `xterm` the editor sees every key, Ctrl-C too.
fn chat(home: &Temp, terminal: &str, more: &[&str]) -> Option<PtySession> {
    let model = fixtures()?.join("stories260k/hf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-run"));
    command.arg("run").arg(model).args(["--temperature", "0"]).args(more);
    command.env_clear().env("HOME", &home.0).env("TERM", terminal);
    let mut session = spawn_command(command, Some(TIMEOUT_MS)).expect("a terminal");
    expect(&mut session, "/? for help");
    expect(&mut session, ">>> ");
    Some(session)
}

fn expect(session: &mut PtySession, text: &str) {
    session.exp_string(text).unwrap_or_else(|error| panic!("expected {text:?}: {error}"));
}

/// Writes a line and waits for what follows.
fn say(session: &mut PtySession, line: &str, answers: &[&str]) {
    session.send_line(line).expect("it reads");
    answers.iter().for_each(|answer| expect(session, answer));
    expect(session, ">>> ");
}

#[test]
fn a_conversation_is_held_saved_and_taken_up_again() {
    let home = Temp::new("chat");
    let Some(mut session) = chat(&home, "dumb", &["--max-tokens", "5"]) else { return };
    say(&mut session, "Once upon a time", &["[the reply ended at its limit"]);
    session.send_line("\"\"\"two").expect("it reads");
    expect(&mut session, "... ");
    say(&mut session, "lines\"\"\"", &["[the reply ended at its limit"]);
    let file = home.file("chat.json");
    say(&mut session, &format!("/save {file}"), &["saved 4 messages"]);
    say(&mut session, "/clear", &["What was said is forgotten."]);
    say(&mut session, &format!("/load {file}"), &["loaded 4 messages"]);
    say(&mut session, "/show messages", &["user: Once upon a time", "user: two", "lines"]);
    say(&mut session, "/set system Be kind.", &[]);
    say(&mut session, "/show system", &["Be kind."]);
    say(&mut session, "/set parameter top_p 0.5", &["top_p is 0.5"]);
    say(&mut session, "/set parameter top_p 5", &["`top_p` is 5, expected a number from 0 to 1"]);
    say(&mut session, "/nonsense", &["no command /nonsense"]);
    say(&mut session, "/set verbose", &[]);
    say(&mut session, "And then", &["generated:   5 tokens"]);
    session.send_line("/bye").expect("it reads");
    session.exp_eof().expect("it ends");
    let history = std::fs::read_to_string(home.0.join(".mlxr/history")).expect("the history is kept");
    assert!(history.contains("Once upon a time") && history.contains("two"), "{history}");
    let saved = std::fs::read_to_string(file).expect("the conversation is kept");
    assert!(saved.contains("two\\nlines"), "{saved}");
}

#[test]
fn ctrl_c_stops_the_reply_and_not_the_program() {
    let home = Temp::new("interrupt");
    // The definitions are slow, and without its end tokens the model does not stop by itself.
    let endless = ["--backend", "scalar", "--ctx", "8192", "--logit-bias", "1=-inf", "--logit-bias", "2=-inf"];
    let Some(mut session) = chat(&home, "xterm", &endless) else { return };
    session.send_line("Once upon a time").expect("it reads");
    expect(&mut session, ".");
    session.send_control('c').expect("it reads");
    expect(&mut session, "[interrupted]");
    expect(&mut session, ">>> ");
    session.send_control('c').expect("it reads");
    expect(&mut session, "Press Ctrl-D or type /bye to leave.");
    expect(&mut session, ">>> ");
    session.send_control('d').expect("it reads");
    session.exp_eof().expect("it ends");
}
