//! Linears that share an input and a storage format become one: q|k|v, gate|up.
//!
//! This is a pass of its own and no rewrite rule: a merged product pays off only for all siblings together, which neither
//! tree nor greedy extraction ever sees. The two sides of a gate merge with one another only, so that one launch can
//! multiply them. Biases on all siblings merge as well, and a factor on one becomes a factor on its part; experts
//! interleave, so that each expert's rows stay together.

use swiftlm_ir::graph::{Arg, Graph, Value, WeightDecl, WeightSlot};
use swiftlm_ir::ops::Op;

use crate::rewrite::{Rewriter, uses};

/// Elements that the verifier allows a weight: of many large experts even two matrices together have more.
const LARGEST_WEIGHT: usize = u32::MAX as usize;

/// Siblings in program order, their biases if all have one, and the factors behind each.
struct Family {
    members: Vec<Value>,
    biases: Option<Vec<Value>>,
    factors: Vec<Vec<Value>>,
}

/// Runs the pass.
pub fn run(g: &Graph) -> Graph {
    let families = families(g);
    let mut r = Rewriter::new(g);
    for i in 0..g.values.len() {
        let v = Value(i as u32);
        let of = families.iter().find(|f| f.members.contains(&v));
        let behind = families
            .iter()
            .find(|f| f.biases.as_ref().is_some_and(|b| b.contains(&v)) || f.factors.iter().any(|of| of.contains(&v)));
        match (of, behind) {
            (Some(f), _) if f.members[0] == v => merge(g, &mut r, f),
            // Replaced when the first member was merged.
            (Some(_), _) | (_, Some(_)) => {}
            (None, None) => {
                r.copy(v);
            }
        }
    }
    r.finish()
}

fn weight_of(g: &Graph, v: Value) -> Option<(&Op, &[Arg], WeightSlot)> {
    match g.node(v)? {
        (op @ (Op::Linear | Op::ExpertLinear { .. } | Op::Bias | Op::ExpertBias { .. }), args) => match args.last() {
            Some(Arg::Weight(w)) => Some((op, args, *w)),
            _ => None,
        },
        _ => None,
    }
}

fn families(g: &Graph) -> Vec<Family> {
    let uses = uses(g);
    let products = (0..g.values.len()).map(|i| Value(i as u32));
    let product = |v: &Value| matches!(g.node(*v), Some((Op::Linear | Op::ExpertLinear { .. }, _)));
    let products: Vec<Value> = products.filter(|v| product(v) && weight_of(g, *v).is_some()).collect();
    let ends: Vec<Option<Value>> = products.iter().map(|v| gated(g, &uses, *v)).collect();
    // A side of a gate whose other side is no product may go with any.
    let side = |v: Value| {
        let end = ends[products.iter().position(|p| *p == v)?]?;
        (ends.iter().filter(|e| **e == Some(end)).count() > 1).then_some(end)
    };
    let mut families: Vec<Family> = vec![];
    for v in products.iter().copied() {
        let Some((op, args, w)) = weight_of(g, v) else { continue };
        let joins = |f: &Family| {
            weight_of(g, f.members[0]).is_some_and(|(op2, args2, w2)| {
                let (a, b) = (&g.weights[w.0 as usize], &g.weights[w2.0 as usize]);
                op == op2
                    && side(v) == side(f.members[0])
                    && args[..args.len() - 1] == args2[..args2.len() - 1]
                    && (a.ty.format, a.ty.cols) == (b.ty.format, b.ty.cols)
                    && (matches!(op, Op::Linear) || (a.names.len(), a.ty.rows) == (b.names.len(), b.ty.rows))
            })
        };
        let elements = |v: Value| {
            weight_of(g, v).map_or(0, |(_, _, w)| g.weights[w.0 as usize].ty.rows * g.weights[w.0 as usize].ty.cols)
        };
        let small = |f: &Family| f.members.iter().copied().chain([v]).map(elements).sum::<usize>() <= LARGEST_WEIGHT;
        match families.iter_mut().find(|f| joins(f) && small(f)) {
            Some(f) => f.members.push(v),
            None => families.push(Family { members: vec![v], biases: None, factors: vec![] }),
        }
    }
    families.retain(|f| f.members.len() > 1);
    for f in &mut families {
        f.biases = biases(g, &uses, &f.members);
        let ends = f.biases.as_ref().unwrap_or(&f.members);
        // Those of a gate are computed where its sides meet.
        let flat = f.members.iter().all(|v| matches!(g.node(*v), Some((Op::Linear, _))) && side(*v).is_none());
        f.factors = ends.iter().map(|v| if flat { factors(g, &uses, *v) } else { vec![] }).collect();
    }
    families
}

/// The product of two sides that a value ends in, if nothing else sees it on the way.
fn gated(g: &Graph, uses: &[Vec<Option<Value>>], v: Value) -> Option<Value> {
    let [Some(user)] = uses[v.0 as usize][..] else { return None };
    match g.node(user)?.0 {
        Op::Mul => Some(user),
        Op::Bias | Op::ExpertBias { .. } | Op::Scale { .. } | Op::Min { .. } | Op::Max { .. } => gated(g, uses, user),
        Op::Silu | Op::GeluTanh | Op::Sigmoid | Op::Tanh => gated(g, uses, user),
        _ => None,
    }
}

/// The constant factors behind `v`, one behind the other, as long as nothing else sees what they multiply.
fn factors(g: &Graph, uses: &[Vec<Option<Value>>], mut v: Value) -> Vec<Value> {
    let mut found = vec![];
    while let [Some(user)] = uses[v.0 as usize][..]
        && matches!(g.node(user), Some((Op::Scale { .. } | Op::ScalePart { .. }, _)))
    {
        found.push(user);
        v = user;
    }
    found
}

/// The bias on each member, if each is used by one bias and nothing else, all in one format.
fn biases(g: &Graph, uses: &[Vec<Option<Value>>], members: &[Value]) -> Option<Vec<Value>> {
    let all: Option<Vec<Value>> = members
        .iter()
        .map(|m| match uses[m.0 as usize][..] {
            [Some(user)] if matches!(g.node(user), Some((Op::Bias | Op::ExpertBias { .. }, _))) => Some(user),
            _ => None,
        })
        .collect();
    let all = all?;
    // One op, one format, and the same experts.
    let kind = |v: Value| {
        weight_of(g, v).map(|(op, args, w)| (op, &args[1..args.len() - 1], g.weights[w.0 as usize].ty.format))
    };
    all.iter().all(|v| kind(*v) == kind(all[0])).then_some(all)
}

fn merge(g: &Graph, r: &mut Rewriter<'_>, f: &Family) {
    let parts = |values: &[Value]| -> Vec<WeightDecl> {
        values.iter().filter_map(|v| weight_of(g, *v)).map(|(_, _, w)| g.weights[w.0 as usize].clone()).collect()
    };
    let Some((op, args, _)) = weight_of(g, f.members[0]) else { return };
    let matrices = parts(&f.members);
    let mut ty = matrices[0].ty;
    ty.rows = matrices.iter().map(|m| m.ty.rows).sum();
    let experts = if let Op::ExpertLinear { experts } = op { *experts } else { 1 };
    let slot = r.weight(WeightDecl { names: interleave(&matrices, experts), ty });
    let mut new_args: Vec<Arg> = args[..args.len() - 1].iter().map(|a| r.arg(*a)).collect();
    new_args.push(slot.into());
    let loc = g.value(f.members[0]).loc.rsplit_once('.').map_or("", |(parent, _)| parent);
    let mut merged = r.emit(op.clone(), new_args, loc);
    if let Some(biases) = &f.biases {
        let vectors = parts(biases);
        let Some((op, args, _)) = weight_of(g, biases[0]) else { return };
        let mut ty = vectors[0].ty;
        // Experts' vectors are columns.
        match op {
            Op::Bias => ty.cols = vectors.iter().map(|v| v.ty.cols).sum(),
            _ => ty.rows = vectors.iter().map(|v| v.ty.rows).sum(),
        }
        let slot = r.weight(WeightDecl { names: interleave(&vectors, experts), ty });
        let mut new_args = vec![merged.into()];
        new_args.extend(args[1..args.len() - 1].iter().map(|a| r.arg(*a)));
        new_args.push(slot.into());
        merged = r.emit(op.clone(), new_args, loc);
    }
    let lens: Vec<usize> = matrices.iter().map(|matrix| matrix.ty.rows / experts).collect();
    let starts: Vec<usize> = lens.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len))).collect();
    for ((factors, own), whole) in f.factors.iter().zip(&starts).zip(&lens) {
        for v in factors {
            let (start, len, factor) = match g.node(*v) {
                Some((Op::Scale { factor }, _)) => (*own, *whole, *factor),
                Some((Op::ScalePart { start, len, factor }, _)) => (own + start, *len, *factor),
                _ => continue,
            };
            merged = r.emit(Op::ScalePart { start, len, factor }, vec![merged.into()], loc);
        }
    }
    for (i, end) in f.biases.as_ref().unwrap_or(&f.members).iter().enumerate() {
        let old = f.factors[i].last().unwrap_or(end);
        let (start, len) = (starts[i], lens[i]);
        let part = r.emit(Op::Slice { start, len }, vec![merged.into()], &g.value(*old).loc);
        r.replace(*old, part);
    }
}

/// Names of a merged weight: for each expert, its part of every member.
fn interleave(parts: &[WeightDecl], experts: usize) -> Vec<String> {
    let of = |part: &WeightDecl, e: usize| {
        let each = part.names.len() / experts;
        part.names[e * each..(e + 1) * each].to_vec()
    };
    (0..experts).flat_map(|e| parts.iter().flat_map(move |p| of(p, e))).collect()
}
