//! Records of int8 by AVX-512: all columns of a record at once. Column by column the numbers are rounded into bytes; then a
//! block of 32 numbers of 16 columns is transposed into the record's lines, from which the sums of all columns come in vectors.

use std::arch::x86_64::*;

use super::kernel::{BLOCK, Record};
use super::quantize::Records;
use super::wide::{self, SPAN};

/// Columns of a vector.
const COLUMNS: usize = 16;
/// Rounded numbers of a block.
#[repr(align(64))]
struct Block([[u8; BLOCK]; COLUMNS]);

/// Records that this module fills.
pub(super) trait Fill: Records {
    /// Rounds `LEN` numbers of each of up to 16 columns, which begin at `starts` in `x`, into a record of `n` columns; those
    /// beyond the starts become 0.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn fill(x: &[f32], starts: impl ExactSizeIterator<Item = usize>, n: usize, record: &mut [u8]);
}

/// A record that is being filled.
struct Lines<'a> {
    record: &'a mut [u8],
    n: usize,
}

impl Lines<'_> {
    /// Writes a number of each column to `at`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn put(&mut self, at: usize, v: __m512i) {
        let out = &mut self.record[at..][..4 * self.n];
        // SAFETY: `out` has room for a number of each column, and the mask lets no more be written.
        unsafe {
            match self.n {
                COLUMNS => _mm512_storeu_si512(out.as_mut_ptr().cast(), v),
                n => _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), (1 << n) - 1, v),
            }
        }
    }
}

/// Rounds `B` blocks of each column to bytes; returns the columns' scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn round<const B: usize>(x: &[f32], starts: impl ExactSizeIterator<Item = usize>, q: &mut [Block; B]) -> __m512 {
    let mut largest = [0f32; COLUMNS];
    for (j, start) in starts.enumerate() {
        let x = x[start..][..BLOCK * B].as_chunks::<16>().0;
        // SAFETY: sixteen numbers each.
        let load = |x: &[f32; 16]| unsafe { _mm512_loadu_ps(x.as_ptr()) };
        // As integers, magnitudes compare as floats do, and NaN is above all.
        let mut max = _mm512_setzero_si512();
        for x in x {
            max = _mm512_max_epu32(max, _mm512_castps_si512(_mm512_abs_ps(load(x))));
        }
        largest[j] = f32::from_bits(_mm512_reduce_max_epu32(max));
        let inverse = _mm512_set1_ps(if largest[j] > 0.0 { 127.0 / largest[j] } else { 0.0 });
        for (x, q) in x.iter().zip(q.iter_mut().flat_map(|q| q.0[j].as_chunks_mut::<16>().0)) {
            let rounded = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(load(x), inverse)));
            // SAFETY: room for sixteen bytes.
            unsafe { _mm_storeu_si128(q.as_mut_ptr().cast(), rounded) };
        }
    }
    // SAFETY: sixteen numbers.
    _mm512_div_ps(unsafe { _mm512_loadu_ps(largest.as_ptr()) }, _mm512_set1_ps(127.0))
}

/// Line `g` of the result holds bytes `4 g .. 4 g + 4` of each column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn transposed(q: &Block) -> [__m512i; 8] {
    // Columns i and i + 8 side by side, so that each half of a vector is an 8 x 8 transposition.
    let pair = |i: usize| {
        // SAFETY: columns are 32 bytes.
        let half = |i: usize| unsafe { _mm256_loadu_si256(q.0[i].as_ptr().cast()) };
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(i)), half(i + 8))
    };
    let low = |i: usize| _mm512_unpacklo_epi32(pair(i), pair(i + 1));
    let high = |i: usize| _mm512_unpackhi_epi32(pair(i), pair(i + 1));
    let [a, b] = [[low(0), low(2), low(4), low(6)], [high(0), high(2), high(4), high(6)]];
    // Of dwords g and g + 4: columns 0 to 3 and 4 to 7 in lanes of 128 bits.
    let fours = |x: [__m512i; 4]| {
        [
            [_mm512_unpacklo_epi64(x[0], x[1]), _mm512_unpacklo_epi64(x[2], x[3])],
            [_mm512_unpackhi_epi64(x[0], x[1]), _mm512_unpackhi_epi64(x[2], x[3])],
        ]
    };
    let ([zero, one], [two, three]) = (fours(a), fours(b));
    let (first, second) = (_mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15));
    let line = |x: [__m512i; 2], at: __m512i| _mm512_permutex2var_epi64(x[0], at, x[1]);
    [
        line(zero, first),
        line(one, first),
        line(two, first),
        line(three, first),
        line(zero, second),
        line(one, second),
        line(two, second),
        line(three, second),
    ]
}

/// Writes the lines of block `b` and returns the sums of its halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn put_block(q: &Block, b: usize, out: &mut Lines<'_>) -> [__m512i; 2] {
    let lines = transposed(q);
    let mut sums = [_mm512_setzero_si512(); 2];
    for (g, line) in lines.into_iter().enumerate() {
        out.put((8 * b + g) * 4 * out.n, line);
        sums[g / 4] = _mm512_dpbusd_epi32(sums[g / 4], _mm512_set1_epi8(1), line);
    }
    sums
}

/// `-(a << SHIFT)`.
#[inline]
#[target_feature(enable = "avx512f")]
fn negative<const SHIFT: u32>(a: __m512i) -> __m512i {
    _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<SHIFT>(a))
}

/// Numbers that fit 16 bits, side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn beside(a: __m512i, b: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, a, _mm512_slli_epi32::<16>(b))
}

impl Fill for Record {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn fill(x: &[f32], starts: impl ExactSizeIterator<Item = usize>, n: usize, record: &mut [u8]) {
        let (mut q, mut out) = ([Block([[0; BLOCK]; COLUMNS])], Lines { record, n });
        let scale = round(x, starts, &mut q);
        let [low, high] = put_block(&q[0], 0, &mut out);
        let sum = _mm512_add_epi32(low, high);
        out.put(Record::scale(n), _mm512_castps_si512(scale));
        out.put(Record::sum(n), _mm512_castps_si512(_mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum))));
        out.put(Record::c8(n), negative::<3>(sum));
        out.put(Record::c128(n), negative::<7>(sum));
        out.put(Record::c128h(n), negative::<7>(low));
        out.put(Record::c128h(n) + 4 * n, negative::<7>(high));
    }
}

impl Fill for wide::Record {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn fill(x: &[f32], starts: impl ExactSizeIterator<Item = usize>, n: usize, record: &mut [u8]) {
        const B: usize = SPAN / BLOCK;
        let mut q = [const { Block([[0; BLOCK]; COLUMNS]) }; B];
        let mut out = Lines { record, n };
        let scale = round(x, starts, &mut q);
        out.put(wide::Record::scale(n), _mm512_castps_si512(scale));
        let mut sums = [_mm512_setzero_si512(); B];
        for (b, q) in q.iter().enumerate() {
            let [low, high] = put_block(q, b, &mut out);
            sums[b] = _mm512_add_epi32(low, high);
            out.put(wide::Record::halves(n) + 4 * n * b, beside(low, high));
            out.put(wide::Record::c128(n) + 4 * n * b, negative::<7>(sums[b]));
            out.put(wide::Record::c128h(n) + 8 * n * b, negative::<7>(low));
            out.put(wide::Record::c128h(n) + 8 * n * b + 4 * n, negative::<7>(high));
        }
        for (i, pair) in sums.as_chunks::<2>().0.iter().enumerate() {
            out.put(wide::Record::pairs(n) + 4 * n * i, beside(pair[0], pair[1]));
        }
        let sum = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
        out.put(wide::Record::c128s(n), negative::<7>(sum));
    }
}
