//! A chat template of any text compiles and renders, or gives an error; what it writes is parsed as an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxr_text::chat::parse::FORMATS;
use mlxr_text::chat::{ChatTemplate, Conversation, Limits, Message, OutputParser, Reads, Specials};

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let limits = Limits { fuel: 20_000, output_bytes: 1 << 20, ..Limits::default() };
    let specials = Specials { bos: Some("<s>".into()), eos: Some("</s>".into()), ..Specials::default() };
    let Ok(template) = ChatTemplate::with_limits(source, specials, limits) else { return };
    let mut talk = Conversation::new(vec![Message::new("system", "s"), Message::new("user", "u")]);
    talk.tools.push(serde_json::json!({"type": "function", "function": {"name": "f", "parameters": {}}}));
    if let Ok(text) = template.render(&talk) {
        for format in FORMATS {
            let reads = Reads { calls: true, reasoning: true, in_reasoning: format.begins_in_reasoning(source), ..Reads::default() };
            let mut parser = OutputParser::new(format, reads);
            let mut out = Vec::new();
            parser.push(&text, &mut out);
            parser.finish(&mut out);
        }
    }
});
