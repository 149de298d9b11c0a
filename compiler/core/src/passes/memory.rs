//! Memory: where every value of a function lies in the step's arena.
//!
//! The flow value, handed from call to call, has a fixed place at the start of the arena, the same for all functions and
//! classes. Every other value is placed first-fit at the lowest offset that no value alive at the same time uses.

use std::collections::BTreeMap;

use swiftlm_ir::dim::{Dim, Sym};
use swiftlm_ir::graph::{Graph, ParamKind, Value};
use swiftlm_ir::map::Map;
use swiftlm_ir::plan::Operand;
use swiftlm_ir::template::{Elementwise, Extra, Template, View};
use swiftlm_ir::ty::Type;

use super::fuse::{Group, GroupArg};
use super::residency;
use crate::kernels;
use crate::pipeline::CompileOptions;

/// Alignment of offsets: the largest that devices ask of a storage binding.
pub const ALIGN: usize = 256;

/// Where a function's values lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Operand of each value that lies in memory.
    pub operands: BTreeMap<Value, Operand>,
    /// What the kernels of a group leave one another, by the group's index.
    pub scratch: BTreeMap<usize, Operand>,
    /// The flow's place, at the size of this function's result.
    pub flow: Option<Operand>,
    /// Where each result lies.
    pub results: Vec<Operand>,
    /// Arena bytes used.
    pub arena_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    first: usize,
    last: usize,
    bytes: usize,
}

/// Places the values of `groups`; may append a copy where the function's result cannot be computed in the flow's place.
/// `flow_width` is the widest flow of the module.
///
/// # Errors
/// A value whose size is not bounded by the class.
pub fn run(
    g: &Graph,
    groups: &mut Vec<Group>,
    flow_width: usize,
    options: &CompileOptions,
) -> Result<Placement, String> {
    let flow_bytes = (options.chunk * flow_width * 4).next_multiple_of(ALIGN);
    let flow_in = g.params.iter().find(|(kind, _)| *kind == ParamKind::Flow).map(|(_, v)| *v);
    let flow_out = g.results.first().copied().filter(|v| flows_on(g, *v));
    let flow = |bytes: usize| Operand::Arena { offset: 0, bytes };
    let mut operands = BTreeMap::new();
    let mut flow_result = None;
    if let Some(v) = flow_in {
        operands.insert(v, flow(bytes(g, v, options)?));
    }
    if let Some(out) = flow_out.filter(|out| Some(*out) != flow_in) {
        let size = bytes(g, out, options)?;
        flow_result = Some(flow(size));
        if in_place_allowed(groups, flow_in, out) {
            operands.insert(out, flow(size));
        } else {
            groups.push(copy(g, out)?);
        }
    }
    let lives = lives(g, groups, options)?;
    let mut placed: Vec<(Life, usize)> = vec![];
    for (v, life) in lives {
        if operands.contains_key(&v) {
            continue;
        }
        let offset = first_fit(&placed, life, flow_bytes);
        placed.push((life, offset));
        operands.insert(v, Operand::Arena { offset, bytes: life.bytes });
    }
    let mut scratch = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        let bytes = kernels::scratch_bytes(&group.template, options.chunk, options.max_rows);
        if bytes > 0 {
            let life = Life { first: at, last: at, bytes };
            let offset = first_fit(&placed, life, flow_bytes);
            placed.push((life, offset));
            scratch.insert(at, Operand::Arena { offset, bytes });
        }
    }
    let ends = placed.iter().map(|(life, offset)| offset + life.bytes);
    let arena_bytes = ends.fold(flow_bytes, usize::max);
    let result = |(i, v): (usize, &Value)| match &flow_result {
        Some(flow) if i == 0 => Some(flow.clone()),
        _ => operands.get(v).cloned(),
    };
    let results = g.results.iter().enumerate().filter_map(result).collect();
    let arena_bytes = arena_bytes.next_multiple_of(ALIGN);
    Ok(Placement { flow: flow_result, results, operands, scratch, arena_bytes })
}

/// Whether the first result is handed to the next call: hidden values `f32[T, …]`, not logits of `R` rows.
fn flows_on(g: &Graph, v: Value) -> bool {
    matches!(&g.value(v).ty, Type::Tensor(t) if t.shape[0] == Dim::Sym(Sym::Tokens))
}

/// Bytes of a value at the largest step: every class places alike, so that a kernel without a class serves all of them.
fn bytes(g: &Graph, v: Value, options: &CompileOptions) -> Result<usize, String> {
    let ty = &g.value(v).ty;
    let t = ty.tensor().ok_or_else(|| format!("{ty} does not lie in the arena"))?;
    let row = t.row_elements().ok_or_else(|| format!("rows of {t} have no constant size"))?;
    let rows = match t.shape[0] {
        Dim::Const(n) => n,
        Dim::Sym(Sym::Tokens) => options.chunk,
        Dim::Sym(Sym::Rows) => options.max_rows,
    };
    Ok(rows * row * t.dtype.bytes())
}

/// The flow's place may hold the result if the old flow is read for the last time before, or element by element.
fn in_place_allowed(groups: &[Group], flow_in: Option<Value>, out: Value) -> bool {
    let writes = |group: &Group| group.args.contains(&GroupArg::Write(out));
    let Some(write) = groups.iter().position(writes) else { return false };
    let reads_flow = |group: &Group| flow_in.is_some_and(|v| group.args.contains(&GroupArg::Read(v)));
    let reads_in_place = |group: &Group| flow_in.is_some_and(|v| group.args.contains(&GroupArg::ReadInPlace(v)));
    !groups[write..].iter().any(reads_flow) && !groups[write + 1..].iter().any(reads_in_place)
}

/// A launch that moves a result to the flow's place.
fn copy(g: &Graph, out: Value) -> Result<Group, String> {
    let t = g.value(out).ty.tensor().ok_or("the flow must be a tensor")?;
    let (Dim::Sym(rows), Some(dim)) = (t.shape[0], t.row_elements()) else {
        return Err(format!("the flow must be rows of constant size, got {t}"));
    };
    let view = View::dense(dim);
    let template = Elementwise { rows, dim, map: Map::identity(), extras: vec![Extra::Element(view)], y: view };
    let args = vec![GroupArg::Read(out), GroupArg::WriteFlow];
    Ok(Group { template: Template::Map(template), args, anchor: out, loc: g.value(out).loc.clone() })
}

fn lives(g: &Graph, groups: &[Group], options: &CompileOptions) -> Result<Vec<(Value, Life)>, String> {
    let mut lives: Vec<(Value, Life)> = vec![];
    for (at, group) in groups.iter().enumerate() {
        for arg in &group.args {
            let (GroupArg::Read(v) | GroupArg::ReadInPlace(v) | GroupArg::Write(v)) = arg else { continue };
            match lives.iter_mut().find(|(known, _)| known == v) {
                Some((_, life)) => life.last = at,
                None => {
                    let bytes = bytes(g, *v, options)?;
                    lives.push((*v, Life { first: at, last: at, bytes }));
                }
            }
        }
    }
    for (v, life) in &mut lives {
        if let Some(turns) = residency::turns(groups) {
            if turns.contains(&life.first) || turns.contains(&life.last) {
                life.first = life.first.min(turns.start);
                life.last = life.last.max(turns.end - 1);
            }
            if residency::choices(g).any(|choice| choice.ids == *v || choice.ahead == Some(*v)) {
                life.last = life.last.max(turns.start);
            }
        }
        if g.results.contains(v) {
            life.last = groups.len();
        }
    }
    Ok(lives)
}

fn first_fit(placed: &[(Life, usize)], life: Life, start: usize) -> usize {
    let mut taken: Vec<(usize, usize)> = placed
        .iter()
        .filter(|(other, _)| other.first <= life.last && life.first <= other.last)
        .map(|(other, offset)| (*offset, offset + other.bytes))
        .collect();
    taken.sort_unstable();
    let mut offset = start;
    for (from, to) in taken {
        if offset + life.bytes <= from {
            break;
        }
        offset = offset.max(to.next_multiple_of(ALIGN));
    }
    offset
}
