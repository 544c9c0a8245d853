//! Rows of a matrix as a matrix: to split fused projections and to undo interleaving.
//!
//! Weights keep their encoding and their values, bit for bit. Consecutive rows of an encoding that lies row after row
//! share the file's bytes. Where an encoding cannot hold the chosen rows (GPTQ and AWQ pack 4 to 32 outputs into whole
//! words, bitsandbytes two weights into a byte), the rows are decoded to F32 instead.

use std::ops::Range;

use super::{awq, bnb, gptq, mlx, parts::groups};
use crate::{Bytes, DType, Encoding, Error, MatrixData};

/// The rows as a range, if they are consecutive.
fn consecutive(rows: &[usize]) -> Option<Range<usize>> {
    let first = *rows.first()?;
    rows.iter().enumerate().all(|(i, &row)| row == first + i).then(|| first..first + rows.len())
}

/// Lines `rows` of `part`, whose lines have `size` bytes.
fn lines(part: &Bytes, size: usize, rows: &[usize]) -> Bytes {
    if let Some(range) = consecutive(rows) {
        return part.slice(range.start * size..range.end * size).expect("`take_rows` has checked the rows");
    }
    let copies: Vec<_> = rows.iter().map(|row| &part[row * size..][..size]).collect();
    Bytes::from(copies.concat())
}

/// Columns `rows` of `part` `[.., n_out]`, whose numbers have `size` bytes.
fn columns(part: &Bytes, size: usize, n_out: usize, rows: &[usize]) -> Bytes {
    let mut copy = Vec::with_capacity(part.len() / n_out * rows.len());
    for line in part.chunks_exact(n_out * size) {
        match consecutive(rows) {
            Some(range) => copy.extend_from_slice(&line[range.start * size..range.end * size]),
            None => rows.iter().for_each(|row| copy.extend_from_slice(&line[row * size..][..size])),
        }
    }
    Bytes::from(copy)
}

impl MatrixData {
    /// The matrix of rows `rows`, in that order; a row may occur twice.
    ///
    /// # Errors
    /// If no row is asked for or one is outside the matrix.
    pub fn take_rows(&self, rows: &[usize]) -> Result<MatrixData, Error> {
        if rows.is_empty() || rows.iter().any(|&row| row >= self.n_out) {
            let last = rows.iter().max().map_or("no rows".to_owned(), |row| format!("row {row}"));
            return Err(Error::Shape {
                tensor: self.name.clone(),
                found: format!("{} rows, but {last} is asked for", self.n_out),
                expected: "the rows that the model's configuration says".to_owned(),
            });
        }
        let taken = self.taken(rows).unwrap_or_else(|| self.decoded(rows));
        let (encoding, parts) = taken;
        Ok(MatrixData { name: self.name.clone(), n_out: rows.len(), n_in: self.n_in, encoding, parts })
    }

    /// [`MatrixData::take_rows`] of consecutive rows.
    ///
    /// # Errors
    /// If the range is empty or reaches outside the matrix.
    pub fn slice_rows(&self, rows: Range<usize>) -> Result<MatrixData, Error> {
        let rows: Vec<usize> = (rows.start..rows.end.min(self.n_out.saturating_add(1))).collect();
        self.take_rows(&rows)
    }

    /// Encoding and parts of the rows, or `None` where the encoding cannot hold them.
    fn taken(&self, rows: &[usize]) -> Option<(Encoding, Vec<Bytes>)> {
        let line = |part: usize| lines(&self.parts[part], self.parts[part].len() / self.n_out, rows);
        Some(match self.encoding {
            Encoding::Blocks(_) => (self.encoding, vec![line(0)]),
            Encoding::MlxAffine { .. } => (self.encoding, vec![line(0), line(1), line(2)]),
            Encoding::MlxFloat(_) => (self.encoding, vec![line(0), line(1)]),
            Encoding::Gptq { bits, group, zero_plus_one, scale } => {
                let format = gptq::Gptq { bits, group, zero_plus_one, scale };
                (self.encoding, self.gptq_rows(format, rows)?)
            }
            Encoding::Awq { group, scale } => (self.encoding, self.awq_rows(group, scale, rows)?),
            Encoding::Bnb4 { block, nested_block, nested_offset } => {
                self.bnb_rows(bnb::Bnb4 { block, nested_block, nested_offset }, rows)?
            }
            Encoding::Fp8 { rows: tile, .. } => {
                let (encoding, scales) = self.fp8_scales(tile, rows);
                (encoding, vec![line(0), scales])
            }
        })
    }

    fn decoded(&self, rows: &[usize]) -> (Encoding, Vec<Bytes>) {
        let mut weights = vec![0.0; rows.len() * self.n_in];
        for (row, out) in rows.iter().zip(weights.chunks_exact_mut(self.n_in)) {
            self.decode_rows(*row, 1, out);
        }
        let bytes = weights.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        (Encoding::Blocks(DType::F32), vec![bytes.into()])
    }

    fn gptq_rows(&self, format: gptq::Gptq, rows: &[usize]) -> Option<Vec<Bytes>> {
        let bits = usize::from(format.bits);
        if !(rows.len() * bits).is_multiple_of(32) {
            return None;
        }
        let stored = gptq::Gptq { zero_plus_one: false, ..format };
        let mut qzeros = Vec::with_capacity(self.parts[1].len() / self.n_out * rows.len());
        for g in 0..groups(self.n_in, format.group) {
            let zeros = gptq::zeros(self, stored, g, [0, self.n_out]);
            let taken: Vec<u8> = rows.iter().map(|&row| zeros[row]).collect();
            mlx::pack_bits(format.bits, &taken, &mut qzeros);
        }
        Some(vec![
            columns(&self.parts[0], 4, self.n_out, rows),
            qzeros.into(),
            columns(&self.parts[2], format.scale.block_bytes(), self.n_out, rows),
            self.parts[3].clone(),
        ])
    }

    fn awq_rows(&self, group: u32, scale: DType, rows: &[usize]) -> Option<Vec<Bytes>> {
        if !rows.len().is_multiple_of(8) {
            return None;
        }
        let repack = |part: &Bytes, n_line: usize| -> Bytes {
            let mut copy = Vec::with_capacity(n_line * rows.len() / 2);
            for i in 0..n_line {
                let codes = awq::line(part, self.n_out, i, [0, self.n_out]);
                for eight in rows.as_chunks::<8>().0 {
                    copy.extend_from_slice(&awq::pack(eight.map(|row| codes[row])));
                }
            }
            copy.into()
        };
        Some(vec![
            repack(&self.parts[0], self.n_in),
            repack(&self.parts[1], groups(self.n_in, group)),
            columns(&self.parts[2], scale.block_bytes(), self.n_out, rows),
        ])
    }

    /// Blocks run over row ends unless a row is whole blocks, so blocks shrink to their common divisor with a row.
    /// Nested absmax become f32: their own blocks run over rows too.
    fn bnb_rows(&self, format: bnb::Bnb4, rows: &[usize]) -> Option<(Encoding, Vec<Bytes>)> {
        let block = common_divisor(format.block as usize, self.n_in);
        if !block.is_multiple_of(2) {
            return None;
        }
        let per_row = self.n_in / block;
        let blocks = rows.iter().flat_map(|row| row * per_row..(row + 1) * per_row);
        let absmax: Vec<u8> =
            blocks.flat_map(|k| bnb::absmax(self, format, k * block / format.block as usize).to_le_bytes()).collect();
        let encoding = Encoding::Bnb4 { block: block as u32, nested_block: 0, nested_offset: 0.0 };
        let none = Bytes::from(Vec::new());
        let weights = lines(&self.parts[0], self.n_in / 2, rows);
        Some((encoding, vec![weights, absmax.into(), self.parts[2].clone(), none.clone(), none]))
    }

    /// The scales of tiles of `tile` rows. Rows that do not start and end with tiles get a line of scales each.
    fn fp8_scales(&self, tile: u32, rows: &[usize]) -> (Encoding, Bytes) {
        let n_line = groups(self.n_out, tile);
        let (size, per_tile) = (self.parts[1].len() / n_line, tile as usize);
        let tiled = |rows| match self.encoding {
            Encoding::Fp8 { dtype, cols, scale, .. } => Encoding::Fp8 { dtype, rows, cols, scale },
            other => other,
        };
        if n_line == 1 {
            return (tiled(u32::MAX), self.parts[1].clone());
        }
        let whole = consecutive(rows).filter(|range| range.start.is_multiple_of(per_tile));
        if let Some(range) = whole {
            let range = range.start / per_tile * size..range.end.div_ceil(per_tile) * size;
            return (self.encoding, self.parts[1].slice(range).expect("tiles of rows within the matrix"));
        }
        let tiles: Vec<usize> = rows.iter().map(|row| row / per_tile).collect();
        let scales = tiles.iter().flat_map(|&t| self.parts[1][t * size..][..size].iter().copied());
        (tiled(1), scales.collect::<Vec<u8>>().into())
    }
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
