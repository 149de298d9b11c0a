//! The weights that a model wants of its checkpoint.

use swiftlm_ir::plan::WeightBuffer;
use swiftlm_models::Model;

/// The weights as the model's graph has them.
pub(crate) fn of_graph(model: &Model) -> Vec<WeightBuffer> {
    let mut all = vec![];
    for call in &model.module.main {
        let full = |n: &String| if call.scope.is_empty() { n.clone() } else { format!("{}.{n}", call.scope) };
        for weight in &model.module.funcs[call.func].weights {
            all.push(WeightBuffer { names: weight.names.iter().map(full).collect(), ty: weight.ty });
        }
    }
    all
}
