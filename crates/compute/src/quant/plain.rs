//! Plain numbers, one after another, little endian.

use half::slice::HalfFloatSliceExt;

use super::float;

/// Applies `number` to each `N` bytes.
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (w, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *w = number(*bytes);
    }
}

pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, f32::from_le_bytes);
}

/// By the CPU's own conversion where the bytes are aligned, as tensors of well-made files are.
pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    match bytemuck::try_cast_slice::<u8, half::f16>(bytes) {
        Ok(numbers) if cfg!(target_endian = "little") => numbers.convert_to_f32_slice(out),
        _ => each(bytes, out, |b| float::f16(u16::from_le_bytes(b))),
    }
}

pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| float::bf16(u16::from_le_bytes(b)));
}

pub(super) fn f64(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| f64::from_le_bytes(b) as f32);
}

pub(super) fn i8(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |[b]| f32::from(b as i8));
}

pub(super) fn i16(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| f32::from(i16::from_le_bytes(b)));
}

pub(super) fn i32(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| i32::from_le_bytes(b) as f32);
}

pub(super) fn i64(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| i64::from_le_bytes(b) as f32);
}

pub(super) fn u8(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |[b]| f32::from(b));
}

pub(super) fn u16(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| f32::from(u16::from_le_bytes(b)));
}

pub(super) fn u32(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| u32::from_le_bytes(b) as f32);
}

pub(super) fn u64(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| u64::from_le_bytes(b) as f32);
}

pub(super) fn bool(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |[b]| f32::from(u8::from(b != 0)));
}

pub(super) fn e4m3(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |[b]| float::e4m3(b));
}

pub(super) fn e5m2(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |[b]| float::e5m2(b));
}

pub(super) fn e8m0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |[b]| float::e8m0(b));
}
