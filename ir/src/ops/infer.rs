//! Types of results from types of arguments: the one source of shape rules, for the builder, the verifier and the e-graph.

use crate::dim::{Dim, Sym};
use crate::graph::WeightType;
use crate::ops::Op;
use crate::quant::rotation;
use crate::ty::{DType, Recurrent, StateType, TensorType, Type};

/// What an argument is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ArgType {
    /// A value.
    Value(Type),
    /// A weight.
    Weight(WeightType),
}

fn tensor<'a>(op: &Op, args: &'a [ArgType], i: usize) -> Result<&'a TensorType, String> {
    match args.get(i) {
        Some(ArgType::Value(Type::Tensor(t))) => Ok(t),
        Some(_) => Err(format!("`{}`: argument {i} of ({}) must be a tensor", op.name(), op.arguments())),
        None => Err(format!("`{}` needs the arguments ({})", op.name(), op.arguments())),
    }
}

fn weight<'a>(op: &Op, args: &'a [ArgType], i: usize) -> Result<&'a WeightType, String> {
    match args.get(i) {
        Some(ArgType::Weight(w)) => Ok(w),
        Some(_) => Err(format!("`{}`: argument {i} of ({}) must be a weight", op.name(), op.arguments())),
        None => Err(format!("`{}` needs the arguments ({})", op.name(), op.arguments())),
    }
}

fn state<'a>(op: &Op, args: &'a [ArgType]) -> Result<&'a StateType, String> {
    match args.first() {
        Some(ArgType::Value(Type::State(s))) => Ok(s),
        _ => Err(format!("`{}`: argument 0 of ({}) must be a state", op.name(), op.arguments())),
    }
}

fn want(
    op: &Op,
    what: &str,
    expected: impl std::fmt::Display,
    got: impl std::fmt::Display,
    ok: bool,
) -> Result<(), String> {
    if ok { Ok(()) } else { Err(format!("`{}`: {what}: expected {expected}, got {got}", op.name())) }
}

fn width(op: &Op, t: &TensorType) -> Result<usize, String> {
    t.width().ok_or_else(|| format!("`{}`: the last extent of {t} must be constant", op.name()))
}

fn paged(op: &Op, got: &StateType) -> Result<Type, String> {
    Err(format!("`{}`: state: expected one of keys and values, got {got}", op.name()))
}

fn recurrent<'a>(op: &Op, args: &'a [ArgType]) -> Result<&'a Recurrent, String> {
    let s = state(op, args)?;
    s.recurrent().ok_or_else(|| format!("`{}`: state: expected a recurrent one, got {s}", op.name()))
}

/// Rows of f32, one per token.
fn rows_of(extents: &[usize]) -> TensorType {
    let rest = extents.iter().map(|n| Dim::Const(*n));
    TensorType::new(DType::F32, std::iter::once(Dim::Sym(Sym::Tokens)).chain(rest))
}

/// Whether `t` holds keys of a memory: of fewer heads than it has, which share them.
fn keys(op: &Op, r: &Recurrent, t: &TensorType) -> Result<(), String> {
    let heads = t.shape.get(1).and_then(|d| d.constant()).unwrap_or(0);
    let expected = rows_of(&[heads, r.key]);
    want(op, "keys", &expected, t, *t == expected)?;
    want(
        op,
        "heads of keys",
        format!("a divisor of {}", r.heads),
        heads,
        heads > 0 && r.heads > 0 && r.heads.is_multiple_of(heads),
    )
}

/// The result type of `op`.
///
/// # Errors
/// A sentence saying what was expected and got.
pub fn infer(op: &Op, args: &[ArgType]) -> Result<Type, String> {
    let arity = op.arguments().split(", ").count();
    let least = arity - op.arguments().matches('?').count();
    want(op, "number of arguments", op.arguments(), args.len(), (least..=arity).contains(&args.len()))?;
    let float = |i: usize| -> Result<&TensorType, String> {
        let t = tensor(op, args, i)?;
        want(op, "element type", "f32", t.dtype.name(), t.dtype == DType::F32)?;
        Ok(t)
    };
    let with_last = |t: &TensorType, n: usize| {
        let mut shape = t.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Const(n);
        }
        Type::Tensor(TensorType { dtype: t.dtype, shape })
    };
    let rank = |t: &TensorType, n: usize| want(op, "rank", n, t, t.shape.len() == n);
    let vector = |i: usize, n: usize| -> Result<(), String> {
        let w = weight(op, args, i)?;
        want(op, "weight", format!("[{n}]"), w, w.rows == 1 && w.cols == n)
    };
    match op {
        Op::Embed { .. } => {
            let ids = tensor(op, args, 0)?;
            want(op, "ids", "u32[T]", ids, ids.dtype == DType::U32 && ids.shape.len() == 1)?;
            let w = weight(op, args, 1)?;
            Ok(Type::Tensor(TensorType::new(DType::F32, [ids.shape[0], Dim::Const(w.cols)])))
        }
        Op::RmsNorm { .. } => {
            let x = float(0)?;
            let (n, all) = (width(op, x)?, x.row_elements().unwrap_or(0));
            let own = matches!(args.get(1), Some(ArgType::Weight(w)) if x.shape.len() == 3 && w.cols == all);
            vector(1, if own { all } else { n })?;
            Ok(Type::Tensor(x.clone()))
        }
        Op::Bias => {
            let x = float(0)?;
            vector(1, width(op, x)?)?;
            Ok(Type::Tensor(x.clone()))
        }
        Op::Linear => {
            let (x, w) = (float(0)?, weight(op, args, 1)?);
            want(op, "inner extent", w.cols, x, x.width() == Some(w.cols))?;
            Ok(with_last(x, w.rows))
        }
        Op::Add | Op::Mul => {
            let (a, b) = (float(0)?, float(1)?);
            want(op, "equal shapes", a, b, a == b)?;
            Ok(Type::Tensor(a.clone()))
        }
        Op::Scale { .. } | Op::Silu | Op::GeluTanh | Op::Sigmoid | Op::Tanh | Op::Min { .. } | Op::Max { .. } => {
            Ok(Type::Tensor(float(0)?.clone()))
        }
        Op::Round { to } => {
            let (x, group) = (float(0)?, to.group());
            if group > 1 {
                let n = width(op, x)?;
                want(op, "last extent", format!("a multiple of {group}"), n, n % group == 0)?;
            }
            Ok(Type::Tensor(x.clone()))
        }
        Op::Slice { start, len } => {
            let x = float(0)?;
            let n = width(op, x)?;
            let end = start.saturating_add(*len);
            want(op, "range", format!("at most {n}"), end, *len > 0 && end <= n)?;
            Ok(with_last(x, *len))
        }
        Op::ScalePart { start, len, .. } => {
            let x = float(0)?;
            let n = width(op, x)?;
            let end = start.saturating_add(*len);
            want(op, "range", format!("at most {n}"), end, *len > 0 && end <= n)?;
            Ok(Type::Tensor(x.clone()))
        }
        Op::SplitHeads { heads } => {
            let x = float(0)?;
            rank(x, 2)?;
            let n = width(op, x)?;
            want(op, "heads", format!("a divisor of {n}"), heads, *heads > 0 && n % heads == 0)?;
            let shape = [x.shape[0], Dim::Const(*heads), Dim::Const(n / heads)];
            Ok(Type::Tensor(TensorType::new(DType::F32, shape)))
        }
        Op::MergeHeads => {
            let x = float(0)?;
            rank(x, 3)?;
            let n = x
                .row_elements()
                .ok_or_else(|| format!("`merge_heads`: heads and their size must be constant in {x}"))?;
            Ok(Type::Tensor(TensorType::new(DType::F32, [x.shape[0], Dim::Const(n)])))
        }
        Op::Rope { start, dim, .. } => {
            let (x, table) = (float(0)?, float(1)?);
            rank(x, 3)?;
            let n = width(op, x)?;
            let (even, end) = (*dim > 0 && dim % 2 == 0, start.saturating_add(*dim));
            want(op, "rotated elements", format!("an even number up to {n}"), dim, even && end <= n)?;
            want(op, "table", format!("f32[T,{dim}]"), table, table.shape[..] == [x.shape[0], Dim::Const(*dim)])?;
            Ok(Type::Tensor(x.clone()))
        }
        Op::HeadLinear { heads, first, len, transposed } => {
            let w = weight(op, args, 1)?;
            let own = if *heads > 0 && w.rows % heads == 0 { w.rows / heads } else { 0 };
            let rows = first.saturating_add(*len);
            want(op, "rows of a head", format!("{rows} or more, {heads} times"), w, *len > 0 && rows <= own)?;
            let (inputs, outputs) = if *transposed { (*len, w.cols) } else { (w.cols, *len) };
            let result = |n: usize| {
                want(op, "elements of a head", format!("{inputs} or more"), n, n >= inputs)?;
                Ok::<usize, String>(n - inputs + outputs)
            };
            if let Some(ArgType::Value(Type::History { window, heads: of, dim })) = args.first() {
                want(op, "heads of the history", format!("1 or {heads}"), of, *of == 1 || of == heads)?;
                return Ok(Type::History { window: *window, heads: *heads, dim: result(*dim)? });
            }
            let x = float(0)?;
            rank(x, 3)?;
            want(op, "heads", heads, x, x.shape[1] == Dim::Const(*heads))?;
            Ok(with_last(x, result(width(op, x)?)?))
        }
        Op::KvAppend => {
            let s = state(op, args)?;
            let StateType::Paged { heads, dim, latent, .. } = s else { return paged(op, s) };
            let (what, dims) = match latent {
                None => (["keys", "values"], [*dim, *dim]),
                Some(latent) => (["latents", "rotated keys"], [*latent, dim.saturating_sub(*latent)]),
            };
            for (i, (what, dim)) in what.into_iter().zip(dims).enumerate() {
                let t = float(i + 1)?;
                let expected =
                    TensorType::new(DType::F32, [Dim::Sym(Sym::Tokens), Dim::Const(*heads), Dim::Const(dim)]);
                want(op, what, &expected, t, *t == expected)?;
            }
            Ok(Type::State(s.clone()))
        }
        Op::KvArchive => {
            let s = state(op, args)?;
            let StateType::Paged { archive, .. } = s else { return paged(op, s) };
            want(op, "state", "one with an archive", s, archive.is_some())?;
            Ok(Type::State(s.clone()))
        }
        Op::Rotate { .. } => {
            if let Some(ArgType::Value(history @ Type::History { dim, .. })) = args.first() {
                return rotation::parts(*dim).map(|_| history.clone());
            }
            let x = float(0)?;
            rank(x, 3)?;
            rotation::parts(width(op, x)?)?;
            Ok(Type::Tensor(x.clone()))
        }
        Op::KvK | Op::KvV => {
            let s = state(op, args)?;
            let StateType::Paged { window, heads, dim, .. } = s else { return paged(op, s) };
            let dim = if *op == Op::KvK { *dim } else { s.value_dim() };
            Ok(Type::History { window: *window, heads: *heads, dim })
        }
        Op::Attend { window, .. } => {
            let q = float(0)?;
            rank(q, 3)?;
            want(op, "first extent", "T", q, q.shape[0] == Dim::Sym(Sym::Tokens))?;
            let history = |i: usize| match args.get(i) {
                Some(ArgType::Value(Type::History { window: kept, heads, dim })) => {
                    let held = *kept == 0 || (1..=*kept).contains(window);
                    want(op, "window", format!("1 to {kept}, which the state keeps"), window, held)?;
                    Ok((*heads, *dim))
                }
                _ => Err(format!("`attend`: argument {i} must be a history (kv.k or kv.v of a state)")),
            };
            let ((heads, dim), v) = (history(1)?, history(2)?);
            want(op, "head size", dim, q, q.width() == Some(dim))?;
            let q_heads = q.shape[1].constant().unwrap_or(0);
            for heads in [heads, v.0] {
                let whole = q_heads > 0 && q_heads.is_multiple_of(heads);
                want(op, "query heads", format!("a multiple of {heads}"), q_heads, whole)?;
            }
            if args.len() > 3 {
                vector(3, q_heads)?;
            }
            Ok(with_last(q, v.1))
        }
        Op::ConvAppend => {
            let r = recurrent(op, args)?;
            let (x, expected) = (float(1)?, rows_of(&[r.channels]));
            want(op, "inputs", &expected, x, *x == expected)?;
            Ok(Type::State(StateType::Recurrent(*r)))
        }
        Op::ConvCausal => {
            let (r, w) = (recurrent(op, args)?, weight(op, args, 1)?);
            let (rows, cols) = (r.channels, r.columns + 1);
            want(op, "weight", format!("[{rows},{cols}]"), w, r.columns > 0 && (w.rows, w.cols) == (rows, cols))?;
            Ok(Type::Tensor(rows_of(&[r.channels])))
        }
        Op::DeltaAppend => {
            let r = recurrent(op, args)?;
            keys(op, r, float(1)?)?;
            let of_heads = rows_of(&[r.heads]);
            for (i, what, expected) in
                [(2, "values", &rows_of(&[r.heads, r.value])), (3, "decay", &of_heads), (4, "beta", &of_heads)]
            {
                let t = float(i)?;
                want(op, what, expected, t, t == expected)?;
            }
            Ok(Type::State(StateType::Recurrent(*r)))
        }
        Op::DeltaRead { .. } => {
            let r = recurrent(op, args)?;
            keys(op, r, float(1)?)?;
            Ok(Type::Tensor(rows_of(&[r.heads, r.value])))
        }
        Op::L2Norm { .. } => {
            let x = float(0)?;
            width(op, x)?;
            Ok(Type::Tensor(x.clone()))
        }
        Op::Decay => {
            let x = float(0)?;
            vector(1, width(op, x)?)?;
            vector(2, width(op, x)?)?;
            Ok(Type::Tensor(x.clone()))
        }
        Op::TimeStep { least, most } => {
            let x = float(0)?;
            vector(1, width(op, x)?)?;
            want(op, "bounds", "the lesser first", format!("{least} and {most}"), least <= most)?;
            Ok(Type::Tensor(x.clone()))
        }
        Op::SsmAppend => {
            let r = recurrent(op, args)?;
            keys(op, r, float(1)?)?;
            let (x, dt) = (rows_of(&[r.heads, r.value]), rows_of(&[r.heads]));
            for (i, what, expected) in [(2, "x", x), (3, "time steps", dt)] {
                let t = float(i)?;
                want(op, what, &expected, t, *t == expected)?;
            }
            vector(4, r.heads)?;
            Ok(Type::State(StateType::Recurrent(*r)))
        }
        Op::SsmRead => {
            let r = recurrent(op, args)?;
            keys(op, r, float(1)?)?;
            let (x, expected) = (float(2)?, rows_of(&[r.heads, r.value]));
            want(op, "x", &expected, x, *x == expected)?;
            vector(3, r.heads)?;
            Ok(Type::Tensor(expected))
        }
        Op::Rows => {
            let x = float(0)?;
            rank(x, 2)?;
            want(op, "first extent", "T", x, x.shape[0] == Dim::Sym(Sym::Tokens))?;
            Ok(Type::Tensor(TensorType::new(DType::F32, [Dim::Sym(Sym::Rows), x.shape[1]])))
        }
        Op::ArgMax => {
            let x = float(0)?;
            rank(x, 2)?;
            Ok(Type::Tensor(TensorType::new(DType::U32, [x.shape[0]])))
        }
        Op::RouteIds { top_k, groups, kept } => {
            let x = float(0)?;
            rank(x, 2)?;
            let n = width(op, x)?;
            // Of one group nothing is left out; of several, each has two scores to add.
            let even = *groups == 1 || *groups > 1 && n % groups == 0 && n / groups > 1;
            want(op, "groups", format!("1 or a divisor of {n} below {n}"), groups, even)?;
            want(op, "kept groups", format!("1 to {groups}"), kept, (1..=*groups).contains(kept))?;
            let n = n / groups * kept;
            want(op, "top_k", format!("1 to {n}"), top_k, (1..=n).contains(top_k))?;
            Ok(Type::Tensor(TensorType::new(DType::U32, [x.shape[0], Dim::Const(*top_k)])))
        }
        Op::RouteWeights { .. } => {
            let (x, ids) = (float(0)?, tensor(op, args, 1)?);
            let ok = ids.dtype == DType::U32 && ids.shape.len() == 2 && ids.shape.first() == x.shape.first();
            want(op, "ids", "u32[T, K]", ids, ok)?;
            Ok(Type::Tensor(TensorType::new(DType::F32, ids.shape.iter().copied())))
        }
        Op::ExpertFetch { slots } => {
            let ids = tensor(op, args, 0)?;
            want(op, "ids", "u32[T, K]", ids, ids.dtype == DType::U32 && ids.shape.len() == 2)?;
            want(op, "slots", "at least 1".to_owned(), slots, *slots > 0)?;
            if args.len() > 1 {
                let (ahead, weights) = (tensor(op, args, 1)?, tensor(op, args, 2)?);
                want(op, "ahead", ids, ahead, ahead == ids)?;
                let of = weights.dtype == DType::F32 && weights.shape == ids.shape;
                want(op, "weights", "f32 and the extents of ids", weights, of)?;
            }
            Ok(Type::Tensor(ids.clone()))
        }
        Op::ExpertLinear { experts } => {
            let (x, ids, w) = (float(0)?, tensor(op, args, 1)?, weight(op, args, 2)?);
            want(op, "ids", "u32[T, K]", ids, ids.dtype == DType::U32 && ids.shape.len() == 2)?;
            let ok = match x.shape.len() {
                2 => x.shape[0] == ids.shape[0],
                3 => x.shape[..2] == ids.shape[..],
                _ => false,
            };
            want(op, "x", format!("[T, {0}] or [T, K, {0}]", w.cols), x, ok && x.width() == Some(w.cols))?;
            let divides = *experts > 0 && w.rows % experts == 0;
            want(op, "weight rows", format!("a multiple of {experts} experts"), w.rows, divides)?;
            let shape = [ids.shape[0], ids.shape[1], Dim::Const(w.rows / experts)];
            Ok(Type::Tensor(TensorType::new(DType::F32, shape)))
        }
        Op::ExpertBias { experts } => {
            let (y, ids, w) = (float(0)?, tensor(op, args, 1)?, weight(op, args, 2)?);
            rank(y, 3)?;
            let of = ids.dtype == DType::U32 && ids.shape[..] == y.shape[..2];
            want(op, "ids", "u32 and the first two extents of y", ids, of)?;
            let rows = experts.checked_mul(width(op, y)?).filter(|rows| *rows > 0).unwrap_or(0);
            want(op, "weight", format!("[{rows},1]"), w, rows > 0 && (w.rows, w.cols) == (rows, 1))?;
            Ok(Type::Tensor(y.clone()))
        }
        Op::Combine => {
            let (y, weights) = (float(0)?, float(1)?);
            rank(y, 3)?;
            want(op, "weights", "the first two extents of y", weights, weights.shape[..] == y.shape[..2])?;
            Ok(Type::Tensor(TensorType::new(DType::F32, [y.shape[0], y.shape[2]])))
        }
    }
}
