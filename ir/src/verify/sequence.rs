//! The main sequence: calls name what exists, values flow from one to the next, every state belongs to one call.

use indexmap::IndexSet;

use super::{Defect, VerifyError};
use crate::dim::{Dim, Sym};
use crate::graph::{Arg, Call, Def, Graph, Module, ParamKind};
use crate::ops::Op;
use crate::ty::{DType, StateType, TensorType, Type};

/// Everything wrong with calls, states, rope tables and the vocabulary.
pub(super) fn check(module: &Module) -> Vec<VerifyError> {
    let mut errors = vec![];
    let mut names = IndexSet::new();
    for func in &module.funcs {
        if !names.insert(func.name.as_str()) {
            errors.push(of_function(func, Defect::Duplicate));
        }
        rope_tables(module, func, &mut errors);
        embeddings(module, func, &mut errors);
    }
    let main = |defect| VerifyError { func: "main".to_owned(), value: String::new(), loc: String::new(), defect };
    if module.main.is_empty() {
        errors.push(main(Defect::Empty));
    }
    let mut flow: Option<Type> = None;
    for (i, call) in module.main.iter().enumerate() {
        let last = i + 1 == module.main.len();
        match module.funcs.get(call.func) {
            None => {
                let defect = Defect::Missing { what: "function", index: call.func, count: module.funcs.len() };
                errors.push(of_call(call, i, "?", defect));
                flow = None;
            }
            Some(func) => {
                let mut defects = vec![];
                states(module, call, func, &mut defects);
                flow = flows(func, i == 0, flow.as_ref(), &mut defects);
                if last {
                    outputs(module, func, &mut defects);
                } else if tensors(func).len() != 1 {
                    defects.push(Defect::Results { expected: "one tensor that flows on".to_owned(), got: list(func) });
                }
                errors.extend(defects.into_iter().map(|d| of_call(call, i, &func.name, d)));
            }
        }
    }
    for index in 0..module.states.len() {
        let count = module.main.iter().flat_map(|c| &c.states).filter(|i| **i == index).count();
        if count != 1 {
            errors.push(main(Defect::StateUses { index, count }));
        }
    }
    errors
}

fn of_function(func: &Graph, defect: Defect) -> VerifyError {
    VerifyError { func: format!("@{}", func.name), value: String::new(), loc: String::new(), defect }
}

fn of_call(call: &Call, i: usize, func: &str, defect: Defect) -> VerifyError {
    VerifyError { func: "main".to_owned(), value: format!("call {i} of @{func}"), loc: call.scope.clone(), defect }
}

fn param<'g>(func: &'g Graph, kind: &ParamKind) -> Option<&'g Type> {
    let (_, v) = func.params.iter().find(|(k, _)| k == kind)?;
    func.values.get(v.0 as usize).map(|info| &info.ty)
}

/// Tensors among the results.
fn tensors(func: &Graph) -> Vec<&TensorType> {
    func.results.iter().filter_map(|v| func.values.get(v.0 as usize)?.ty.tensor()).collect()
}

fn list(func: &Graph) -> String {
    let types: Vec<String> = tensors(func).iter().map(ToString::to_string).collect();
    if types.is_empty() { "none".to_owned() } else { types.join(", ") }
}

/// The states of a call are what its function takes in order, and all of them come out: the runtime keeps those versions
/// for the next step.
fn states(module: &Module, call: &Call, func: &Graph, defects: &mut Vec<Defect>) {
    let mut given: Vec<&StateType> = vec![];
    for index in &call.states {
        match module.states.get(*index) {
            Some(ty) => given.push(ty),
            None => {
                let defect = Defect::Missing { what: "state", index: *index, count: module.states.len() };
                return defects.push(defect);
            }
        }
    }
    let kinds = func.params.iter().filter(|(kind, _)| matches!(kind, ParamKind::State(_))).count();
    let expected: Vec<&StateType> = (0..kinds).filter_map(|i| func.state(i)).collect();
    let text = |states: &[&StateType]| match states {
        [] => "none".to_owned(),
        states => states.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    if expected != given {
        defects.push(Defect::State { expected: text(&expected), got: text(&given) });
    }
    let results = func.results.iter().filter_map(|v| func.values.get(v.0 as usize));
    let out: Vec<&StateType> = results
        .filter_map(|info| match &info.ty {
            Type::State(ty) => Some(ty),
            _ => None,
        })
        .collect();
    if expected != out {
        let got = text(&out);
        defects.push(Defect::Results { expected: format!("the state {}", text(&expected)), got });
    }
}

/// Checks what flows in and gives what flows out.
fn flows(func: &Graph, first: bool, given: Option<&Type>, defects: &mut Vec<Defect>) -> Option<Type> {
    let expected = param(func, &ParamKind::Flow);
    let none = || "none".to_owned();
    match (expected, given) {
        (Some(expected), _) if first => defects.push(Defect::Flow { expected: expected.to_string(), got: none() }),
        (None, Some(given)) => defects.push(Defect::Flow { expected: none(), got: given.to_string() }),
        (Some(expected), Some(given)) if expected != given => {
            defects.push(Defect::Flow { expected: expected.to_string(), got: given.to_string() });
        }
        // Where the call before has no result, that is its own defect.
        _ => {}
    }
    tensors(func).first().map(|t| Type::Tensor((*t).clone()))
}

fn outputs(module: &Module, func: &Graph, defects: &mut Vec<Defect>) {
    let rows = Dim::Sym(Sym::Rows);
    let logits = TensorType::new(DType::F32, [rows, Dim::Const(module.vocabulary)]);
    let greedy = TensorType::new(DType::U32, [rows]);
    if tensors(func) != [&logits, &greedy] {
        defects.push(Defect::Results { expected: format!("{logits}, {greedy}"), got: list(func) });
    }
}

fn rope_tables(module: &Module, func: &Graph, errors: &mut Vec<VerifyError>) {
    for (kind, v) in &func.params {
        let (ParamKind::RopeTable(index), Some(info)) = (kind, func.values.get(v.0 as usize)) else { continue };
        let index = *index;
        let defect = match module.rope_tables.get(index) {
            None => Defect::Missing { what: "rope table", index, count: module.rope_tables.len() },
            Some(table) => {
                let size = 2 * table.inverse_frequencies.len();
                if info.ty.tensor().and_then(TensorType::width) == Some(size) {
                    continue;
                }
                Defect::RopeDim { index, table: size, ty: Box::new(info.ty.clone()) }
            }
        };
        errors.push(VerifyError { value: format!("%rope{index}"), loc: info.loc.clone(), ..of_function(func, defect) });
    }
}

/// Every id below the vocabulary has a row in every table that is looked up by the step's ids.
fn embeddings(module: &Module, func: &Graph, errors: &mut Vec<VerifyError>) {
    for info in &func.values {
        let Def::Node { op: Op::Embed { .. }, args } = &info.def else { continue };
        let Some(Arg::Weight(w)) = args.get(1) else { continue };
        if let Some(decl) = func.weights.get(w.0 as usize)
            && decl.ty.rows < module.vocabulary
        {
            let (expected, got) = (format!("at least {} rows", module.vocabulary), decl.ty.to_string());
            let defect = Defect::Vocabulary { expected, got };
            errors.push(VerifyError { loc: info.loc.clone(), ..of_function(func, defect) });
        }
    }
}
