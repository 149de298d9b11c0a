//! Residency: where not all experts of a layer fit memory, the plan says when the host brings them.

use std::ops::Range;

use swiftlm_ir::graph::{Arg, Graph, Value};
use swiftlm_ir::ops::Op;
use swiftlm_ir::plan::{Ahead, Fetch, Input};
use swiftlm_ir::template::Template;

use super::ahead;
use super::fuse::{Group, GroupArg};
use super::memory::Placement;
use crate::rewrite::Rewriter;

/// Puts an `expert.fetch!` between the choice of experts and all that reads their weights, where there are more than `slots`.
pub fn run(g: &Graph, slots: usize) -> Graph {
    let mut r = Rewriter::new(g);
    let mut fetched: Vec<(Value, Value)> = vec![];
    for i in 0..g.values.len() {
        let v = Value(i as u32);
        match g.node(v) {
            Some((op @ (Op::ExpertLinear { experts } | Op::ExpertBias { experts }), [x, Arg::Value(ids), w]))
                if *experts > slots =>
            {
                let known = fetched.iter().find(|(of, _)| of == ids).map(|(_, slots)| *slots);
                let loc = &g.value(v).loc;
                let at = known.unwrap_or_else(|| {
                    let ids = r.value(*ids);
                    r.emit(Op::ExpertFetch { slots }, vec![ids.into()], &g.value(v).loc)
                });
                if known.is_none() {
                    fetched.push((*ids, at));
                }
                let args = vec![r.arg(*x), at.into(), *w];
                let new = r.emit(op.clone(), args, loc);
                r.replace(v, new);
            }
            _ => {
                r.copy(v);
            }
        }
    }
    r.finish()
}

/// The launches that the host may repeat: from the first that reads slots to the last. What one of them reads or writes
/// must keep its place until all are done.
pub fn turns(groups: &[Group]) -> Option<Range<usize>> {
    let reads = |group: &Group| group.args.contains(&GroupArg::Input(Input::Slots));
    let (first, last) = (groups.iter().position(reads)?, groups.iter().rposition(reads)?);
    Some(first..last + 1)
}

/// What the host reads and where it brings it.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The chosen experts.
    pub ids: Value,
    /// Those that the next choice may be.
    pub ahead: Option<Value>,
    /// Slots.
    pub slots: usize,
}

/// The choices of a function for which the host brings experts.
pub fn choices(g: &Graph) -> impl Iterator<Item = Choice> + '_ {
    (0..g.values.len()).filter_map(|i| match g.node(Value(i as u32)) {
        Some((Op::ExpertFetch { slots }, [Arg::Value(ids), ahead @ ..])) => {
            let ahead = match ahead.first() {
                Some(Arg::Value(ahead)) => Some(*ahead),
                _ => None,
            };
            Some(Choice { ids: *ids, ahead, slots: *slots })
        }
        _ => None,
    })
}

/// The launches of a guess, if they are the last before the turns: only then can they be left out.
fn guess(g: &Graph, groups: &[Group], turns: &Range<usize>) -> Option<Range<usize>> {
    let guessed = ahead::guessed(g);
    let first = groups.iter().position(|group| guessed.contains(&group.anchor))?;
    let inside = |group: &Group| guessed.contains(&group.anchor);
    (first < turns.start && groups[first..turns.start].iter().all(inside)).then_some(first..turns.start)
}

/// What the host does between the launches of a function.
///
/// # Errors
/// A function with two choices of experts, or one whose launches cannot be repeated.
pub fn fetches(g: &Graph, groups: &[Group], placement: &Placement) -> Result<Vec<Fetch>, String> {
    let (Some(launches), mut choices) = (turns(groups), choices(g)) else { return Ok(vec![]) };
    let (Some(Choice { ids, ahead, slots }), None) = (choices.next(), choices.next()) else {
        return Err(format!("@{}: experts are fetched for one choice in a function", g.name));
    };
    let flow = |arg: &GroupArg| match arg {
        GroupArg::Write(v) => placement.operands.get(v) == placement.flow.as_ref(),
        GroupArg::WriteFlow | GroupArg::State(..) => true,
        _ => false,
    };
    if let Some(group) = groups[launches.clone()].iter().find(|group| group.args.iter().any(flow)) {
        return Err(format!("@{} {}: a launch between products with experts cannot be repeated", g.name, group.loc));
    }
    let ids = placement.operands.get(&ids).cloned().ok_or("the chosen experts do not lie in memory")?;
    let ahead = ahead.and_then(|ids| placement.operands.get(&ids)).cloned();
    let ahead = ahead.and_then(|ids| Some(Ahead { launches: guess(g, groups, &launches)?, ids }));
    let mut fetch = Fetch { launches: launches.clone(), ids, top_k: 0, experts: 0, slots, weights: vec![], ahead };
    for group in &groups[launches] {
        let Template::ExpertLinear(t) = &group.template else { continue };
        fetch.top_k = t.top_k;
        for arg in &group.args {
            let GroupArg::Weight(slot, _, rows) = arg else { continue };
            fetch.experts = g.weights[*slot].ty.rows / (rows / slots);
            fetch.weights.push(*slot);
        }
    }
    Ok(vec![fetch])
}
