//! `mlx-run serve` and `mlxrd`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlxr_engine::Config as EngineConfig;
use mlxr_engine::disk::{Disk, DiskConfig};
use mlxr_server::Config;
use mlxr_server::tenant::{MAX_FILE_BYTES, Tenants};
use tracing_subscriber::EnvFilter;

use crate::CliError;
use crate::args::ServeArgs;
use crate::catalog::Catalog;
use crate::{load, memory};

/// Serves models until it is told to stop, by Ctrl-C or SIGTERM.
///
/// # Errors
/// If the address is taken, or the model that was named does not exist.
pub fn run(args: &ServeArgs) -> Result<(), CliError> {
    let filter = EnvFilter::try_from_env("MLXR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colors = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colors).with_writer(io::stderr).init();
    let folder = load::folder(&args.folder)?;
    let extra = args.model.as_deref().map(|name| folder.find(name)).transpose()?;
    let engine = EngineConfig {
        max_running: args.parallel,
        max_queue: args.queue,
        max_client: if args.client_limit == 0 { usize::MAX } else { args.client_limit },
        max_draft: args.load.draft_max,
        draft_trees: args.load.draft_trees,
        token_time: Duration::from_millis(args.token_time),
        step_tokens: args
            .load
            .step_tokens
            .map_or(EngineConfig::default().step_tokens, NonZeroUsize::get)
            .max(args.parallel),
        seed: load::random_seed(),
        ..EngineConfig::default()
    };
    let disk = (!args.no_disk).then(|| disk(args)).flatten();
    let config = Config {
        address: address(&args.host, args.port)?,
        origins: args.origins.clone(),
        hosts: args.hosts.clone(),
        max_models: args.max_models,
        memory_bytes: args.memory.unwrap_or_else(memory::budget_bytes),
        pinned: args.pin.clone(),
        preload: extra.as_ref().map(|model| model.name.clone()),
        keep_alive: keep_alive(args.keep_alive)?,
        engine,
        disk: disk.clone(),
        tenants: args.tenants.as_deref().map(tenants).transpose()?,
        ..Config::default()
    };
    let loader = Arc::new(Catalog {
        folder,
        extra,
        load: args.load.clone(),
        engine,
        limits: args.limit.clone(),
        template: args.template.clone(),
        disk,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("the server needs threads: {error}")))?;
    let ready = |address: SocketAddr| eprintln!("listening on http://{address}");
    runtime.block_on(mlxr_server::serve(config, loader, ready, asked_to_stop()))?;
    Ok(())
}

/// The file that says who may ask.
fn tenants(path: &Path) -> Result<Tenants, CliError> {
    let error = |text: String| CliError::Usage(format!("--tenants {}: {text}", path.display()));
    let file = File::open(path).map_err(|e| error(e.to_string()))?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|e| error(e.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(error(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Tenants::parse(&text).map_err(error)
}

/// The folder of computed pages. Where it cannot be had the server runs without, and says so.
fn disk(args: &ServeArgs) -> Option<Disk> {
    let folder = args.disk.clone().or_else(|| Some(load::home()?.join("kv")))?;
    let config = DiskConfig { folder, max_bytes: args.disk_size, max_bytes_day: args.disk_writes };
    let name = config.folder.display().to_string();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let warn = |error| eprintln!("warning: {name}: {error}: nothing is kept on disk; choose a folder by --disk");
    Disk::open(config, Arc::new(clock)).map_err(warn).ok()
}

/// Completes on Ctrl-C or SIGTERM; a second one ends the program at once.
async fn asked_to_stop() {
    async fn signal() {
        let ctrl_c = tokio::signal::ctrl_c();
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            if let Ok(mut terminate) = signal(SignalKind::terminate()) {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = ctrl_c => {}
                }
                return;
            }
        }
        // Without signals the server runs until it is killed.
        let _ = ctrl_c.await;
    }
    signal().await;
    eprintln!("stopping: requests in flight are finished; Ctrl-C again ends them");
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
}

/// `HOST:PORT`, `HOST` or `:PORT`, with or without `http://`; `port` in place of its port, if that is given.
fn address(text: &str, port: Option<u16>) -> Result<SocketAddr, CliError> {
    const PORT: &str = "11434";
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let full = match bare.rsplit_once(':') {
        Some(("", port)) => format!("127.0.0.1:{port}"),
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => format!("{host}:{port}"),
        Some(_) => format!("[{bare}]:{PORT}"),
        None => format!("{bare}:{PORT}"),
    };
    let found = full.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let help = || CliError::Usage(format!("--host is `{text}`, expected an address and port as 127.0.0.1:11434"));
    let mut address = found.ok_or_else(help)?;
    port.into_iter().for_each(|port| address.set_port(port));
    Ok(address)
}

fn keep_alive(seconds: f64) -> Result<Option<Duration>, CliError> {
    if seconds < 0.0 {
        return Ok(None);
    }
    let wrong = |_| CliError::Usage(format!("--keep-alive is {seconds}, expected seconds, or -1 for ever"));
    Duration::try_from_secs_f64(seconds).map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_short() {
        let rows = [
            ("127.0.0.1:11434", "127.0.0.1:11434"),
            ("0.0.0.0", "0.0.0.0:11434"),
            (":8080", "127.0.0.1:8080"),
            ("http://127.0.0.1:1/", "127.0.0.1:1"),
            ("[::1]:80", "[::1]:80"),
            ("::1", "[::1]:11434"),
        ];
        for (text, want) in rows {
            assert_eq!(address(text, None).expect(text).to_string(), want);
        }
        assert_eq!(address("0.0.0.0:1", Some(8080)).expect("with a port").to_string(), "0.0.0.0:8080");
        for text in ["127.0.0.1:x", "127.0.0.1:99999"] {
            assert!(address(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn a_model_stays_as_long_as_asked() {
        assert_eq!(keep_alive(-1.0).expect("for ever"), None);
        assert_eq!(keep_alive(1.5).expect("seconds"), Some(Duration::from_millis(1500)));
        assert!(keep_alive(f64::NAN).is_err() && keep_alive(1e300).is_err());
    }
}
