//! Histories are read as they are stored. No launch rotates a whole history or multiplies it: where rules were not allowed
//! to move either away from one, this pass does, by the same identities (see `rules/turbo.rs` and `rules/latent.rs`).

use swiftlm_ir::graph::{Arg, Graph, Value};
use swiftlm_ir::ops::Op;

use crate::rewrite::Rewriter;

/// What is done to a history, with its further arguments, and the history that it is done to.
fn done(g: &Graph, history: Arg) -> Option<(Op, Vec<Arg>, Arg)> {
    let Arg::Value(v) = history else { return None };
    match g.node(v) {
        Some((op @ (Op::Rotate { inverse: true } | Op::HeadLinear { .. }), [stored, rest @ ..])) => {
            Some((op.clone(), rest.to_vec(), *stored))
        }
        _ => None,
    }
}

/// What does to a query what `op` would have done to keys.
fn adjoint(op: &Op) -> Op {
    match *op {
        Op::HeadLinear { heads, first, len, transposed } => {
            Op::HeadLinear { heads, first, len, transposed: !transposed }
        }
        _ => Op::Rotate { inverse: false },
    }
}

/// Runs the pass.
pub fn run(g: &Graph) -> Graph {
    let mut r = Rewriter::new(g);
    for i in 0..g.values.len() {
        let v = Value(i as u32);
        let Some((op @ Op::Attend { .. }, [q, k, values, sinks @ ..])) = g.node(v) else {
            r.copy(v);
            continue;
        };
        let loc = &g.value(v).loc;
        let (mut query, mut keys, mut values, mut after) = (r.arg(*q), *k, *values, vec![]);
        while let Some((op, rest, stored)) = done(g, keys) {
            query = r.emit(adjoint(&op), [vec![query], rest].concat(), loc).into();
            keys = stored;
        }
        while let Some((op, rest, stored)) = done(g, values) {
            after.push((op, rest));
            values = stored;
        }
        let mut args = vec![query, r.arg(keys), r.arg(values)];
        args.extend(sinks.iter().map(|sinks| r.arg(*sinks)));
        let mut y = r.emit(op.clone(), args, loc);
        for (op, rest) in after.into_iter().rev() {
            y = r.emit(op, [vec![y.into()], rest].concat(), loc);
        }
        r.replace(v, y);
    }
    r.finish()
}
