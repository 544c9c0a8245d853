//! What every protocol asks for, once its request is checked.

use std::sync::Arc;

use mlxr_engine::sampler::{MirostatVersion, Params, Stage};
use mlxr_engine::{ClientId, TokenId};
use mlxr_grammar::Source;
use mlxr_text::chat::Conversation;
use mlxr_text::token::{Encode, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Error;
use crate::tenant::Tenant;

/// Most choices of a prompt.
pub const MAX_CHOICES: usize = 16;
/// Most prompts of a request.
pub const MAX_PROMPTS: usize = 64;
/// Most messages of a conversation, and most tools.
pub const MAX_MESSAGES: usize = 8192;
/// Most stop strings.
pub const MAX_STOPS: usize = 64;
/// Most bytes of a stop string.
pub const MAX_STOP_BYTES: usize = 1024;
/// Most alternatives of a token with their logprobs.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// What is continued.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Messages, through the model's template or another one.
    Chat(Box<Chat>),
    /// A text as it is; the begin token is put first if the model wants one.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<TokenId>),
    /// What stands between two texts.
    Infill {
        /// Text before.
        prefix: String,
        /// Text after.
        suffix: String,
    },
}

/// A conversation and how it becomes a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Chat {
    /// The messages and tools.
    pub conversation: Conversation,
    /// A Jinja template to use in place of the model's.
    pub template: Option<String>,
    /// Tokens that come before the rendered messages.
    pub context: Vec<TokenId>,
    /// Leaves out the oldest messages when all are too long, and never the system message nor the last.
    pub truncate: bool,
    /// Ends the answer after the first call of a tool.
    pub one_call: bool,
    /// Which tools must be called.
    pub tool_choice: ToolChoice,
}

/// Which of the offered tools a model must call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// None, or any.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// What the content of an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Structure {
    /// The field that says so.
    pub param: String,
    /// What it must be.
    pub source: Source,
}

impl Chat {
    /// A conversation with the model's own template, refused when too long.
    pub fn new(conversation: Conversation) -> Chat {
        Chat {
            conversation,
            template: None,
            context: Vec::new(),
            truncate: false,
            one_call: false,
            tool_choice: ToolChoice::Auto,
        }
    }
}

/// A checked request.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Name of the model.
    pub model: String,
    /// What to continue; each gets `n` choices.
    pub prompts: Vec<Prompt>,
    /// Choices for each prompt.
    pub n: usize,
    /// How to choose tokens, where the request differs from the model's defaults.
    pub sampling: Sampling,
    /// Texts that end an answer and are not part of it.
    pub stop: Vec<String>,
    /// What the content must be; `None`: anything.
    pub structure: Option<Structure>,
    /// Most tokens of an answer; `None`: what the context holds.
    pub max_tokens: Option<usize>,
    /// Most tokens of prompt and answer, below the model's own context.
    pub max_context: Option<usize>,
    /// Logprobs of tokens, and of so many alternatives.
    pub logprobs: Option<usize>,
    /// As `logprobs`, of the prompt's tokens.
    pub prompt_logprobs: Option<usize>,
    /// The model's end tokens do not end an answer.
    pub ignore_eos: bool,
    /// Who asks, for limits and fairness.
    pub client: ClientId,
    /// Higher is answered first; 0 is usual.
    pub priority: i32,
    /// Requests with different salts share no cached prefix.
    pub salt: String,
    /// On whose account it goes.
    pub tenant: Option<Arc<Tenant>>,
}

impl Job {
    /// A job for one choice with all defaults.
    pub fn new(model: &str, prompt: Prompt) -> Job {
        Job {
            model: model.to_owned(),
            prompts: vec![prompt],
            n: 1,
            sampling: Sampling::default(),
            stop: Vec::new(),
            structure: None,
            max_tokens: None,
            max_context: None,
            logprobs: None,
            prompt_logprobs: None,
            ignore_eos: false,
            client: ClientId::default(),
            priority: 0,
            salt: String::new(),
            tenant: None,
        }
    }

    /// The job on a tenant's account: tenants share models fairly, and each has its limits.
    ///
    /// # Errors
    /// If the tenant may not use the model.
    pub fn of(self, tenant: Option<Arc<Tenant>>) -> Result<Job, Error> {
        let Some(owner) = &tenant else { return Ok(self) };
        owner.check_model(&self.model)?;
        let (client, priority) = (client_id(owner.name()), owner.priority(self.priority));
        Ok(Job { client, priority, tenant, ..self })
    }

    /// Checks what all protocols limit alike.
    ///
    /// # Errors
    /// Names the first field over its limit.
    pub fn check(self) -> Result<Job, Error> {
        let over = |param: &str, found: usize, limit: usize| {
            Err(Error::invalid(param, format!("`{param}` has {found} entries, the limit is {limit}")))
        };
        if self.n == 0 || self.n > MAX_CHOICES {
            return Err(Error::invalid("n", format!("`n` is {}, expected 1 to {MAX_CHOICES}", self.n)));
        }
        if self.prompts.len() > MAX_PROMPTS {
            return over("prompt", self.prompts.len(), MAX_PROMPTS);
        }
        if self.stop.len() > MAX_STOPS {
            return over("stop", self.stop.len(), MAX_STOPS);
        }
        if let Some(stop) = self.stop.iter().find(|stop| stop.len() > MAX_STOP_BYTES) {
            let message = format!("a stop string has {} bytes, the limit is {MAX_STOP_BYTES}", stop.len());
            return Err(Error::invalid("stop", message));
        }
        for (param, top) in [("top_logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            if let Some(top) = top.filter(|&top| top > MAX_TOP_LOGPROBS) {
                return Err(Error::invalid(param, format!("`{param}` is {top}, the limit is {MAX_TOP_LOGPROBS}")));
            }
        }
        for prompt in &self.prompts {
            if let Prompt::Chat(chat) = prompt {
                for (param, found) in
                    [("messages", chat.conversation.messages.len()), ("tools", chat.conversation.tools.len())]
                {
                    if found > MAX_MESSAGES {
                        return over(param, found, MAX_MESSAGES);
                    }
                }
            }
        }
        Ok(self)
    }
}

/// How a request stands among others, under the names of OpenAI's API and vLLM's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// Who asks: clients share a model fairly.
    #[serde(alias = "safety_identifier")]
    pub user: Option<String>,
    /// As in vLLM: a lower value is answered first.
    pub priority: Option<i32>,
    /// Keeps the cached prefixes of those who know it apart from all others'.
    pub cache_salt: Option<String>,
}

impl Standing {
    /// `job` with this standing.
    ///
    /// # Errors
    /// If the salt is too long.
    pub fn apply(self, job: Job) -> Result<Job, Error> {
        let salt = self.cache_salt.unwrap_or_default();
        if salt.len() > mlxr_engine::engine::MAX_SALT_BYTES {
            let (found, limit) = (salt.len(), mlxr_engine::engine::MAX_SALT_BYTES);
            return Err(Error::invalid("cache_salt", format!("`cache_salt` has {found} bytes, the limit is {limit}")));
        }
        let client = self.user.map_or_else(ClientId::default, |user| client_id(&user));
        Ok(Job { client, priority: self.priority.unwrap_or(0).saturating_neg(), salt, ..job })
    }
}

/// The client of a name. Names that meet share a client's limits, which is as if one had two names.
fn client_id(name: &str) -> ClientId {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    ClientId(hasher.finish())
}

/// How to choose tokens, under the names of the OpenAI API and of llama.cpp. What is `None` is the model's default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The fields are those of `Params`, which says what they mean.
pub struct Sampling {
    pub temperature: Option<f32>,
    #[serde(alias = "dynatemp_range")]
    pub temperature_range: Option<f32>,
    #[serde(alias = "dynatemp_exponent")]
    pub temperature_exponent: Option<f32>,
    /// 0 or less keeps all.
    pub top_k: Option<i64>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    #[serde(alias = "typ_p")]
    pub typical_p: Option<f32>,
    pub top_n_sigma: Option<f32>,
    pub xtc_probability: Option<f32>,
    pub xtc_threshold: Option<f32>,
    #[serde(alias = "repetition_penalty")]
    pub repeat_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    /// Below 0: all tokens.
    pub repeat_last_n: Option<i64>,
    pub dry_multiplier: Option<f32>,
    pub dry_base: Option<f32>,
    pub dry_allowed_length: Option<usize>,
    /// Below 0: all tokens.
    #[serde(alias = "dry_last_n")]
    pub dry_penalty_last_n: Option<i64>,
    pub dry_sequence_breakers: Option<Vec<String>>,
    pub mirostat: Option<u8>,
    pub mirostat_tau: Option<f32>,
    pub mirostat_eta: Option<f32>,
    /// Token ids, as decimal strings, to what is added to their logits; `false` forbids one.
    pub logit_bias: Option<Map<String, Value>>,
    /// Below 0: any seed.
    pub seed: Option<i64>,
    pub samplers: Option<Vec<String>>,
}

/// What texts DRY stops at, unless told otherwise; llama.cpp's.
const DRY_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

impl Sampling {
    /// The engine's parameters: `defaults`, changed as asked.
    ///
    /// # Errors
    /// If a value has no meaning; ranges are checked by the engine.
    pub fn params(&self, defaults: &Params, tokenizer: &Tokenizer) -> Result<Params, Error> {
        let mut params = defaults.clone();
        macro_rules! set {
            ($($from:ident -> $($to:ident).+),* $(,)?) => {
                $(if let Some(value) = self.$from { params.$($to).+ = value; })*
            };
        }
        set! {
            temperature -> temperature, temperature_range -> temperature_range,
            temperature_exponent -> temperature_exponent, top_p -> top_p, min_p -> min_p, typical_p -> typical_p,
            top_n_sigma -> top_n_sigma, xtc_probability -> xtc_probability, xtc_threshold -> xtc_threshold,
            repeat_penalty -> repeat_penalty, frequency_penalty -> frequency_penalty,
            presence_penalty -> presence_penalty, dry_multiplier -> dry.multiplier, dry_base -> dry.base,
            dry_allowed_length -> dry.allowed_length, mirostat_tau -> mirostat.tau, mirostat_eta -> mirostat.eta,
        }
        if let Some(top_k) = self.top_k {
            params.top_k = usize::try_from(top_k).unwrap_or(0);
        }
        for (asked, field) in
            [(self.repeat_last_n, &mut params.repeat_last_n), (self.dry_penalty_last_n, &mut params.dry.last_n)]
        {
            if let Some(last_n) = asked {
                *field = usize::try_from(last_n).unwrap_or(usize::MAX);
            }
        }
        if let Some(seed) = self.seed {
            params.seed = u64::try_from(seed).ok();
        }
        if let Some(version) = self.mirostat {
            params.mirostat.version = mirostat(version)?;
        }
        if let Some(names) = &self.samplers {
            params.order = names.iter().map(|name| stage(name)).collect::<Result<_, _>>()?;
        }
        if let Some(bias) = &self.logit_bias {
            params.logit_bias = bias.iter().map(|(token, bias)| logit_bias(token, bias)).collect::<Result<_, _>>()?;
        }
        self.set_breakers(&mut params, tokenizer)?;
        Ok(params)
    }

    fn set_breakers(&self, params: &mut Params, tokenizer: &Tokenizer) -> Result<(), Error> {
        let breakers: Vec<&str> = match &self.dry_sequence_breakers {
            Some(texts) => texts.iter().map(String::as_str).collect(),
            None if params.dry.multiplier > 0.0 && params.dry.breakers.is_empty() => DRY_BREAKERS.to_vec(),
            None => return Ok(()),
        };
        params.dry.breakers.clear();
        for text in breakers {
            let ids = tokenizer.encode(text, Encode { add_special: false, parse_special: false })?;
            if !ids.is_empty() {
                params.dry.breakers.push(ids);
            }
        }
        Ok(())
    }
}

fn mirostat(version: u8) -> Result<MirostatVersion, Error> {
    match version {
        0 => Ok(MirostatVersion::Off),
        1 => Ok(MirostatVersion::V1),
        2 => Ok(MirostatVersion::V2),
        _ => Err(Error::invalid("mirostat", format!("`mirostat` is {version}, expected 0, 1 or 2"))),
    }
}

fn stage(name: &str) -> Result<Stage, Error> {
    let known = || Stage::DEFAULT_ORDER.map(Stage::name).join(", ");
    Stage::from_name(name)
        .ok_or_else(|| Error::invalid("samplers", format!("`samplers` has `{name}`, expected some of {}", known())))
}

fn logit_bias(token: &str, bias: &Value) -> Result<(TokenId, f32), Error> {
    let wrong = |what: String| Err(Error::invalid("logit_bias", format!("`logit_bias` {what}")));
    let Ok(id) = token.parse() else {
        return wrong(format!("has the key `{token}`, expected the id of a token"));
    };
    match bias {
        Value::Bool(false) => Ok((id, f32::NEG_INFINITY)),
        Value::Number(number) => {
            let bias = number.as_f64().unwrap_or(0.0) as f32;
            // OpenAI: -100 should ban a token.
            Ok((id, if bias <= -100.0 { f32::NEG_INFINITY } else { bias }))
        }
        other => wrong(format!("of token {token} is {other}, expected a number or false")),
    }
}
