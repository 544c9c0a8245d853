//! A page in a file.
//!
//! ```text
//! magic     "MLXRKV\0\1"   8 bytes
//! model     [u8; 32]       what made the bytes: model, number format, backend
//! hash      [u8; 32]       the prefix whose last page it is
//! n_bytes   u64            little endian
//! bytes     [u8; n_bytes]  as Runner::export_page gives them
//! checksum  [u8; 32]       SHA-256 of all before
//! ```
//! Whatever is not exactly that is no page: a file that was cut off, changed, or made by another model or version.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::prefix::PrefixHash;

const MAGIC: [u8; 8] = *b"MLXRKV\0\x01";
const HEADER: usize = 8 + 32 + 32 + 8;
const CHECKSUM: usize = 32;
/// Bytes of a file besides those of its page.
pub const OVERHEAD: usize = HEADER + CHECKSUM;

/// What made a page's bytes: pages of different makers are never mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Maker(pub [u8; 32]);

impl Maker {
    /// The maker that all of `parts` tell apart.
    #[must_use]
    pub fn new(parts: &[&[u8]]) -> Maker {
        let mut hash = Sha256::new_with_prefix(MAGIC);
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Maker(hash.finalize().into())
    }
}

/// Why a file is no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAPage {
    /// Not even the fixed parts fit.
    #[error("it has {found} bytes, a page at least {OVERHEAD}")]
    Short {
        /// Bytes.
        found: usize,
    },
    /// Another kind of file, or another version.
    #[error("it does not begin as a page does")]
    Magic,
    /// Another model's.
    #[error("another model made it")]
    Maker,
    /// Another prefix's.
    #[error("it holds another prefix")]
    Hash,
    /// Cut off, or longer than it says.
    #[error("its page should have {expected} bytes and has {found}")]
    Length {
        /// By the header, or by the model.
        expected: u64,
        /// By the file.
        found: usize,
    },
    /// Changed.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Begins a file in `out`, which is overwritten; the page's bytes are to be appended.
pub fn begin(maker: Maker, hash: PrefixHash, out: &mut Vec<u8>) {
    out.clear();
    out.extend(MAGIC);
    out.extend(maker.0);
    out.extend(hash.0);
    out.extend([0; 8]);
}

/// Ends a file to which its page's bytes were appended.
pub fn end(out: &mut Vec<u8>) {
    let n_bytes = (out.len() - HEADER) as u64;
    out[HEADER - 8..HEADER].copy_from_slice(&n_bytes.to_le_bytes());
    let checksum: [u8; CHECKSUM] = Sha256::digest(&out).into();
    out.extend(checksum);
}

/// Where the page's bytes lie in a file.
///
/// # Errors
/// If it is not the page of this maker and prefix with `n_bytes` bytes.
pub fn page(file: &[u8], maker: Maker, hash: PrefixHash, n_bytes: usize) -> Result<Range<usize>, NotAPage> {
    if file.len() < OVERHEAD {
        return Err(NotAPage::Short { found: file.len() });
    }
    let (body, checksum) = file.split_at(file.len() - CHECKSUM);
    if body[..8] != MAGIC {
        return Err(NotAPage::Magic);
    }
    if body[8..40] != maker.0 {
        return Err(NotAPage::Maker);
    }
    if body[40..72] != hash.0 {
        return Err(NotAPage::Hash);
    }
    let told = u64::from_le_bytes(body[72..HEADER].try_into().expect("eight bytes"));
    let found = body.len() - HEADER;
    if told != found as u64 || found != n_bytes {
        let expected = if told == found as u64 { n_bytes as u64 } else { told };
        return Err(NotAPage::Length { expected, found });
    }
    if Sha256::digest(body)[..] != *checksum {
        return Err(NotAPage::Checksum);
    }
    Ok(HEADER..HEADER + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Rng;

    const MAKER: Maker = Maker([7; 32]);

    fn file(bytes: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        begin(MAKER, PrefixHash([3; 32]), &mut file);
        file.extend(bytes);
        end(&mut file);
        file
    }

    #[test]
    fn a_page_comes_back() {
        for n in [0, 1, 1000] {
            let bytes: Vec<u8> = (0..n).map(|i| i as u8).collect();
            let file = file(&bytes);
            assert_eq!(file.len(), n + OVERHEAD);
            let range = page(&file, MAKER, PrefixHash([3; 32]), n).expect("it was just made");
            assert_eq!(file[range], bytes);
        }
    }

    #[test]
    fn every_other_file_is_refused() {
        let good = file(&[1, 2, 3, 4]);
        let read = |file: &[u8]| page(file, MAKER, PrefixHash([3; 32]), 4);
        for n in 0..good.len() {
            assert!(read(&good[..n]).is_err(), "cut off after {n}");
        }
        for bit in 0..good.len() * 8 {
            let mut changed = good.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed).is_err(), "bit {bit} was changed");
        }
        let longer = [good.as_slice(), &[0]].concat();
        assert_eq!(read(&longer), Err(NotAPage::Length { expected: 4, found: 5 }));
        assert_eq!(page(&good, Maker([8; 32]), PrefixHash([3; 32]), 4), Err(NotAPage::Maker));
        assert_eq!(page(&good, MAKER, PrefixHash([4; 32]), 4), Err(NotAPage::Hash));
        assert_eq!(page(&good, MAKER, PrefixHash([3; 32]), 5), Err(NotAPage::Length { expected: 5, found: 4 }));
        let mut rng = Rng::new(1);
        for _ in 0..2000 {
            let mut noise: Vec<u8> = (0..rng.next_u64() % 200).map(|_| rng.next_u64() as u8).collect();
            let n = noise.len().min((rng.next_u64() % 80) as usize);
            noise[..n].copy_from_slice(&good[..n]);
            assert!(read(&noise).is_err());
        }
    }
}
