//! A daemon of the real binary, and the plainest of clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::Temp;

/// A daemon that is stopped in the end.
pub struct Daemon {
    /// Its process.
    pub child: Child,
    address: String,
    // Kept open: the daemon may write to it.
    _stderr: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    /// Serves the models of a folder on a free port.
    pub fn start(home: &Temp, models: &Path) -> Daemon {
        Daemon::start_with(home, models, &[])
    }

    /// As [`Daemon::start`], with more arguments.
    pub fn start_with(home: &Temp, models: &Path, args: &[&str]) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlxrd"));
        command
            .env_clear()
            .env("HOME", &home.0)
            .args(["--host", "127.0.0.1", "--port", "0", "--threads", "2", "--models"])
            .arg(models)
            .args(args);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the daemon starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}")).to_owned();
        Daemon { child, address, _stderr: stderr }
    }

    /// Status and body of a request.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
    }

    /// The answer to a request that succeeds.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.ask("POST", path, &body.to_string());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What `/metrics` tells of a series, of all models together.
    pub fn count(&self, series: &str) -> f64 {
        let metrics = self.ask("GET", "/metrics", "").1;
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix('{'));
        let number = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        let numbers: Vec<f64> = lines.map(number).collect();
        assert!(!numbers.is_empty(), "there is no series {series}");
        numbers.iter().sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that succeeded has waited for it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
