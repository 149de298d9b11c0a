//! Values as the reference holds them: plain vectors, and the facts of a step that give symbols their sizes.

use std::rc::Rc;

use super::attend::History;
use super::state::HostState;
use crate::dim::{Dim, Sym};
use crate::ty::{DType, TensorType};

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id, below the module's vocabulary.
    pub id: u32,
    /// The sequence it belongs to; any number that the caller likes.
    pub sequence: u32,
    /// Its position in the sequence, counted from 0.
    pub position: u32,
}

/// What is known of a step.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The tokens, of all sequences together; those of one sequence stand in order.
    pub tokens: &'a [Token],
    /// Indices of the tokens that want logits.
    pub rows: &'a [usize],
}

impl Step<'_> {
    /// The size of an extent in this step.
    pub fn extent(&self, d: Dim) -> usize {
        match d {
            Dim::Const(n) => n,
            Dim::Sym(Sym::Tokens) => self.tokens.len(),
            Dim::Sym(Sym::Rows) => self.rows.len(),
        }
    }

    /// The sizes of a tensor type in this step.
    pub fn shape(&self, ty: &TensorType) -> Vec<usize> {
        ty.shape.iter().map(|d| self.extent(*d)).collect()
    }

    /// Whether every row that wants logits is a token.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), String> {
        match self.rows.iter().find(|r| **r >= self.tokens.len()) {
            Some(r) => Err(format!("row {r} wants logits in a step of {} tokens", self.tokens.len())),
            None => Ok(()),
        }
    }
}

/// Elements of a tensor, the last extent innermost.
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// Activations.
    F32(Vec<f32>),
    /// Ids.
    U32(Vec<u32>),
}

/// A tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: HostData,
}

impl HostTensor {
    /// A tensor of activations.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Self {
        Self { shape: shape.to_vec(), data: HostData::F32(data) }
    }

    /// A tensor of ids.
    pub fn u32(shape: &[usize], data: Vec<u32>) -> Self {
        Self { shape: shape.to_vec(), data: HostData::U32(data) }
    }

    /// The activations, if that is what it holds.
    pub fn floats(&self) -> Option<&[f32]> {
        match &self.data {
            HostData::F32(x) => Some(x),
            HostData::U32(_) => None,
        }
    }

    /// The ids, if that is what it holds.
    pub fn ids(&self) -> Option<&[u32]> {
        match &self.data {
            HostData::U32(x) => Some(x),
            HostData::F32(_) => None,
        }
    }

    /// Whether this is a value of type `ty` in `step`.
    pub fn is(&self, ty: &TensorType, step: &Step<'_>) -> bool {
        let (len, fits) = match &self.data {
            HostData::F32(x) => (x.len(), ty.dtype == DType::F32),
            HostData::U32(x) => (x.len(), ty.dtype == DType::U32),
        };
        fits && self.shape == step.shape(ty) && len == self.shape.iter().product::<usize>()
    }
}

/// Any value of a graph.
#[derive(Clone, Debug)]
pub enum HostValue {
    /// An activation.
    Tensor(HostTensor),
    /// A version of a state.
    State(Rc<HostState>),
    /// Keys or values of a version of a state.
    History(History),
}

impl From<HostTensor> for HostValue {
    fn from(t: HostTensor) -> Self {
        Self::Tensor(t)
    }
}

impl HostValue {
    /// The tensor, if it is one.
    pub fn tensor(&self) -> Option<&HostTensor> {
        match self {
            Self::Tensor(t) => Some(t),
            _ => None,
        }
    }
}
