//! The server: its socket and its limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxr_engine::disk::Disk;
use tokio::net::TcpListener;

use crate::app::{App, ModelLoader};
use crate::routes;
use crate::tenant::Tenants;

/// What the server keeps to.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where it listens. On a loopback address only requests to a local name are answered.
    pub address: SocketAddr,
    /// Origins of web pages that may use it, besides local ones: `https://chat.example`, or `*` for all.
    pub origins: Vec<String>,
    /// Names under which it may be reached, besides local ones.
    pub hosts: Vec<String>,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of a request's headers.
    pub header_bytes: usize,
    /// Models loaded at once.
    pub max_models: usize,
    /// Bytes of memory that all loaded models may take: weights and arenas.
    pub memory_bytes: u64,
    /// Models that are loaded at the start and stay, by the names that the loader knows.
    pub pinned: Vec<String>,
    /// A model that is loaded at the start and may go as any other.
    pub preload: Option<String>,
    /// How long a model stays loaded after its last use; `None`: for ever.
    pub keep_alive: Option<Duration>,
    /// Limits of each model's engine.
    pub engine: mlxr_engine::Config,
    /// Where pages of all models are kept beyond memory, to be told of.
    pub disk: Option<Disk>,
    /// Who may ask; `None`: everyone.
    pub tenants: Option<Tenants>,
    /// A model is stuck if a step takes longer than this.
    pub stuck_after: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            address: SocketAddr::from(([127, 0, 0, 1], 11434)),
            origins: Vec::new(),
            hosts: Vec::new(),
            body_bytes: 64 << 20,
            header_bytes: 64 << 10,
            max_models: 3,
            memory_bytes: u64::MAX,
            pinned: Vec::new(),
            preload: None,
            keep_alive: Some(Duration::from_secs(300)),
            engine: mlxr_engine::Config::default(),
            disk: None,
            tenants: None,
            stuck_after: Duration::from_secs(60),
        }
    }
}

/// Why the server did not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}: is another server running? choose another address with --host")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The socket failed.
    #[error("the server stopped: {0}")]
    Socket(#[from] std::io::Error),
}

/// Listens until `shutdown` completes; requests in flight are then finished. `ready` is told the address in use.
///
/// # Errors
/// If the address cannot be had or the socket fails.
pub async fn serve(
    config: Config,
    loader: Arc<dyn ModelLoader>,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let address = config.address;
    let listener = TcpListener::bind(address).await.map_err(|error| ServeError::Bind { address, error })?;
    let address = listener.local_addr()?;
    let app = App::new(Config { address, ..config }, loader);
    let sweeper = tokio::spawn(sweep(app.clone()));
    let first = app.config().pinned.iter().chain(&app.config().preload);
    first.cloned().for_each(|name| drop(tokio::spawn(preload(app.clone(), name))));
    ready(address);
    let served = axum::serve(listener, routes::router(app.clone())).with_graceful_shutdown(shutdown).await;
    sweeper.abort();
    app.shutdown().await;
    Ok(served?)
}

async fn preload(app: App, name: String) {
    if let Err(error) = app.lease(&name, None).await {
        tracing::error!(model = %name, %error, "not loaded at the start");
    }
}

/// Unloads idle models when their time is over.
async fn sweep(app: App) {
    const PERIOD: Duration = Duration::from_secs(1);
    loop {
        if let Some(failure) = app.config().disk.as_ref().and_then(Disk::take_failure) {
            tracing::warn!(%failure, "cached pages are not written for a minute");
        }
        let wait = app.sweep(Instant::now()).map_or(PERIOD, |wait| wait.min(PERIOD));
        tokio::time::sleep(wait.max(Duration::from_millis(50))).await;
    }
}
