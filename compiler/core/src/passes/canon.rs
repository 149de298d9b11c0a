//! Canonical form: equal pure values become one, ops that do nothing disappear, dead values go.

use indexmap::IndexMap;
use swiftlm_ir::graph::{Arg, Def, Graph, Value};
use swiftlm_ir::ops::Op;

use crate::rewrite::Rewriter;

/// Runs the pass.
pub fn run(g: &Graph) -> Graph {
    let mut r = Rewriter::new(g);
    let mut known: IndexMap<String, Value> = IndexMap::new();
    for i in 0..g.values.len() {
        let v = Value(i as u32);
        let Def::Node { op, args } = &g.value(v).def else {
            r.copy(v);
            continue;
        };
        if let (true, Some(Arg::Value(x))) = (is_identity(g, op, args), args.first()) {
            r.replace(v, r.value(*x));
            continue;
        }
        if op.is_effect() {
            r.copy(v);
            continue;
        }
        let args: Vec<Arg> = args.iter().map(|a| r.arg(*a)).collect();
        let key = format!("{op:?} {args:?}");
        match known.get(&key) {
            Some(same) => r.replace(v, *same),
            None => {
                let new = r.copy(v);
                known.insert(key, new);
            }
        }
    }
    r.finish()
}

fn is_identity(g: &Graph, op: &Op, args: &[Arg]) -> bool {
    match (op, args) {
        (Op::Scale { factor } | Op::ScalePart { factor, .. }, _) => *factor == 1.0,
        (Op::Slice { start: 0, len }, [Arg::Value(x)]) => g.value(*x).ty.tensor().and_then(|t| t.width()) == Some(*len),
        _ => false,
    }
}
