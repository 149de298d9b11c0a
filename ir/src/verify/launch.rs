//! One launch of a program: its operands against its template and its kernel, and what the kernel trusts.

use super::program::{Bounds, kernel_of};
use super::template::{Role, roles};
use crate::dim::Sym;
use crate::graph::{Graph, WeightType};
use crate::kernel::{Access, Binary, DataBound, Ex, Expr, Immediate, KArg, Kernel, Length};
use crate::plan::{Dispatch, Groups, Input, Operand, Program, Reach, Stage};
use crate::ty::{PAGE_TOKENS, StateType};

/// What offsets in the arena are multiples of.
const ALIGN: usize = 256;

/// Checks a launch of a function of `graph` at steps of at most `bounds`.
pub(super) fn check(program: &Program, graph: &Graph, launch: &Dispatch, bounds: Bounds) -> Result<(), String> {
    let roles = roles(&launch.template)?;
    let (given, expected) = (launch.args.len(), roles.len());
    if given < expected || given > expected + 1 || launch.stages.is_empty() {
        let kernels = launch.stages.len();
        return Err(format!("{given} arguments and {kernels} kernels: its template takes {expected}, and scratch"));
    }
    let state = state(graph, &launch.args)?;
    for (i, operand) in launch.args.iter().enumerate() {
        let checked = match roles.get(i) {
            Some(role) => plays(program, (graph, state), operand, role, bounds),
            None => arena(program, operand).map(|_| ()),
        };
        checked.map_err(|reason| format!("argument {i}: {reason}"))?;
    }
    launch.stages.iter().try_for_each(|s| stage(program, graph, launch, s, bounds))
}

/// Checks one kernel of a launch whose operands play their roles.
fn stage(program: &Program, graph: &Graph, launch: &Dispatch, stage: &Stage, bounds: Bounds) -> Result<(), String> {
    let kernel = kernel_of(program, stage.kernel)?;
    if kernel.args.len() != stage.args.len() {
        let (given, declared) = (stage.args.len(), kernel.args.len());
        return Err(format!("{given} arguments for a kernel that declares {declared}"));
    }
    let operand = |at: &usize| launch.args.get(*at).cloned().ok_or_else(|| format!("argument {at} does not exist"));
    let args = stage.args.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
    for ((at, operand), declared) in stage.args.iter().zip(&args).zip(&kernel.args) {
        fits(program, graph, operand, declared).map_err(|reason| format!("argument {at}: {reason}"))?;
    }
    let largest = Bounds { tokens: program.chunk, rows: program.max_rows };
    for (sym, immediate) in [(Sym::Tokens, Immediate::Tokens), (Sym::Rows, Immediate::Rows)] {
        let (made, steps) = (kernel.immediate_max[immediate as usize] as usize, bounds.of(sym));
        if !(steps..=largest.of(sym)).contains(&made) {
            let name = sym.name();
            return Err(format!("its kernel was made for {name} up to {made}, steps here have up to {steps}"));
        }
    }
    // Whoever loads a program compares the table's stride with the kernels that are given the table.
    let stride = |e: &Expr| match e {
        Expr::Immediate(i) | Expr::Trust(_, DataBound::BelowImmediate(i)) => *i == Immediate::TableStride,
        _ => false,
    };
    if kernel.exprs.iter().any(stride) && !args.iter().any(is_table) {
        return Err("its kernel uses the stride of a page table that it is not given".to_owned());
    }
    grid(&stage.grid, bounds)?;
    trusted(program, graph, kernel, &args)
}

/// Whether an operand is what the template takes at its place.
fn plays(
    program: &Program,
    (graph, state): (&Graph, Option<&StateType>),
    operand: &Operand,
    role: &Role,
    bounds: Bounds,
) -> Result<(), String> {
    let wrong = || Err(format!("{operand:?} is not what its template takes there"));
    match (role, operand) {
        (Role::Rows { sym, times, view, width }, Operand::Arena { .. }) => {
            let rows = bounds.of(*sym).saturating_mul(*times);
            reaches(program, operand, (rows - 1).saturating_mul(view.stride).saturating_add(view.offset + width))
        }
        (Role::Experts(top_k), Operand::Arena { .. }) => {
            reaches(program, operand, bounds.tokens.saturating_mul(*top_k))
        }
        (Role::Experts(_), Operand::Input(Input::Slots)) => Ok(()),
        (Role::Weight(ty), Operand::Weight { .. }) => match segment(graph, operand)? {
            got if got == *ty => Ok(()),
            got => Err(format!("the weight {got}: its template takes {ty}")),
        },
        (Role::State { part, .. } | Role::Archive { part, .. }, Operand::State { part: got, .. }) => match state {
            Some(of) if part == got && role.fits(of) => Ok(()),
            _ => wrong(),
        },
        (Role::Recurrent(recurrence), Operand::State { part, .. }) => match state {
            Some(of) if recurrence.part() == *part && role.fits(of) => Ok(()),
            _ => wrong(),
        },
        (Role::PageTable(part), Operand::Input(Input::PageTable(window))) => match state {
            Some(of) if of.window(*part) == Some(*window) => Ok(()),
            _ => wrong(),
        },
        (Role::Input(input), Operand::Input(got)) if input == got => Ok(()),
        (Role::RopeTable(dim), Operand::Input(Input::RopeTable(i))) => match program.module.rope_tables.get(*i) {
            Some(table) if 2 * table.inverse_frequencies.len() == *dim => Ok(()),
            _ => wrong(),
        },
        _ => wrong(),
    }
}

fn is_table(operand: &Operand) -> bool {
    matches!(operand, Operand::Input(Input::PageTable(_)))
}

/// Whether an operand in the arena has so many words.
fn reaches(program: &Program, operand: &Operand, words: usize) -> Result<(), String> {
    let (expected, got) = (words.saturating_mul(4), arena(program, operand)?);
    if got >= expected { Ok(()) } else { Err(format!("{got} bytes of the arena: its template reaches {expected}")) }
}

/// Whether an operand has what the kernel declares of its argument: only the arena and states are written.
fn fits(program: &Program, graph: &Graph, operand: &Operand, arg: &KArg) -> Result<(), String> {
    let reads = arg.access == Access::Read;
    let elements = |got: usize| match arg.len {
        Length::Elements(n) => {
            let expected = n.saturating_mul(arg.elem.bytes() as u64);
            if got as u64 >= expected { Ok(()) } else { Err(format!("{got} bytes: its kernel declares {expected}")) }
        }
        other => Err(format!("{got} bytes: its kernel declares {other:?}")),
    };
    match operand {
        Operand::Arena { .. } if !reads => elements(arena(program, operand)?),
        Operand::Weight { .. } if reads => elements(segment(graph, operand)?.bytes()),
        Operand::State { state, part } => {
            let expected = graph.state(*state).map(|of| of.unit_bytes(*part) as u64);
            let got = match arg.len {
                Length::Units(n) => n.checked_mul(arg.elem.bytes() as u64),
                _ => None,
            };
            let unit = || format!("units of {expected:?} bytes: its kernel declares {:?}", arg.len);
            if got.is_some() && got == expected { Ok(()) } else { Err(unit()) }
        }
        Operand::Input(Input::PageTable(_)) if reads && arg.len == Length::PageTable && arg.elem.bytes() == 4 => Ok(()),
        // What holds expert ids may be written, wherever it lies: nothing is trusted of it.
        Operand::Input(Input::Slots) if matches!(arg.len, Length::Elements(_)) => Ok(()),
        // Their buffers are sized when a program is loaded, and compared with the kernel then.
        Operand::Input(_) if reads && !is_table(operand) && matches!(arg.len, Length::Elements(_)) => Ok(()),
        _ => Err(format!("{operand:?}: its kernel declares {:?} {:?}", arg.access, arg.len)),
    }
}

/// Bytes of an operand in the arena.
pub(super) fn arena(program: &Program, operand: &Operand) -> Result<usize, String> {
    match operand {
        Operand::Arena { offset, bytes }
            if offset.is_multiple_of(ALIGN)
                && bytes.is_multiple_of(4)
                && offset.checked_add(*bytes).is_some_and(|end| end <= program.arena_bytes) =>
        {
            Ok(*bytes)
        }
        other => Err(format!("{other:?} does not lie in the arena of {} bytes", program.arena_bytes)),
    }
}

/// Type of the rows of a weight that an operand names.
fn segment(graph: &Graph, operand: &Operand) -> Result<WeightType, String> {
    let missing = || format!("{operand:?} does not exist");
    let Operand::Weight { slot, first, count } = operand else { return Err(missing()) };
    let ty = graph.weights.get(*slot).ok_or_else(missing)?.ty;
    let inside = *count > 0 && first.checked_add(*count).is_some_and(|end| end <= ty.rows);
    if inside { Ok(WeightType { rows: *count, ..ty }) } else { Err(missing()) }
}

/// The state that a launch works on: no more than one.
fn state<'g>(graph: &'g Graph, args: &[Operand]) -> Result<Option<&'g StateType>, String> {
    let mut states = args.iter().filter_map(|operand| match operand {
        Operand::State { state, .. } => Some(*state),
        _ => None,
    });
    let Some(first) = states.next() else { return Ok(None) };
    match states.find(|other| *other != first) {
        Some(other) => Err(format!("it works on the states {first} and {other} of the call")),
        None => Ok(graph.state(first)),
    }
}

fn grid(axes: &[Groups; 3], bounds: Bounds) -> Result<(), String> {
    let count = |g: &Groups| match g.rows {
        _ if g.reach == Some(Reach::Each(0)) => None,
        None => Some(u64::from(g.times)),
        Some((_, 0)) => None,
        Some((sym, per)) => Some(u64::from(g.times) * bounds.of(sym).div_ceil(per as usize) as u64),
    };
    let all = axes.iter().try_fold(1u64, |n, axis| n.checked_mul(count(axis)?));
    match all {
        Some(n) if n <= u64::from(u32::MAX) => Ok(()),
        _ => Err(format!("a grid of {axes:?} cannot be launched")),
    }
}

/// What a kernel trusts must be data that a host checks when it writes it: see `check` of the runtime's batches.
fn trusted(program: &Program, graph: &Graph, kernel: &Kernel, args: &[Operand]) -> Result<(), String> {
    for expr in &kernel.exprs {
        let Expr::Trust(value, bound) = expr else { continue };
        let Some((arg, divisor)) = source(kernel, *value) else {
            return Err("its kernel trusts what is not data".to_owned());
        };
        let operand = args.get(arg as usize);
        let to = |of: u32| args.get(of as usize);
        let kept = match (operand, bound) {
            (Some(Operand::Input(Input::Ids)), DataBound::Below(n)) => *n as usize >= program.module.vocabulary,
            // What an earlier step left behind its rows is below that step's tokens only.
            (Some(Operand::Input(Input::Rows)), DataBound::BelowImmediate(Immediate::Tokens)) => {
                kernel.immediate_max[Immediate::Tokens as usize] as usize >= program.chunk
            }
            (Some(Operand::Input(Input::Sequences)), DataBound::BelowUnits(of)) => {
                matches!(to(*of), Some(Operand::Input(Input::PageTable(_))))
            }
            (Some(Operand::Input(Input::Units)), DataBound::BelowUnits(of)) => match to(*of) {
                Some(Operand::State { state, .. }) => graph.state(*state).is_some_and(|of| of.recurrent().is_some()),
                _ => false,
            },
            (Some(Operand::Input(Input::PageTable(window))), DataBound::BelowUnits(of)) => match to(*of) {
                Some(Operand::State { state, part }) => {
                    graph.state(*state).and_then(|of| of.window(*part)) == Some(*window)
                }
                _ => false,
            },
            (Some(Operand::Input(Input::Positions)), DataBound::BelowImmediate(Immediate::TableStride)) => {
                divisor >= PAGE_TOKENS as u64
            }
            _ => false,
        };
        if !kept {
            return Err(format!("its kernel trusts {operand:?} to be {bound:?}, which no host checks"));
        }
    }
    Ok(())
}

/// The argument that a trusted value is loaded from, and what it is divided by. Bounded, since the chain comes from
/// outside.
fn source(kernel: &Kernel, mut value: Ex) -> Option<(u32, u64)> {
    let mut divisor = 1u64;
    for _ in 0..8 {
        match *kernel.exprs.get(value.0 as usize)? {
            Expr::Load { arg, .. } => return Some((arg, divisor)),
            Expr::Trust(inner, _) => value = inner,
            Expr::Binary(Binary::Div, a, b) => {
                let Expr::U32(n) = *kernel.exprs.get(b.0 as usize)? else { return None };
                divisor = divisor.saturating_mul(u64::from(n));
                value = a;
            }
            _ => return None,
        }
    }
    None
}
