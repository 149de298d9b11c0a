//! Types: `f32[T,64]`, `paged(heads=2, dim=16, k=f16, v=f16)`, `ring(window=512, heads=…)`,
//! `recurrent(columns=3, channels=64, heads=4, key=16, value=16)`, `history(heads=2, dim=16)`, `affine4_g64_bf16[128,64]`.

use super::cursor::{Cursor, Parsed};
use crate::dim::{Dim, Sym};
use crate::graph::WeightType;
use crate::quant::{Archive, Format, Turbo};
use crate::text::lex::Kind;
use crate::ty::{DType, Recurrent, StateType, TensorType, Type};

/// A type of a value.
pub(super) fn value_type(c: &mut Cursor<'_>) -> Parsed<Type> {
    if ["paged", "ring", "recurrent"].into_iter().any(|word| c.is(Kind::Word, word)) {
        return state_type(c).map(Type::State);
    }
    if c.is(Kind::Word, "history") {
        c.next();
        c.mark("(")?;
        let window = if c.is(Kind::Word, "window") { window(c)? } else { 0 };
        let (heads, dim) = heads(c)?;
        c.mark(")")?;
        return Ok(Type::History { window, heads, dim });
    }
    let what = "a type such as `f32[T,64]`, `history(…)`, `paged(…)`, `ring(…)` or `recurrent(…)`";
    let word = c.peek().text;
    let Some(dtype) = [DType::F32, DType::F16, DType::U32].into_iter().find(|d| d.name() == word) else {
        return c.expected(what);
    };
    c.token(Kind::Word, what)?;
    let bracket = c.peek();
    c.mark("[")?;
    let shape = c.list("]", |c| match Sym::ALL.into_iter().find(|s| c.is(Kind::Word, s.name())) {
        Some(sym) => {
            c.next();
            Ok(Dim::Sym(sym))
        }
        None => c.size("an extent: a number, `T` or `R`").map(Dim::Const),
    })?;
    if shape.is_empty() {
        return c.wrong(&bracket, "expected at least one extent".to_owned());
    }
    Ok(Type::Tensor(TensorType::new(dtype, shape)))
}

/// A type of a state.
pub(super) fn state_type(c: &mut Cursor<'_>) -> Parsed<StateType> {
    if c.is(Kind::Word, "recurrent") {
        return recurrent(c).map(StateType::Recurrent);
    }
    let ring = c.is(Kind::Word, "ring");
    if !ring && !c.is(Kind::Word, "paged") {
        return c.expected("a state such as `paged(heads=2, dim=16, k=f16, v=f16)`, `ring(window=512, heads=…)` or `recurrent(columns=3, …)`");
    }
    c.next();
    c.mark("(")?;
    let window = if ring { window(c)? } else { 0 };
    let (heads, dim) = heads(c)?;
    let mut formats = [Format::F32; 2];
    for (name, slot) in ["k", "v"].into_iter().zip(&mut formats) {
        c.mark(",")?;
        c.keyword(name)?;
        c.mark("=")?;
        *slot = format(c)?;
    }
    let (mut latent, mut archive) = (None, None);
    if c.is(Kind::Mark, ",") {
        c.next();
        match c.is(Kind::Word, "latent") {
            true => latent = Some(named_size(c, "latent")?),
            false => archive = Some(codes(c)?),
        }
    }
    c.mark(")")?;
    Ok(StateType::Paged { window, heads, dim, k: formats[0], v: formats[1], latent, archive })
}

/// `recurrent(columns=…, channels=…, heads=…, key=…, value=…)`.
fn recurrent(c: &mut Cursor<'_>) -> Parsed<Recurrent> {
    c.keyword("recurrent")?;
    c.mark("(")?;
    let mut sizes = [0; 5];
    for (i, (name, size)) in ["columns", "channels", "heads", "key", "value"].into_iter().zip(&mut sizes).enumerate() {
        if i > 0 {
            c.mark(",")?;
        }
        *size = named_size(c, name)?;
    }
    c.mark(")")?;
    let [columns, channels, heads, key, value] = sizes;
    Ok(Recurrent { columns, channels, heads, key, value })
}

/// `archive(k=…, v=…, first=…, last=…, centered=…)`.
fn codes(c: &mut Cursor<'_>) -> Parsed<Archive> {
    c.keyword("archive")?;
    c.mark("(")?;
    let mut codes = vec![];
    for name in ["k", "v"] {
        c.keyword(name)?;
        c.mark("=")?;
        codes.push(turbo(c)?);
        c.mark(",")?;
    }
    let first = named_size(c, "first")?;
    c.mark(",")?;
    let last = named_size(c, "last")?;
    c.mark(",")?;
    c.keyword("centered")?;
    c.mark("=")?;
    let word = c.token(Kind::Word, "true or false")?;
    let centered = match word.text {
        "true" => true,
        "false" => false,
        _ => return c.wrong(&word, "expected true or false".to_owned()),
    };
    c.mark(")")?;
    Ok(Archive { k: codes[0], v: codes[1], first, last, centered })
}

fn turbo(c: &mut Cursor<'_>) -> Parsed<Turbo> {
    let token = c.token(Kind::Word, "a format such as `turbo4`")?;
    match token.text.parse() {
        Ok(format) => Ok(format),
        Err(message) => c.wrong(&token, message),
    }
}

/// `window=…, `, which is not 0.
fn window(c: &mut Cursor<'_>) -> Parsed<usize> {
    let at = c.peek();
    let window = named_size(c, "window")?;
    if window == 0 {
        return c.wrong(&at, "a window of at least 1 token".to_owned());
    }
    c.mark(",")?;
    Ok(window)
}

/// `heads=…, dim=…`.
fn heads(c: &mut Cursor<'_>) -> Parsed<(usize, usize)> {
    let heads = named_size(c, "heads")?;
    c.mark(",")?;
    Ok((heads, named_size(c, "dim")?))
}

fn named_size(c: &mut Cursor<'_>, name: &str) -> Parsed<usize> {
    c.keyword(name)?;
    c.mark("=")?;
    c.size("a whole number")
}

fn format(c: &mut Cursor<'_>) -> Parsed<Format> {
    let token = c.token(Kind::Word, "a format such as `f16` or `affine4_g64_bf16`")?;
    match token.text.parse() {
        Ok(format) => Ok(format),
        Err(message) => c.wrong(&token, message),
    }
}

/// A type of a weight.
pub(super) fn weight_type(c: &mut Cursor<'_>) -> Parsed<WeightType> {
    let format = format(c)?;
    c.mark("[")?;
    let rows = c.size("a number of rows")?;
    c.mark(",")?;
    let cols = c.size("a number of columns")?;
    c.mark("]")?;
    Ok(WeightType { format, rows, cols })
}
