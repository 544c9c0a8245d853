//! Who may use the server, and how much: a key for each tenant, and the limits of each.
//!
//! ```text
//! Authorization: Bearer KEY --guard--> Tenant --job--> Permit (a request in flight) --Ended--> tokens off its bucket
//! ```
//! Tokens are a bucket that fills in a minute: a request is begun while there is something in it and pays when it ends, so
//! that a tenant overdraws by what is in flight at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, header};
use serde::Deserialize;

use crate::Error;

/// Bytes of the file of tenants, at most, and tenants in it.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_TENANTS: usize = 4096;
const MINUTE_S: f64 = 60.0;

/// A tenant as the file says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantLimits {
    /// Its name, in logs and messages.
    pub name: String,
    /// What its requests show; of `anonymous` none.
    #[serde(default)]
    pub key: String,
    /// Most requests at once, waiting or running.
    pub requests: Option<usize>,
    /// Most tokens a minute, prompts and answers.
    pub tokens_per_minute: Option<u64>,
    /// Models that it may use; all if absent.
    pub models: Option<Vec<String>>,
    /// The most urgent that its requests may be, as in vLLM: a lower number is answered first. 0 if absent.
    #[serde(default)]
    pub priority: i32,
}

/// The file of tenants.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tenants: Vec<TenantLimits>,
    /// Those without a key; if absent they are refused.
    anonymous: Option<TenantLimits>,
}

/// All tenants of a server.
#[derive(Debug, Clone, Default)]
pub struct Tenants {
    by_key: HashMap<String, Arc<Tenant>>,
    anonymous: Option<Arc<Tenant>>,
}

impl Tenants {
    /// Reads the JSON of a file: `{"tenants": [{"name": .., "key": .., ..}], "anonymous": {"name": .., ..}}`.
    ///
    /// # Errors
    /// Says which tenant is wrong.
    pub fn parse(text: &str) -> Result<Tenants, String> {
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if file.tenants.len() > MAX_TENANTS {
            return Err(format!("{} tenants, the limit is {MAX_TENANTS}", file.tenants.len()));
        }
        let mut by_key = HashMap::new();
        for limits in file.tenants {
            let name = limits.name.clone();
            if limits.key.is_empty() {
                return Err(format!("tenant `{name}` has no `key`: give one, or call it `anonymous`"));
            }
            if by_key.insert(limits.key.clone(), Arc::new(Tenant::new(limits))).is_some() {
                return Err(format!("tenant `{name}` has the key of another one"));
            }
        }
        Ok(Tenants { by_key, anonymous: file.anonymous.map(|limits| Arc::new(Tenant::new(limits))) })
    }

    /// Whose request this is.
    ///
    /// # Errors
    /// If it shows no key that is known, where one is needed.
    pub fn find(&self, headers: &HeaderMap) -> Result<Arc<Tenant>, Error> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION.as_str()).and_then(|text| text.strip_prefix("Bearer "));
        let known = bearer.or_else(|| text("x-api-key")).and_then(|key| self.by_key.get(key.trim()));
        known.or(self.anonymous.as_ref()).cloned().ok_or(Error::Unauthorized)
    }
}

impl PartialEq for Tenants {
    fn eq(&self, other: &Tenants) -> bool {
        let limits = |tenants: &Tenants| -> HashMap<String, TenantLimits> {
            tenants.by_key.iter().map(|(key, tenant)| (key.clone(), tenant.limits.clone())).collect()
        };
        let anonymous = |tenants: &Tenants| tenants.anonymous.as_ref().map(|tenant| tenant.limits.clone());
        limits(self) == limits(other) && anonymous(self) == anonymous(other)
    }
}

/// A tenant and what it uses.
#[derive(Debug)]
pub struct Tenant {
    limits: TenantLimits,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    requests: usize,
    /// Tokens that it may still use; negative when it owes some.
    tokens: f64,
    filled: Option<Instant>,
}

impl PartialEq for Tenant {
    fn eq(&self, other: &Tenant) -> bool {
        self.limits == other.limits
    }
}

impl Tenant {
    fn new(limits: TenantLimits) -> Tenant {
        let tokens = limits.tokens_per_minute.unwrap_or(0) as f64;
        Tenant { limits, used: Mutex::new(Used { requests: 0, tokens, filled: None }) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.limits.name
    }

    /// A job's priority as far as it may have it; higher goes first.
    pub fn priority(&self, asked: i32) -> i32 {
        asked.min(self.limits.priority.saturating_neg())
    }

    /// Checks that it may use a model.
    ///
    /// # Errors
    /// If not.
    pub fn check_model(&self, model: &str) -> Result<(), Error> {
        let bare = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_ascii_lowercase();
        match &self.limits.models {
            Some(models) if !models.iter().any(|allowed| bare(allowed) == bare(model)) => {
                Err(Error::Forbidden(format!("tenant `{}` may not use model '{model}'", self.limits.name)))
            }
            _ => Ok(()),
        }
    }

    /// Begins a request.
    ///
    /// # Errors
    /// If it has too many, or no tokens are left.
    pub fn admit(self: &Arc<Tenant>, now: Instant) -> Result<Permit, Error> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = self.limits.requests.filter(|limit| used.requests >= *limit) {
            let message = format!("tenant `{}` has {limit} requests already (requests)", self.limits.name);
            return Err(Error::Quota { message, retry_s: 1 });
        }
        if let Some(limit) = self.limits.tokens_per_minute {
            used.fill(limit as f64, now);
            if used.tokens <= 0.0 {
                let seconds = (1.0 - used.tokens) * MINUTE_S / (limit as f64).max(1.0);
                let message = format!("tenant `{}` has used its {limit} tokens a minute", self.limits.name);
                return Err(Error::Quota { message, retry_s: seconds.clamp(1.0, 3600.0).ceil() as u64 });
            }
        }
        used.requests += 1;
        Ok(Permit(self.clone()))
    }
}

impl Used {
    fn fill(&mut self, limit: f64, now: Instant) {
        let since = self.filled.replace(now).map_or(0.0, |filled| now.saturating_duration_since(filled).as_secs_f64());
        self.tokens = (self.tokens + since * limit / MINUTE_S).min(limit);
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct Permit(Arc<Tenant>);

impl Permit {
    /// Takes tokens off the bucket.
    pub fn pay(&self, n_token: usize) {
        if self.0.limits.tokens_per_minute.is_some() {
            self.0.used.lock().unwrap_or_else(PoisonError::into_inner).tokens -= n_token as f64;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner).requests -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderValue;

    use super::*;

    const FILE: &str = r#"{"tenants": [
        {"name": "a", "key": "sk-a", "requests": 2, "tokens_per_minute": 600, "models": ["m"], "priority": -5},
        {"name": "b", "key": "sk-b"}]}"#;

    fn tenant(tenants: &Tenants, name: &'static str, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a header"));
        tenants.find(&headers).ok().map(|tenant| tenant.name().to_owned())
    }

    #[test]
    fn keys_tell_tenants_apart() {
        let tenants = Tenants::parse(FILE).expect("tenants");
        for (name, value, want) in [
            ("authorization", "Bearer sk-a", Some("a")),
            ("x-api-key", "sk-b", Some("b")),
            ("authorization", "Bearer sk-c", None),
            ("authorization", "sk-a", None),
            ("accept", "sk-a", None),
        ] {
            assert_eq!(tenant(&tenants, name, value).as_deref(), want, "{name}: {value}");
        }
        let open = Tenants::parse(r#"{"tenants": [], "anonymous": {"name": "all"}}"#).expect("tenants");
        assert_eq!(tenant(&open, "accept", "*").as_deref(), Some("all"));
        for (text, says) in [
            ("[]", "invalid"),
            (r#"{"tenants": [{"name": "x"}]}"#, "tenant `x` has no `key`"),
            (r#"{"tenants": [{"name": "x", "key": "k"}, {"name": "y", "key": "k"}]}"#, "`y` has the key of another"),
            (r#"{"tenants": [{"name": "x", "key": "k", "tokens": 3}]}"#, "unknown field `tokens`"),
        ] {
            let error = Tenants::parse(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn requests_and_tokens_are_limited() {
        let tenants = Tenants::parse(FILE).expect("tenants");
        let tenant = &tenants.by_key["sk-a"];
        let start = Instant::now();
        let permits: Vec<Permit> = (0..2).map(|_| tenant.admit(start).expect("two at once")).collect();
        let refused = tenant.admit(start).expect_err("a third");
        assert!(refused.to_string().contains("2 requests already") && refused.retry_s() == Some(1), "{refused}");
        permits[0].pay(500);
        permits[1].pay(160);
        drop(permits);
        // 600 less 660: in the red for six seconds.
        let refused = tenant.admit(start).expect_err("no tokens");
        assert_eq!(refused.retry_s(), Some(7), "{refused}");
        assert!(tenant.admit(start + Duration::from_secs(5)).is_err());
        assert!(tenant.admit(start + Duration::from_secs(7)).is_ok());
        let much_later = start + Duration::from_secs(1000);
        tenant.admit(much_later).expect("tokens").pay(600);
        assert!(tenant.admit(much_later).is_err(), "no more than a minute's worth is kept");
        assert!(tenant.check_model("M:latest").is_ok() && tenant.check_model("n").is_err());
        assert_eq!([9, 5, -1].map(|asked| tenant.priority(asked)), [5, 5, -1]);
    }
}
