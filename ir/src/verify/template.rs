//! Templates from outside: whether the numbers of one can belong together, and what each of its arguments must be.
//! Micro-kernels rely on it, since they are written for templates and not proven as kernels are.

use super::function::{LARGEST, row_format};
use crate::dim::Sym;
use crate::graph::WeightType;
use crate::map::{Map, MapStep, Reg};
use crate::plan::Input;
use crate::quant::{Archive, Format, HeadRow, rotation};
use crate::rounding::Rounding;
use crate::template::{
    Append, Attend, Delta, ExpertLinear, Extra, HeadLinear, LatentAppend, Linear, Norm, Rope, RopeAppend, Route,
    ShortConv, Ssm, Template, View,
};
use crate::ty::StateType;

/// Most experts of a token.
const MOST_RANKS: usize = 1 << 16;

/// What an argument of a launch must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Role {
    /// Rows in the arena: `times` for each that the symbol counts, of `width` words through a view.
    Rows { sym: Sym, times: usize, view: View, width: usize },
    /// Ids of so many experts for each token: in the arena, or where the host says their slots.
    Experts(usize),
    /// A weight of this type.
    Weight(WeightType),
    /// Keys (0) or values (1) of this state, as far as the template says what it is.
    State { part: usize, heads: usize, dim: usize, format: Format, latent: Option<usize> },
    /// Keys (2) or values (3) of this archive of such a state.
    Archive { part: usize, heads: usize, dim: usize, archive: Archive },
    /// The last inputs (0) or the memory (1) of a recurrent state, as far as the template says what they are.
    Recurrent(Recurrence),
    /// This input of the step.
    Input(Input),
    /// The page table of this part of the function's state.
    PageTable(usize),
    /// Some rope table, of rows of so many elements.
    RopeTable(usize),
}

/// What a template says of a part of a recurrent state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recurrence {
    /// Columns and channels.
    Inputs([usize; 2]),
    /// Heads, elements of a value, elements of a key.
    Memory([usize; 3]),
}

impl Recurrence {
    /// Which part it is.
    pub(super) fn part(self) -> usize {
        match self {
            Self::Inputs(_) => 0,
            Self::Memory(_) => 1,
        }
    }
}

/// The roles of a template's arguments in binding order.
///
/// # Errors
/// A sentence saying what cannot be.
pub(super) fn roles(template: &Template) -> Result<Vec<Role>, String> {
    let tokens = |view, width| rows(Sym::Tokens, 1, view, width);
    match template {
        Template::Embed(t) => {
            weight(&t.weight)?;
            size("first row", t.first_row.saturating_add(1))?;
            let y = rows(t.rows, 1, t.y, t.weight.cols)?;
            Ok(vec![Role::Input(Input::Ids), Role::Weight(t.weight), y])
        }
        Template::RmsNorm(t) => {
            let width = product("heads of a row", t.heads, t.dim)?;
            map(&t.epilogue, 1, t.extras.len())?;
            let mut roles = vec![rows(t.rows, 1, t.x, width)?, vector(t.norm.weight, t.weights())?];
            roles.extend(extras(&t.extras, t.rows, width)?);
            roles.push(rows(t.rows, 1, t.y, width)?);
            Ok(roles)
        }
        Template::Linear(t) => linear(t),
        Template::Rope(t) => rope(t),
        Template::HeadLinear(t) => head_linear(t),
        Template::LatentAppend(t) => latent_append(t),
        Template::Rotate(t) => {
            let width = product("heads of a row", t.heads, t.dim)?;
            rotation::parts(t.dim)?;
            Ok(vec![tokens(t.x, width)?, tokens(t.y, width)?])
        }
        Template::Archive(t) => {
            let mut roles = history().to_vec();
            roles.push(state(0, t.heads, t.dim, t.k_format, None)?);
            roles.push(state(1, t.heads, t.dim, t.v_format, None)?);
            roles.extend(archived(t.archive, t.heads, t.dim)?);
            Ok(roles)
        }
        Template::Append(t) => {
            let width = product("heads of a row", t.heads, t.dim)?;
            let mut roles = vec![tokens(t.k, width)?, tokens(t.v, width)?];
            roles.extend(history());
            roles.extend(pages(t)?);
            Ok(roles)
        }
        Template::RopeAppend(t) => rope_append(t),
        Template::Attend(t) => attend(t),
        Template::ShortConv(t) => short_conv(t),
        Template::Delta(t) => delta(t),
        Template::Ssm(t) => ssm(t),
        Template::Route(t) => route(t),
        Template::ExpertLinear(t) => expert_linear(t),
        Template::Combine(t) => {
            map(&t.epilogue, 1, t.extras.len())?;
            let y = rows(Sym::Tokens, t.top_k, View::dense(t.dim), t.dim)?;
            let mut roles = vec![y, tokens(View::dense(t.top_k), t.top_k)?];
            roles.extend(extras(&t.extras, Sym::Tokens, t.dim)?);
            roles.push(tokens(t.out, t.dim)?);
            Ok(roles)
        }
        Template::Rows(t) => Ok(vec![tokens(t.x, t.dim)?, Role::Input(Input::Rows), rows(Sym::Rows, 1, t.y, t.dim)?]),
        Template::ArgMax(t) => Ok(vec![rows(t.rows, 1, t.x, t.dim)?, rows(t.rows, 1, View::dense(1), 1)?]),
        Template::Map(t) => {
            map(&t.map, 0, t.extras.len())?;
            let mut roles = extras(&t.extras, t.rows, t.dim)?;
            roles.push(rows(t.rows, 1, t.y, t.dim)?);
            Ok(roles)
        }
    }
}

fn linear(t: &Linear) -> Result<Vec<Role>, String> {
    weight(&t.weight)?;
    even("rows of a weight in pairs", t.pair, t.weight.rows)?;
    rounding(t.round, t.weight.cols)?;
    map(&t.epilogue, if t.pair { 2 } else { 1 }, t.extras.len())?;
    let mut roles = vec![rows(t.rows, 1, t.x, t.weight.cols)?];
    roles.extend(norm(t.norm, t.weight.cols)?);
    roles.push(Role::Weight(t.weight));
    roles.extend(extras(&t.extras, t.rows, t.outputs())?);
    roles.push(rows(t.rows, 1, t.y, t.outputs())?);
    Ok(roles)
}

fn rope(t: &Rope) -> Result<Vec<Role>, String> {
    let width = product("heads of a row", t.heads, t.dim)?;
    rotated(t.rotated, t.dim.saturating_sub(t.start))?;
    let mut roles = vec![rows(Sym::Tokens, 1, t.x, width)?];
    roles.extend(norm(t.norm, t.dim)?);
    roles.extend([Role::RopeTable(t.rotated), rows(Sym::Tokens, 1, t.y, width)?]);
    Ok(roles)
}

fn head_linear(t: &HeadLinear) -> Result<Vec<Role>, String> {
    weight(&t.weight)?;
    let own = if t.heads > 0 && t.weight.rows.is_multiple_of(t.heads) { t.weight.rows / t.heads } else { 0 };
    if t.len == 0 || t.first.saturating_add(t.len) > own {
        let (first, len, heads) = (t.first, t.len, t.heads);
        return Err(format!("{len} rows from {first} on of each of {heads} heads in {} rows", t.weight.rows));
    }
    if t.dim < t.inputs() {
        return Err(format!("{} of {} elements of a head", t.inputs(), t.dim));
    }
    let width = product("heads of a row", t.heads, t.dim)?;
    let outputs = product("heads of a row", t.heads, t.outputs() + t.rest())?;
    Ok(vec![rows(Sym::Tokens, 1, t.x, width)?, Role::Weight(t.weight), rows(Sym::Tokens, 1, t.y, outputs)?])
}

fn latent_append(t: &LatentAppend) -> Result<Vec<Role>, String> {
    let mut roles = vec![rows(Sym::Tokens, 1, t.x, t.latent)?];
    HeadRow::new(t.format, t.latent.saturating_add(t.rest))?.part(t.latent)?;
    roles.extend(norm(t.norm, t.latent)?);
    roles.push(rows(Sym::Tokens, 1, t.r, t.rest)?);
    if t.rotation.is_some() {
        rotated(t.rest, t.rest)?;
        roles.push(Role::RopeTable(t.rest));
    }
    roles.extend(history());
    roles.push(state(0, 1, t.latent + t.rest, t.format, Some(t.latent))?);
    Ok(roles)
}

fn route(t: &Route) -> Result<Vec<Role>, String> {
    let even = t.groups == 1 || t.groups > 1 && t.experts.is_multiple_of(t.groups) && t.experts / t.groups > 1;
    if !even || !(1..=t.groups).contains(&t.kept) {
        return Err(format!("{} of {} groups of {} experts", t.kept, t.groups, t.experts));
    }
    let left = t.experts / t.groups * t.kept;
    if !(1..=left).contains(&t.top_k) {
        return Err(format!("{} of {left} experts", t.top_k));
    }
    let chosen = || rows(Sym::Tokens, 1, View::dense(t.top_k), t.top_k);
    let mut roles = vec![rows(Sym::Tokens, 1, t.scores, t.experts)?];
    roles.extend(t.bias.map(|format| vector(format, t.experts)).transpose()?);
    roles.extend([chosen()?, chosen()?]);
    Ok(roles)
}

fn rope_append(t: &RopeAppend) -> Result<Vec<Role>, String> {
    let dim = t.append.dim;
    let queries = product("heads of a row", t.heads, dim)?;
    let heads = product("heads of a row", t.append.heads, dim)?;
    rotated(t.rotated, dim)?;
    if t.rotate {
        rotation::parts(dim)?;
    }
    let mut roles = vec![one_row(&[(t.q, queries), (t.append.k, heads), (t.append.v, heads)], t.q.stride)?];
    roles.extend(norm(t.q_norm, dim)?);
    roles.extend(norm(t.k_norm, dim)?);
    roles.push(Role::RopeTable(t.rotated));
    roles.extend(history());
    roles.push(rows(Sym::Tokens, 1, t.q_out, queries)?);
    roles.extend(pages(&t.append)?);
    Ok(roles)
}

fn attend(t: &Attend) -> Result<Vec<Role>, String> {
    let width = product("heads of a row", t.heads, t.dim)?;
    if let Some(latent) = t.latent {
        HeadRow::new(t.k_format, t.dim)?.part(latent)?;
        if (t.kv_heads, t.v_format, t.archive) != (1, t.k_format, None) {
            return Err("latents of several heads or formats, or with an archive".to_owned());
        }
    }
    if t.kv_heads == 0 || !t.heads.is_multiple_of(t.kv_heads) {
        return Err(format!("{} query heads do not divide over {} KV heads", t.heads, t.kv_heads));
    }
    if !(t.cap.is_finite() && t.cap >= 0.0) {
        return Err(format!("scores bounded by {}", t.cap));
    }
    let mut roles = vec![rows(Sym::Tokens, 1, t.q, width)?];
    roles.extend(history());
    roles.push(state(0, t.kv_heads, t.dim, t.k_format, t.latent)?);
    if t.latent.is_none() {
        roles.push(state(1, t.kv_heads, t.dim, t.v_format, None)?);
    }
    if t.rotate_back && t.archive.is_none() {
        return Err("a result rotated back, without an archive".to_owned());
    }
    if let Some(archive) = t.archive {
        roles.extend(archived(archive, t.kv_heads, t.dim)?);
    }
    roles.extend(t.sinks.map(|float| vector(Format::Float(float), t.heads)).transpose()?);
    roles.push(rows(Sym::Tokens, 1, t.y, product("heads of a row", t.heads, t.value_dim())?)?);
    Ok(roles)
}

fn short_conv(t: &ShortConv) -> Result<Vec<Role>, String> {
    product("elements of a convolution", t.channels, t.taps)?;
    let columns = t.taps - 1;
    product("elements of a state", t.channels, columns)?;
    map(&t.epilogue, 1, t.extras.len())?;
    let weight = WeightType { format: t.weight, rows: t.channels, cols: t.taps };
    self::weight(&weight)?;
    let mut roles = vec![rows(Sym::Tokens, 1, t.x, t.channels)?, Role::Weight(weight)];
    roles.extend([Role::Input(Input::Segments), Role::Input(Input::Units)]);
    roles.push(Role::Recurrent(Recurrence::Inputs([columns, t.channels])));
    roles.extend(extras(&t.extras, Sym::Tokens, t.channels)?);
    roles.push(rows(Sym::Tokens, 1, t.y, t.channels)?);
    Ok(roles)
}

fn delta(t: &Delta) -> Result<Vec<Role>, String> {
    if t.key_heads == 0 || !t.heads.is_multiple_of(t.key_heads) {
        return Err(format!("{} heads do not divide over {} heads of keys", t.heads, t.key_heads));
    }
    if t.norm.is_some_and(|eps| !(eps.is_finite() && eps > 0.0)) || !t.scale.is_finite() {
        return Err(format!("queries and keys normalised with {:?} and scaled by {}", t.norm, t.scale));
    }
    let (values, keys) = (product("values of a row", t.heads, t.value)?, product("keys of a row", t.key_heads, t.key)?);
    product("elements of a memory", values, t.key)?;
    let (views, stride) = ([(t.q, keys), (t.k, keys), (t.v, values)], t.q.stride);
    let mut roles = vec![one_row(&views, stride)?];
    roles.extend([rows(Sym::Tokens, 1, t.alpha, t.heads)?, rows(Sym::Tokens, 1, t.beta, t.heads)?]);
    roles.extend([vector(t.decay[0], t.heads)?, vector(t.decay[1], t.heads)?]);
    roles.extend([Role::Input(Input::Segments), Role::Input(Input::Units)]);
    roles.push(Role::Recurrent(Recurrence::Memory([t.heads, t.value, t.key])));
    roles.push(rows(Sym::Tokens, 1, t.y, values)?);
    Ok(roles)
}

fn ssm(t: &Ssm) -> Result<Vec<Role>, String> {
    if t.groups == 0 || !t.heads.is_multiple_of(t.groups) {
        return Err(format!("{} heads do not divide over {} groups", t.heads, t.groups));
    }
    let [least, most] = t.bounds;
    if !(least.is_finite() && most.is_finite() && least <= most) {
        return Err(format!("time steps between {least} and {most}"));
    }
    let (values, keys) = (product("elements of x", t.heads, t.value)?, product("elements of B", t.groups, t.key)?);
    product("elements of a memory", values, t.key)?;
    map(&t.epilogue, 1, t.extras.len())?;
    let mut roles = vec![one_row(&[(t.c, keys), (t.b, keys), (t.x, values)], t.c.stride)?];
    roles.push(rows(Sym::Tokens, 1, t.dt, t.heads)?);
    for format in t.weights {
        roles.push(vector(format, t.heads)?);
    }
    roles.extend([Role::Input(Input::Segments), Role::Input(Input::Units)]);
    roles.push(Role::Recurrent(Recurrence::Memory([t.heads, t.value, t.key])));
    roles.extend(extras(&t.extras, Sym::Tokens, values)?);
    roles.push(rows(Sym::Tokens, 1, t.y, values)?);
    Ok(roles)
}

/// One row seen through several views with their widths.
fn one_row(views: &[(View, usize)], stride: usize) -> Result<Role, String> {
    for (view, width) in views {
        rows(Sym::Tokens, 1, *view, *width)?;
        if view.stride != stride {
            return Err(format!("one row of {stride} elements and of {}", view.stride));
        }
    }
    let reach = views.iter().map(|(view, width)| view.offset + width).max().unwrap_or(0);
    rows(Sym::Tokens, 1, View { offset: 0, stride }, reach)
}

/// Page table, keys and values of an archive.
fn archived(archive: Archive, heads: usize, dim: usize) -> Result<[Role; 3], String> {
    archive.check(dim)?;
    let part = |part| Role::Archive { part, heads, dim, archive };
    Ok([Role::PageTable(2), part(2), part(3)])
}

fn expert_linear(t: &ExpertLinear) -> Result<Vec<Role>, String> {
    weight(&t.weight)?;
    if t.experts == 0 || !t.weight.rows.is_multiple_of(t.experts) {
        return Err(format!("{} rows do not divide over {} experts", t.weight.rows, t.experts));
    }
    // More than there are in memory, where they take turns.
    if !(1..=MOST_RANKS).contains(&t.top_k) {
        return Err(format!("{} experts of a token: expected 1 to {MOST_RANKS}", t.top_k));
    }
    let own = t.weight.rows / t.experts;
    even("rows of an expert in pairs", t.pair, own)?;
    rounding(t.round, t.weight.cols)?;
    map(&t.epilogue, if t.pair { 2 } else { 1 }, 0)?;
    let ranks = if t.x_per_rank { t.top_k } else { 1 };
    let x = rows(Sym::Tokens, ranks, t.x, t.weight.cols)?;
    let y = rows(Sym::Tokens, t.top_k, t.y, if t.pair { own / 2 } else { own })?;
    let bias = t.bias.map(|float| Role::Weight(t.bias_type(float)));
    Ok([x, Role::Experts(t.top_k), Role::Weight(t.weight)].into_iter().chain(bias).chain([y]).collect())
}

fn history() -> [Role; 3] {
    [Role::Input(Input::Positions), Role::Input(Input::Sequences), Role::PageTable(0)]
}

fn pages(t: &Append) -> Result<[Role; 2], String> {
    Ok([state(0, t.heads, t.dim, t.k_format, None)?, state(1, t.heads, t.dim, t.v_format, None)?])
}

fn state(part: usize, heads: usize, dim: usize, format: Format, latent: Option<usize>) -> Result<Role, String> {
    product("heads of a state", heads, dim)?;
    HeadRow::new(format, dim)?;
    Ok(Role::State { part, heads, dim, format, latent })
}

fn size(what: &str, n: usize) -> Result<usize, String> {
    if (1..=LARGEST).contains(&n) { Ok(n) } else { Err(format!("{what}: expected 1 to {LARGEST}, got {n}")) }
}

fn product(what: &str, a: usize, b: usize) -> Result<usize, String> {
    size(what, a.saturating_mul(b))
}

/// Rows do not overlap, so that what writes one leaves the others alone.
fn rows(sym: Sym, times: usize, view: View, width: usize) -> Result<Role, String> {
    for (what, n) in [("rows", times), ("a row", width), ("a stride", view.stride)] {
        size(what, n)?;
    }
    if view.offset.saturating_add(width) > view.stride {
        let View { offset, stride } = view;
        return Err(format!("{width} elements from {offset} on do not lie in rows of {stride}"));
    }
    Ok(Role::Rows { sym, times, view, width })
}

fn weight(ty: &WeightType) -> Result<(), String> {
    product("elements of a weight", ty.rows, ty.cols)?;
    row_format(ty.format, ty.cols)
}

fn vector(format: Format, cols: usize) -> Result<Role, String> {
    let ty = WeightType { format, rows: 1, cols };
    weight(&ty).map(|()| Role::Weight(ty))
}

fn norm(norm: Option<Norm>, cols: usize) -> Result<Option<Role>, String> {
    norm.map(|n| vector(n.weight, cols)).transpose()
}

/// Roles of the extras that are arguments.
fn extras(extras: &[Extra], sym: Sym, width: usize) -> Result<Vec<Role>, String> {
    let role = |extra: &Extra| match extra {
        Extra::Column(format) => vector(*format, width).map(Some),
        Extra::Element(view) => rows(sym, 1, *view, width).map(Some),
        Extra::Part { start, len, factor } => match start.checked_add(*len) {
            Some(end) if end <= width && factor.is_finite() => Ok(None),
            _ => Err(format!("{factor} at {len} columns from {start} on of {width}")),
        },
    };
    extras.iter().filter_map(|extra| role(extra).transpose()).collect()
}

fn rotated(n: usize, dim: usize) -> Result<(), String> {
    if n > 0 && n <= dim && n.is_multiple_of(2) {
        return Ok(());
    }
    Err(format!("{n} rotated elements: expected an even number up to {dim}"))
}

fn even(what: &str, wanted: bool, n: usize) -> Result<(), String> {
    if wanted && !n.is_multiple_of(2) { Err(format!("{what}: {n} are not even")) } else { Ok(()) }
}

fn rounding(round: Option<Rounding>, cols: usize) -> Result<(), String> {
    match round {
        Some(to) if !cols.is_multiple_of(to.group()) => {
            Err(format!("{cols} columns do not divide into groups of {}", to.group()))
        }
        _ => Ok(()),
    }
}

/// Every register is set before it is read, and every input is given.
fn map(map: &Map, given: usize, extras: usize) -> Result<(), String> {
    let sound = |(at, step): (usize, &MapStep)| {
        let before = |r: &Reg| (r.0 as usize) < at;
        match step {
            MapStep::Input(i) => (*i as usize) < given + extras,
            MapStep::Const(x) => x.is_finite(),
            MapStep::Add(a, b) | MapStep::Mul(a, b) | MapStep::Min(a, b) | MapStep::Max(a, b) => before(a) && before(b),
            MapStep::Silu(a) | MapStep::GeluTanh(a) | MapStep::Sigmoid(a) | MapStep::Tanh(a) | MapStep::Round(a, _) => {
                before(a)
            }
        }
    };
    if map.steps.is_empty() || !map.steps.iter().enumerate().all(sound) {
        return Err("an elementwise program is empty or reads what is not there".to_owned());
    }
    Ok(())
}

impl Role {
    /// Whether a state is one that the template was made for.
    pub(super) fn fits(&self, of: &StateType) -> bool {
        let (heads, dim, k, v, latent, held) = match of {
            StateType::Paged { heads, dim, k, v, latent, archive, .. } => (heads, dim, k, v, latent, archive),
            StateType::Recurrent(r) => {
                return match self {
                    Self::Recurrent(Recurrence::Inputs(sizes)) => *sizes == [r.columns, r.channels],
                    Self::Recurrent(Recurrence::Memory(sizes)) => *sizes == [r.heads, r.value, r.key],
                    _ => false,
                };
            }
        };
        match self {
            Self::Archive { heads: h, dim: d, archive, .. } => (h, d) == (heads, dim) && Some(*archive) == *held,
            Self::State { part, heads: h, dim: d, format, latent: l } => {
                (h, d, l) == (heads, dim, latent) && format == if *part == 0 { k } else { v }
            }
            _ => false,
        }
    }
}
