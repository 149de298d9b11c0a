//! Softmax attention over histories.

use std::rc::Rc;

use super::dense::dot;
use super::heads::HeadMatrices;
use super::state::{HostState, Part};
use super::tensor::{Step, Token};
use crate::quant::rotation::rotate;
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

/// Keys or values of a state as they are read.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The state.
    pub state: Rc<HostState>,
    /// Which half.
    pub part: Part,
    /// Whether each is rotated back when it is read.
    pub turned: bool,
    /// What each is multiplied by after that.
    pub matrices: Option<HeadMatrices>,
}

impl History {
    /// Heads and their elements as they are stored.
    fn stored(&self) -> Option<(usize, usize)> {
        let ty = self.state.ty();
        let StateType::Paged { heads, dim, .. } = *ty else { return None };
        Some((heads, if self.part == Part::Keys { dim } else { ty.value_dim() }))
    }

    /// Heads and their elements as they are read.
    fn shape(&self) -> Option<(usize, usize)> {
        let (heads, dim) = self.stored()?;
        Some(self.matrices.as_ref().map_or((heads, dim), |m| (m.heads, m.width(dim))))
    }

    /// What a token's query reads of head `head` at position `j`.
    fn read(&self, token: &Token, j: usize, head: usize) -> Result<Vec<f32>, String> {
        let (heads, dim) = self.stored().ok_or_else(|| unpaged(&self.state))?;
        let place = (j, if heads == 1 { 0 } else { head });
        let row = self.state.read(token.sequence, self.part, place, token.position as usize);
        if row.len() != dim {
            return Err(format!("`attend`: position {j} of sequence {} was never archived", token.sequence));
        }
        let mut row = row.to_vec();
        if self.turned {
            rotate(&mut row, true)?;
        }
        Ok(self.matrices.as_ref().map_or_else(|| row.clone(), |m| m.apply(&row, head)))
    }
}

fn unpaged(state: &HostState) -> String {
    format!("`attend`: {} has no keys and values", state.ty())
}

/// Op `attend`: for the token at position `p` of its sequence, and query head `h` of `H` over KV head
/// `g = h / (H / G)` of `G`, or of as many heads of values as there are,
///
/// `y_h = Σ_j softmax_j(scale · q_h · k_{j,g}) · v_{j,g}` over the positions `j ≤ p`, with a window `w > 0` only those
/// with `p - j < w`. With a cap `c > 0` a score `s` becomes `c · tanh(s / c)` before. The sink of a head is a score more,
/// taken as it is, whose weight goes to no value.
///
/// # Errors
/// A history that ends before the token's own position.
pub fn attend(
    q: &[f32],
    a: &Attention,
    (keys, values): (&History, &History),
    sinks: Option<&[f32]>,
    step: &Step<'_>,
) -> Result<Vec<f32>, String> {
    let shape = |history: &History| history.shape().ok_or_else(|| unpaged(&history.state));
    let ((k_heads, dim), (v_heads, v_dim)) = (shape(keys)?, shape(values)?);
    let mut y = Vec::with_capacity(step.tokens.len() * a.heads * v_dim);
    for (row, token) in q.chunks_exact(a.heads * dim).zip(step.tokens) {
        let end = token.position as usize + 1;
        let held = keys.state.len(token.sequence).min(values.state.len(token.sequence));
        if held < end {
            let (sequence, position) = (token.sequence, token.position);
            return Err(format!("`attend`: sequence {sequence} holds {held} tokens: none at position {position}"));
        }
        let start = if a.window == 0 { 0 } else { end.saturating_sub(a.window) };
        for (h, query) in row.chunks_exact(dim).enumerate() {
            let read = |of: &History, heads: usize, j: usize| of.read(token, j, h / (a.heads / heads));
            let score = |j: usize| Ok(a.scale * dot(query, &read(keys, k_heads, j)?));
            let capped = |s: f64| if a.cap == 0.0 { s } else { a.cap * (s / a.cap).tanh() };
            let mut scores = (start..end).map(|j| score(j).map(capped)).collect::<Result<Vec<f64>, String>>()?;
            scores.extend(sinks.map(|sinks| f64::from(sinks[h])));
            let mut sum = vec![0.0f64; v_dim];
            for (j, weight) in (start..end).zip(softmax(&scores)) {
                for (sum, v) in sum.iter_mut().zip(&read(values, v_heads, j)?) {
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
