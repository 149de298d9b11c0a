//! Histories are read as they are stored. No launch rotates a whole history: where rules were not allowed to move a
//! rotation away from one, this pass does, by the same two identities (see `rules/turbo.rs`).

use swiftlm_ir::graph::{Arg, Graph, Value};
use swiftlm_ir::ops::Op;

use crate::rewrite::Rewriter;

/// Runs the pass.
pub fn run(g: &Graph) -> Graph {
    let mut r = Rewriter::new(g);
    let stored = |history: Arg| match history {
        Arg::Value(v) => match g.node(v) {
            Some((Op::Rotate { inverse: true }, [stored])) => Some(*stored),
            _ => None,
        },
        Arg::Weight(_) => None,
    };
    for i in 0..g.values.len() {
        let v = Value(i as u32);
        let Some((op @ Op::Attend { .. }, [q, k, values])) = g.node(v) else {
            r.copy(v);
            continue;
        };
        let (stored_k, stored_v) = (stored(*k), stored(*values));
        let loc = &g.value(v).loc;
        let mut query = r.arg(*q);
        if stored_k.is_some() {
            query = r.emit(Op::Rotate { inverse: false }, vec![query], loc).into();
        }
        let args = vec![query, r.arg(stored_k.unwrap_or(*k)), r.arg(stored_v.unwrap_or(*values))];
        let mut y = r.emit(op.clone(), args, loc);
        if stored_v.is_some() {
            y = r.emit(Op::Rotate { inverse: true }, vec![y.into()], loc);
        }
        r.replace(v, y);
    }
    r.finish()
}
