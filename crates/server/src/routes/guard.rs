//! Who may ask: limits of headers, names of the server, origins of pages.
//!
//! A page on the web can reach a server on the user's own machine: by a name that it makes resolve to 127.0.0.1, which
//! the check of `Host` refuses, and by its scripts, whose `Origin` the browser tells.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};
use tracing::Instrument;

use super::respond_error;
use crate::tenant::Tenant;
use crate::{App, Config, Error};

/// Schemes of pages that run as local programs.
const LOCAL_SCHEMES: [&str; 5] = ["app", "file", "tauri", "vscode-webview", "vscode-file"];

/// Refuses requests with too many headers, or to a name that is not this server's.
pub(super) async fn check(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let id = request_id(request.headers().get(&REQUEST_ID));
    let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default());
    let start = Instant::now();
    let method = request.method().clone();
    let checked = check_headers(app.config(), &request).and_then(|()| tenant(app.config(), &request));
    let mut response = match checked {
        Ok(tenant) => {
            request.extensions_mut().insert(Asker(tenant));
            next.run(request).instrument(span.clone()).await
        }
        Err(error) => respond_error(&path, &error),
    };
    let (status, ms) = (response.status().as_u16(), start.elapsed().as_millis());
    span.in_scope(|| tracing::info!(%method, path, status, ms, "answered"));
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// On whose account a request goes; `None` where everyone may ask.
#[derive(Clone)]
pub(super) struct Asker(pub Option<Arc<Tenant>>);

impl Asker {
    /// Checks that the asker may use a model.
    pub(super) fn check(&self, model: &str) -> Result<(), Error> {
        self.0.as_ref().map_or(Ok(()), |tenant| tenant.check_model(model))
    }
}

/// Whose request it is. Whether the server is well may be asked without a key.
fn tenant(config: &Config, request: &Request) -> Result<Option<Arc<Tenant>>, Error> {
    let is_open = ["/", "/health", "/v1/health"].contains(&request.uri().path());
    let tenants = config.tenants.as_ref().filter(|_| !is_open);
    tenants.map(|tenants| tenants.find(request.headers())).transpose()
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer names of requests are replaced.
const MAX_ID_BYTES: usize = 128;

/// The name that the client gave its request, or a new one.
fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    let is_name = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=MAX_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    // As random as the keys of the standard library's hash maps.
    let new = || format!("req-{:016x}", RandomState::new().hash_one(Instant::now()));
    given.filter(is_name).cloned().unwrap_or_else(|| HeaderValue::from_str(&new()).expect("letters and digits"))
}

fn check_headers(config: &Config, request: &Request) -> Result<(), Error> {
    let headers = request.headers();
    let found: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if found > config.header_bytes {
        return Err(Error::HeadersTooLarge { found, limit: config.header_bytes });
    }
    // Browsers let a page send simple requests anywhere, and only then keep the answer from it.
    if let Some(origin) = headers.get(header::ORIGIN)
        && !origin.to_str().is_ok_and(|origin| is_allowed(config, origin))
    {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        return Err(Error::Forbidden(format!("pages of {origin} may not use this server: allow the origin")));
    }
    if !config.address.ip().is_loopback() {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(request.uri().host()).unwrap_or("");
    let name = host_name(host);
    if is_local(name) || config.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    Err(Error::Forbidden(format!("this server is not called `{name}`: allow the name, or ask for 127.0.0.1")))
}

/// The name in `name:port` or `[address]:port`.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    }
}

fn is_local(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let named = ["localhost", ""].contains(&lower.as_str())
        || [".localhost", ".local", ".internal"].iter().any(|end| lower.ends_with(end));
    named || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

/// Lets pages of local programs, and those of `config.origins`, use the server.
pub(super) fn cors(config: &Config) -> CorsLayer {
    let config = config.clone();
    let origin = AllowOrigin::predicate(move |origin: &HeaderValue, _| {
        origin.to_str().is_ok_and(|origin| is_allowed(&config, origin))
    });
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::HEAD, Method::PUT, Method::PATCH])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::list([REQUEST_ID]))
}

fn is_allowed(config: &Config, origin: &str) -> bool {
    config.origins.iter().any(|allowed| allowed == origin || allowed == "*") || is_local_origin(origin)
}

fn is_local_origin(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    if LOCAL_SCHEMES.contains(&scheme) {
        return true;
    }
    let is_web = scheme == "http" || scheme == "https";
    let name = host_name(rest);
    is_web && (name == "localhost" || name.ends_with(".localhost") || local_address(rest, name))
}

fn local_address(authority: &str, name: &str) -> bool {
    let address = authority.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| name.parse());
    address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names_and_origins_are_known() {
        for (host, expect) in [
            ("localhost", true),
            ("LOCALHOST:11434", true),
            ("127.0.0.1:11434", true),
            ("[::1]:11434", true),
            ("0.0.0.0:1", true),
            ("mac.local:11434", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:11434", false),
        ] {
            assert_eq!(is_local(host_name(host)), expect, "{host}");
        }
        for (origin, expect) in [
            ("http://localhost:3000", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:8080", true),
            ("tauri://localhost", true),
            ("vscode-webview://x", true),
            ("https://evil.example", false),
            ("http://localhost.evil.example", false),
            ("null", false),
        ] {
            assert_eq!(is_local_origin(origin), expect, "{origin}");
        }
    }
}
