//! Softmax attention over histories.

use super::dense::dot;
use super::state::{HostState, Part};
use super::tensor::Step;
use crate::ty::StateType;

/// Attributes and sizes of an `attend`.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads, a multiple of the histories' heads.
    pub heads: usize,
    /// Factor on the scores.
    pub scale: f64,
    /// Keys a query sees, itself included; 0 for all.
    pub window: usize,
    /// Bound that scores approach; 0 for none.
    pub cap: f64,
}

/// Op `attend`: for the token at position `p` of its sequence, and query head `h` of `H` over KV head
/// `g = h / (H / G)` of `G`,
///
/// `y_h = Σ_j softmax_j(scale · q_h · k_{j,g}) · v_{j,g}` over the positions `j ≤ p`, with a window `w > 0` only those
/// with `p - j < w`. With a cap `c > 0` a score `s` becomes `c · tanh(s / c)` before.
///
/// # Errors
/// A history that ends before the token's own position.
pub fn attend(
    q: &[f32],
    a: &Attention,
    keys: (&HostState, Part),
    values: (&HostState, Part),
    step: &Step<'_>,
) -> Result<Vec<f32>, String> {
    let StateType::Paged { heads: kv_heads, dim, .. } = *keys.0.ty();
    let StateType::Paged { dim: v_dim, .. } = *values.0.ty();
    let mut y = Vec::with_capacity(step.tokens.len() * a.heads * v_dim);
    for (row, token) in q.chunks_exact(a.heads * dim).zip(step.tokens) {
        let end = token.position as usize + 1;
        let held = keys.0.len(token.sequence).min(values.0.len(token.sequence));
        if held < end {
            let (sequence, position) = (token.sequence, token.position);
            return Err(format!("`attend`: sequence {sequence} holds {held} tokens: none at position {position}"));
        }
        let start = if a.window == 0 { 0 } else { end.saturating_sub(a.window) };
        let (k, v) = (keys.0.part(token.sequence, keys.1), values.0.part(token.sequence, values.1));
        for (h, query) in row.chunks_exact(dim).enumerate() {
            let head = |j: usize| j * kv_heads + h / (a.heads / kv_heads);
            let score = |j: usize| a.scale * dot(query, &k[head(j) * dim..][..dim]);
            let capped = |s: f64| if a.cap == 0.0 { s } else { a.cap * (s / a.cap).tanh() };
            let scores: Vec<f64> = (start..end).map(|j| capped(score(j))).collect();
            let mut sum = vec![0.0f64; v_dim];
            for (j, weight) in (start..end).zip(softmax(&scores)) {
                for (sum, v) in sum.iter_mut().zip(&v[head(j) * v_dim..][..v_dim]) {
                    *sum += weight * f64::from(*v);
                }
            }
            y.extend(sum.into_iter().map(|x| x as f32));
        }
    }
    Ok(y)
}

/// `softmax_j(s) = e^{s_j - m} / Σ_i e^{s_i - m}`, `m` the largest.
pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / total).collect()
}
