//! GPT-2's writing of bytes as printable characters.
//!
//! Bytes that print as themselves in Latin-1 stay; the other 68 become U+0100.. in order of value.
//! Source: `bytes_to_unicode` in OpenAI's GPT-2 `encoder.py`.

/// Whether GPT-2 writes `byte` as the character of the same number.
fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The text of such characters that stands for these bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let chars = chars();
    bytes.iter().map(|byte| chars[usize::from(*byte)]).collect()
}

/// The character for each byte.
pub(super) fn chars() -> [char; 256] {
    let mut hidden = 0x100..;
    std::array::from_fn(|i| {
        let byte = i as u8;
        if prints(byte) {
            return char::from(byte);
        }
        let code = hidden.next().expect("an open range does not end");
        char::from_u32(code).expect("U+0100..U+0144 are characters")
    })
}

/// The bytes behind a text of such characters, or `None` if one is not of the 256.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte).collect()
}

fn byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x100..=0x120 => Some((code - 0x100) as u8),        // 0x00..=0x20
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8), // 0x7f..=0xa0
        0x143 => Some(0xad),
        _ => u8::try_from(code).ok().filter(|&b| prints(b)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_byte_has_its_own_character_and_comes_back() {
        let chars = super::chars();
        assert_eq!((chars[0x20], chars[0x0a], chars[0x41]), ('Ġ', 'Ċ', 'A'));
        for (byte, c) in chars.iter().enumerate() {
            assert_eq!(super::decode(&c.to_string()), Some(vec![byte as u8]));
        }
        assert_eq!(super::decode(" "), None);
        assert_eq!(super::decode("▁"), None);
    }
}
