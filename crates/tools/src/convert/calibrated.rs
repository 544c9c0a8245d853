//! MLX's formats with calibration (GPTQ): what was recorded of a matrix's inputs guides its rounding.

use std::sync::Arc;
use std::thread;

use mlxr_compute::quant::compensate::Factor;
use mlxr_compute::quant::encode_parts_calibrated;
use mlxr_compute::recorder::Recording;
use mlxr_compute::{Encoding, MatrixData};
use mlxr_models::convert::{Recipe, Target};

use crate::ToolError;

/// What was recorded of a model that ran on a text.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// Products of the inputs of each matrix, by its name in the source.
    pub recording: &'a Recording,
    /// Threads that encode.
    pub n_thread: usize,
}

/// The factors of matrices, one after another. Neighbours mostly share their input, so the last one is kept.
pub(super) struct Factors<'a> {
    calibration: Calibration<'a>,
    last: Option<(Arc<Vec<f32>>, Arc<Factor>)>,
}

impl<'a> Factors<'a> {
    pub(super) fn new(calibration: Calibration<'a>) -> Factors<'a> {
        Factors { calibration, last: None }
    }

    /// The factor of a target's inputs; `None` if they were not recorded, as those of experts and embeddings.
    pub(super) fn of(&mut self, target: &Target, n_in: usize) -> Result<Option<Arc<Factor>>, ToolError> {
        let Recipe::Matrix(parts) = &target.recipe else { return Ok(None) };
        let recording = self.calibration.recording;
        let of_stem = |stem: &str| recording.products(&format!("{stem}.weight")).or_else(|| recording.products(stem));
        let products = parts.first().and_then(|part| of_stem(&part.stem));
        let Some(products) = products.filter(|products| products.len() == n_in * n_in) else { return Ok(None) };
        if let Some((_, factor)) = self.last.as_ref().filter(|(last, _)| Arc::ptr_eq(last, &products)) {
            return Ok(Some(factor.clone()));
        }
        let factor = Factor::new(n_in, &products);
        let factor = Arc::new(factor.map_err(|error| ToolError::Encode { tensor: target.name.clone(), error })?);
        self.last = Some((products, factor.clone()));
        Ok(Some(factor))
    }

    /// The matrix in an MLX format, its rows on several threads.
    pub(super) fn encode(&self, matrix: &MatrixData, to: Encoding, factor: &Factor) -> Result<Vec<Vec<u8>>, ToolError> {
        let n_band = matrix.n_out.div_ceil(self.calibration.n_thread.max(1)).max(1);
        let band = |first: usize| -> Result<[Vec<u8>; 3], mlxr_compute::Error> {
            let n_row = n_band.min(matrix.n_out - first);
            let mut weights = vec![0.0; n_row * matrix.n_in];
            matrix.decode_rows(first, n_row, &mut weights);
            let mut parts = Default::default();
            encode_parts_calibrated(to, &mut weights, factor, &mut parts)?;
            Ok(parts)
        };
        let bands = thread::scope(|scope| {
            let band = &band;
            let firsts = (0..matrix.n_out).step_by(n_band);
            let threads: Vec<_> = firsts.map(|first| scope.spawn(move || band(first))).collect();
            threads.into_iter().map(|t| t.join().expect("encoders do not panic")).collect::<Result<Vec<_>, _>>()
        })?;
        let mut all: Vec<Vec<u8>> = vec![Vec::new(); 3];
        for parts in bands {
            all.iter_mut().zip(parts).for_each(|(all, part)| all.extend(part));
        }
        Ok(all)
    }
}
