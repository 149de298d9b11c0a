//! Where the matrices and vectors of experts lie in a checkpoint: stacked, one by one, or with gate and up in turns.

use swiftlm_ir::graph::{Value, WeightSlot};
use swiftlm_ir::ops::Op;

use super::Block;
use super::moe::Moe;

/// Tensors that hold the matrices of all experts of one side.
const STACKS: [&str; 2] = ["switch_mlp", "experts"];

impl Block<'_> {
    /// Gate and up of the chosen experts. Where one tensor holds both, its rows take turns.
    pub(super) fn expert_sides(&mut self, x: Value, ids: Value, m: &Moe) -> [Value; 2] {
        let Some(both) = self.merged("gate_up_proj", m.experts, (2 * m.inner, self.width(x)), 2) else {
            return [0, 1].map(|side| self.expert_product(side, x, ids, m.inner, m));
        };
        let bias = m.bias.then(|| self.expert_vectors("experts.gate_up_proj_bias", m.experts, 2 * m.inner, 2));
        let y = self.expert_linear(x, ids, both, bias, m.experts);
        [0, m.inner].map(|start| self.op(Op::Slice { start, len: m.inner }, [y.into()]))
    }

    /// Results of the chosen experts from what lies between.
    pub(super) fn expert_results(&mut self, h: Value, ids: Value, width: usize, m: &Moe) -> Value {
        let Some(down) = self.merged("down_proj", m.experts, (width, m.inner), 1) else {
            return self.expert_product(2, h, ids, width, m);
        };
        let bias = m.bias.then(|| self.expert_vectors("experts.down_proj_bias", m.experts, width, 1));
        self.expert_linear(h, ids, down, bias, m.experts)
    }

    /// A product with matrix `which` of gate, up and down, each expert's or all experts' in a tensor of its own.
    fn expert_product(&mut self, which: usize, x: Value, ids: Value, outputs: usize, m: &Moe) -> Value {
        let (stacked, inputs) = (super::moe::MATRICES[which], self.width(x));
        let w = self.expert_matrices(stacked, m.names[which], m.experts, outputs, inputs);
        let bias = m.bias.then(|| self.expert_vectors(&format!("experts.{stacked}.bias"), m.experts, outputs, 1));
        self.expert_linear(x, ids, w, bias, m.experts)
    }

    fn expert_linear(
        &mut self,
        x: Value,
        ids: Value,
        w: WeightSlot,
        bias: Option<WeightSlot>,
        experts: usize,
    ) -> Value {
        let x = self.activation(x, w);
        let y = self.op(Op::ExpertLinear { experts }, [x.into(), ids.into(), w.into()]);
        bias.map_or(y, |bias| self.op(Op::ExpertBias { experts }, [y.into(), ids.into(), bias.into()]))
    }

    /// Matrices of `count` experts, rows of one expert after those of another: one tensor `{stack}.{stacked}.weight` or,
    /// where the checkpoint does not hold it, a tensor `experts.{e}.{single}.weight` for each.
    pub fn expert_matrices(
        &mut self,
        stacked: &str,
        single: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> WeightSlot {
        let stack = STACKS.map(|stack| format!("{stack}.{stacked}.weight")).into_iter().find(|name| self.has(name));
        if let Some(stack) = stack {
            return self.stacked_matrices(&stack, count, rows, cols);
        }
        let names: Vec<String> = (0..count).map(|e| format!("experts.{e}.{single}.weight")).collect();
        let types: Vec<_> = names.iter().map(|n| self.resolver.weight(&self.full(n), 1, rows, cols)).collect();
        let mut ty = types[0];
        if let Some(odd) = types.iter().position(|t| t.format != ty.format) {
            let (first, other) = (self.full(&names[0]), self.full(&names[odd]));
            self.resolver.error(format!("tensors `{first}` and `{other}` are stored in different formats"));
        }
        ty.rows = count * rows;
        self.graph.weight(&names, ty)
    }

    /// The matrices `experts.{name}` of `count` experts in the layout of newer files on the Hub: small floats with scales
    /// of blocks, or floats whose rows are inputs. Of each, rows are dealt to `sides`.
    fn merged(&mut self, name: &str, count: usize, (rows, cols): (usize, usize), sides: usize) -> Option<WeightSlot> {
        let name = format!("experts.{name}");
        let (full, blocks) = (self.full(&name), format!("{name}_blocks"));
        if self.has(&blocks) {
            let ty = self.resolver.blocks(&full, count, rows, cols);
            return Some(self.graph.weight(&dealt(&blocks, count, "", sides), ty));
        }
        if !self.has(&name) {
            return None;
        }
        let ty = self.resolver.floats(&full, &[count, cols, rows], count * rows, cols);
        Some(self.graph.weight(&dealt(&name, count, "^", sides), ty))
    }

    /// The vectors of `count` experts as one column, their elements dealt to `sides`.
    fn expert_vectors(&mut self, name: &str, count: usize, len: usize, sides: usize) -> WeightSlot {
        let ty = self.resolver.floats(&self.full(name), &[count, len], count * len, 1);
        self.graph.weight(&dealt(name, count, "", sides), ty)
    }
}

/// Names of the slices of a tensor with their order of rows.
fn dealt(name: &str, count: usize, order: &str, sides: usize) -> Vec<String> {
    let sides = if sides > 1 { format!("%{sides}") } else { String::new() };
    (0..count).map(|e| format!("{name}#{e}{order}{sides}")).collect()
}
