//! Normalisation.

/// Op `rms_norm`: `y_i = x_i / √(mean_j x_j² + eps) · (w_i + offset)` over rows of `width`; of a longer `w` each row in
/// turn has a part of its own.
pub fn rms_norm(x: &[f32], width: usize, w: &[f32], eps: f64, offset: f64) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for (row, w) in x.chunks_exact(width).zip(w.chunks_exact(width).cycle()) {
        let mean_square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
        let inverse = 1.0 / (mean_square + eps).sqrt();
        y.extend(row.iter().zip(w).map(|(x, w)| (f64::from(*x) * inverse * (f64::from(*w) + offset)) as f32));
    }
    y
}

/// Op `l2_norm`: `y_i = x_i / √(Σ_j x_j² + eps)` over rows of `width`.
pub fn l2_norm(x: &[f32], width: usize, eps: f64) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        let inverse = 1.0 / (row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() + eps).sqrt();
        y.extend(row.iter().map(|x| (f64::from(*x) * inverse) as f32));
    }
    y
}
