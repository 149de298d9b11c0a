//! A compiled program from outside: whether its parts name one another rightly, whether every launch has the operands
//! that its template and its kernel were made for, and whether what kernels trust is what hosts check.
//!
//! Together with the proofs of [`kernel::verify`](crate::kernel::verify) it allows a device to run the program without
//! checks. It says nothing of what the program computes.

use super::launch;
use crate::dim::{ShapeClass, Sym};
use crate::graph::{Graph, Module};
use crate::kernel::{self, Kernel};
use crate::plan::{Dispatch, Fetch, FuncPlan, Input, Operand, Program, WeightBuffer};
use crate::ty::DType;

/// Most tokens of a step.
const MOST_TOKENS: usize = 1 << 16;
/// Most bytes of the arena: more than any machine has, and far from where sums overflow.
const MOST_ARENA: usize = 1 << 44;

/// Largest sizes of a step that one schedule is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) tokens: usize,
    pub(super) rows: usize,
}

impl Bounds {
    pub(super) fn of(self, sym: Sym) -> usize {
        match sym {
            Sym::Tokens => self.tokens,
            Sym::Rows => self.rows,
        }
    }
}

/// Checks a program.
///
/// # Errors
/// Sentences that say where and what; what rests on something wrong is not looked at.
pub fn verify_program(program: &Program) -> Result<(), Vec<String>> {
    let mut errors: Vec<String> =
        super::verify(&program.module).err().unwrap_or_default().iter().map(ToString::to_string).collect();
    for (i, kernel) in program.kernels.iter().enumerate() {
        let found = kernel::verify::verify(kernel).err().unwrap_or_default();
        errors.extend(found.into_iter().map(|e| format!("kernel {i} ({}): {e}", kernel.name)));
    }
    sizes(program, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    weights(program, &mut errors);
    for (func, graph) in program.module.funcs.iter().enumerate() {
        plans(program, func, graph, &mut errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn sizes(program: &Program, errors: &mut Vec<String>) {
    let Program { chunk, max_rows, arena_bytes, module, plans, .. } = program;
    for (what, n, most) in [("tokens of a step", *chunk, MOST_TOKENS), ("rows of a step", *max_rows, MOST_TOKENS)] {
        if !(1..=most).contains(&n) {
            errors.push(format!("{what}: expected 1 to {most}, got {n}"));
        }
    }
    if *arena_bytes > MOST_ARENA {
        errors.push(format!("an arena of {arena_bytes} bytes: at most {MOST_ARENA} can be"));
    }
    if plans.len() != module.funcs.len() {
        errors.push(format!("{} functions with plans for {}", module.funcs.len(), plans.len()));
    }
}

/// Every slot of every call is the weight that the graph declares, and every weight is some slot's.
fn weights(program: &Program, errors: &mut Vec<String>) {
    let Program { module, weights, call_weights, .. } = program;
    if call_weights.len() != module.main.len() {
        return errors.push(format!("{} calls with weights of {}", module.main.len(), call_weights.len()));
    }
    let mut used = vec![false; weights.len()];
    for (at, (call, slots)) in module.main.iter().zip(call_weights).enumerate() {
        let declared = &module.funcs[call.func].weights;
        let mut wrong = |reason: String| errors.push(format!("call of scope `{}`: {reason}", call.scope));
        if declared.len() != slots.len() {
            wrong(format!("{} weights for {} slots", slots.len(), declared.len()));
        }
        for (decl, slot) in declared.iter().zip(slots) {
            let weight = WeightBuffer { names: module.weight_names(at, decl), ty: decl.ty };
            match weights.get(*slot) {
                Some(found) if *found == weight => used[*slot] = true,
                _ => wrong(format!("weight {slot} is not `{}`", decl.names.join(" | "))),
            }
        }
    }
    let unused = used.iter().position(|used| !used);
    errors.extend(unused.map(|at| format!("weight {at} is no call's")));
}

/// The symbols whose classes a function's plans are for: of rows where it is called last, of tokens elsewhere.
fn symbols(module: &Module, func: usize) -> Vec<Sym> {
    let last = module.main.len() - 1;
    let called = |sym: Sym| {
        let is_last = sym == Sym::Rows;
        module.main.iter().enumerate().any(|(at, call)| call.func == func && (at == last) == is_last)
    };
    Sym::ALL.into_iter().filter(|sym| called(*sym)).collect()
}

fn plans(program: &Program, func: usize, graph: &Graph, errors: &mut Vec<String>) {
    let plans = &program.plans[func];
    let right = |(plan, class): (&FuncPlan, &ShapeClass)| plan.func == func && plan.class == *class;
    if plans.len() != ShapeClass::ALL.len() || !plans.iter().zip(&ShapeClass::ALL).all(right) {
        return errors.push(format!("@{}: expected a plan for each class, in their order", graph.name));
    }
    let symbols = symbols(&program.module, func);
    if symbols.is_empty() {
        errors.push(format!("@{}: is never called", graph.name));
    }
    for sym in symbols {
        for plan in plans {
            let narrow = |of: Sym, n: usize| if of == sym { n.min(plan.class.max_rows(n)) } else { n };
            let bounds =
                Bounds { tokens: narrow(Sym::Tokens, program.chunk), rows: narrow(Sym::Rows, program.max_rows) };
            let place = format!("@{} class={}", graph.name, plan.class.name());
            for (i, dispatch) in plan.dispatches.iter().enumerate() {
                if let Err(reason) = launch::check(program, graph, dispatch, bounds) {
                    errors.push(format!("{place} launch {i} ({}): {reason}", dispatch.template.name()));
                }
            }
            if let Err(reason) = fetches(program, graph, plan, bounds) {
                errors.push(format!("{place}: {reason}"));
            }
            if sym == Sym::Rows
                && let Err(reason) = results(program, plan, bounds)
            {
                errors.push(format!("{place}: {reason}"));
            }
        }
    }
}

/// Whether what the host does between launches names what there is, and whether only its launches read slots.
fn fetches(program: &Program, graph: &Graph, plan: &FuncPlan, bounds: Bounds) -> Result<(), String> {
    let mut done = 0;
    for fetch in &plan.fetches {
        let Fetch { launches, ids, top_k, experts, slots, weights, ahead } = fetch;
        let first = ahead.as_ref().map_or(launches.start, |ahead| ahead.launches.start);
        let guessed = ahead.as_ref().is_none_or(|ahead| first < launches.start && ahead.launches.end == launches.start);
        let in_order = done <= first && launches.start < launches.end && launches.end <= plan.dispatches.len();
        if !in_order || !guessed || !(1..=*experts).contains(top_k) || !(1..=*experts).contains(slots) {
            return Err(format!("experts cannot be fetched so: {fetch:?}"));
        }
        done = launches.end;
        let expected = bounds.tokens.saturating_mul(*top_k).saturating_mul(DType::U32.bytes());
        for ids in std::iter::once(ids).chain(ahead.as_ref().map(|ahead| &ahead.ids)) {
            if launch::arena(program, ids)? < expected {
                return Err(format!("the experts of a step take {expected} bytes, not those of {ids:?}"));
            }
        }
        let divides = |slot: &usize| graph.weights.get(*slot).is_some_and(|w| w.ty.rows.is_multiple_of(*experts));
        if !weights.iter().all(divides) {
            return Err(format!("weights {weights:?} are not those of {experts} experts"));
        }
    }
    let inside = |i: usize| plan.fetches.iter().any(|f| f.launches.contains(&i));
    let reads = |d: &Dispatch| d.args.contains(&Operand::Input(Input::Slots));
    match plan.dispatches.iter().enumerate().find(|(i, d)| reads(d) && !inside(*i)) {
        Some((i, _)) => Err(format!("launch {i} reads slots that nothing brings experts to")),
        None => Ok(()),
    }
}

/// Of the last function: logits and greedy choice lie in the arena.
fn results(program: &Program, plan: &FuncPlan, bounds: Bounds) -> Result<(), String> {
    let [logits, greedy] = plan.results.as_slice() else {
        return Err(format!("{} results: expected logits and greedy choice", plan.results.len()));
    };
    for (operand, width) in [(logits, program.module.vocabulary), (greedy, 1)] {
        let expected = bounds.rows.saturating_mul(width).saturating_mul(DType::F32.bytes());
        match operand {
            Operand::Arena { .. } if launch::arena(program, operand)? >= expected => {}
            other => return Err(format!("a result lies at {other:?}: expected {expected} bytes of the arena")),
        }
    }
    Ok(())
}

/// The kernel that a launch names.
pub(super) fn kernel_of(program: &Program, index: usize) -> Result<&Kernel, String> {
    program.kernels.get(index).ok_or_else(|| format!("kernel {index}: there are {}", program.kernels.len()))
}
