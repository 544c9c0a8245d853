//! A tokenizer in the files of another form.
//!
//! | module | what |
//! |---|---|
//! | `to_gguf` | `tokenizer.ggml.*` of a GGUF file from a folder's files |
//! | `to_hf` | `tokenizer.json` and `tokenizer_config.json` from a GGUF file |
//! | `pieces` | unigram and WordPiece, both ways |
//! | `merges` | merges from ranks and from scores |

mod merges;
mod pieces;
mod to_gguf;
mod to_hf;

pub use to_gguf::{ToGguf, to_gguf};
pub use to_hf::{HfFiles, to_hf};

use super::error::TokenError;
use super::tokenizer::{Encode, Tokenizer};

/// Text in which pre-tokenizers, normalizers and byte fallbacks show.
const PROBE: &str = "Hello world, it's  a TEST.\n\n 3 33 333 3333 33333 1234567 \t\t x\u{a0}y été ÉTÉ e\u{301} 漢字かな 가나다 \
    🦙🚀\u{200d} (foo_bar) <= != ==> -- ... ¿qué? I'VE we'Ll 'tis a.b.c 3.14\r\n\n\n   \
    한국어 텍스트입니다 нещо на Български កាន់តែ ١٢٣٤ 我想在apple工作1314151天～ ------======= \'\'\'\'``` \"\"......!!!?? HTTPServer \
    fooBar x=y;z // end  ";

/// Whether two tokenizers give the same ids.
fn agree(a: &Tokenizer, b: &Tokenizer) -> Result<bool, TokenError> {
    for add_special in [false, true] {
        let how = Encode { add_special, parse_special: true };
        if a.encode(PROBE, how)? != b.encode(PROBE, how)? {
            return Ok(false);
        }
    }
    Ok(true)
}
