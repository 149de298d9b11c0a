//! Evaluation of one function: every op in program order, on values at hand.

use std::rc::Rc;

use super::attend::{Attention, History, attend};
use super::heads::{HeadMatrices, head_linear};
use super::moe::{self, Experts};
use super::state::{HostState, Part};
use super::tensor::{HostTensor, HostValue, Step};
use super::{dense, norm, rope};
use crate::graph::{Arg, Def, Graph};
use crate::ops::Op;
use crate::quant::rotation;
use crate::ty::Type;

/// A decoded matrix, row after row; tied weights share one.
pub type Matrix = Rc<[f32]>;

/// The results of a function.
///
/// `params` are its parameters in order, `weights` its weight slots in order, decoded. A state passed in is left alone:
/// its next version is a result. What `kv.append!` and `attend` need of sequences and positions they take from `step`.
///
/// # Errors
/// A graph that is not well-formed, inputs of other types than the graph's, or what an op refuses.
pub fn eval_graph(
    graph: &Graph,
    params: Vec<HostValue>,
    weights: &[Matrix],
    step: &Step<'_>,
) -> Result<Vec<HostValue>, String> {
    crate::verify::well_formed(graph).map_err(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    step.check()?;
    check_inputs(graph, &params, weights, step)?;
    let mut params = params.into_iter().map(Some).collect::<Vec<_>>();
    let mut values: Vec<Option<HostValue>> = Vec::with_capacity(graph.values.len());
    for info in &graph.values {
        let value = match &info.def {
            Def::Param(i) => params[*i].take().ok_or_else(|| format!("parameter {i} is bound twice"))?,
            Def::Node { op: Op::KvAppend, args } => append(args, &mut values, step)?,
            Def::Node { op: op @ (Op::ConvAppend | Op::DeltaAppend | Op::SsmAppend), args } => {
                recur(op, args, &mut values, weights, step)?
            }
            Def::Node { op: Op::KvArchive, args } => archive(args, &mut values)?,
            Def::Node { op, args } => {
                Operation { op, ty: &info.ty, args, values: &values, graph, weights, step }.result()?
            }
        };
        values.push(Some(value));
    }
    let missing = || format!("@{}: a result was consumed before the end", graph.name);
    graph.results.iter().map(|v| values[v.0 as usize].clone().ok_or_else(missing)).collect()
}

fn check_inputs(graph: &Graph, params: &[HostValue], weights: &[Matrix], step: &Step<'_>) -> Result<(), String> {
    if (params.len(), weights.len()) != (graph.params.len(), graph.weights.len()) {
        let (expected, got) = ((graph.params.len(), graph.weights.len()), (params.len(), weights.len()));
        return Err(format!("@{}: expected {expected:?} parameters and weights, got {got:?}", graph.name));
    }
    for (i, ((_, v), given)) in graph.params.iter().zip(params).enumerate() {
        let ty = &graph.value(*v).ty;
        let fits = match (ty, given) {
            (Type::Tensor(ty), HostValue::Tensor(t)) => t.is(ty, step),
            (Type::State(ty), HostValue::State(s)) => s.ty() == ty,
            _ => false,
        };
        if !fits {
            return Err(format!("@{}: the value given for parameter {i} is not a {ty} in this step", graph.name));
        }
    }
    match graph.weights.iter().zip(weights).find(|(decl, m)| decl.ty.rows * decl.ty.cols != m.len()) {
        Some((decl, m)) => Err(format!("weight `{}`: expected {}, got {} elements", decl.names[0], decl.ty, m.len())),
        None => Ok(()),
    }
}

/// The version that is consumed moves on, so that it is copied only where an older one is still read.
fn append(args: &[Arg], values: &mut [Option<HostValue>], step: &Step<'_>) -> Result<HostValue, String> {
    let at = |i: usize| match args.get(i) {
        Some(Arg::Value(v)) => Ok(v.0 as usize),
        _ => Err(format!("`kv.append!`: argument {i} is no value")),
    };
    let (k, v) = (at(1)?, at(2)?);
    let mut state = consumed("kv.append!", args, values)?;
    let rows = |i: usize| values[i].as_ref().and_then(|v| v.tensor()?.floats()).ok_or("`kv.append!`: no rows");
    Rc::make_mut(&mut state).append(rows(k)?, rows(v)?, step)?;
    Ok(HostValue::State(state))
}

/// A recurrent state takes the step's tokens in.
fn recur(
    op: &Op,
    args: &[Arg],
    values: &mut [Option<HostValue>],
    weights: &[Matrix],
    step: &Step<'_>,
) -> Result<HostValue, String> {
    let name = op.name();
    let mut state = consumed(name, args, values)?;
    let rows = |i: usize| match args.get(i) {
        Some(Arg::Value(v)) => values[v.0 as usize].as_ref().and_then(|v| v.tensor()?.floats()),
        Some(Arg::Weight(w)) => weights.get(w.0 as usize).map(|w| &w[..]),
        None => None,
    };
    let rows = |i: usize| rows(i).ok_or_else(|| format!("`{name}`: argument {i} has no rows"));
    let next = Rc::make_mut(&mut state);
    match op {
        Op::ConvAppend => next.push_inputs(rows(1)?, step)?,
        Op::SsmAppend => next.absorb([rows(1)?, rows(2)?, rows(3)?], rows(4)?, step)?,
        _ => next.take_in([rows(1)?, rows(2)?, rows(3)?, rows(4)?], step)?,
    }
    Ok(HostValue::State(state))
}

fn archive(args: &[Arg], values: &mut [Option<HostValue>]) -> Result<HostValue, String> {
    let mut state = consumed("kv.archive!", args, values)?;
    Rc::make_mut(&mut state).archive();
    Ok(HostValue::State(state))
}

/// The state that is the first argument, taken away.
fn consumed(op: &str, args: &[Arg], values: &mut [Option<HostValue>]) -> Result<Rc<HostState>, String> {
    let Some(Arg::Value(state)) = args.first() else { return Err(format!("`{op}`: argument 0 is no value")) };
    match values[state.0 as usize].take() {
        Some(HostValue::State(state)) => Ok(state),
        _ => Err(format!("`{op}`: the state was consumed before")),
    }
}

/// An op with all that it reads.
struct Operation<'a> {
    op: &'a Op,
    ty: &'a Type,
    args: &'a [Arg],
    values: &'a [Option<HostValue>],
    graph: &'a Graph,
    weights: &'a [Matrix],
    step: &'a Step<'a>,
}

impl<'a> Operation<'a> {
    fn mismatch(&self, i: usize, expected: &str) -> String {
        format!("@{}: `{}`: argument {i} is not {expected}", self.graph.name, self.op.name())
    }

    fn value(&self, i: usize) -> Option<&'a HostValue> {
        match self.args.get(i)? {
            Arg::Value(v) => self.values.get(v.0 as usize)?.as_ref(),
            Arg::Weight(_) => None,
        }
    }

    fn tensor(&self, i: usize) -> Result<&'a HostTensor, String> {
        self.value(i).and_then(HostValue::tensor).ok_or_else(|| self.mismatch(i, "a tensor"))
    }

    fn floats(&self, i: usize) -> Result<&'a [f32], String> {
        self.tensor(i)?.floats().ok_or_else(|| self.mismatch(i, "f32"))
    }

    fn ids(&self, i: usize) -> Result<&'a [u32], String> {
        self.tensor(i)?.ids().ok_or_else(|| self.mismatch(i, "u32"))
    }

    /// Extent `axis` of tensor argument `i`.
    fn extent(&self, i: usize, axis: usize) -> Result<usize, String> {
        self.tensor(i)?.shape.get(axis).copied().ok_or_else(|| self.mismatch(i, "of that rank"))
    }

    /// The last extent of tensor argument `i`.
    fn width(&self, i: usize) -> Result<usize, String> {
        self.tensor(i)?.shape.last().copied().ok_or_else(|| self.mismatch(i, "of rank 1 or more"))
    }

    /// A weight argument with the elements of its rows.
    fn weight(&self, i: usize) -> Result<(&'a [f32], usize), String> {
        self.matrix(i).map(|(matrix, cols)| (&matrix[..], cols))
    }

    /// A weight argument as it is shared, with the elements of its rows.
    fn matrix(&self, i: usize) -> Result<(&'a Matrix, usize), String> {
        match self.args.get(i) {
            Some(Arg::Weight(w)) => {
                let slot = w.0 as usize;
                Ok((&self.weights[slot], self.graph.weights[slot].ty.cols))
            }
            _ => Err(self.mismatch(i, "a weight")),
        }
    }

    fn state(&self) -> Result<&'a Rc<HostState>, String> {
        match self.value(0) {
            Some(HostValue::State(s)) => Ok(s),
            _ => Err(self.mismatch(0, "a state")),
        }
    }

    fn history(&self, part: Part) -> Result<HostValue, String> {
        Ok(HostValue::History(History { state: self.state()?.clone(), part, turned: false, matrices: None }))
    }

    fn attend(&self, scale: f64, window: usize, cap: f64) -> Result<Vec<f32>, String> {
        let a = Attention { heads: self.extent(0, 1)?, scale, window, cap };
        match (self.value(1), self.value(2)) {
            (Some(HostValue::History(k)), Some(HostValue::History(v))) => {
                let sinks = if self.args.len() > 3 { Some(self.weight(3)?.0) } else { None };
                attend(self.floats(0)?, &a, (k, v), sinks, self.step)
            }
            _ => Err(self.mismatch(1, "a history")),
        }
    }

    fn result(&self) -> Result<HostValue, String> {
        let floats = match self.op {
            Op::Rotate { inverse } => match self.value(0) {
                Some(HostValue::History(h)) if h.turned != *inverse && h.matrices.is_none() => {
                    return Ok(HostValue::History(History { turned: *inverse, ..h.clone() }));
                }
                Some(HostValue::History(_)) => return Err(self.mismatch(0, "a history that can be rotated so")),
                _ => {
                    let mut x = self.floats(0)?.to_vec();
                    x.chunks_exact_mut(self.width(0)?).try_for_each(|head| rotation::rotate(head, *inverse))?;
                    x
                }
            },
            Op::HeadLinear { heads, first, len, transposed } => {
                let (weight, cols) = self.matrix(1)?;
                let (heads, first, len, transposed) = (*heads, *first, *len, *transposed);
                let matrices = HeadMatrices { weight: weight.clone(), cols, heads, first, len, transposed };
                match self.value(0) {
                    Some(HostValue::History(h)) if h.matrices.is_none() => {
                        return Ok(HostValue::History(History { matrices: Some(matrices), ..h.clone() }));
                    }
                    Some(HostValue::History(_)) => return Err(self.mismatch(0, "a history that is not multiplied yet")),
                    _ => head_linear(self.floats(0)?, self.width(0)?, &matrices),
                }
            }
            Op::KvK => return self.history(Part::Keys),
            Op::KvV => return self.history(Part::Values),
            Op::ArgMax => return self.with_ids(dense::arg_max(self.floats(0)?, self.width(0)?)),
            Op::RouteIds { top_k, groups, kept } => {
                return self.with_ids(moe::route_ids(self.floats(0)?, self.width(0)?, *top_k, (*groups, *kept)));
            }
            Op::ExpertFetch { .. } => return self.with_ids(self.ids(0)?.to_vec()),
            Op::KvAppend | Op::KvArchive | Op::ConvAppend | Op::DeltaAppend | Op::SsmAppend => {
                return Err(format!("`{}` is an effect", self.op.name()));
            }
            Op::Embed { scale } => {
                let (w, cols) = self.weight(1)?;
                dense::embed(self.ids(0)?, w, cols, *scale)?
            }
            Op::RmsNorm { eps, offset } => {
                norm::rms_norm(self.floats(0)?, self.width(0)?, self.weight(1)?.0, *eps, *offset)
            }
            Op::Linear => {
                let (w, inputs) = self.weight(1)?;
                dense::linear(self.floats(0)?, w, inputs)
            }
            Op::Bias => dense::bias(self.floats(0)?, self.weight(1)?.0),
            Op::Add => dense::zip(self.floats(0)?, self.floats(1)?, |a, b| a + b),
            Op::Mul => dense::zip(self.floats(0)?, self.floats(1)?, |a, b| a * b),
            Op::Scale { factor } => dense::map(self.floats(0)?, |x| x * factor),
            Op::ScalePart { start, len, factor } => {
                dense::scale_part(self.floats(0)?, self.width(0)?, (*start, *len), *factor)
            }
            Op::Silu => dense::map(self.floats(0)?, dense::silu),
            Op::GeluTanh => dense::map(self.floats(0)?, dense::gelu_tanh),
            Op::Sigmoid => dense::map(self.floats(0)?, dense::sigmoid),
            Op::Tanh => dense::map(self.floats(0)?, f64::tanh),
            Op::Min { bound } => dense::map(self.floats(0)?, |x| x.min(*bound)),
            Op::Max { bound } => dense::map(self.floats(0)?, |x| x.max(*bound)),
            Op::Round { to } => dense::round(self.floats(0)?, *to)?,
            Op::Slice { start, len } => dense::slice(self.floats(0)?, self.width(0)?, *start, *len),
            Op::SplitHeads { .. } | Op::MergeHeads => self.floats(0)?.to_vec(),
            Op::Rope { start, dim, layout } => {
                let shape = (self.extent(0, 1)?, self.width(0)?);
                rope::rope(self.floats(0)?, shape, self.floats(1)?, (*start, *dim), *layout)
            }
            Op::Attend { scale, window, cap } => self.attend(*scale, *window, *cap)?,
            Op::ConvCausal => self.state()?.convolve(self.weight(1)?.0, self.step)?,
            Op::DeltaRead { scale } => self.state()?.recall(self.floats(1)?, *scale, self.step)?,
            Op::L2Norm { eps } => norm::l2_norm(self.floats(0)?, self.width(0)?, *eps),
            Op::Decay => dense::decay(self.floats(0)?, self.weight(1)?.0, self.weight(2)?.0),
            Op::TimeStep { least, most } => dense::time_step(self.floats(0)?, self.weight(1)?.0, (*least, *most)),
            Op::SsmRead => self.state()?.emit(self.floats(1)?, self.floats(2)?, self.weight(3)?.0, self.step)?,
            Op::Rows => dense::rows(self.floats(0)?, self.width(0)?, self.step.rows),
            Op::RouteWeights { routing, normalize } => {
                let sizes = (self.width(0)?, self.width(1)?);
                moe::route_weights(self.floats(0)?, self.ids(1)?, sizes, *routing, *normalize)?
            }
            Op::ExpertLinear { experts } => {
                let (w, inputs) = self.weight(2)?;
                let (top_k, x_per_rank) = (self.width(1)?, self.tensor(0)?.shape.len() == 3);
                let sizes = Experts { experts: *experts, top_k, inputs, x_per_rank };
                moe::expert_linear(self.floats(0)?, self.ids(1)?, w, &sizes)?
            }
            Op::ExpertBias { experts } => moe::expert_bias(self.floats(0)?, self.ids(1)?, self.weight(2)?.0, *experts)?,
            Op::Combine => moe::combine(self.floats(0)?, self.floats(1)?, self.extent(0, 1)?, self.width(0)?),
        };
        Ok(HostTensor::f32(&self.shape()?, floats).into())
    }

    fn with_ids(&self, ids: Vec<u32>) -> Result<HostValue, String> {
        Ok(HostTensor::u32(&self.shape()?, ids).into())
    }

    /// Extents of the result in this step.
    fn shape(&self) -> Result<Vec<usize>, String> {
        self.ty.tensor().map(|t| self.step.shape(t)).ok_or_else(|| format!("`{}` gives no tensor", self.op.name()))
    }
}
