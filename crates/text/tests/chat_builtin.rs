//! The built-in templates, each against the text that its family was trained on.

use mlxr_text::chat::builtin::{BUILTINS, detect, named};
use mlxr_text::chat::{ChatTemplate, Conversation, Message, Specials};

fn template(name: &str) -> ChatTemplate {
    let specials = Specials { bos: Some("<s>".into()), eos: Some("</s>".into()), ..Specials::default() };
    ChatTemplate::new(&named(name).expect("a built-in template").source(), specials).expect("it compiles")
}

/// A system message, two turns, and the place for a third: the spaces show what a template trims.
const EXPECTED: &[(&str, &str)] = &[
    (
        "phi4",
        "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|> U1 <|im_end|><|im_start|>assistant<|im_sep|> A1 <|im_end|><|im_start|>user<|im_sep|>U2<|im_end|><|im_start|>assistant<|im_sep|>",
    ),
    (
        "kimi",
        "<|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|> U1 <|im_end|><|im_assistant|>assistant<|im_middle|> A1 <|im_end|><|im_user|>user<|im_middle|>U2<|im_end|><|im_assistant|>assistant<|im_middle|>",
    ),
    (
        "chatml",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n U1 <|im_end|>\n<|im_start|>assistant\n A1 <|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "llama3",
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
        "llama4",
        "<s><|header_start|>system<|header_end|>\n\nS<|eot|><|header_start|>user<|header_end|>\n\nU1<|eot|><|header_start|>assistant<|header_end|>\n\nA1<|eot|><|header_start|>user<|header_end|>\n\nU2<|eot|><|header_start|>assistant<|header_end|>\n\n",
    ),
    (
        "gpt-oss",
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|><|start|>developer<|message|># Instructions\n\nS<|end|><|start|>user<|message|> U1 <|end|><|start|>assistant<|channel|>final<|message|> A1 <|end|><|start|>user<|message|>U2<|end|><|start|>assistant",
    ),
    (
        "gemma",
        "<s><start_of_turn>user\nS\n\n U1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\n",
    ),
    ("mistral-v7-tekken", "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST] U1 [/INST] A1 </s>[INST]U2[/INST]"),
    ("mistral-v3", "<s>[INST] S\n\nU1[/INST] A1</s>[INST] U2[/INST]"),
    ("mistral-v3-tekken", "<s>[INST]S\n\n U1 [/INST] A1 </s>[INST]U2[/INST]"),
    (
        "command-r",
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>U1<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>A1<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>U2<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    ("deepseek-v3", "<s>S<｜User｜> U1 <｜Assistant｜> A1 </s><｜User｜>U2<｜Assistant｜>"),
    ("deepseek-v2", "<s>S\n\nUser:  U1 \n\nAssistant:  A1 </s>User: U2\n\nAssistant:"),
    (
        "deepseek-coder",
        "<s>S\n### Instruction:\n U1 \n### Response:\n A1 \n<|EOT|>\n### Instruction:\nU2\n### Response:\n",
    ),
    (
        "granite",
        "<|start_of_role|>system<|end_of_role|>S<|end_of_text|>\n<|start_of_role|>user<|end_of_role|> U1 <|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|> A1 <|end_of_text|>\n<|start_of_role|>user<|end_of_role|>U2<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    ),
    ("glm4", "[gMASK]<sop><|system|>\nS<|user|>\n U1 <|assistant|>\n A1 <|user|>\nU2<|assistant|>\n"),
    ("exaone", "[|system|]S[|endofturn|]\n[|user|]U1\n[|assistant|]A1[|endofturn|]\n[|user|]U2\n[|assistant|]"),
    (
        "seed-oss",
        "<seed:bos>system\nS<seed:eos><seed:bos>user\n U1 <seed:eos><seed:bos>assistant\n A1 <seed:eos><seed:bos>user\nU2<seed:eos><seed:bos>assistant\n",
    ),
    (
        "openchat",
        "<s>S<|end_of_turn|>GPT4 Correct User:  U1 <|end_of_turn|>GPT4 Correct Assistant:  A1 <|end_of_turn|>GPT4 Correct User: U2<|end_of_turn|>GPT4 Correct Assistant:",
    ),
    (
        "phi3",
        "<|system|>\nS<|end|>\n<|user|>\n U1 <|end|>\n<|assistant|>\n A1 <|end|>\n<|user|>\nU2<|end|>\n<|assistant|>\n",
    ),
    ("falcon3", "<|system|>\nS\n<|user|>\n U1 \n<|assistant|>\n A1 </s>\n<|user|>\nU2\n<|assistant|>\n"),
    ("olmo", "</s><|system|>\nS\n<|user|>\n U1 \n<|assistant|>\n A1 </s>\n<|user|>\nU2\n<|assistant|>\n"),
    ("falcon", "System: S\n\nUser: U1\n\nAssistant: A1\n\nUser: U2\n\nAssistant:"),
    ("zephyr", "<|system|>\nS</s>\n<|user|>\n U1 </s>\n<|assistant|>\n A1 </s>\n<|user|>\nU2</s>\n<|assistant|>\n"),
    ("rwkv-world", "System: S\n\nUser: U1\n\nAssistant: A1\n\nUser: U2\n\nAssistant:"),
    ("minicpm", "<s>S<用户>U1<AI>A1<用户>U2<AI>"),
    ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1 </s><s>[INST] U2 [/INST]"),
    ("mistral-v1", "<s>[INST] S\n\n U1  [/INST]  A1 </s>[INST] U2 [/INST]"),
    ("vicuna", "<s>S\n\nUSER: U1\nASSISTANT: A1</s>\nUSER: U2\nASSISTANT:"),
    ("alpaca", "<s>S\n\n### Instruction:\nU1\n\n### Response:\nA1</s>\n\n### Instruction:\nU2\n\n### Response:\n"),
    ("plain", "<s>S\n U1 \n A1 \nU2\n"),
];

#[test]
fn each_renders_a_conversation() {
    let talk = Conversation::new(vec![
        Message::new("system", "S"),
        Message::new("user", " U1 "),
        Message::new("assistant", " A1 "),
        Message::new("user", "U2"),
    ]);
    for (name, expect) in EXPECTED {
        assert_eq!(template(name).render(&talk).as_deref(), Ok(*expect), "{name}");
    }
    let names: Vec<&str> = EXPECTED.iter().map(|row| row.0).collect();
    assert_eq!(names, BUILTINS.iter().map(|row| row.name).collect::<Vec<_>>(), "every template has its expected text");
}

#[test]
fn the_vocabulary_and_architecture_tell_the_family() {
    let check = |arch: &str, tokens: &[&str], expect: Option<&str>| {
        let found = detect(arch, &|token| tokens.contains(&token)).map(|row| row.name);
        assert_eq!(found, expect, "{arch} {tokens:?}");
    };
    check("llama", &["<s>", "</s>", "<0x0A>"], None);
    check("llama", &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], Some("llama3"));
    check("qwen2", &["<|im_start|>", "<|im_end|>"], Some("chatml"));
    check("phi3", &["<|im_start|>", "<|im_sep|>", "<|im_end|>"], Some("phi4"));
    check("phi3", &["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"], Some("phi3"));
    check("gemma2", &["<start_of_turn>", "<end_of_turn>"], Some("gemma"));
    check("llama", &["[INST]", "[/INST]", "<0x0A>"], Some("mistral-v3"));
    check("llama", &["[INST]", "[/INST]"], Some("mistral-v3-tekken"));
    check("mistral3", &["[INST]", "[/INST]", "[SYSTEM_PROMPT]"], Some("mistral-v7-tekken"));
    check("deepseek2", &["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"], Some("deepseek-v3"));
    check("deepseek2", &["<｜begin▁of▁sentence｜>"], Some("deepseek-v2"));
    check("gpt-oss", &["<|start|>", "<|message|>", "<|channel|>"], Some("gpt-oss"));
    check("olmo2", &["<|endoftext|>"], Some("olmo"));
    check("falcon", &[], Some("falcon"));
    check("gpt2", &["<|endoftext|>"], None);
}

#[test]
fn a_conversation_is_adapted_to_what_a_template_lacks() {
    let mut call = Message::new("assistant", "");
    call.tool_calls.push(mlxr_text::chat::ToolCall {
        id: "call00001".into(),
        name: "add".into(),
        arguments: serde_json::json!({"a": 1}),
    });
    let mut talk = Conversation::new(vec![
        Message::new("system", "Be kind."),
        Message::new("user", "Add."),
        call,
        Message::new("tool", "3"),
    ]);
    talk.tools.push(serde_json::json!({"type": "function", "function": {"name": "add"}}));
    let text = template("gemma").render(&talk).expect("gemma renders system messages and tools as text");
    for part in [
        "<start_of_turn>user\nBe kind.\n\nYou may call functions",
        "<tools>\n{\"type\":\"function\",\"function\":{\"name\":\"add\"}}\n</tools>",
        "<tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":1}}\n</tool_call><end_of_turn>",
        "<start_of_turn>user\n<tool_response>\n3\n</tool_response><end_of_turn>",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn a_template_for_tools_is_taken_when_there_are_tools() {
    use mlxr_text::chat::TemplateSources;
    let check = |value: serde_json::Value, plain: &str, with_tools: &str| {
        let sources = TemplateSources::from_json(&value).expect("templates");
        let template = sources.compile(Specials::default()).expect("they compile");
        let mut talk = Conversation::new(vec![Message::new("user", "x")]);
        assert_eq!(template.render(&talk).as_deref(), Ok(plain));
        talk.tools.push(serde_json::json!({"type": "function", "function": {"name": "f"}}));
        assert_eq!(template.render(&talk).as_deref(), Ok(with_tools));
    };
    let tools = "{{ messages | map(attribute='content') | join }}{{ tools | tojson }}";
    let named = serde_json::json!([{"name": "tool_use", "template": tools}, {"name": "default", "template": "D"}]);
    check(named, "D", "x[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]");
    check(serde_json::json!([{"name": "other", "template": "O"}]), "O", "O");
    check(serde_json::json!("S"), "S", "S");
    check(serde_json::json!({"default": "D"}), "D", "D");
    assert_eq!(TemplateSources::from_json(&serde_json::json!([])), None);
    assert_eq!(TemplateSources::from_json(&serde_json::json!(1)), None);
}
