//! A page file of the disk tier, as it is and with its fixed parts put right, so that the deeper checks are reached. What is
//! taken for a page must be exactly what `begin` and `end` write.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxr_engine::disk::Maker;
use mlxr_engine::disk::file::{begin, end, page};
use mlxr_engine::prefix::PrefixHash;

const MAKER: Maker = Maker([7; 32]);
const HASH: PrefixHash = PrefixHash([3; 32]);

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else { return };
    let n_bytes = usize::from(first & 127);
    let mut whole = Vec::new();
    begin(MAKER, HASH, &mut whole);
    let file = if first & 128 == 0 {
        rest.to_vec()
    } else {
        whole.extend(rest);
        end(&mut whole);
        whole.clone()
    };
    if let Ok(range) = page(&file, MAKER, HASH, n_bytes) {
        let mut again = Vec::new();
        begin(MAKER, HASH, &mut again);
        again.extend(&file[range]);
        end(&mut again);
        assert_eq!(again, file);
    }
});
