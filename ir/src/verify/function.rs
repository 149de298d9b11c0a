//! One function: arguments in range and before their uses, types as inference gives them, weights used, states linear.

use super::{Defect, VerifyError};
use crate::dim::{Dim, Sym};
use crate::graph::{Arg, Def, Graph, ParamKind, Value, ValueInfo, WeightDecl};
use crate::ops::Op;
use crate::ops::infer::infer;
use crate::quant::{Format, HeadRow};
use crate::text::{group, names};
use crate::ty::{DType, Recurrent, StateType, TensorType, Type};

/// Elements of a matrix or of one token's row; products of two such numbers still fit 64 bits.
pub(super) const LARGEST: usize = u32::MAX as usize;

/// A function under examination.
struct Function<'g> {
    graph: &'g Graph,
    names: Vec<String>,
    errors: Vec<VerifyError>,
}

impl<'g> Function<'g> {
    fn new(graph: &'g Graph) -> Self {
        Self { graph, names: names::value_names(graph), errors: vec![] }
    }

    fn name(&self, v: Value) -> String {
        names::value_name(&self.names, v)
    }

    fn push(&mut self, value: String, loc: &str, defect: Defect) {
        self.errors.push(VerifyError { func: format!("@{}", self.graph.name), value, loc: loc.to_owned(), defect });
    }

    fn at(&mut self, v: Value, defect: Defect) {
        let loc = self.graph.values.get(v.0 as usize).map_or("", |info| info.loc.as_str());
        self.push(self.name(v), loc, defect);
    }
}

/// Everything wrong with values, parameters, results and weights, and with versions of states that are gone when used.
pub(super) fn values(graph: &Graph) -> Vec<VerifyError> {
    let mut f = Function::new(graph);
    parameters(&mut f);
    let mut used = vec![false; graph.weights.len()];
    let mut consumers: Vec<Option<Value>> = vec![None; graph.values.len()];
    // Inference relies on types that something can have.
    let sound: Vec<bool> = graph.values.iter().map(|info| possible(&info.ty).is_ok()).collect();
    for (v, info) in graph.values.iter().enumerate().map(|(i, info)| (Value(i as u32), info)) {
        if let Err(message) = possible(&info.ty) {
            f.at(v, Defect::Malformed(message));
        }
        let Def::Node { op, args } = &info.def else { continue };
        if !arguments(&mut f, v, args, &mut used)
            || !args.iter().all(|a| !matches!(a, Arg::Value(a) if !sound[a.0 as usize]))
        {
            continue;
        }
        match infer(op, &graph.arg_types(args)) {
            Err(message) => f.at(v, Defect::Arguments(message)),
            Ok(ty) if ty != info.ty => {
                f.at(v, Defect::Type { expected: Box::new(ty), got: Box::new(info.ty.clone()) });
            }
            Ok(_) => {}
        }
        versions(&mut f, v, op, args, &mut consumers);
    }
    for v in &graph.results {
        if v.0 as usize >= graph.values.len() {
            let expected = "values of the function".to_owned();
            let got = f.name(*v);
            f.push(String::new(), "", Defect::Results { expected, got });
        }
    }
    weights(&mut f, &used);
    f.errors
}

/// The list of parameters and the values that are parameters name each other; kinds and types fit.
fn parameters(f: &mut Function<'_>) {
    let graph = f.graph;
    for (v, info) in graph.values.iter().enumerate().map(|(i, info)| (Value(i as u32), info)) {
        if let Def::Param(i) = info.def
            && graph.params.get(i).is_none_or(|(_, of)| *of != v)
        {
            f.at(v, Defect::Parameter(format!("is not parameter {i} of the function")));
        }
    }
    for (i, (kind, v)) in graph.params.iter().enumerate() {
        let Some(info) = graph.values.get(v.0 as usize) else {
            f.at(*v, Defect::Parameter(format!("parameter {i} does not exist")));
            continue;
        };
        if info.def != Def::Param(i) {
            f.at(*v, Defect::Parameter(format!("stands in the list as parameter {i}, which it is not")));
        }
        if graph.params[..i].iter().any(|(other, _)| other == kind) {
            f.at(*v, Defect::Parameter("a second parameter of the same kind".to_owned()));
        }
        if let ParamKind::State(n) = kind
            && graph.params.iter().filter(|(kind, _)| matches!(kind, ParamKind::State(_))).count() <= *n
        {
            f.at(*v, Defect::Parameter(format!("is state {n}, of fewer")));
        }
        let (expected, fits) = expectation(kind, info);
        if !fits {
            f.at(*v, Defect::Parameter(format!("expected {expected}, got {}", info.ty)));
        }
    }
}

fn expectation(kind: &ParamKind, info: &ValueInfo) -> (&'static str, bool) {
    let tensor = |dtype: DType, rank: usize| {
        let rows = |t: &TensorType| t.shape.first() == Some(&Dim::Sym(Sym::Tokens));
        let constant = |t: &TensorType| t.shape.iter().skip(1).all(|d| d.constant().is_some());
        info.ty.tensor().is_some_and(|t| t.dtype == dtype && t.shape.len() == rank && rows(t) && constant(t))
    };
    match kind {
        ParamKind::Flow => ("f32[T, width]", tensor(DType::F32, 2)),
        ParamKind::Ids => ("u32[T]", tensor(DType::U32, 1)),
        ParamKind::RopeTable(_) => ("f32[T, dim]", tensor(DType::F32, 2)),
        ParamKind::State(_) => ("a state", matches!(info.ty, Type::State(_))),
    }
}

/// Notes uses of weights; whether all arguments exist and come before.
fn arguments(f: &mut Function<'_>, v: Value, args: &[Arg], used: &mut [bool]) -> bool {
    let before = f.errors.len();
    for (argument, a) in args.iter().enumerate() {
        match *a {
            Arg::Value(a) if a < v => {}
            Arg::Value(a) => {
                let what = f.name(a);
                let exists = (a.0 as usize) < f.graph.values.len();
                f.at(v, if exists { Defect::Order { argument, what } } else { Defect::Unknown { argument, what } });
            }
            Arg::Weight(w) => match used.get_mut(w.0 as usize) {
                Some(used) => *used = true,
                None => f.at(v, Defect::Unknown { argument, what: format!("weight {}", w.0) }),
            },
        }
    }
    f.errors.len() == before
}

/// The version of a state that a history reads.
fn history(graph: &Graph, mut v: Value) -> Option<Value> {
    // Arguments come before: the chain ends.
    loop {
        match graph.node(v)? {
            (Op::KvK | Op::KvV, [Arg::Value(state)]) => return Some(*state),
            (Op::Rotate { .. } | Op::HeadLinear { .. }, [Arg::Value(x), ..]) if *x < v => v = *x,
            _ => return None,
        }
    }
}

/// A version of a state is consumed at most once, and not read after.
fn versions(f: &mut Function<'_>, v: Value, op: &Op, args: &[Arg], consumers: &mut [Option<Value>]) {
    for a in args {
        let Arg::Value(a) = *a else { continue };
        // What is read of a state is read from its pages: with the version gone, a history is gone, too.
        let version = match (&f.graph.value(a).ty, f.graph.node(a)) {
            (Type::State(_), _) => a,
            (Type::History { .. }, _) => match history(f.graph, a) {
                Some(state) => state,
                None => continue,
            },
            _ => continue,
        };
        let (state, by) = (f.name(version), consumers[version.0 as usize]);
        match by {
            Some(by) if op.is_effect() => {
                let by = f.name(by);
                f.at(v, Defect::ConsumedTwice { state, by });
            }
            Some(by) => {
                let by = f.name(by);
                f.at(v, Defect::ReadAfterConsumed { state, by });
            }
            None if op.is_effect() => consumers[version.0 as usize] = Some(v),
            None => {}
        }
    }
}

fn weights(f: &mut Function<'_>, used: &[bool]) {
    for (i, (decl, used)) in f.graph.weights.iter().zip(used).enumerate() {
        let name = || format!("w\"{}\"", group::join(&decl.names));
        if f.graph.weights[..i].iter().any(|w| w.names == decl.names) {
            f.push(name(), "", Defect::Duplicate);
        }
        if let Err(message) = possible_weight(decl) {
            f.push(name(), "", Defect::Malformed(message));
        }
        if !used {
            f.push(name(), "", Defect::UnusedWeight);
        }
    }
}

fn possible_weight(decl: &WeightDecl) -> Result<(), String> {
    let ty = &decl.ty;
    if decl.names.is_empty() {
        return Err("a weight of no tensor".to_owned());
    }
    if !ty.rows.is_multiple_of(decl.names.len()) && decl.names.iter().all(|n| n.contains('#')) {
        return Err(format!("{} rows do not divide over {} slices", ty.rows, decl.names.len()));
    }
    let elements = ty.rows.checked_mul(ty.cols).filter(|n| *n > 0 && *n <= LARGEST);
    if elements.is_none() {
        return Err(format!("expected 1 to {LARGEST} elements, got {ty}"));
    }
    row_format(ty.format, ty.cols)
}

/// Whether rows of `cols` elements can be stored so.
pub(super) fn row_format(format: Format, cols: usize) -> Result<(), String> {
    match format.codes() {
        Some(codes) if !cols.is_multiple_of(codes.group) => {
            Err(format!("rows of {cols} elements do not divide into groups of {}", codes.group))
        }
        _ => Ok(()),
    }
}

/// Whether anything can have this type.
fn possible(ty: &Type) -> Result<(), String> {
    let extents = |t: &TensorType| {
        t.shape.iter().try_fold(1usize, |n, d| n.checked_mul(Dim::max(*d, 1))).is_some_and(|n| n > 0 && n <= LARGEST)
    };
    let heads_fit = |heads: usize, dim: usize| heads.checked_mul(dim).is_some_and(|n| n > 0 && n <= LARGEST);
    match ty {
        Type::Tensor(t) if !t.shape.is_empty() && extents(t) => Ok(()),
        Type::History { heads, dim, .. } if heads_fit(*heads, *dim) => Ok(()),
        Type::State(StateType::Paged { heads, dim, k, v, latent, archive, .. }) if heads_fit(*heads, *dim) => {
            HeadRow::new(*k, *dim).and_then(|_| HeadRow::new(*v, *dim))?;
            if let Some(latent) = latent {
                HeadRow::new(*k, *dim)?.part(*latent)?;
                if (*heads, *k, *archive) != (1, *v, None) {
                    return Err(format!("{ty}: latents are one head in one format, without an archive"));
                }
            }
            match archive {
                Some(_) if !matches!((k, v), (Format::Float(_), Format::Float(_))) => {
                    Err(format!("{ty}: recent tokens of a state with an archive are kept as floats"))
                }
                Some(archive) => archive.check(*dim),
                None => Ok(()),
            }
        }
        Type::State(StateType::Recurrent(r)) => recurrent(r).map_err(|reason| format!("{ty}: {reason}")),
        _ => Err(format!("{ty}: expected 1 to {LARGEST} elements for each token")),
    }
}

/// Whether anything can be a recurrent state of these sizes: a part is there as a whole or not at all.
pub(super) fn recurrent(r: &Recurrent) -> Result<(), String> {
    let part = |sizes: &[usize]| match sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size)) {
        Some(0) if sizes.iter().all(|n| *n == 0) => Ok(0),
        Some(n) if (1..=LARGEST / 4).contains(&n) => Ok(n),
        _ => Err(format!("expected sizes of 1 to {} elements, or all 0", LARGEST / 4)),
    };
    match (part(&[r.columns, r.channels])?, part(&[r.heads, r.value, r.key])?) {
        (0, 0) => Err("expected a convolution, a memory or both".to_owned()),
        _ => Ok(()),
    }
}

/// Which state of the call a version is one of.
fn origin(graph: &Graph, mut v: Value) -> Option<usize> {
    // Arguments come before: the chain ends.
    loop {
        match &graph.values.get(v.0 as usize)?.def {
            Def::Param(i) => match graph.params.get(*i)?.0 {
                ParamKind::State(n) => return Some(n),
                _ => return None,
            },
            Def::Node { args, .. } => match args.first()? {
                Arg::Value(before) if *before < v => v = *before,
                _ => return None,
            },
        }
    }
}

/// Of every state that comes in or is made, the last version is a result, behind all tensors and in the states' order.
pub(super) fn linear(graph: &Graph) -> Vec<VerifyError> {
    let mut f = Function::new(graph);
    let consumed: Vec<Value> = (graph.values.iter())
        .filter_map(|info| match &info.def {
            Def::Node { op, args } if op.is_effect() => Some(args),
            _ => None,
        })
        .flatten()
        .filter_map(|a| if let Arg::Value(v) = a { Some(*v) } else { None })
        .collect();
    for (v, info) in graph.values.iter().enumerate().map(|(i, info)| (Value(i as u32), info)) {
        if matches!(info.ty, Type::State(_)) && !consumed.contains(&v) && !graph.results.contains(&v) {
            f.at(v, Defect::StateDropped);
        }
    }
    let types: Vec<&Type> = graph.results.iter().filter_map(|v| Some(&graph.values.get(v.0 as usize)?.ty)).collect();
    let tensors = types.iter().take_while(|ty| matches!(ty, Type::Tensor(_))).count();
    let rest = &types[tensors..];
    if tensors == 0 || !rest.iter().all(|ty| matches!(ty, Type::State(_))) {
        let expected = "tensors, then the states".to_owned();
        let got = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        f.push(String::new(), "", Defect::Results { expected, got });
    }
    let versions = graph
        .results
        .iter()
        .filter(|v| graph.values.get(v.0 as usize).is_some_and(|info| matches!(info.ty, Type::State(_))));
    for (i, v) in versions.enumerate() {
        let expected = match origin(graph, *v) {
            Some(n) if n != i => format!("state {i} in its place"),
            _ if consumed.contains(v) => "the last version of the state".to_owned(),
            _ => continue,
        };
        let got = f.name(*v);
        f.push(String::new(), "", Defect::Results { expected, got });
    }
    f.errors
}
