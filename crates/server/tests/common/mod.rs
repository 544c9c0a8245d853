//! A server over a model that is no model, and a client of few lines.

#![allow(dead_code)] // Each test uses a part.

pub mod client;
pub mod fake;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use mlxr_server::{Config, serve};
use tokio::sync::oneshot;

/// A server on a thread of its own, which ends with this.
pub struct Server {
    pub address: SocketAddr,
    pub loader: Arc<fake::Loader>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Server {
        Server::with(Config::default(), fake::Loader::default())
    }

    pub fn with(config: Config, loader: fake::Loader) -> Server {
        let config = Config { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..config };
        let loader = Arc::new(loader);
        let (ready, address) = mpsc::channel();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let served = loader.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
            let stopped = async move { drop(stopped.await) };
            let ready = move |address| ready.send(address).expect("the test waits for it");
            runtime.block_on(serve(config, served, ready, stopped)).expect("the server runs");
        });
        let address = address.recv().expect("the server listens");
        Server { address, loader, shutdown: Some(shutdown), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        // A test that fails may leave connections open, on which the server would wait.
        if !std::thread::panicking()
            && let Some(thread) = self.thread.take()
        {
            thread.join().expect("the server does not panic");
        }
    }
}
