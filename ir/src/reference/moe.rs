//! Routed experts.

use super::attend::softmax;
use super::dense::{dot, exceeds, sigmoid};
use crate::ops::Routing;

/// Indices of the `count` largest of `scores` among `left`, largest first, ties to the first.
fn best(scores: &[f32], mut left: Vec<usize>, count: usize) -> Vec<usize> {
    let mut taken = vec![];
    for _ in 0..count {
        let larger = |best: usize, i: usize| exceeds(scores[left[i]], scores[left[best]]);
        let best = (1..left.len()).fold(0, |best, i| if larger(best, i) { i } else { best });
        taken.push(left.remove(best));
    }
    taken
}

/// Op `moe.route_ids`: indices of the `top_k` largest of each row of `experts` scores, largest first, ties to the lowest;
/// of several groups only among those `kept` whose two largest scores have the largest sums, ties to the lowest.
pub fn route_ids(scores: &[f32], experts: usize, top_k: usize, (groups, kept): (usize, usize)) -> Vec<u32> {
    let mut ids = vec![];
    for row in scores.chunks_exact(experts) {
        let each = experts / groups;
        let mut left: Vec<usize> = (0..experts).collect();
        if groups > 1 {
            let own = |g: usize| best(row, (g * each..(g + 1) * each).collect(), 2);
            let sums: Vec<f32> = (0..groups).map(|g| own(g).iter().map(|e| row[*e]).sum()).collect();
            let looked_at = best(&sums, (0..groups).collect(), kept);
            left.retain(|e| looked_at.contains(&(e / each)));
        }
        ids.extend(best(row, left, top_k).into_iter().map(|e| e as u32));
    }
    ids
}

/// Op `moe.route_weights`: `w_{t,r} = p_t[ids_{t,r}]` with `p_t` the softmax of the row of all `experts` scores, or the
/// sigmoid of each; divided by `Σ_r w_{t,r}` where `normalize` holds.
///
/// # Errors
/// An id of no expert.
pub fn route_weights(
    scores: &[f32],
    ids: &[u32],
    (experts, top_k): (usize, usize),
    routing: Routing,
    normalize: bool,
) -> Result<Vec<f32>, String> {
    let mut weights = Vec::with_capacity(ids.len());
    for (row, ids) in scores.chunks_exact(experts).zip(ids.chunks_exact(top_k)) {
        let row: Vec<f64> = row.iter().map(|s| f64::from(*s)).collect();
        let all: Vec<f64> = match routing {
            Routing::Softmax => softmax(&row),
            Routing::Sigmoid => row.iter().map(|s| sigmoid(*s)).collect(),
        };
        let mut chosen = vec![];
        for id in ids {
            chosen.push(*all.get(*id as usize).ok_or_else(|| no_expert("moe.route_weights", *id, experts))?);
        }
        let total: f64 = if normalize { chosen.iter().sum() } else { 1.0 };
        weights.extend(chosen.into_iter().map(|w| (w / total) as f32));
    }
    Ok(weights)
}

/// Sizes of a `moe.linear`.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// Experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Elements of an input row.
    pub inputs: usize,
    /// Whether x has a row per token and rank; else a row per token.
    pub x_per_rank: bool,
}

/// Op `moe.linear`: `y[t, r, n] = Σ_k x[t, r, k] · W[ids[t, r] · N + n, k]`, `N` rows of W per expert; where x has one
/// row per token, every rank reads it.
///
/// # Errors
/// An id of no expert.
pub fn expert_linear(x: &[f32], ids: &[u32], w: &[f32], e: &Experts) -> Result<Vec<f32>, String> {
    let matrix = w.len() / e.experts;
    let mut y = Vec::with_capacity(ids.len() * matrix / e.inputs);
    for (i, id) in ids.iter().enumerate() {
        let row = if e.x_per_rank { i } else { i / e.top_k };
        let row = &x[row * e.inputs..(row + 1) * e.inputs];
        let w = w.chunks_exact(matrix).nth(*id as usize).ok_or_else(|| no_expert("moe.linear", *id, e.experts))?;
        y.extend(w.chunks_exact(e.inputs).map(|w| dot(row, w) as f32));
    }
    Ok(y)
}

/// Op `moe.bias`: `out[t, r, n] = y[t, r, n] + b[ids[t, r] · N + n]`.
///
/// # Errors
/// An id of no expert.
pub fn expert_bias(y: &[f32], ids: &[u32], b: &[f32], experts: usize) -> Result<Vec<f32>, String> {
    let own = b.len() / experts;
    let mut out = Vec::with_capacity(y.len());
    for (row, id) in y.chunks_exact(own).zip(ids) {
        let b = b.chunks_exact(own).nth(*id as usize).ok_or_else(|| no_expert("moe.bias", *id, experts))?;
        out.extend(super::dense::zip(row, b, |y, b| y + b));
    }
    Ok(out)
}

/// Op `moe.combine`: `out[t] = Σ_r weights[t, r] · y[t, r]`, ranks in order; rows of `dim` elements.
pub fn combine(y: &[f32], weights: &[f32], top_k: usize, dim: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(y.len() / top_k);
    for (rows, weights) in y.chunks_exact(top_k * dim).zip(weights.chunks_exact(top_k)) {
        out.extend((0..dim).map(|i| {
            let terms = rows.chunks_exact(dim).zip(weights).map(|(row, w)| f64::from(*w) * f64::from(row[i]));
            terms.sum::<f64>() as f32
        }));
    }
    out
}

fn no_expert(op: &str, id: u32, experts: usize) -> String {
    format!("`{op}`: there is no expert {id} among {experts}")
}
