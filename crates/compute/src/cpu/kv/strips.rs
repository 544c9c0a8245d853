//! Strips of keys or values in their stored type.

use super::super::arena::Arena;
use super::super::attention::BLOCK;
use super::super::elementwise::some;
use super::super::pool::Cacheline;
use super::super::shared::Shared;
use super::super::vector::{Kernel, Kernels, LANES, Lanes, Vector};
use super::{STORE, product};
use crate::Error;
use crate::op::{KvType, Q4_GROUP, q4_round, q4_scale};

/// All strips of a layer's keys or values: `[n_strip, n_row, n_col]`, each followed by scales for [`KvType::Q8`] and
/// [`KvType::Q4`]: `[n_group, n_token]`, a group being numbers of a token that share one.
pub(in super::super) struct Strips {
    pub(super) dtype: KvType,
    pub(super) n_row: usize,
    pub(super) n_col: usize,
    n_token: usize,
    /// Bytes of a strip: a multiple of 64, so that numbers are aligned.
    strip: usize,
    data: Arena,
}

/// Bytes of `n` stored numbers, a multiple of sixteen of them.
fn size(dtype: KvType, n: usize) -> Result<usize, Error> {
    match dtype {
        KvType::F32 => product(n, 4),
        KvType::F16 | KvType::BF16 => product(n, 2),
        KvType::Q8 => Ok(n),
        KvType::Q4 => Ok(n / 2),
    }
}

/// Scales of a token of `d` numbers.
fn n_group(dtype: KvType, d: usize) -> usize {
    match dtype {
        KvType::F32 | KvType::F16 | KvType::BF16 => 0,
        KvType::Q8 => 1,
        KvType::Q4 => d.div_ceil(Q4_GROUP),
    }
}

impl Strips {
    /// Strips of `n_token` tokens of `d` numbers.
    pub(super) fn new(
        dtype: KvType,
        n_strip: usize,
        [n_row, n_col]: [usize; 2],
        [n_token, d]: [usize; 2],
    ) -> Result<Strips, Error> {
        let n = product(n_row, n_col)?;
        let scales = if n > 0 { product(n_token * size_of::<f32>(), n_group(dtype, d))? } else { 0 };
        let line = size_of::<Cacheline>();
        let strip = (size(dtype, n)?.next_multiple_of(size_of::<f32>()) + scales).next_multiple_of(line);
        Ok(Strips { dtype, n_row, n_col, n_token, strip, data: Arena::new(product(n_strip, strip)?, STORE)? })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.bytes_mut()
    }

    /// Copies column `from.1` (a token's key) of strip `from.0` to column `to.1` of strip `to.0`.
    pub(super) fn copy_column(&mut self, from: (usize, usize), to: (usize, usize)) {
        let place = |(_, col)| Place { first: col, step: self.n_col, scale: col };
        self.copy((from.0, place(from)), (to.0, place(to)), self.n_row);
    }

    /// The same of rows (a token's values).
    pub(super) fn copy_row(&mut self, from: (usize, usize), to: (usize, usize)) {
        let place = |(_, row)| Place { first: row * self.n_col, step: 1, scale: row };
        self.copy((from.0, place(from)), (to.0, place(to)), self.n_col);
    }

    /// Copies `n` numbers of a token, and their scales, from a place in a strip to one in another.
    fn copy(&mut self, from: (usize, Place), to: (usize, Place), n: usize) {
        let bits = size(self.dtype, LANES).expect("a few numbers") * 8 / LANES;
        let n_number = size(self.dtype, self.n_row * self.n_col).expect("it was computed when the store was made");
        let first_scale = n_number.next_multiple_of(size_of::<f32>());
        let (dtype, n_token, strip) = (self.dtype, self.n_token, self.strip);
        let bytes = self.bytes_mut();
        for i in 0..n {
            let [from, to] = [from, to].map(|(at, place)| (at * strip, place.first + i * place.step));
            if dtype == KvType::Q4 {
                let nibble = Nibbles::get(&bytes[from.0..], from.1);
                Nibbles::set(&mut bytes[to.0..], to.1, nibble);
            } else {
                let [from, to] = [from, to].map(|(strip, at)| strip + at * bits / 8);
                bytes.copy_within(from..from + bits / 8, to);
            }
        }
        let n_scale = if n_number == 0 { 0 } else { n_group(dtype, n) };
        for group in 0..n_scale {
            let [from, to] = [from, to]
                .map(|(at, place)| at * strip + first_scale + (group * n_token + place.scale) * size_of::<f32>());
            bytes.copy_within(from..from + size_of::<f32>(), to);
        }
    }

    pub(super) fn writer(&mut self) -> Writer<'_> {
        let Strips { dtype, n_row, n_col, n_token, strip, .. } = *self;
        Writer { dtype, n_row, n_col, n_token, strip, bytes: Shared::new(self.bytes_mut()) }
    }

    /// Numbers, sixteen at a time, and scales of a strip.
    #[inline(always)]
    pub(super) fn parts<T: Stored>(&self, strip: usize) -> (&[T::Lanes], &[f32]) {
        let n = self.n_row * self.n_col / LANES * size_of::<T::Lanes>();
        let bytes = &self.bytes()[strip * self.strip..][..self.strip];
        let (numbers, scales) = bytes.split_at(n.next_multiple_of(size_of::<f32>()));
        let n_scale = if T::GROUP == 0 { 0 } else { scales.len() / size_of::<f32>() };
        (bytemuck::cast_slice(&numbers[..n]), bytemuck::cast_slice(&scales[..n_scale * size_of::<f32>()]))
    }

    /// Sixteen columns (tokens) from `col` of every row, scaled, to `out[row * BLOCK..][..16]`.
    #[inline(always)]
    pub(in super::super) fn columns<V: Vector>(&self, v: V, from: Source, col: usize, out: &mut [f32]) {
        match self.dtype {
            KvType::F32 => self.columns_of::<V, f32>(v, from, col, out),
            KvType::F16 => self.columns_of::<V, F16>(v, from, col, out),
            KvType::BF16 => self.columns_of::<V, BF16>(v, from, col, out),
            KvType::Q8 => self.columns_of::<V, i8>(v, from, col, out),
            KvType::Q4 => self.columns_of::<V, Nibbles>(v, from, col, out),
        }
    }

    #[inline(always)]
    fn columns_of<V: Vector, T: Stored>(&self, v: V, from: Source, col: usize, out: &mut [f32]) {
        let ((numbers, scales), ahead) = (self.parts::<T>(from.strip), self.parts::<T>(from.ahead).0);
        let (at, step) = (col / LANES, self.n_col / LANES);
        let mut scale = v.splat(1.0);
        for (row, out) in out.chunks_mut(BLOCK).take(self.n_row).enumerate() {
            v.prefetch(&ahead[at + row * step]);
            if T::GROUP != 0 && row.is_multiple_of(T::GROUP) {
                scale = some(v, &scales[row / T::GROUP.max(1) * self.n_token + col..][..LANES]);
            }
            let x = T::load(v, &numbers[at + row * step]);
            let x = if T::GROUP == 0 { x } else { v.mul(x, scale) };
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
            KvType::Q4 => self.rows_of::<V, Nibbles>(v, from, row, out),
        }
    }

    #[inline(always)]
    fn rows_of<V: Vector, T: Stored>(&self, v: V, from: Source, row: usize, out: &mut [f32]) {
        let ((numbers, scales), ahead) = (self.parts::<T>(from.strip), self.parts::<T>(from.ahead).0);
        let step = self.n_col / LANES;
        for (i, out) in out.chunks_exact_mut(self.n_col).enumerate() {
            let mut scale = v.splat(1.0);
            let range = (row + i) * step..(row + i + 1) * step;
            let lanes = numbers[range.clone()].iter().zip(&ahead[range]);
            for (part, ((x, ahead), out)) in lanes.zip(out.as_chunks_mut::<LANES>().0).enumerate() {
                v.prefetch(ahead);
                if T::GROUP != 0 && (part * LANES).is_multiple_of(T::GROUP) {
                    scale = v.splat(scales[part * LANES / T::GROUP.max(1) * self.n_token + row + i]);
                }
                let x = T::load(v, x);
                v.store(out, if T::GROUP == 0 { x } else { v.mul(x, scale) });
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
    n_token: usize,
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
        let n = size(self.dtype, self.n_row * self.n_col).expect("it was computed when the store was made");
        let (numbers, scales) = bytes.split_at_mut(n.next_multiple_of(size_of::<f32>()));
        let numbers = &mut numbers[..n];
        let mut note = |group: usize, scale: f32| {
            scales[(group * self.n_token + place.scale) * 4..][..4].copy_from_slice(&scale.to_ne_bytes());
        };
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
                note(0, scale);
                let scale = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                kernels.run(Write { x, out: bytemuck::cast_slice_mut::<u8, i8>(numbers), place, scale });
            }
            KvType::Q4 => {
                for (group, x) in x.chunks(Q4_GROUP).enumerate() {
                    let scale = q4_scale(x);
                    note(group, scale);
                    for (i, x) in x.iter().enumerate() {
                        let at = place.first + (group * Q4_GROUP + i) * place.step;
                        Nibbles::put(numbers, at, q4_round(*x, scale));
                    }
                }
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
pub(super) struct F16(u16);

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct BF16(u16);

/// Sixteen numbers of four bits and an offset of 8: byte `i` holds number `i`, and above it number `i + 8`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Nibbles([u8; LANES / 2]);

impl Nibbles {
    /// Overwrites the number at `at`, counted in numbers; `x` is -8 to 7.
    fn put(numbers: &mut [u8], at: usize, x: f32) {
        Nibbles::set(numbers, at, (x + 8.0) as u8);
    }

    fn get(numbers: &[u8], at: usize) -> u8 {
        let byte = numbers[at / LANES * HALF + at % HALF];
        if at % LANES < HALF { byte & 0x0f } else { byte >> 4 }
    }

    fn set(numbers: &mut [u8], at: usize, nibble: u8) {
        let byte = &mut numbers[at / LANES * HALF + at % HALF];
        *byte = if at % LANES < HALF { (*byte & 0xf0) | nibble } else { (*byte & 0x0f) | (nibble << 4) };
    }
}

/// Bytes of [`Nibbles`].
const HALF: usize = LANES / 2;

/// A type that numbers are stored in.
pub(super) trait Stored {
    /// Sixteen numbers.
    type Lanes: bytemuck::Pod;
    /// Numbers of a token that share a scale; 0 without scales.
    const GROUP: usize;
    fn load<V: Vector>(v: V, x: &Self::Lanes) -> V::F;
}

/// A type whose numbers are written one by one.
trait Single: bytemuck::Pod {
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<Self>;
}

impl Stored for f32 {
    type Lanes = Lanes<f32>;
    const GROUP: usize = 0;

    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Lanes<f32>) -> V::F {
        v.load(x)
    }
}

impl Single for f32 {
    #[inline(always)]
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<f32> {
        let mut lanes = [0.0; LANES];
        v.store(&mut lanes, x);
        lanes
    }
}

impl Stored for F16 {
    type Lanes = Lanes<F16>;
    const GROUP: usize = 0;

    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Lanes<F16>) -> V::F {
        v.load_f16(bytemuck::cast_ref(x))
    }
}

impl Single for F16 {
    #[inline(always)]
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<F16> {
        let mut lanes = [0; LANES];
        v.store_f16(&mut lanes, x);
        bytemuck::cast(lanes)
    }
}

impl Stored for BF16 {
    type Lanes = Lanes<BF16>;
    const GROUP: usize = 0;

    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Lanes<BF16>) -> V::F {
        v.load_bf16(bytemuck::cast_ref(x))
    }
}

impl Single for BF16 {
    #[inline(always)]
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<BF16> {
        let mut lanes = [0; LANES];
        v.store_bf16(&mut lanes, x);
        bytemuck::cast(lanes)
    }
}

impl Stored for i8 {
    type Lanes = Lanes<i8>;
    /// More than any head has: one scale.
    const GROUP: usize = 1 << 30;

    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Lanes<i8>) -> V::F {
        v.load_i8(x)
    }
}

impl Single for i8 {
    #[inline(always)]
    fn store<V: Vector>(v: V, x: V::F) -> Lanes<i8> {
        let mut lanes = [0; LANES];
        v.store_i8(&mut lanes, x);
        lanes
    }
}

impl Stored for Nibbles {
    type Lanes = Nibbles;
    const GROUP: usize = Q4_GROUP;

    #[inline(always)]
    fn load<V: Vector>(v: V, x: &Nibbles) -> V::F {
        const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        let word = u64::from_ne_bytes(x.0);
        let lanes: Lanes<i8> = bytemuck::cast([word & LOW, (word >> 4) & LOW]);
        v.sub(v.load_i8(&lanes), v.splat(8.0))
    }
}

/// Writes `x * scale` to its place.
struct Write<'a, T> {
    x: &'a [f32],
    out: &'a mut [T],
    place: Place,
    scale: f32,
}

impl<T: Single> Kernel for Write<'_, T> {
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
