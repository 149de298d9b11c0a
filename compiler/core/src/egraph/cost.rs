//! What an e-node costs: coarse integers, decided by anchors. A product costs the bytes it streams, everything else about
//! a launch; elementwise ops ride along as epilogues and cost next to nothing, but not nothing.

use egg::EGraph;
use swiftlm_ir::ops::infer::ArgType;
use swiftlm_ir::ty::Type;

use super::analysis::{Fact, Types};
use super::lang::Node;

/// A launch: what reading 64 KiB takes, about.
const LAUNCH: u64 = 64;
/// Whatever is done to every token of a history.
const HISTORY: u64 = 1 << 30;

/// Cost of one node, its children not included; saturating. `None` if it must never be picked.
pub fn cost(egraph: &EGraph<Node, Types>, node: &Node) -> Option<u64> {
    let Node::Op(name, children) = node else { return Some(0) };
    let kib = children.iter().map(|c| match &egraph[*c].data {
        Fact::Typed(ArgType::Weight(w)) => w.bytes() as u64 / 1024,
        _ => 0,
    });
    let ill_typed = children.iter().any(|c| matches!(egraph[*c].data, Fact::IllTyped(_)));
    match name.as_str() {
        _ if ill_typed => None,
        "rotate" | "head_linear"
            if matches!(&egraph[children[0]].data, Fact::Typed(ArgType::Value(Type::History { .. }))) =>
        {
            Some(HISTORY)
        }
        "linear" | "head_linear" | "moe.linear" => Some(LAUNCH + kib.sum::<u64>()),
        "embed" | "rms_norm" | "attend" | "rope" | "rows" | "arg_max" | "moe.route_ids" | "moe.combine" => Some(LAUNCH),
        "moe.route_weights" => Some(1),
        // Views are free, but a shorter chain of them is better.
        "split_heads" | "merge_heads" | "slice" | "kv.k" | "kv.v" => Some(1),
        _ => Some(4),
    }
}
