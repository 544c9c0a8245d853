//! Blocks of the file as `blocks_matmul` reads them: a row of the matrix stays a row, but of each 256 weights a lane finds what it
//! unpacks in whole words, 16 bytes at a time where it takes as many. `kernels/blocks/begin.h` has the layout, `kernels/blocks/*.h` have
//! the types' numbers. The weights are the same; nothing is rounded but factors that the file has in f32 (bitsandbytes).

use std::num::NonZero;
use std::thread;

use mlxr_compute::MatrixData;

use super::blocks::Blocks;

mod mlx;

pub(super) use mlx::*;

/// Weights of a super-block.
pub const SUPER: usize = 256;
/// Most numbers of a lane.
const MOST: usize = 18;

/// What the four lanes of a super-block have, and its factors.
#[derive(Debug, Default, Clone, Copy)]
pub struct Lanes {
    own: [[u32; MOST]; 4],
    tail: u32,
}

/// How much of it there is of a type, as in `kernels/blocks/TYPE.h`.
#[derive(Debug, Clone, Copy)]
pub struct Planes {
    /// Times four words of a lane.
    pub quads: usize,
    /// Words of a lane.
    pub words: usize,
    /// Columns that share a scale and a bias, two words of the lanes that have them; 0 for none.
    pub group: usize,
    /// 16 bits of a lane, or none.
    pub shorts: usize,
    /// Bytes of factors.
    pub tail: usize,
}

impl Planes {
    /// Bytes of a row of so many weights.
    pub fn row_bytes(self, n_in: usize) -> usize {
        let own = 64 * self.quads + 16 * self.words + 8 * self.shorts;
        (n_in.div_ceil(SUPER) * (own + 4 * self.shared() + self.tail)).next_multiple_of(16)
    }

    /// Words that lanes share: of each group one.
    fn shared(self) -> usize {
        SUPER.checked_div(self.group).unwrap_or(0)
    }

    /// Puts a super-block into its places of a row.
    fn put(self, row: &mut [u8], [i, n_super]: [usize; 2], lanes: &Lanes) {
        let mut word = |at: usize, x: u32| row[at..at + 4].copy_from_slice(&x.to_le_bytes());
        let words = 64 * self.quads * n_super;
        for (quad, own) in lanes.own.iter().enumerate() {
            for (j, &x) in own[..4 * self.quads].iter().enumerate() {
                word(16 * ((4 * i + quad) * self.quads) + 4 * j, x);
            }
            for (j, &x) in own[4 * self.quads..][..self.words].iter().enumerate() {
                word(words + 16 * (i * self.words + j) + 4 * quad, x);
            }
        }
        // Lanes of one group have the same.
        let shared = words + 16 * self.words * n_super;
        for (j, at) in (0..self.shared()).map(|j| (j, shared + 4 * (i * self.shared() + j))) {
            let [half, column] = [j * self.group / 128, j * self.group % 128];
            word(at, lanes.own[column / 32][4 * self.quads + self.words + half]);
        }
        let shorts = shared + 4 * self.shared() * n_super;
        for (quad, own) in lanes.own.iter().enumerate().filter(|_| self.shorts > 0) {
            let at = shorts + 8 * i + 2 * quad;
            row[at..at + 2].copy_from_slice(&own[4 * self.quads + self.words].to_le_bytes()[..2]);
        }
        let at = shorts + 8 * self.shorts * n_super + self.tail * i;
        row[at..at + self.tail].copy_from_slice(&lanes.tail.to_le_bytes()[..self.tail]);
    }
}

/// The matrices' rows, one after the other, by as many threads as there are processors.
pub fn packed(row: &Blocks, matrices: &[&MatrixData]) -> Vec<u8> {
    let n_in = matrices.first().map_or(0, |data| data.n_in);
    let (n_super, row_bytes) = (n_in.div_ceil(SUPER), row.planes.row_bytes(n_in));
    let rows: Vec<(&MatrixData, usize)> =
        matrices.iter().flat_map(|data| (0..data.n_out).map(|i| (*data, i))).collect();
    let mut bytes = vec![0; rows.len() * row_bytes];
    let n_thread = thread::available_parallelism().map_or(1, NonZero::get);
    let each = rows.len().div_ceil(n_thread).max(1);
    thread::scope(|scope| {
        for (bytes, rows) in bytes.chunks_mut((each * row_bytes).max(1)).zip(rows.chunks(each)) {
            scope.spawn(move || {
                for (bytes, &(data, i)) in bytes.chunks_mut(row_bytes).zip(rows) {
                    for k in 0..n_super {
                        let lanes = (row.pack)(Source { data, row: i, first: k * SUPER });
                        row.planes.put(bytes, [k, n_super], &lanes);
                    }
                }
            });
        }
    });
    bytes
}

/// A super-block of a matrix: a row, and its column of the row.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    data: &'a MatrixData,
    row: usize,
    first: usize,
}

impl Source<'_> {
    /// The bytes of a type whose blocks have 256 weights.
    fn bytes<const N: usize>(&self) -> &[u8; N] {
        let at = (self.row * self.data.n_in + self.first) / SUPER * N;
        self.data.parts[0][at..].first_chunk().expect("a checked matrix has all blocks")
    }

    /// Weights of the row from here on, at most a super-block.
    fn n_weight(&self) -> usize {
        (self.data.n_in - self.first).min(SUPER)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("a block is longer"))
}

fn short(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes(*bytes[at..].first_chunk().expect("a block is longer")))
}

/// Every half, quad and step with the place of its eight weights among those of the super-block.
fn eights(mut f: impl FnMut(usize, usize, usize, usize)) {
    for octet in 0..32 {
        f(octet / 16, octet % 16 / 4, octet % 4, octet);
    }
}

/// The lowest `BITS` of four bytes, side by side.
fn joined<const BITS: u32>(bytes: u32) -> u32 {
    let x = bytes & (0x0101_0101 * ((1 << BITS) - 1));
    let pairs = (x | x >> (8 - BITS)) & (0x0001_0001 * ((1 << (2 * BITS)) - 1));
    (pairs | pairs >> (16 - 2 * BITS)) & ((1 << (4 * BITS)) - 1)
}

/// Eight fields of bytes from `at` on, shifted down by `by`: the first four in the low half, the others in the high one.
fn fields<const BITS: u32>(bytes: &[u8], at: usize, by: usize) -> u32 {
    joined::<BITS>(word(bytes, at) >> by) | joined::<BITS>(word(bytes, at + 4) >> by) << 16
}

/// Codes of two bits, and scales of a byte: what Q2_K and Q3_K share.
fn twos(lanes: &mut Lanes, codes: &[u8]) {
    eights(|half, quad, step, _| {
        lanes.own[quad][2 * half + step / 2] |= fields::<2>(codes, 32 * half + 8 * step, 2 * quad) << (8 * (step % 2));
    });
}

/// A byte for each 16 weights, in a word of the lane.
fn scales(lanes: &mut Lanes, at: usize, scale: impl Fn(usize) -> u8) {
    for k in 0..16 {
        lanes.own[k % 8 / 2][at] |= u32::from(scale(k)) << (8 * (k / 8 * 2 + k % 2));
    }
}

pub(super) fn q2_k(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<84>();
    let mut lanes = Lanes { tail: word(bytes, 80), ..Lanes::default() };
    twos(&mut lanes, &bytes[16..80]);
    scales(&mut lanes, 4, |k| bytes[k]);
    lanes
}

pub(super) fn q3_k(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<110>();
    let mut lanes = Lanes { tail: short(bytes, 108), ..Lanes::default() };
    twos(&mut lanes, &bytes[32..96]);
    eights(|half, quad, step, _| {
        lanes.own[quad][4 + half] |= fields::<1>(bytes, 8 * step, 4 * half + quad) << (4 * step);
    });
    scales(&mut lanes, 6, |k| {
        let low = bytes[96 + k % 8] >> (4 * (k / 8)) & 15;
        (low | (bytes[104 + k % 4] >> (2 * (k / 4)) & 3) << 4).wrapping_sub(32) ^ 128
    });
    lanes
}

pub(super) fn q6_k(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<210>();
    let mut lanes = Lanes { tail: short(bytes, 208), ..Lanes::default() };
    eights(|half, quad, step, _| {
        let own = &mut lanes.own[quad];
        let low = fields::<4>(bytes, 64 * half + 32 * (quad % 2) + 8 * step, 4 * (quad / 2));
        own[4 * half + step] = low;
        own[8 + 2 * half + step / 2] |= fields::<2>(&bytes[128..], 32 * half + 8 * step, 2 * quad) << (8 * (step % 2));
    });
    scales(&mut lanes, 12, |k| bytes[192 + k] ^ 128);
    lanes
}

/// Eight codes of four bits as PICKED takes them: numbers 0 1 4 5, then 2 3 6 7.
fn looked_up(code: impl Fn(usize) -> u8) -> u32 {
    [0, 1, 4, 5, 2, 3, 6, 7].iter().enumerate().map(|(place, &i)| u32::from(code(i)) << (4 * place)).sum()
}

/// Codes of blocks of 32 weights, the last 16 in the high halves of the bytes.
fn nibbles(lanes: &mut Lanes, n_weight: usize, bytes: impl Fn(usize) -> [u8; 16]) {
    for k in 0..n_weight / 32 {
        let bytes = bytes(k);
        for step in 0..4 {
            let code = |i: usize| bytes[8 * (step % 2) + i] >> (4 * (step / 2)) & 15;
            lanes.own[k % 4][4 * (k / 4) + step] = looked_up(code);
        }
    }
}

fn sixteen(bytes: &[u8], at: usize) -> [u8; 16] {
    *bytes[at..].first_chunk().expect("a block is longer")
}

pub(super) fn iq4_xs(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<136>();
    let mut lanes = Lanes { tail: short(bytes, 0), ..Lanes::default() };
    nibbles(&mut lanes, SUPER, |k| sixteen(bytes, 8 + 16 * k));
    for k in 0..8 {
        let low = bytes[4 + k / 2] >> (4 * (k % 2)) & 15;
        let scale = (low | ((short(bytes, 2) >> (2 * k) & 3) as u8) << 4).wrapping_sub(32) ^ 128;
        lanes.own[k % 4][8] |= u32::from(scale) << (8 * (k / 4));
    }
    lanes
}

pub(super) fn iq4_nl(source: Source<'_>) -> Lanes {
    let first = (source.row * source.data.n_in + source.first) / 32;
    let bytes = &source.data.parts[0][first * 18..];
    let mut lanes = Lanes::default();
    nibbles(&mut lanes, source.n_weight(), |k| sixteen(bytes, 18 * k + 2));
    for k in 0..source.n_weight() / 32 {
        lanes.own[k % 4][8] |= short(bytes, 18 * k) << (16 * (k / 4));
    }
    lanes
}

pub(super) fn bnb4(source: Source<'_>) -> Lanes {
    let (data, first) = (source.data, source.row * source.data.n_in + source.first);
    let mut lanes = Lanes::default();
    for k in 0..source.n_weight() / 32 {
        let at = first + 32 * k;
        let absmax = half::f16::from_f32(data.bnb_absmax(at));
        lanes.own[k % 4][8] |= u32::from(absmax.to_bits()) << (16 * (k / 4));
        for step in 0..4 {
            let code = |i: usize| data.parts[0][(at + 8 * step + i) / 2] >> (4 * (1 - i % 2)) & 15;
            lanes.own[k % 4][4 * (k / 4) + step] = looked_up(code);
        }
    }
    lanes
}

pub(super) fn iq2_xxs(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<66>();
    let mut lanes = Lanes { tail: short(bytes, 0), ..Lanes::default() };
    for k in 0..8 {
        let own = &mut lanes.own[k % 4];
        [own[k / 4], own[2 + k / 4]] = [word(bytes, 2 + 8 * k), word(bytes, 6 + 8 * k)];
    }
    lanes
}

/// Four words of a lane, of 16 bits for eight weights.
fn shorts(lanes: &mut Lanes, bytes: &[u8]) {
    for k in 0..16 {
        lanes.own[k % 8 / 2][k / 8 * 2 + k % 2] = word(bytes, 4 * k);
    }
}

/// Two words of a lane from number `at` on, of a byte for eight weights.
fn bytes_of(lanes: &mut Lanes, at: usize, bytes: &[u8]) {
    for k in 0..8 {
        lanes.own[k % 4][at + k / 4] = word(bytes, 4 * k);
    }
}

/// For each lane, the bytes of 32 weights of both halves, the second after the first.
fn both(bytes: &[u8], quad: usize) -> u32 {
    u32::from(bytes[quad]) | u32::from(bytes[4 + quad]) << 8
}

pub(super) fn iq2_xs(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<74>();
    let mut lanes = Lanes { tail: short(bytes, 0), ..Lanes::default() };
    shorts(&mut lanes, &bytes[2..]);
    for (quad, own) in lanes.own.iter_mut().enumerate() {
        own[4] = both(&bytes[66..], quad);
    }
    lanes
}

pub(super) fn iq2_s(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<82>();
    let mut lanes = Lanes { tail: short(bytes, 0), ..Lanes::default() };
    bytes_of(&mut lanes, 0, &bytes[2..]);
    bytes_of(&mut lanes, 2, &bytes[34..]);
    for (quad, own) in lanes.own.iter_mut().enumerate() {
        own[4] = both(&bytes[66..], quad) | both(&bytes[74..], quad) << 16;
    }
    lanes
}

pub(super) fn iq3_xxs(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<98>();
    let mut lanes = Lanes { tail: short(bytes, 0), ..Lanes::default() };
    shorts(&mut lanes, &bytes[2..]);
    bytes_of(&mut lanes, 4, &bytes[66..]);
    lanes
}

pub(super) fn iq3_s(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<110>();
    let mut lanes = Lanes { tail: short(bytes, 0), ..Lanes::default() };
    shorts(&mut lanes, &bytes[2..]);
    bytes_of(&mut lanes, 4, &bytes[74..]);
    for (quad, own) in lanes.own.iter_mut().enumerate() {
        let scale = |k: usize| u32::from(bytes[106 + k / 2] >> (4 * (k % 2)) & 15);
        own[6] = both(&bytes[66..], quad) | scale(quad) << 16 | scale(4 + quad) << 20;
    }
    lanes
}

pub(super) fn iq1_s(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<50>();
    let mut lanes = Lanes { tail: short(bytes, 0), ..Lanes::default() };
    bytes_of(&mut lanes, 0, &bytes[2..]);
    for (quad, own) in lanes.own.iter_mut().enumerate() {
        own[2] = short(bytes, 34 + 2 * quad) | short(bytes, 42 + 2 * quad) << 16;
    }
    lanes
}

pub(super) fn iq1_m(source: Source<'_>) -> Lanes {
    let bytes = source.bytes::<56>();
    let tail = (0..4).map(|i| (short(bytes, 48 + 2 * i) >> 12) << (4 * i)).sum();
    let mut lanes = Lanes { tail, ..Lanes::default() };
    bytes_of(&mut lanes, 0, bytes);
    for (quad, own) in lanes.own.iter_mut().enumerate() {
        own[2] = short(bytes, 32 + 2 * quad) | short(bytes, 40 + 2 * quad) << 16;
        let scales = |half: usize| short(bytes, 48 + 2 * (2 * half + quad / 2)) >> (6 * (quad % 2)) & 63;
        own[3] = scales(0) | scales(1) << 6;
    }
    lanes
}
