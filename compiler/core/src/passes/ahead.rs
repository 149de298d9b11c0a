//! Look-ahead: where experts take turns in memory, a layer also guesses which of them the next one will choose.
//!
//! The guess is the next layer's own choice, from its norm to its ids, made of the hidden values that this layer's choice
//! is made of. It decides nothing but what the host may read early. Only layers whose choices are made alike guess: then
//! one function still serves all of its calls, with weights of the next call that fetches.

use std::collections::BTreeSet;

use swiftlm_ir::graph::{AHEAD, Arg, Graph, Module, Value, WeightDecl};
use swiftlm_ir::ops::Op;

use crate::rewrite::{Rewriter, uses};

/// An argument of an op of a choice.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// The hidden values.
    Hidden,
    /// What an earlier op of the choice gives.
    Step(usize),
    Weight(WeightDecl),
}

/// How experts are chosen, apart from the function in which they are.
#[derive(Clone, Debug, PartialEq)]
struct Choice {
    steps: Vec<(Op, Vec<Part>)>,
    /// The step that gives ids; the last one gives their weights.
    ids: usize,
}

/// Adds guesses to all functions that can have them.
pub fn run(module: &mut Module) {
    let choices: Vec<Option<(Choice, Value)>> = module.funcs.iter().map(choice).collect();
    let next = |call: usize| Some(module.main[module.next_fetch(call)?].func);
    let mut guessing = vec![];
    for (func, found) in choices.iter().enumerate() {
        let Some((own, hidden)) = found else { continue };
        let calls = (0..module.main.len()).filter(|call| module.main[*call].func == func);
        let following: Vec<usize> = calls.filter_map(next).collect();
        let alike = |next: &usize| choices[*next].as_ref().is_some_and(|(choice, _)| choice == own);
        if !following.is_empty() && following.iter().all(alike) {
            guessing.push((func, own, *hidden));
        }
    }
    for (func, choice, hidden) in guessing {
        module.funcs[func] = with_guess(&module.funcs[func], choice, hidden);
    }
}

/// The values that nothing but a guess needs.
pub fn guessed(g: &Graph) -> BTreeSet<Value> {
    let mut found = BTreeSet::new();
    for (i, users) in uses(g).iter().enumerate().rev() {
        let v = Value(i as u32);
        let for_guess = |user: &Option<Value>| match user.map(|user| (user, g.node(user))) {
            Some((_, Some((Op::ExpertFetch { .. }, args)))) => args[0] != Arg::Value(v),
            Some((user, _)) => found.contains(&user),
            None => false,
        };
        if !users.is_empty() && users.iter().all(for_guess) {
            found.insert(v);
        }
    }
    found
}

/// How a function chooses the experts that it fetches, and of which values; `None` where that is more than a norm, products
/// and what is done to their rows.
fn choice(g: &Graph) -> Option<(Choice, Value)> {
    let values = || (0..g.values.len()).map(|i| Value(i as u32));
    let fetched = values().find_map(|v| match g.node(v)? {
        (Op::ExpertFetch { .. }, [Arg::Value(ids), ..]) => Some(*ids),
        _ => None,
    })?;
    let weighted = values()
        .find(|v| matches!(g.node(*v), Some((Op::RouteWeights { .. }, [_, Arg::Value(ids)])) if *ids == fetched))?;
    let (mut inside, mut hidden, mut open) = (BTreeSet::new(), None, vec![weighted]);
    while let Some(v) = open.pop() {
        let (op, args) = g.node(v)?;
        if !inside.insert(v) {
            continue;
        }
        match (op, args) {
            (Op::RmsNorm { .. }, [Arg::Value(x), _]) if hidden.is_none_or(|known| known == *x) => hidden = Some(*x),
            (
                Op::RouteIds { .. }
                | Op::RouteWeights { .. }
                | Op::Linear
                | Op::Bias
                | Op::Sigmoid
                | Op::Scale { .. }
                | Op::Slice { .. }
                | Op::Round { .. },
                args,
            ) => open.extend(args.iter().filter_map(|arg| match arg {
                Arg::Value(x) => Some(*x),
                Arg::Weight(_) => None,
            })),
            _ => return None,
        }
    }
    let (hidden, order) = (hidden?, inside.into_iter().collect::<Vec<_>>());
    let part = |arg: &Arg| match arg {
        Arg::Value(v) if *v == hidden => Part::Hidden,
        // What is inside comes with its arguments, and after them.
        Arg::Value(v) => Part::Step(order.partition_point(|step| step < v)),
        Arg::Weight(w) => Part::Weight(g.weights[w.0 as usize].clone()),
    };
    let step = |v: &Value| g.node(*v).map(|(op, args)| (op.clone(), args.iter().map(part).collect()));
    let ids = order.partition_point(|step| *step < fetched);
    Some((Choice { steps: order.iter().filter_map(step).collect(), ids }, hidden))
}

/// The function with `choice` made of `hidden` by weights of a later call, and given to its fetch.
fn with_guess(g: &Graph, choice: &Choice, hidden: Value) -> Graph {
    let mut r = Rewriter::new(g);
    for i in 0..g.values.len() {
        let v = Value(i as u32);
        let Some((op @ Op::ExpertFetch { .. }, [ids])) = g.node(v) else {
            r.copy(v);
            continue;
        };
        let loc = &g.value(v).loc;
        let mut made: Vec<Value> = vec![];
        for (op, parts) in &choice.steps {
            let args = parts.iter().map(|part| match part {
                Part::Hidden => r.value(hidden).into(),
                Part::Step(step) => made[*step].into(),
                Part::Weight(w) => {
                    let names = w.names.iter().map(|name| format!("{AHEAD}{name}")).collect();
                    r.weight(WeightDecl { names, ty: w.ty }).into()
                }
            });
            let args = args.collect();
            made.push(r.emit(op.clone(), args, loc));
        }
        let mut args = vec![r.arg(*ids), made[choice.ids].into()];
        args.extend(made.last().map(|weights| Arg::from(*weights)));
        let new = r.emit(op.clone(), args, loc);
        r.replace(v, new);
    }
    r.finish()
}
