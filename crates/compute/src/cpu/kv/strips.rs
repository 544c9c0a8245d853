//! Strips of keys or values in their stored type.

use super::super::arena::Arena;
use super::super::attention::BLOCK;
use super::super::elementwise::some;
use super::super::pool::Cacheline;
use super::super::shared::Shared;
use super::super::vector::{Kernel, Kernels, LANES, Lanes, Vector};
use super::{STORE, product};
use crate::Error;
use crate::op::KvType;

/// All strips of a layer's keys or values: `[n_strip, n_row, n_col]`, each followed by scales for [`KvType::Q8`].
pub(in super::super) struct Strips {
    dtype: KvType,
    n_row: usize,
    n_col: usize,
    /// Bytes of a strip: a multiple of 64, so that numbers are aligned.
    strip: usize,
    data: Arena,
}

/// Bytes of a stored number.
fn size(dtype: KvType) -> usize {
    match dtype {
        KvType::F32 => 4,
        KvType::F16 | KvType::BF16 => 2,
        KvType::Q8 => 1,
    }
}

impl Strips {
    pub(super) fn new(
        dtype: KvType,
        n_strip: usize,
        [n_row, n_col]: [usize; 2],
        n_scale: usize,
    ) -> Result<Strips, Error> {
        let n = product(n_row, n_col)?;
        let scales = if dtype == KvType::Q8 && n > 0 { n_scale * size_of::<f32>() } else { 0 };
        let line = size_of::<Cacheline>();
        let strip = (product(n, size(dtype))?.next_multiple_of(size_of::<f32>()) + scales).next_multiple_of(line);
        Ok(Strips { dtype, n_row, n_col, strip, data: Arena::new(product(n_strip, strip)?, STORE)? })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.bytes_mut()
    }

    pub(super) fn writer(&mut self) -> Writer<'_> {
        let Strips { dtype, n_row, n_col, strip, .. } = *self;
        Writer { dtype, n_row, n_col, strip, bytes: Shared::new(self.bytes_mut()) }
    }

    /// Numbers, sixteen at a time, and scales of a strip.
    #[inline(always)]
    fn parts<T: Stored>(&self, strip: usize) -> (&[Lanes<T>], &[f32]) {
        let n = self.n_row * self.n_col;
        let bytes = &self.bytes()[strip * self.strip..][..self.strip];
        let (numbers, scales) = bytes.split_at((n * size_of::<T>()).next_multiple_of(size_of::<f32>()));
        let n_scale = if self.dtype == KvType::Q8 { scales.len() / size_of::<f32>() } else { 0 };
        let numbers = bytemuck::cast_slice(&numbers[..n * size_of::<T>()]);
        (numbers, bytemuck::cast_slice(&scales[..n_scale * size_of::<f32>()]))
    }

    /// Sixteen columns (tokens) from `col` of every row, scaled, to `out[row * BLOCK..][..16]`.
    #[inline(always)]
    pub(in super::super) fn columns<V: Vector>(&self, v: V, from: Source, col: usize, out: &mut [f32]) {
        match self.dtype {
            KvType::F32 => self.columns_of::<V, f32>(v, from, col, out),
            KvType::F16 => self.columns_of::<V, F16>(v, from, col, out),
            KvType::BF16 => self.columns_of::<V, BF16>(v, from, col, out),
            KvType::Q8 => self.columns_of::<V, i8>(v, from, col, out),
        }
    }

    #[inline(always)]
    fn columns_of<V: Vector, T: Stored>(&self, v: V, from: Source, col: usize, out: &mut [f32]) {
        let ((numbers, scales), ahead) = (self.parts::<T>(from.strip), self.parts::<T>(from.ahead).0);
        let (at, step) = (col / LANES, self.n_col / LANES);
        let scale = if scales.is_empty() { v.splat(1.0) } else { some(v, &scales[col..][..LANES]) };
        for (row, out) in out.chunks_mut(BLOCK).take(self.n_row).enumerate() {
            v.prefetch(&ahead[at + row * step]);
            let x = T::load(v, &numbers[at + row * step]);
            let x = if scales.is_empty() { x } else { v.mul(x, scale) };
            super::super::elementwise::store(v, &mut out[..LANES], x);
        }
    }

    /// Rows (tokens) from `row`, as many as `out` has room for, scaled: `out` `[n, n_col]`.
    #[inline(always)]
    pub(in super::super) fn rows<V: Vector>(&self, v: V, from: Source, row: usize, out: &mut [f32]) {
        match self.dtype {
            KvType::F32 => self.rows_of::<V, f32>(v, from, row, out),
            KvType::F16 => self.rows_of::<V, F16>(v, from, row, out),
            KvType::BF16 => self.rows_of::<V, BF16>(v, from, row, out),
            KvType::Q8 => self.rows_of::<V, i8>(v, from, row, out),
        }
    }

    #[inline(always)]
    fn rows_of<V: Vector, T: Stored>(&self, v: V, from: Source, row: usize, out: &mut [f32]) {
        let ((numbers, scales), ahead) = (self.parts::<T>(from.strip), self.parts::<T>(from.ahead).0);
        let step = self.n_col / LANES;
        for (i, out) in out.chunks_exact_mut(self.n_col).enumerate() {
            let scale = if scales.is_empty() { v.splat(1.0) } else { v.splat(scales[row + i]) };
            let range = (row + i) * step..(row + i + 1) * step;
            let lanes = numbers[range.clone()].iter().zip(&ahead[range]);
            for ((x, ahead), out) in lanes.zip(out.as_chunks_mut::<LANES>().0) {
                v.prefetch(ahead);
                let x = T::load(v, x);
                v.store(out, if scales.is_empty() { x } else { v.mul(x, scale) });
            }
        }
    }
}

/// Which strip is read, and which one will be next.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Source {
    pub strip: usize,
    pub ahead: usize,
}

/// Writes single tokens.
pub(super) struct Writer<'a> {
    dtype: KvType,
    n_row: usize,
    n_col: usize,
    strip: usize,
    bytes: Shared<'a, u8>,
}

impl Writer<'_> {
    /// Overwrites column `col` (a token's key) of a strip.
    ///
    /// # Safety
    /// No other thread reads or writes this strip.
    pub(super) unsafe fn column(&self, kernels: Kernels, strip: usize, col: usize, x: &[f32]) {
        // SAFETY: the caller's.
        unsafe { self.write(kernels, strip, Place { first: col, step: self.n_col, scale: col }, x) };
    }

    /// Overwrites row `row` (a token's value) of a strip; the columns beyond `x` stay 0.
    ///
    /// # Safety
    /// No other thread reads or writes this strip.
    pub(super) unsafe fn row(&self, kernels: Kernels, strip: usize, row: usize, x: &[f32]) {
        // SAFETY: the caller's.
        unsafe { self.write(kernels, strip, Place { first: row * self.n_col, step: 1, scale: row }, x) };
    }

    unsafe fn write(&self, kernels: Kernels, strip: usize, place: Place, x: &[f32]) {
        // SAFETY: the caller's.
        let bytes = unsafe { self.bytes.part(strip * self.strip, self.strip) };
        let n = self.n_row * self.n_col * size(self.dtype);
        let (numbers, scales) = bytes.split_at_mut(n.next_multiple_of(size_of::<f32>()));
        let numbers = &mut numbers[..n];
        match self.dtype {
            KvType::F32 => {
                kernels.run(Write { x, out: bytemuck::cast_slice_mut::<u8, f32>(numbers), place, scale: 1.0 })
            }
            KvType::F16 => {
                kernels.run(Write { x, out: bytemuck::cast_slice_mut::<u8, F16>(numbers), place, scale: 1.0 })
            }
            KvType::BF16 => {
                kernels.run(Write { x, out: bytemuck::cast_slice_mut::<u8, BF16>(numbers), place, scale: 1.0 });
            }
            KvType::Q8 => {
                let scale = x.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
                scales[place.scale * 4..][..4].copy_from_slice(&scale.to_ne_bytes());
                let scale = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                kernels.run(Write { x, out: bytemuck::cast_slice_mut::<u8, i8>(numbers), place, scale });
            }
        }
    }
}

/// Where a token's numbers go: `first + i * step`; and its scale.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    step: usize,
    scale: usize,
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct F16(u16);

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct BF16(u16);

/// A type that numbers are stored in.
trait Stored: bytemuck::Pod {
    fn load<V: Vector>(v: V, x: &Lanes<Self>) -> V::F;
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<Self>;
}

impl Stored for f32 {
    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Lanes<f32>) -> V::F {
        v.load(x)
    }

    #[inline(always)]
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<f32> {
        let mut lanes = [0.0; LANES];
        v.store(&mut lanes, x);
        lanes
    }
}

impl Stored for F16 {
    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Lanes<F16>) -> V::F {
        v.load_f16(bytemuck::cast_ref(x))
    }

    #[inline(always)]
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<F16> {
        let mut lanes = [0; LANES];
        v.store_f16(&mut lanes, x);
        bytemuck::cast(lanes)
    }
}

impl Stored for BF16 {
    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Lanes<BF16>) -> V::F {
        v.load_bf16(bytemuck::cast_ref(x))
    }

    #[inline(always)]
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<BF16> {
        let mut lanes = [0; LANES];
        v.store_bf16(&mut lanes, x);
        bytemuck::cast(lanes)
    }
}

impl Stored for i8 {
    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Lanes<i8>) -> V::F {
        v.load_i8(x)
    }

    #[inline(always)]
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<i8> {
        let mut lanes = [0; LANES];
        v.store_i8(&mut lanes, x);
        lanes
    }
}

/// Writes `x * scale` to its place.
struct Write<'a, T> {
    x: &'a [f32],
    out: &'a mut [T],
    place: Place,
    scale: f32,
}

impl<T: Stored> Kernel for Write<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Write { x, out, place, scale } = self;
        for (i, x) in x.chunks(LANES).enumerate() {
            let lanes = T::store(v, v.mul(some(v, x), v.splat(scale)));
            let first = place.first + i * LANES * place.step;
            if place.step == 1 {
                out[first..][..x.len()].copy_from_slice(&lanes[..x.len()]);
            } else {
                let out = &mut out[first..][..(x.len() - 1) * place.step + 1];
                for (out, lane) in out.iter_mut().step_by(place.step).zip(lanes) {
                    *out = lane;
                }
            }
        }
    }
}
