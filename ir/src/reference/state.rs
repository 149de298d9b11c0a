//! States as plain vectors: keys and values of every token of every sequence, one after another, or what recurrences left.
//! No pages, no table.

use std::collections::BTreeMap;

use super::recurrent::{Absorbed, Recurrences, Taken};
use super::tensor::Step;
use crate::quant::archive::MEAN_FROM;
use crate::quant::{HeadRow, Turbo};
use crate::ty::{PAGE_TOKENS, StateType};

/// Half of a paged state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// Keys and values of one sequence: rows `[heads, dim]`, one per position.
#[derive(Clone, Debug, Default, PartialEq)]
struct History {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// What an archive holds of them: whole pages.
    old_keys: Vec<f32>,
    old_values: Vec<f32>,
}

/// One version of a state, for all sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct HostState {
    ty: StateType,
    sequences: BTreeMap<u32, History>,
    recurrences: Option<Recurrences>,
}

impl HostState {
    /// The state before the first token.
    pub fn new(ty: &StateType) -> Self {
        let recurrences = ty.recurrent().map(|r| Recurrences::new(*r));
        Self { ty: ty.clone(), sequences: BTreeMap::new(), recurrences }
    }

    /// Its type.
    pub fn ty(&self) -> &StateType {
        &self.ty
    }

    /// Elements that one token adds to its keys, and again to its values.
    fn row_elements(&self) -> usize {
        match &self.ty {
            StateType::Paged { heads, dim, .. } => heads * dim,
            StateType::Recurrent(_) => 0,
        }
    }

    fn recurrences(&self, op: &str) -> Result<&Recurrences, String> {
        self.recurrences.as_ref().ok_or_else(|| format!("`{op}`: {} is not recurrent", self.ty))
    }

    fn recurrences_mut(&mut self, op: &str) -> Result<&mut Recurrences, String> {
        let ty = &self.ty;
        self.recurrences.as_mut().ok_or_else(|| format!("`{op}`: {ty} is not recurrent"))
    }

    /// Tokens of a sequence.
    pub fn len(&self, sequence: u32) -> usize {
        match &self.recurrences {
            Some(recurrences) => recurrences.len(sequence),
            None => self.sequences.get(&sequence).map_or(0, |h| h.keys.len() / self.row_elements()),
        }
    }

    /// Whether no sequence has a token.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty() && self.recurrences.as_ref().is_none_or(Recurrences::is_empty)
    }

    /// Drops a sequence.
    pub fn forget(&mut self, sequence: u32) {
        self.sequences.remove(&sequence);
        if let Some(recurrences) = &mut self.recurrences {
            recurrences.forget(sequence);
        }
    }

    /// Key or value of a head at position `j` of a sequence, as a query at `position` reads it. Empty where there is none.
    pub fn read(&self, sequence: u32, part: Part, (j, head): (usize, usize), position: usize) -> &[f32] {
        let StateType::Paged { heads, dim, latent, archive, .. } = self.ty else { return &[] };
        let Some(history) = self.sequences.get(&sequence) else { return &[] };
        if let (Part::Values, Some(latent)) = (part, latent) {
            return self.read(sequence, Part::Keys, (j, head), position).get(..latent).unwrap_or(&[]);
        }
        let old = archive.is_some_and(|a| a.holds(j / PAGE_TOKENS, position / PAGE_TOKENS));
        let rows = match (part, old) {
            (Part::Keys, false) => &history.keys,
            (Part::Values, false) => &history.values,
            (Part::Keys, true) => &history.old_keys,
            (Part::Values, true) => &history.old_values,
        };
        rows.get((j * heads + head) * dim..).and_then(|row| row.get(..dim)).unwrap_or(&[])
    }

    /// Op `kv.archive!`: whole pages of every sequence, as their codes read back.
    pub fn archive(&mut self) {
        let StateType::Paged { heads, dim, archive, .. } = self.ty else { return };
        let Some(archive) = archive else { return };
        let width = heads * dim;
        for history in self.sequences.values_mut() {
            let whole = history.keys.len() / (width * PAGE_TOKENS) * PAGE_TOKENS;
            let mean: Vec<f32> = match archive.centered && whole >= archive.first {
                true => (0..width)
                    .map(|i| {
                        let sum: f32 = (MEAN_FROM..archive.first).map(|j| history.keys[j * width + i]).sum();
                        sum / (archive.first - MEAN_FROM) as f32
                    })
                    .collect(),
                false => vec![0.0; width],
            };
            let coded = |format: Turbo, row: &[f32], less: &[f32]| -> Vec<f32> {
                let x: Vec<f32> = row.iter().zip(less).map(|(x, m)| x - m).collect();
                format.rounded(&x).iter().zip(less).map(|(x, m)| x + m).collect()
            };
            for row in history.old_keys.len() / dim..whole * heads {
                let (at, head) = (row * dim..(row + 1) * dim, row % heads * dim);
                let key = coded(archive.k, &history.keys[at.clone()], &mean[head..head + dim]);
                let value = archive.v.rounded(&history.values[at]);
                history.old_keys.extend(key);
                history.old_values.extend(value);
            }
        }
    }

    /// Op `kv.append!`: row `t` of `k` and `v` becomes position `p_t` of sequence `s_t`, rounded to what the state's
    /// formats can hold. Of a state of latents they lie one behind the other.
    ///
    /// # Errors
    /// A position that does not follow on its sequence's last, or a format that has no encoder.
    pub fn append(&mut self, k: &[f32], v: &[f32], step: &Step<'_>) -> Result<(), String> {
        let StateType::Paged { heads, dim, k: k_format, v: v_format, latent, .. } = self.ty else {
            return Err(format!("`kv.append!`: {} has no keys and values", self.ty));
        };
        let width = self.row_elements();
        let joined: Vec<f32>;
        let k = match latent {
            None => k,
            Some(latent) => {
                let parts = k.chunks_exact(heads * latent).zip(v.chunks_exact(heads * (dim - latent)));
                joined = parts.flat_map(|(latent, rotated)| [latent, rotated].concat()).collect();
                &joined
            }
        };
        for (t, token) in step.tokens.iter().enumerate() {
            let expected = self.len(token.sequence);
            if token.position as usize != expected {
                let (sequence, position) = (token.sequence, token.position);
                return Err(format!("`kv.append!`: sequence {sequence}: expected position {expected}, got {position}"));
            }
            let row = t * width..(t + 1) * width;
            let stored = |x: &[f32], format| -> Result<Vec<f32>, String> {
                let head = HeadRow::new(format, dim).map_err(|e| format!("`kv.append!`: {e}"))?;
                Ok(x.chunks_exact(dim).flat_map(|x| head.rounded(x)).collect())
            };
            let keys = stored(&k[row.clone()], k_format)?;
            let values = if latent.is_some() { vec![] } else { stored(&v[row], v_format)? };
            let history = self.sequences.entry(token.sequence).or_default();
            history.keys.extend(keys);
            history.values.extend(values);
        }
        Ok(())
    }

    /// Op `conv.append!`: row `t` of `x` becomes input `p_t` of sequence `s_t`.
    ///
    /// # Errors
    /// A position that does not follow on its sequence's last, or a state of another kind.
    pub fn push_inputs(&mut self, x: &[f32], step: &Step<'_>) -> Result<(), String> {
        self.recurrences_mut("conv.append!")?.push_inputs(x, step)
    }

    /// Op `conv.causal` with the weight `[channels, taps]`.
    ///
    /// # Errors
    /// An input that is not there, or a state of another kind.
    pub fn convolve(&self, weight: &[f32], step: &Step<'_>) -> Result<Vec<f32>, String> {
        self.recurrences("conv.causal")?.convolve(weight, step)
    }

    /// Op `delta.append!` of keys, values, decays and betas.
    ///
    /// # Errors
    /// A position that does not follow on its sequence's last, or a state of another kind.
    pub fn take_in(&mut self, [keys, values, decay, beta]: [&[f32]; 4], step: &Step<'_>) -> Result<(), String> {
        self.recurrences_mut("delta.append!")?.take_in(&Taken { keys, values, decay, beta }, step)
    }

    /// Op `delta.read` of queries.
    ///
    /// # Errors
    /// A token that is none of the last taken in, or a state of another kind.
    pub fn recall(&self, q: &[f32], scale: f64, step: &Step<'_>) -> Result<Vec<f32>, String> {
        self.recurrences("delta.read")?.recall(q, scale, step)
    }

    /// Op `ssm.append!` of B, x and time steps with the weight a.
    ///
    /// # Errors
    /// A position that does not follow on its sequence's last, or a state of another kind.
    pub fn absorb(&mut self, [b, x, dt]: [&[f32]; 3], a: &[f32], step: &Step<'_>) -> Result<(), String> {
        self.recurrences_mut("ssm.append!")?.absorb(&Absorbed { b, x, dt, a }, step)
    }

    /// Op `ssm.read` of C and x with the weight d.
    ///
    /// # Errors
    /// A token that is none of the last taken in, or a state of another kind.
    pub fn emit(&self, c: &[f32], x: &[f32], d: &[f32], step: &Step<'_>) -> Result<Vec<f32>, String> {
        self.recurrences("ssm.read")?.emit(c, x, d, step)
    }
}
