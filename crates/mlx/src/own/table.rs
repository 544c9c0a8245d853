//! Where a batch's tokens lie: one array for all kernels of a step, since every array from the host costs a GPU a fault.
//!
//! ```text
//! position, place, slot, pages   of each token: its position, where it is stored among all places, its KV slot in its
//!                                sequence, and where in this table the sequence's pages begin
//! page..                         of each row
//! ```

use mlxr_compute::op::{SeqRow, Seqs, Window};

/// Numbers of a token.
pub const STRIDE: usize = 4;

/// The table of a batch.
pub fn table(seqs: &Seqs<'_>, page_tokens: usize) -> Vec<i32> {
    let n_tok = seqs.positions.len();
    let mut table = vec![0; STRIDE * n_tok];
    for row in seqs.rows {
        let pages = &seqs.pages[row.pages.0..row.pages.1];
        let at = table.len();
        for i in 0..row.n_tok {
            let slot = row.start + i;
            let place = pages[slot / page_tokens] as usize * page_tokens + slot % page_tokens;
            let numbers = [seqs.positions[row.first + i] as usize, place, slot, at];
            for (j, number) in numbers.into_iter().enumerate() {
                table[STRIDE * (row.first + i) + j] =
                    i32::try_from(number).expect("a store has fewer places than 2^31");
            }
        }
        table.extend(pages.iter().map(|&page| page as i32));
    }
    table
}

/// Neighbouring tokens of rows, at most `n` in a tile: first token and how many, of each tile.
pub fn tiles(rows: &[SeqRow], n: usize) -> Vec<i32> {
    let row = |row: &SeqRow| {
        let end = row.first + row.n_tok;
        (row.first..end).step_by(n).flat_map(move |first| [first as i32, n.min(end - first) as i32])
    };
    rows.iter().flat_map(row).collect()
}

/// A window as kernels take it: its kind and its tokens.
pub fn window_sizes(window: Window) -> [usize; 2] {
    match window {
        Window::Full => [0, 0],
        Window::Sliding(n) => [1, n as usize],
        Window::Chunked(n) => [2, n as usize],
    }
}
