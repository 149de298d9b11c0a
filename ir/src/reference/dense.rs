//! Ops that treat rows one by one: products, sums, activations, views and picks.

use crate::rounding::Rounding;

/// Op `embed`: `y_t = scale · W[ids_t]`, W of rows of `cols` elements.
///
/// # Errors
/// An id that has no row.
pub fn embed(ids: &[u32], w: &[f32], cols: usize, scale: f64) -> Result<Vec<f32>, String> {
    let mut y = Vec::with_capacity(ids.len() * cols);
    for id in ids {
        let row = (w.chunks_exact(cols).nth(*id as usize))
            .ok_or_else(|| format!("`embed`: id {id} has no row in a table of {} rows", w.len() / cols))?;
        y.extend(row.iter().map(|x| (f64::from(*x) * scale) as f32));
    }
    Ok(y)
}

/// `Σ_i a_i · b_i` in f64, in order.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Op `linear`: `y[t, n] = Σ_k x[t, k] · W[n, k]`, rows of `inputs` elements.
pub fn linear(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = |row| w.chunks_exact(inputs).map(move |w| dot(row, w) as f32);
    x.chunks_exact(inputs).flat_map(outputs).collect()
}

/// Op `bias`: `y[t, n] = x[t, n] + b[n]`.
pub fn bias(x: &[f32], b: &[f32]) -> Vec<f32> {
    x.chunks_exact(b.len()).flat_map(|row| zip(row, b, |x, b| x + b)).collect()
}

/// Ops `add` and `mul`, and any other of two equal shapes: `y_i = f(a_i, b_i)`.
pub fn zip(a: &[f32], b: &[f32], f: impl Fn(f64, f64) -> f64) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b)) as f32).collect()
}

/// Ops of one number: `y_i = f(x_i)`.
pub fn map(x: &[f32], f: impl Fn(f64) -> f64) -> Vec<f32> {
    x.iter().map(|x| f(f64::from(*x)) as f32).collect()
}

/// Op `sigmoid`: `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Op `silu`: `x · sigmoid(x)`.
pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// Op `gelu_tanh`: `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
pub fn gelu_tanh(x: f64) -> f64 {
    x / 2.0 * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

/// Op `round`: the nearest of the values, ties to even. Groups follow one another, as rows are whole groups.
///
/// # Errors
/// Elements that are no whole number of groups.
pub fn round(x: &[f32], to: Rounding) -> Result<Vec<f32>, String> {
    if !x.len().is_multiple_of(to.group()) {
        return Err(format!("`round`: {} elements are not whole groups of {to}", x.len()));
    }
    let mut y = x.to_vec();
    to.apply(&mut y);
    Ok(y)
}

/// Op `slice`: elements `start .. start + len` of each row of `width`.
pub fn slice(x: &[f32], width: usize, start: usize, len: usize) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| &row[start..start + len]).copied().collect()
}

/// Op `rows`: the rows of `width` elements that want logits, in the order asked for.
pub fn rows(x: &[f32], width: usize, wanted: &[usize]) -> Vec<f32> {
    wanted.iter().flat_map(|r| &x[r * width..(r + 1) * width]).copied().collect()
}

/// Whether `a` is larger than `b`; NaN is below every number.
pub(super) fn exceeds(a: f32, b: f32) -> bool {
    a > b || (b.is_nan() && !a.is_nan())
}

/// Op `arg_max`: of each row of `width` elements, `min { i : x_i ≥ x_j for all j }`.
pub fn arg_max(x: &[f32], width: usize) -> Vec<u32> {
    let best = |row: &[f32]| (1..width).fold(0, |best, i| if exceeds(row[i], row[best]) { i } else { best }) as u32;
    x.chunks_exact(width).map(best).collect()
}

/// Op `time_step`: `ln(1 + e^{x_h + b_h})` between two bounds, of rows as long as `b`.
pub fn time_step(x: &[f32], b: &[f32], (least, most): (f64, f64)) -> Vec<f32> {
    let of = |(x, b): (&f32, &f32)| softplus(f64::from(*x) + f64::from(*b)).max(least).min(most) as f32;
    x.iter().zip(b.iter().cycle()).map(of).collect()
}

/// Op `scale_part`: `factor` times elements `start .. start + len` of rows of `width`.
pub fn scale_part(x: &[f32], width: usize, (start, len): (usize, usize), factor: f64) -> Vec<f32> {
    let inside = |i: usize| (start..start + len).contains(&(i % width));
    let of = |(i, x): (usize, &f32)| if inside(i) { (f64::from(*x) * factor) as f32 } else { *x };
    x.iter().enumerate().map(of).collect()
}

/// Op `decay`: `exp(−e^{a_h} · ln(1 + e^{x_h + b_h}))` of rows as long as `a`.
pub fn decay(x: &[f32], a: &[f32], b: &[f32]) -> Vec<f32> {
    let weights = a.iter().zip(b).cycle();
    let of = |(x, (a, b)): (&f32, (&f32, &f32))| {
        let step = softplus(f64::from(*x) + f64::from(*b));
        (-f64::from(*a).exp() * step).exp() as f32
    };
    x.iter().zip(weights).map(of).collect()
}

/// `ln(1 + e^x)`, which does not overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
