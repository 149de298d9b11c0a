//! States as plain vectors: keys and values of every token of every sequence, one after another. No pages, no table.

use std::collections::BTreeMap;

use super::tensor::Step;
use crate::quant::HeadRow;
use crate::ty::StateType;

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
}

/// One version of a state, for all sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct HostState {
    ty: StateType,
    sequences: BTreeMap<u32, History>,
}

impl HostState {
    /// The state before the first token.
    pub fn new(ty: &StateType) -> Self {
        Self { ty: ty.clone(), sequences: BTreeMap::new() }
    }

    /// Its type.
    pub fn ty(&self) -> &StateType {
        &self.ty
    }

    /// Elements that one token adds to its keys, and again to its values.
    fn row_elements(&self) -> usize {
        let StateType::Paged { heads, dim, .. } = &self.ty;
        heads * dim
    }

    /// Tokens of a sequence.
    pub fn len(&self, sequence: u32) -> usize {
        self.sequences.get(&sequence).map_or(0, |h| h.keys.len() / self.row_elements())
    }

    /// Whether no sequence has a token.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Drops a sequence.
    pub fn forget(&mut self, sequence: u32) {
        self.sequences.remove(&sequence);
    }

    /// Keys or values of a sequence, `[token, heads, dim]`.
    pub fn part(&self, sequence: u32, part: Part) -> &[f32] {
        match (self.sequences.get(&sequence), part) {
            (Some(h), Part::Keys) => &h.keys,
            (Some(h), Part::Values) => &h.values,
            (None, _) => &[],
        }
    }

    /// Op `kv.append!`: row `t` of `k` and `v` becomes position `p_t` of sequence `s_t`, rounded to what the state's
    /// formats can hold.
    ///
    /// # Errors
    /// A position that does not follow on its sequence's last, or a format that has no encoder.
    pub fn append(&mut self, k: &[f32], v: &[f32], step: &Step<'_>) -> Result<(), String> {
        let StateType::Paged { dim, k: k_format, v: v_format, .. } = self.ty;
        let width = self.row_elements();
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
            let values = stored(&v[row], v_format)?;
            let history = self.sequences.entry(token.sequence).or_default();
            history.keys.extend(keys);
            history.values.extend(values);
        }
        Ok(())
    }
}
