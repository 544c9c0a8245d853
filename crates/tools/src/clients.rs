//! Tokens a second of many clients at once, through the engine: continuous batching of prompts and replies of mixed length.

use std::str::FromStr;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use mlxr_engine::sampler::{Params, Rng};
use mlxr_engine::{Engine, FinishReason, Request, TokenEvent, TokenId};

use crate::ToolError;
use crate::bench::Samples;

/// What a client asks: tokens of its prompt, tokens of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Random tokens that it sends.
    pub n_prompt: usize,
    /// Tokens that it gets.
    pub n_gen: usize,
}

impl FromStr for Client {
    type Err = String;

    /// `512:128`.
    fn from_str(text: &str) -> Result<Client, String> {
        let numbers = text.split_once(':').and_then(|(p, g)| Some((p.parse().ok()?, g.parse().ok()?)));
        match numbers {
            Some((n_prompt, n_gen)) if n_prompt > 0 && n_gen > 0 => Ok(Client { n_prompt, n_gen }),
            _ => Err(format!("`{text}`: expected tokens of a prompt and of its reply, such as 512:128")),
        }
    }
}

/// Times all clients, who ask at once, from the first request to the last token: one run that does not count, then
/// `n_repeat`. A sample counts generated tokens. Tokens are chosen greedily, none ends a reply.
///
/// # Errors
/// If the engine refuses a request, or fails.
pub fn run(engine: &Engine, clients: &[Client], n_repeat: usize) -> Result<Samples, ToolError> {
    let mut rng = Rng::new(1);
    sample(engine, clients, &mut rng)?;
    let samples = (0..n_repeat.max(1)).map(|_| sample(engine, clients, &mut rng));
    let samples = samples.collect::<Result<Vec<Duration>, _>>()?;
    Ok(Samples::new(clients.iter().map(|client| client.n_gen).sum(), &samples))
}

fn sample(engine: &Engine, clients: &[Client], rng: &mut Rng) -> Result<Duration, ToolError> {
    let n_vocab = engine.info().n_vocab as u64;
    let requests: Vec<Request> = clients
        .iter()
        .map(|client| {
            let tokens = (0..client.n_prompt).map(|_| (rng.next_u64() % n_vocab) as TokenId).collect();
            let params = Params { temperature: 0.0, ..Params::neutral() };
            Request { params, ..Request::new(tokens, client.n_gen) }
        })
        .collect();
    let (ended, ends) = channel();
    let start = Instant::now();
    let mut tickets = Vec::with_capacity(requests.len());
    for request in requests {
        let ended: Sender<FinishReason> = ended.clone();
        let sink = move |event| {
            if let TokenEvent::Finished { reason, .. } = event {
                // Nobody listens any more only when another client has failed.
                let _ = ended.send(reason);
            }
        };
        tickets.push(engine.submit(request, Box::new(sink))?);
    }
    drop(ended);
    for reason in ends {
        if reason != FinishReason::Length {
            return Err(ToolError::Stopped { reason: format!("{reason:?}") });
        }
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_two_lengths() {
        assert_eq!("512:128".parse(), Ok(Client { n_prompt: 512, n_gen: 128 }));
        for text in ["512", "0:1", "1:0", "a:b", "1:2:3"] {
            assert!(text.parse::<Client>().is_err_and(|error| error.contains(text)), "{text}");
        }
    }
}
