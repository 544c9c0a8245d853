//! MLX's packed formats as the kernels of blocks read them.

use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{DType, Encoding, MatrixData};

use super::{Lanes, Source, eights};

/// What the byte of an e8m0 is more than the exponent of the f16 that it becomes, by which weights are scaled that are divided by 2^14
/// (mxfp4) and 2^8 (mxfp8), and the exponents with which an f16 holds every product: its last bit is 2^-24.
const MXFP4: (u8, [u8; 2]) = (100, [6, 30]);
const MXFP8: (u8, [u8; 2]) = (94, [8, 30]);

/// A scale as the kernels have it, if they do.
fn exponent(scale: u8, (more, [low, high]): (u8, [u8; 2])) -> Option<u8> {
    scale.checked_sub(more).filter(|exponent| (low..=high).contains(exponent))
}

/// If the kernels of a format have all scales of a matrix. Those of groups of zeros may be any but NaN.
pub fn holds(kind: MlxFloat, data: &MatrixData) -> bool {
    let has = |scale: u8| match kind {
        MlxFloat::Mxfp4 => exponent(scale, MXFP4).is_some(),
        MlxFloat::Mxfp8 => exponent(scale, MXFP8).is_some(),
        MlxFloat::Nvfp4 => scale < 128,
    };
    let magnitude = if kind == MlxFloat::Mxfp8 { 0x7f } else { 0x77 };
    let zeros = |codes: &[u8]| codes.iter().all(|code| code & magnitude == 0);
    let mut groups = data.parts[0].chunks(kind.group() * kind.bits() / 8).zip(data.parts[1].iter());
    groups.all(|(codes, &scale)| has(scale) || scale != 255 && zeros(codes))
}

/// Eight codes of a stream of `BITS` bits each.
fn codes<const BITS: usize>(source: &Source<'_>, octet: usize) -> [u8; 8] {
    let at = (source.row * source.data.n_in + source.first) / 8 + octet;
    let mut word = [0; 8];
    word[..BITS].copy_from_slice(&source.data.parts[0][at * BITS..][..BITS]);
    let word = u64::from_le_bytes(word);
    std::array::from_fn(|i| (word >> (i * BITS)) as u8 & (0xff >> (8 - BITS)))
}

/// Octets of weights that there are of a super-block: half, quad, step, place.
fn octets(source: &Source<'_>, mut f: impl FnMut(usize, usize, usize, usize)) {
    let n = source.n_weight() / 8;
    eights(|half, quad, step, octet| {
        if octet < n {
            f(half, quad, step, octet);
        }
    });
}

/// Scale and bias of each group, in f16.
fn factors(source: &Source<'_>, lanes: &mut Lanes, at: usize) {
    let Encoding::MlxAffine { group, scale, .. } = source.data.encoding else { unreachable!("a row of its format") };
    let first = (source.row * source.data.n_in + source.first) / 32;
    for k in 0..source.n_weight() / 32 {
        let place = 2 * ((first + k) / (usize::from(group) / 32));
        let half = |part: usize| {
            let bytes = [source.data.parts[part][place], source.data.parts[part][place + 1]];
            match scale {
                DType::F16 => u16::from_le_bytes(bytes),
                _ => half::f16::from_f32(half::bf16::from_le_bytes(bytes).to_f32()).to_bits(),
            }
        };
        lanes.own[k % 4][at + k / 4] = u32::from(half(1)) | u32::from(half(2)) << 16;
    }
}

/// Integers of `LOW + HIGH` bits: the low ones of an octet's numbers `i` and `i + 4` lie `LOW` bits further for each `i`, in the low and
/// high half of a word, octet after octet; the high ones of so many octets between them.
fn affine<const BITS: usize>(source: &Source<'_>) -> Lanes {
    let low = if BITS < 4 { 2 } else { 4 };
    let high = BITS - low;
    let mut lanes = Lanes::default();
    octets(source, |half, quad, step, place| {
        let (own, octet) = (&mut lanes.own[quad], 4 * half + step);
        for (i, code) in codes::<BITS>(source, place).into_iter().enumerate() {
            let [number, side] = [i % 4, 16 * (i / 4)];
            let place = low * number + 4 * low * (octet % (4 / low));
            own[octet * low / 4] |= u32::from(code & ((1 << low) - 1)) << (place + side);
            let turn = octet % (4 / high.max(1));
            let [within, beyond] = [turn % (low / high.max(1)), turn / (low / high.max(1))];
            let place = low * number + high * within + 4 * low * beyond;
            own[2 * low + octet * high / 4] |= u32::from(code >> low) << (place + side);
        }
    });
    factors(source, &mut lanes, 2 * BITS);
    lanes
}

pub(crate) fn affine2(source: Source<'_>) -> Lanes {
    affine::<2>(&source)
}

pub(crate) fn affine3(source: Source<'_>) -> Lanes {
    affine::<3>(&source)
}

pub(crate) fn affine4(source: Source<'_>) -> Lanes {
    affine::<4>(&source)
}

pub(crate) fn affine5(source: Source<'_>) -> Lanes {
    affine::<5>(&source)
}

pub(crate) fn affine6(source: Source<'_>) -> Lanes {
    affine::<6>(&source)
}

pub(crate) fn affine8(source: Source<'_>) -> Lanes {
    let mut lanes = Lanes::default();
    octets(&source, |half, quad, step, octet| {
        let c = codes::<8>(&source, octet);
        let words = [[c[0], c[1], c[4], c[5]], [c[2], c[3], c[6], c[7]]].map(u32::from_le_bytes);
        lanes.own[quad][8 * half + 2 * step..][..2].copy_from_slice(&words);
    });
    factors(&source, &mut lanes, 16);
    lanes
}

/// Eight numbers e2m1 as E2M1 takes them: of two in a byte one has sign and magnitude in bits 7 and 3 to 1, the other in 0 and 6 to 4.
fn e2m1(c: [u8; 8]) -> u32 {
    let both = |first: u8, second: u8| (first & 8) << 4 | (first & 7) << 1 | second >> 3 | (second & 7) << 4;
    u32::from_le_bytes([both(c[1], c[3]), both(c[0], c[2]), both(c[5], c[7]), both(c[4], c[6])])
}

fn fours(source: &Source<'_>) -> Lanes {
    let mut lanes = Lanes::default();
    octets(source, |half, quad, step, octet| {
        lanes.own[quad][4 * half + step] = e2m1(codes::<4>(source, octet));
    });
    lanes
}

/// A lane's scales of both halves, as bytes.
fn exponents(source: &Source<'_>, lanes: &mut Lanes, at: usize, range: (u8, [u8; 2])) {
    let first = (source.row * source.data.n_in + source.first) / 32;
    for k in 0..source.n_weight() / 32 {
        // What is outside scales zeros.
        let scale = exponent(source.data.parts[1][first + k], range).unwrap_or(0);
        lanes.own[k % 4][at] |= u32::from(scale) << (8 * (k / 4));
    }
}

pub(crate) fn mxfp4(source: Source<'_>) -> Lanes {
    let mut lanes = fours(&source);
    exponents(&source, &mut lanes, 8, MXFP4);
    lanes
}

pub(crate) fn nvfp4(source: Source<'_>) -> Lanes {
    let mut lanes = fours(&source);
    let first = (source.row * source.data.n_in + source.first) / 16;
    for k in 0..source.n_weight() / 16 {
        let scale = Some(source.data.parts[1][first + k]).filter(|scale| *scale < 128).map_or(0, u32::from);
        lanes.own[k % 8 / 2][8] |= scale << (8 * (k / 8 * 2 + k % 2));
    }
    lanes
}

pub(crate) fn mxfp8(source: Source<'_>) -> Lanes {
    let mut lanes = Lanes::default();
    octets(&source, |half, quad, step, octet| {
        let c = codes::<8>(&source, octet).map(u32::from);
        let both = |a: u32, b: u32| (a & 0x80) << 8 | (a & 0x7f) << 7 | (b & 0x80) << 7 | b & 0x7f;
        for j in 0..2 {
            let [low, high] = [both(c[2 * j], c[2 * j + 1]), both(c[2 * j + 4], c[2 * j + 5])];
            lanes.own[quad][8 * half + 2 * step + j] = low | high << 16;
        }
    });
    exponents(&source, &mut lanes, 16, MXFP8);
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_beyond_the_kernels_are_held_only_of_zeros() {
        let matrix = |kind: MlxFloat, codes: [u8; 2], scale: u8| {
            let parts = vec![vec![codes[0]; kind.bits() * 4].into(), vec![scale; 32 / kind.group()].into()];
            let mut data =
                MatrixData { name: "a row".to_owned(), n_out: 1, n_in: 32, encoding: Encoding::MlxFloat(kind), parts };
            let mut bytes = data.parts[0].to_vec();
            bytes[3] = codes[1];
            data.parts[0] = bytes.into();
            data
        };
        for (kind, codes, scale, want) in [
            (MlxFloat::Mxfp4, [0x11, 0x72], 106, true),
            (MlxFloat::Mxfp4, [0x11, 0x72], 130, true),
            (MlxFloat::Mxfp4, [0x11, 0x72], 105, false),
            (MlxFloat::Mxfp4, [0x11, 0x72], 131, false),
            (MlxFloat::Mxfp4, [0x80, 0x08], 0, true),
            (MlxFloat::Mxfp4, [0x80, 0x18], 0, false),
            (MlxFloat::Mxfp4, [0x00, 0x00], 255, false),
            (MlxFloat::Mxfp8, [0x7e, 0xff], 102, true),
            (MlxFloat::Mxfp8, [0x7e, 0xff], 124, true),
            (MlxFloat::Mxfp8, [0x00, 0x01], 101, false),
            (MlxFloat::Mxfp8, [0x00, 0x80], 101, true),
            (MlxFloat::Nvfp4, [0x11, 0x72], 126, true),
            (MlxFloat::Nvfp4, [0x11, 0x72], 130, false),
        ] {
            assert_eq!(holds(kind, &matrix(kind, codes, scale)), want, "{kind:?} {codes:?} {scale}");
        }
    }
}
