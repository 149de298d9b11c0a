//! Functions and modules on the host reference with made-up inputs and weights.

use std::collections::BTreeMap;
use std::rc::Rc;

use swiftlm_ir::graph::{Graph, Module, WeightType};
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::reference::eval::Matrix;
use swiftlm_ir::reference::{HostState, HostTensor, HostValue, Step, Token, WeightBytes, eval_graph};
use swiftlm_ir::ty::{DType, Type};
use swiftlm_runtime::WeightSource;

/// Largest relative error where a rule moves a rounding to f32.
pub const BAR: f64 = 2e-6;

/// Numbers in [-1, 1).
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let hash = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)).wrapping_mul(2_246_822_519);
    (0..n as u32).map(|i| hash(i + 1) as f32 / 2_147_483_648.0 - 1.0).collect()
}

/// Results of a function for seven tokens of one sequence; `seed` tells inputs and weights apart. `written` is the function
/// before passes merged its weights.
///
/// # Panics
/// The function takes something that no case has, or is not valid.
pub fn evaluate(g: &Graph, written: &Graph, seed: u32) -> Vec<HostValue> {
    let tokens: Vec<Token> = (0..7).map(|p| Token { id: (p * 5 + seed) % 16, sequence: 0, position: p }).collect();
    let step = Step { tokens: &tokens, rows: &[6] };
    let params = g.params.iter().enumerate().map(|(i, (_, v))| match &g.value(*v).ty {
        Type::Tensor(t) if t.dtype == DType::U32 => {
            HostTensor::u32(&step.shape(t), tokens.iter().map(|t| t.id).collect()).into()
        }
        Type::Tensor(t) => {
            let shape = step.shape(t);
            HostTensor::f32(&shape, noise(shape.iter().product(), seed * 100 + i as u32 + 1)).into()
        }
        Type::State(s) => HostValue::State(Rc::new(HostState::new(s))),
        other => panic!("a case has no parameter of type {other}"),
    });
    let mut tensors = Tensors::default();
    tensors.add(written, "");
    let weights: Vec<Matrix> = g
        .weights
        .iter()
        .map(|w| tensors.values(&w.names, w.ty.cols, seed).unwrap_or_else(|e| panic!("{e}")).into())
        .collect();
    eval_graph(g, params.collect(), &weights, &step).unwrap_or_else(|e| panic!("{e}"))
}

/// Tensors whose values follow from their names: rows of each, since a pass may merge several into one weight.
#[derive(Clone, Debug, Default)]
pub struct Tensors(BTreeMap<String, usize>);

impl Tensors {
    /// The tensors of a module that no pass has seen.
    pub fn of(module: &Module) -> Self {
        let mut tensors = Self::default();
        module.main.iter().for_each(|call| tensors.add(&module.funcs[call.func], &call.scope));
        tensors
    }

    fn add(&mut self, g: &Graph, scope: &str) {
        for w in &g.weights {
            let name = w.names.join(" ");
            self.0.insert(if scope.is_empty() { name } else { format!("{scope}.{name}") }, w.ty.rows);
        }
    }

    fn values(&self, names: &[String], cols: usize, seed: u32) -> Result<Vec<f32>, String> {
        let mut values = vec![];
        for name in names {
            let rows = self.0.get(name).ok_or_else(|| format!("there is no tensor {name}"))?;
            let own = name.bytes().fold(7, |sum, byte| (sum * 31 + u32::from(byte)) % 9973);
            values.extend(noise(rows * cols, seed * 100 + 51 + own));
        }
        Ok(values)
    }
}

impl WeightBytes for Tensors {
    fn bytes(&self, names: &[String], ty: &WeightType) -> Result<Vec<u8>, String> {
        let Format::Float(float) = ty.format else { return Err(format!("{names:?}: {} is no float", ty.format)) };
        // Small enough that deep sums stay near 1.
        let scale = 1.5 / (ty.cols as f32).sqrt();
        let values = self.values(names, ty.cols, 1)?.into_iter().map(|x| x * scale);
        let mut bytes: Vec<u8> = match float {
            Float::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Float::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
            Float::Bf16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        };
        bytes.resize(ty.bytes(), 0);
        Ok(bytes)
    }
}

impl WeightSource for Tensors {
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String> {
        into.copy_from_slice(&self.bytes(&weight.names, &weight.ty)?[offset..][..into.len()]);
        Ok(())
    }
}
