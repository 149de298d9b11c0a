//! Recurrent states: short convolutions, the gated delta rule and selective state spaces, token after token.

use std::collections::{BTreeMap, BTreeSet};

use super::tensor::Step;
use crate::ty::Recurrent;

/// What one sequence has left behind.
#[derive(Clone, Debug, Default, PartialEq)]
struct Trail {
    /// Every input of the convolution, `[token, channels]`.
    inputs: Vec<f32>,
    /// Tokens that the memory has taken in.
    taken: usize,
    /// The memory after each token of the last step, `[heads, value, key]`; before the first token it is zero.
    memories: Vec<Vec<f64>>,
}

/// A recurrent state of all sequences. Inputs are kept whole, and no memory is ever overwritten.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recurrences {
    ty: Recurrent,
    trails: BTreeMap<u32, Trail>,
}

/// What the gated delta rule takes in, a row per token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken<'a> {
    /// `[T, key heads, key]`.
    pub(super) keys: &'a [f32],
    /// `[T, heads, value]`.
    pub(super) values: &'a [f32],
    /// α: `[T, heads]`.
    pub(super) decay: &'a [f32],
    /// β: `[T, heads]`.
    pub(super) beta: &'a [f32],
}

/// What a selective state space takes in, a row per token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absorbed<'a> {
    /// B: `[T, groups, key]`.
    pub(super) b: &'a [f32],
    /// `[T, heads, value]`.
    pub(super) x: &'a [f32],
    /// Time steps: `[T, heads]`.
    pub(super) dt: &'a [f32],
    /// Logarithms of what decays by: `[heads]`.
    pub(super) a: &'a [f32],
}

impl Recurrences {
    pub(super) fn new(ty: Recurrent) -> Self {
        Self { ty, trails: BTreeMap::new() }
    }

    pub(super) fn len(&self, sequence: u32) -> usize {
        let inputs = |t: &Trail| t.inputs.len().checked_div(self.ty.channels).unwrap_or(0);
        self.trails.get(&sequence).map_or(0, |t| inputs(t).max(t.taken))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.trails.is_empty()
    }

    pub(super) fn forget(&mut self, sequence: u32) {
        self.trails.remove(&sequence);
    }

    /// Op `conv.append!`: row `t` of `x` follows on the inputs of its sequence.
    pub(super) fn push_inputs(&mut self, x: &[f32], step: &Step<'_>) -> Result<(), String> {
        let channels = self.ty.channels;
        for (row, token) in x.chunks_exact(channels).zip(step.tokens) {
            let trail = self.trails.entry(token.sequence).or_default();
            follows("conv.append!", token.sequence, token.position, trail.inputs.len() / channels)?;
            trail.inputs.extend(row);
        }
        Ok(())
    }

    /// Op `conv.causal`: `y_c[p] = Σ_j w[c, j] · x_c[p - K + 1 + j]` over `K` taps, inputs before the first being 0.
    pub(super) fn convolve(&self, weight: &[f32], step: &Step<'_>) -> Result<Vec<f32>, String> {
        let (channels, taps) = (self.ty.channels, self.ty.columns + 1);
        let mut y = Vec::with_capacity(step.tokens.len() * channels);
        for token in step.tokens {
            let inputs = self.trails.get(&token.sequence).map_or(&[][..], |t| &t.inputs);
            let position = token.position as usize;
            if inputs.len() < (position + 1) * channels {
                return Err(format!("`conv.causal`: sequence {}: no input at position {position}", token.sequence));
            }
            y.extend(weight.chunks_exact(taps).enumerate().map(|(c, w)| {
                let term = |(j, w): (usize, &f32)| {
                    let at = (position + 1 + j).checked_sub(taps)?;
                    Some(f64::from(*w) * f64::from(inputs[at * channels + c]))
                };
                w.iter().enumerate().filter_map(term).sum::<f64>() as f32
            }));
        }
        Ok(y)
    }

    /// Changes the memory of each token's sequence by `update`, token after token.
    fn advance(&mut self, op: &str, step: &Step<'_>, mut update: impl FnMut(usize, &mut [f64])) -> Result<(), String> {
        let Recurrent { heads, key, value, .. } = self.ty;
        let mut seen = BTreeSet::new();
        for (t, token) in step.tokens.iter().enumerate() {
            let trail = self.trails.entry(token.sequence).or_default();
            follows(op, token.sequence, token.position, trail.taken)?;
            let mut memory = trail.memories.last().cloned().unwrap_or_else(|| vec![0.0; heads * key * value]);
            update(t, &mut memory);
            if seen.insert(token.sequence) {
                trail.memories.clear();
            }
            trail.taken += 1;
            trail.memories.push(memory);
        }
        Ok(())
    }

    /// Op `delta.append!`: `S ← α S (I − β k kᵀ) + β v kᵀ` of every head, token after token.
    pub(super) fn take_in(&mut self, taken: &Taken<'_>, step: &Step<'_>) -> Result<(), String> {
        let Recurrent { heads, key, value, .. } = self.ty;
        let key_heads = taken.keys.len() / step.tokens.len().max(1) / key;
        self.advance("delta.append!", step, |t, memory| {
            for (h, rows) in memory.chunks_exact_mut(key * value).enumerate() {
                let k = &taken.keys[(t * key_heads + h / (heads / key_heads)) * key..][..key];
                let (alpha, beta) = (f64::from(taken.decay[t * heads + h]), f64::from(taken.beta[t * heads + h]));
                for (row, v) in rows.chunks_exact_mut(key).zip(&taken.values[(t * heads + h) * value..]) {
                    row.iter_mut().for_each(|s| *s *= alpha);
                    let known: f64 = row.iter().zip(k).map(|(s, k)| s * f64::from(*k)).sum();
                    let error = beta * (f64::from(*v) - known);
                    row.iter_mut().zip(k).for_each(|(s, k)| *s += error * f64::from(*k));
                }
            }
        })
    }

    /// Op `ssm.append!`: `S ← e^(−e^a · Δ) S + Δ x Bᵀ` of every head, token after token.
    pub(super) fn absorb(&mut self, from: &Absorbed<'_>, step: &Step<'_>) -> Result<(), String> {
        let Recurrent { heads, key, value, .. } = self.ty;
        let groups = from.b.len() / step.tokens.len().max(1) / key;
        self.advance("ssm.append!", step, |t, memory| {
            for (h, rows) in memory.chunks_exact_mut(key * value).enumerate() {
                let b = &from.b[(t * groups + h / (heads / groups)) * key..][..key];
                let dt = f64::from(from.dt[t * heads + h]);
                let decay = (-f64::from(from.a[h]).exp() * dt).exp();
                for (row, x) in rows.chunks_exact_mut(key).zip(&from.x[(t * heads + h) * value..]) {
                    row.iter_mut().zip(b).for_each(|(s, b)| *s = decay * *s + dt * f64::from(*x) * f64::from(*b));
                }
            }
        })
    }

    /// `scale · S q` of every head, by the memory after each token.
    fn answers(&self, op: &str, q: &[f32], scale: f64, step: &Step<'_>) -> Result<Vec<f64>, String> {
        let Recurrent { heads, key, value, .. } = self.ty;
        let key_heads = q.len() / step.tokens.len().max(1) / key;
        let mut o = Vec::with_capacity(step.tokens.len() * heads * value);
        for (queries, token) in q.chunks_exact(key_heads * key).zip(step.tokens) {
            let memory = self.trails.get(&token.sequence).and_then(|trail| {
                let back = trail.taken.checked_sub(token.position as usize)?;
                trail.memories.get(trail.memories.len().checked_sub(back)?)
            });
            let missing = || format!("`{op}`: sequence {}: position {}", token.sequence, token.position);
            for (h, rows) in memory.ok_or_else(missing)?.chunks_exact(key * value).enumerate() {
                let q = &queries[h / (heads / key_heads) * key..][..key];
                let dot = |row: &[f64]| row.iter().zip(q).map(|(s, q)| s * f64::from(*q)).sum::<f64>();
                o.extend(rows.chunks_exact(key).map(|row| scale * dot(row)));
            }
        }
        Ok(o)
    }

    /// Op `delta.read`: `o = scale · S q` of every head, by the memory after each token.
    pub(super) fn recall(&self, q: &[f32], scale: f64, step: &Step<'_>) -> Result<Vec<f32>, String> {
        Ok(self.answers("delta.read", q, scale, step)?.into_iter().map(|o| o as f32).collect())
    }

    /// Op `ssm.read`: `y = S C + d x` of every head, by the memory after each token.
    pub(super) fn emit(&self, c: &[f32], x: &[f32], d: &[f32], step: &Step<'_>) -> Result<Vec<f32>, String> {
        let Recurrent { heads, value, .. } = self.ty;
        let answers = self.answers("ssm.read", c, 1.0, step)?.into_iter().enumerate();
        let of = |(i, o): (usize, f64)| (o + f64::from(d[i / value % heads]) * f64::from(x[i])) as f32;
        Ok(answers.map(of).collect())
    }
}

fn follows(op: &str, sequence: u32, position: u32, expected: usize) -> Result<(), String> {
    if position as usize == expected {
        return Ok(());
    }
    Err(format!("`{op}`: sequence {sequence}: expected position {expected}, got {position}"))
}
