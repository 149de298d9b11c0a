//! A module at work on sequences: step after step, with its states kept between them.

use std::collections::BTreeMap;
use std::rc::Rc;

use indexmap::IndexMap;

use super::eval::{Matrix, eval_graph};
use super::rope;
use super::state::HostState;
use super::tensor::{HostTensor, HostValue, Step, Token};
use crate::graph::{Call, Module, ParamKind, WeightType};

/// Where encoded matrices come from.
pub trait WeightBytes {
    /// The rows of the named tensors, one tensor after another, encoded and laid out as
    /// [`Format::layout`](crate::quant::Format::layout) says for `ty`. A name may end in `#i`, see
    /// [`WeightDecl::names`](crate::graph::WeightDecl::names).
    ///
    /// # Errors
    /// A tensor that is not there, or is of another type.
    fn bytes(&self, names: &[String], ty: &WeightType) -> Result<Vec<u8>, String>;
}

/// A module with its weights and the states of all sequences seen so far. Matrices are decoded when first used and kept.
pub struct Session<'a> {
    module: &'a Module,
    weights: &'a dyn WeightBytes,
    matrices: IndexMap<(Vec<String>, WeightType), Matrix>,
    states: Vec<Rc<HostState>>,
    lengths: BTreeMap<u32, usize>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("lengths", &self.lengths).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// A session without sequences.
    ///
    /// # Errors
    /// Everything that is wrong with the module.
    pub fn new(module: &'a Module, weights: &'a dyn WeightBytes) -> Result<Self, String> {
        crate::verify::verify(module).map_err(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        let states = module.states.iter().map(|ty| Rc::new(HostState::new(ty))).collect();
        Ok(Self { module, weights, matrices: IndexMap::new(), states, lengths: BTreeMap::new() })
    }

    /// Tokens of a sequence so far.
    pub fn len(&self, sequence: u32) -> usize {
        self.lengths.get(&sequence).copied().unwrap_or(0)
    }

    /// Whether no sequence has a token.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Drops a sequence, which may start again at position 0.
    pub fn forget(&mut self, sequence: u32) {
        self.lengths.remove(&sequence);
        for state in &mut self.states {
            Rc::make_mut(state).forget(sequence);
        }
    }

    /// Takes tokens in and gives the logits of the tokens whose indices are `rows`, in that order.
    ///
    /// # Errors
    /// A token outside the vocabulary, a position that does not follow on its sequence's last, a row that is no token: the
    /// sequences are as before. A weight that cannot be had: their states are as before, too.
    pub fn step(&mut self, tokens: &[Token], rows: &[usize]) -> Result<Vec<Vec<f32>>, String> {
        let step = Step { tokens, rows };
        let lengths = self.check(&step)?;
        let matrices = (0..self.module.main.len()).map(|call| self.matrices(call)).collect::<Result<Vec<_>, _>>()?;
        let mut results: Vec<HostValue> = vec![];
        for (call, weights) in self.module.main.iter().zip(&matrices) {
            let flow = results.drain(..).next();
            let params = self.params(call, flow, &step)?;
            results = eval_graph(&self.module.funcs[call.func], params, weights, &step)?;
            let tensors = results.len().saturating_sub(call.states.len());
            for (i, result) in call.states.iter().zip(results.drain(tensors..)) {
                if let HostValue::State(state) = result {
                    self.states[*i] = state;
                }
            }
        }
        self.lengths = lengths;
        let logits = results.first().and_then(HostValue::tensor).ok_or("the last call gives no logits")?;
        let width = logits.shape.last().copied().unwrap_or(0).max(1);
        Ok(logits.floats().ok_or("logits must be f32")?.chunks_exact(width).map(<[f32]>::to_vec).collect())
    }

    /// Lengths of the sequences after the step.
    fn check(&self, step: &Step<'_>) -> Result<BTreeMap<u32, usize>, String> {
        step.check()?;
        let mut lengths = self.lengths.clone();
        for token in step.tokens {
            if token.id as usize >= self.module.vocabulary {
                return Err(format!("token {} is not in a vocabulary of {}", token.id, self.module.vocabulary));
            }
            let length = lengths.entry(token.sequence).or_default();
            if token.position as usize != *length {
                let (sequence, position) = (token.sequence, token.position);
                return Err(format!("sequence {sequence}: expected a token at position {length}, got {position}"));
            }
            *length += 1;
        }
        Ok(lengths)
    }

    fn params(&mut self, call: &Call, flow: Option<HostValue>, step: &Step<'_>) -> Result<Vec<HostValue>, String> {
        let mut flow = flow;
        let func = &self.module.funcs[call.func];
        let mut params = Vec::with_capacity(func.params.len());
        for (kind, _) in &func.params {
            params.push(match kind {
                ParamKind::Flow => flow.take().ok_or_else(|| format!("@{}: nothing flows in", func.name))?,
                ParamKind::Ids => {
                    let ids: Vec<u32> = step.tokens.iter().map(|t| t.id).collect();
                    HostTensor::u32(&[ids.len()], ids).into()
                }
                ParamKind::RopeTable(i) => rope::table(&self.module.rope_tables[*i], step).into(),
                ParamKind::State(i) => {
                    let missing = || format!("@{}: the call gives no state {i}", func.name);
                    let i = *call.states.get(*i).ok_or_else(missing)?;
                    // The step's result takes its place: a second reference would make the append copy it.
                    let placeholder = Rc::new(HostState::new(&self.module.states[i]));
                    HostValue::State(std::mem::replace(&mut self.states[i], placeholder))
                }
            });
        }
        Ok(params)
    }

    /// The decoded weights of a call, in slot order.
    fn matrices(&mut self, call: usize) -> Result<Vec<Matrix>, String> {
        let module = self.module;
        let mut matrices = vec![];
        for decl in &module.funcs[module.main[call].func].weights {
            let key = (module.weight_names(call, decl), decl.ty);
            if let Some(known) = self.matrices.get(&key) {
                matrices.push(known.clone());
                continue;
            }
            let bytes = self.weights.bytes(&key.0, &decl.ty)?;
            if bytes.len() != decl.ty.bytes() {
                let (expected, got) = (decl.ty.bytes(), bytes.len());
                return Err(format!("weight `{}`: expected {expected} bytes of {}, got {got}", key.0[0], decl.ty));
            }
            let decoded: Matrix = decl.ty.format.decode_matrix(&bytes, decl.ty.rows, decl.ty.cols).into();
            self.matrices.insert(key, decoded.clone());
            matrices.push(decoded);
        }
        Ok(matrices)
    }
}
