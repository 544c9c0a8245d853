//! The official Python clients against this server: `MLXR_PYTHON` names a Python that has the packages of
//! `tests/clients/requirements.txt`.

mod common;

use std::path::Path;
use std::process::Command;

#[test]
fn the_official_clients_work_unchanged() {
    let Some(python) = std::env::var_os("MLXR_PYTHON") else {
        eprintln!("SKIPPED: set MLXR_PYTHON to a Python with the packages of tests/clients/requirements.txt");
        return;
    };
    let server = common::Server::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/run.py");
    let url = format!("http://{}", server.address);
    let output =
        Command::new(python).arg(script).args([url.as_str(), "fake", "--script"]).output().expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("all passed"), "{text}");
}
