//! Templates for families whose files carry none: one row each, from which the Jinja source is written.
//!
//! Sources: the model cards of the families, and the marks that their tokenizers hold.

/// Text before and after a message.
type Around = (&'static str, &'static str);

/// Where a system message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    /// It is a message of its own.
    Own(Around),
    /// It stands inside the next user message, before its text.
    InUser(Around),
    /// There is none: it becomes part of the user's text.
    Folded,
}

/// A built-in template. `{bos}` and `{eos}` in its texts stand for the special tokens.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// Its name, as users give it.
    pub name: &'static str,
    /// GGUF names of architectures that it is for; empty: any.
    archs: &'static [&'static str],
    /// Tokens that the vocabulary must have. Empty with `archs` empty: only by name.
    marks: &'static [&'static str],
    begin: &'static str,
    system: System,
    user: Around,
    assistant: Around,
    /// Where the assistant begins to speak.
    prompt: &'static str,
    trim: bool,
}

const CHATML: Builtin = Builtin {
    name: "chatml",
    archs: &[],
    marks: &["<|im_start|>", "<|im_end|>"],
    begin: "",
    system: System::Own(("<|im_start|>system\n", "<|im_end|>\n")),
    user: ("<|im_start|>user\n", "<|im_end|>\n"),
    assistant: ("<|im_start|>assistant\n", "<|im_end|>\n"),
    prompt: "<|im_start|>assistant\n",
    trim: false,
};

const GPT_OSS_BEGIN: &str = "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n\
    Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n\
    # Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>";

/// All built-in templates. The first whose marks and architecture fit is taken.
pub const BUILTINS: &[Builtin] = &[
    Builtin {
        name: "phi4",
        marks: &["<|im_start|>", "<|im_sep|>"],
        system: System::Own(("<|im_start|>system<|im_sep|>", "<|im_end|>")),
        user: ("<|im_start|>user<|im_sep|>", "<|im_end|>"),
        assistant: ("<|im_start|>assistant<|im_sep|>", "<|im_end|>"),
        prompt: "<|im_start|>assistant<|im_sep|>",
        ..CHATML
    },
    Builtin {
        name: "kimi",
        marks: &["<|im_system|>", "<|im_middle|>"],
        system: System::Own(("<|im_system|>system<|im_middle|>", "<|im_end|>")),
        user: ("<|im_user|>user<|im_middle|>", "<|im_end|>"),
        assistant: ("<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
        prompt: "<|im_assistant|>assistant<|im_middle|>",
        ..CHATML
    },
    CHATML,
    Builtin {
        name: "llama3",
        marks: &["<|start_header_id|>", "<|eot_id|>"],
        begin: "{bos}",
        system: System::Own(("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>")),
        user: ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant: ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        prompt: "<|start_header_id|>assistant<|end_header_id|>\n\n",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "llama4",
        marks: &["<|header_start|>", "<|eot|>"],
        begin: "{bos}",
        system: System::Own(("<|header_start|>system<|header_end|>\n\n", "<|eot|>")),
        user: ("<|header_start|>user<|header_end|>\n\n", "<|eot|>"),
        assistant: ("<|header_start|>assistant<|header_end|>\n\n", "<|eot|>"),
        prompt: "<|header_start|>assistant<|header_end|>\n\n",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "gpt-oss",
        marks: &["<|start|>", "<|message|>", "<|channel|>"],
        begin: GPT_OSS_BEGIN,
        system: System::Own(("<|start|>developer<|message|># Instructions\n\n", "<|end|>")),
        user: ("<|start|>user<|message|>", "<|end|>"),
        assistant: ("<|start|>assistant<|channel|>final<|message|>", "<|end|>"),
        prompt: "<|start|>assistant",
        ..CHATML
    },
    Builtin {
        name: "gemma",
        marks: &["<start_of_turn>", "<end_of_turn>"],
        begin: "{bos}",
        system: System::Folded,
        user: ("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant: ("<start_of_turn>model\n", "<end_of_turn>\n"),
        prompt: "<start_of_turn>model\n",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "mistral-v7-tekken",
        marks: &["[INST]", "[SYSTEM_PROMPT]"],
        begin: "{bos}",
        system: System::Own(("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
        user: ("[INST]", "[/INST]"),
        assistant: ("", "{eos}"),
        prompt: "",
        ..CHATML
    },
    Builtin {
        name: "mistral-v3",
        marks: &["[INST]", "<0x0A>"],
        begin: "{bos}",
        system: System::InUser(("", "\n\n")),
        user: ("[INST] ", "[/INST]"),
        assistant: (" ", "{eos}"),
        prompt: "",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "mistral-v3-tekken",
        marks: &["[INST]"],
        begin: "{bos}",
        system: System::InUser(("", "\n\n")),
        user: ("[INST]", "[/INST]"),
        assistant: ("", "{eos}"),
        prompt: "",
        ..CHATML
    },
    Builtin {
        name: "command-r",
        marks: &["<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"],
        begin: "{bos}",
        system: System::Own(("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>")),
        user: ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        assistant: ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        prompt: "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "deepseek-v3",
        marks: &["<｜User｜>", "<｜Assistant｜>"],
        begin: "{bos}",
        system: System::Own(("", "")),
        user: ("<｜User｜>", ""),
        assistant: ("<｜Assistant｜>", "{eos}"),
        prompt: "<｜Assistant｜>",
        ..CHATML
    },
    Builtin {
        name: "deepseek-v2",
        marks: &["<｜begin▁of▁sentence｜>"],
        archs: &["deepseek", "deepseek2"],
        begin: "{bos}",
        system: System::Own(("", "\n\n")),
        user: ("User: ", "\n\n"),
        assistant: ("Assistant: ", "{eos}"),
        prompt: "Assistant:",
        ..CHATML
    },
    Builtin {
        name: "deepseek-coder",
        marks: &["<｜begin▁of▁sentence｜>", "<|EOT|>"],
        begin: "{bos}",
        system: System::Own(("", "\n")),
        user: ("### Instruction:\n", "\n"),
        assistant: ("### Response:\n", "\n<|EOT|>\n"),
        prompt: "### Response:\n",
        ..CHATML
    },
    Builtin {
        name: "granite",
        marks: &["<|start_of_role|>", "<|end_of_role|>"],
        system: System::Own(("<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n")),
        user: ("<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"),
        assistant: ("<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"),
        prompt: "<|start_of_role|>assistant<|end_of_role|>",
        ..CHATML
    },
    Builtin {
        name: "glm4",
        marks: &["[gMASK]", "<sop>", "<|user|>"],
        begin: "[gMASK]<sop>",
        system: System::Own(("<|system|>\n", "")),
        user: ("<|user|>\n", ""),
        assistant: ("<|assistant|>\n", ""),
        prompt: "<|assistant|>\n",
        ..CHATML
    },
    Builtin {
        name: "exaone",
        marks: &["[|user|]", "[|assistant|]"],
        system: System::Own(("[|system|]", "[|endofturn|]\n")),
        user: ("[|user|]", "\n"),
        assistant: ("[|assistant|]", "[|endofturn|]\n"),
        prompt: "[|assistant|]",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "seed-oss",
        marks: &["<seed:bos>", "<seed:eos>"],
        system: System::Own(("<seed:bos>system\n", "<seed:eos>")),
        user: ("<seed:bos>user\n", "<seed:eos>"),
        assistant: ("<seed:bos>assistant\n", "<seed:eos>"),
        prompt: "<seed:bos>assistant\n",
        ..CHATML
    },
    Builtin {
        name: "openchat",
        marks: &["<|end_of_turn|>"],
        begin: "{bos}",
        system: System::Own(("", "<|end_of_turn|>")),
        user: ("GPT4 Correct User: ", "<|end_of_turn|>"),
        assistant: ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        prompt: "GPT4 Correct Assistant:",
        ..CHATML
    },
    Builtin {
        name: "phi3",
        marks: &["<|user|>", "<|assistant|>", "<|end|>"],
        system: System::Own(("<|system|>\n", "<|end|>\n")),
        user: ("<|user|>\n", "<|end|>\n"),
        assistant: ("<|assistant|>\n", "<|end|>\n"),
        prompt: "<|assistant|>\n",
        ..CHATML
    },
    Builtin {
        name: "falcon3",
        marks: &["<|user|>", "<|assistant|>", "<|system|>"],
        archs: &["llama", "falcon"],
        system: System::Own(("<|system|>\n", "\n")),
        user: ("<|user|>\n", "\n"),
        assistant: ("<|assistant|>\n", "{eos}\n"),
        prompt: "<|assistant|>\n",
        ..CHATML
    },
    Builtin {
        name: "olmo",
        archs: &["olmo", "olmo2", "olmoe", "olmo3"],
        marks: &[],
        begin: "{eos}",
        system: System::Own(("<|system|>\n", "\n")),
        user: ("<|user|>\n", "\n"),
        assistant: ("<|assistant|>\n", "{eos}\n"),
        prompt: "<|assistant|>\n",
        ..CHATML
    },
    Builtin {
        name: "falcon",
        archs: &["falcon"],
        marks: &[],
        system: System::Own(("System: ", "\n\n")),
        user: ("User: ", "\n\n"),
        assistant: ("Assistant: ", "\n\n"),
        prompt: "Assistant:",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "zephyr",
        archs: &["stablelm"],
        marks: &[],
        system: System::Own(("<|system|>\n", "{eos}\n")),
        user: ("<|user|>\n", "{eos}\n"),
        assistant: ("<|assistant|>\n", "{eos}\n"),
        prompt: "<|assistant|>\n",
        ..CHATML
    },
    Builtin {
        name: "rwkv-world",
        archs: &["rwkv6", "rwkv7"],
        marks: &[],
        system: System::Own(("System: ", "\n\n")),
        user: ("User: ", "\n\n"),
        assistant: ("Assistant: ", "\n\n"),
        prompt: "Assistant:",
        trim: true,
        ..CHATML
    },
    Builtin { name: "minicpm", archs: &["minicpm"], ..MINICPM },
    Builtin {
        name: "llama2",
        marks: &[],
        system: System::InUser(("<<SYS>>\n", "\n<</SYS>>\n\n")),
        user: ("{bos}[INST] ", " [/INST]"),
        assistant: (" ", " {eos}"),
        prompt: "",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "mistral-v1",
        marks: &[],
        begin: "{bos}",
        system: System::InUser(("", "\n\n")),
        user: ("[INST] ", " [/INST]"),
        assistant: (" ", "{eos}"),
        prompt: "",
        ..CHATML
    },
    Builtin {
        name: "vicuna",
        marks: &[],
        begin: "{bos}",
        system: System::Own(("", "\n\n")),
        user: ("USER: ", "\n"),
        assistant: ("ASSISTANT: ", "{eos}\n"),
        prompt: "ASSISTANT:",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "alpaca",
        marks: &[],
        begin: "{bos}",
        system: System::Own(("", "\n\n")),
        user: ("### Instruction:\n", "\n\n"),
        assistant: ("### Response:\n", "{eos}\n\n"),
        prompt: "### Response:\n",
        trim: true,
        ..CHATML
    },
    Builtin {
        name: "plain",
        marks: &[],
        begin: "{bos}",
        system: System::Own(("", "\n")),
        user: ("", "\n"),
        assistant: ("", "\n"),
        prompt: "",
        ..CHATML
    },
];

const MINICPM: Builtin = Builtin {
    marks: &[],
    begin: "{bos}",
    system: System::Own(("", "")),
    user: ("<用户>", ""),
    assistant: ("<AI>", ""),
    prompt: "<AI>",
    trim: true,
    ..CHATML
};

/// The built-in template called `name`.
pub fn named(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|row| row.name == name)
}

/// The built-in template for an architecture (by its GGUF name) whose vocabulary has the tokens that `has` confirms.
///
/// `None` when nothing tells how the model was trained to talk; a base model is best continued without a template.
pub fn detect(arch: &str, has: &dyn Fn(&str) -> bool) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|row| {
        let told = !row.archs.is_empty() || !row.marks.is_empty();
        told && (row.archs.is_empty() || row.archs.contains(&arch)) && row.marks.iter().all(|mark| has(mark))
    })
}

impl Builtin {
    /// The Jinja source.
    pub fn source(&self) -> String {
        let content = if self.trim { "(message.content | trim)" } else { "message.content" };
        let around = |pair: Around, inner: &str| join(&[&literal(pair.0), inner, &literal(pair.1)]);
        let system = match self.system {
            System::Own(pair) => format!("{{{{ {} }}}}", around(pair, content)),
            System::InUser(pair) => format!("{{% set ns.system = {} %}}", around(pair, content)),
            System::Folded => "{{ raise_exception('this model knows no system messages') }}".to_owned(),
        };
        format!(
            "{{{{ {begin} }}}}{{% set ns = namespace(system='') %}}{{% for message in messages %}}\
             {{% if message.role in ['system', 'developer'] %}}{system}\
             {{% elif message.role == 'assistant' %}}{{{{ {assistant} }}}}\
             {{% else %}}{{{{ {user} }}}}{{% set ns.system = '' %}}{{% endif %}}{{% endfor %}}\
             {{% if add_generation_prompt %}}{{{{ {prompt} }}}}{{% endif %}}",
            begin = literal(self.begin),
            assistant = around(self.assistant, content),
            user = around(self.user, &format!("ns.system ~ {content}")),
            prompt = literal(self.prompt),
        )
    }
}

/// `text` as a Jinja expression, its `{bos}` and `{eos}` as variables.
fn literal(text: &str) -> String {
    let quoted = text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n");
    let quoted = format!("'{quoted}'").replace("{bos}", "' ~ bos_token ~ '").replace("{eos}", "' ~ eos_token ~ '");
    join(&quoted.split(" ~ ").collect::<Vec<_>>())
}

/// The concatenation of expressions, without those that are the empty string.
fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| *part != "''").collect();
    if parts.is_empty() { "''".to_owned() } else { parts.join(" ~ ") }
}
