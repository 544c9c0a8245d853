//! A server over the fake model of the tests, to try clients on: `cargo run -p mlxr-server --example fake_server -- 11434`.

#[path = "../tests/common/fake.rs"]
#[allow(dead_code)]
mod fake;

use std::net::SocketAddr;
use std::sync::Arc;

use mlxr_server::{Config, serve};

#[tokio::main]
async fn main() -> Result<(), mlxr_server::ServeError> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(11434);
    let config = Config { address: SocketAddr::from(([127, 0, 0, 1], port)), ..Config::default() };
    let shutdown = async { drop(tokio::signal::ctrl_c().await) };
    serve(config, Arc::new(fake::Loader::default()), |address| println!("http://{address}"), shutdown).await
}
