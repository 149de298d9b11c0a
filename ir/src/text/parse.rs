//! Parsing of modules and functions. The parser knows the grammar and infers types that are left out; whether a module
//! makes sense is the verifier's to say.

mod cursor;
mod function;
mod types;

use self::cursor::{Cursor, Parsed};
use self::function::{function, is_top_level};
use super::error::TextError;
use super::lex::{Kind, Token};
use crate::graph::{Call, Graph, Module, RopeTable};

/// States that one line may declare.
const MOST: usize = 65_536;

/// A call whose function may stand below it.
struct NamedCall<'s> {
    func: Token<'s>,
    scopes: Vec<String>,
    /// The first of each state of the calls.
    states: Vec<usize>,
}

/// The module that a text describes.
///
/// # Errors
/// Everything that is wrong with the text, each with its place.
pub fn parse(source: &str) -> Result<Module, Vec<TextError>> {
    let mut c = Cursor::new(source);
    let mut module = Module::default();
    let mut calls: Option<Vec<NamedCall<'_>>> = None;
    let mut vocabulary = false;
    let mut broken = false;
    if header(&mut c).is_err() {
        c.recover(0, is_top_level);
    }
    while !c.at_end() && !c.exhausted() {
        let (token, start) = (c.peek(), c.place());
        let done = match (token.kind, token.text) {
            (Kind::Word, "vocabulary") if !vocabulary => {
                vocabulary = true;
                c.next();
                c.size("the number of token ids").map(|n| module.vocabulary = n)
            }
            (Kind::Word, "rope") => rope_table(&mut c, &mut module),
            (Kind::Word, "state") => states(&mut c, &mut module),
            (Kind::Word, "func") => function(&mut c).map(|f| module.funcs.push(f)),
            (Kind::Word, "main") if calls.is_none() => {
                calls = Some(vec![]);
                main(&mut c, calls.get_or_insert_default())
            }
            (Kind::Word, "main" | "vocabulary") => c.wrong(&token, format!("there is a `{}` already", token.text)),
            _ => c.expected("`vocabulary`, `rope`, `state`, `func` or `main`"),
        };
        if done.is_err() {
            broken |= token.text == "func";
            c.recover(start, is_top_level);
        }
    }
    for (word, missing) in [("vocabulary", !vocabulary), ("main", calls.is_none())] {
        if missing && !c.exhausted() {
            let _ = c.expected::<()>(&format!("`{word}` in the module"));
        }
    }
    for call in calls.unwrap_or_default() {
        // Calls of a function that could not be parsed are not to blame.
        if !broken {
            let _ = resolve(&mut c, &mut module, &call);
        }
    }
    let errors = c.finish();
    if errors.is_empty() { Ok(module) } else { Err(errors) }
}

/// The function that a text describes; nothing else stands in it.
///
/// # Errors
/// Everything that is wrong with the text, each with its place.
pub fn parse_graph(source: &str) -> Result<Graph, Vec<TextError>> {
    let mut c = Cursor::new(source);
    let graph = function(&mut c);
    if graph.is_ok() && !c.at_end() {
        let _ = c.expected::<()>("the end of the text");
    }
    let errors = c.finish();
    match graph {
        Ok(graph) if errors.is_empty() => Ok(graph),
        _ => Err(errors),
    }
}

/// `slir 1`.
fn header(c: &mut Cursor<'_>) -> Parsed<()> {
    c.keyword("slir")?;
    let token = c.token(Kind::Number, "the version of the language")?;
    if token.text == "1" {
        return Ok(());
    }
    c.wrong(&token, format!("version {} is not known: expected 1", token.text))
}

/// `rope 0 = magnitude 1 [frequencies]`.
fn rope_table(c: &mut Cursor<'_>, module: &mut Module) -> Parsed<()> {
    c.next();
    let token = c.peek();
    let index = c.size("the table's index")?;
    if index != module.rope_tables.len() {
        return c.wrong(&token, format!("expected table {}, got {index}", module.rope_tables.len()));
    }
    c.mark("=")?;
    c.keyword("magnitude")?;
    let magnitude = c.float("a number")?;
    c.mark("[")?;
    let inverse_frequencies = c.list("]", |c| c.float("a frequency or `]`"))?;
    module.rope_tables.push(RopeTable { inverse_frequencies, magnitude });
    Ok(())
}

/// `7` or `0..8`: the first and how many.
fn span(c: &mut Cursor<'_>, what: &str) -> Parsed<(usize, usize)> {
    let token = c.peek();
    let first = c.size(what)?;
    if !c.accept("..") {
        return Ok((first, 1));
    }
    let end = c.size(what)?;
    match end.checked_sub(first) {
        Some(count) if (1..=MOST).contains(&count) => Ok((first, count)),
        _ => c.wrong(&token, format!("expected a range of 1 to {MOST} numbers, got {first}..{end}")),
    }
}

/// `state 0..8 = paged(…)`.
fn states(c: &mut Cursor<'_>, module: &mut Module) -> Parsed<()> {
    c.next();
    let token = c.peek();
    let (first, count) = span(c, "the state's index")?;
    if first != module.states.len() {
        return c.wrong(&token, format!("expected state {}, got {first}", module.states.len()));
    }
    c.mark("=")?;
    let ty = types::state_type(c)?;
    module.states.extend(std::iter::repeat_n(ty, count));
    Ok(())
}

/// `main { call @func "scope" state 0, 1 … }`.
fn main<'s>(c: &mut Cursor<'s>, calls: &mut Vec<NamedCall<'s>>) -> Parsed<()> {
    c.next();
    c.mark("{")?;
    while !c.accept("}") {
        if c.at_end() || c.exhausted() || is_top_level(&c.peek()) {
            return c.expected("`call` or `}`");
        }
        let start = c.place();
        if call(c, calls).is_err() {
            c.recover(start, |_| true);
        }
    }
    Ok(())
}

/// `call @func "scopes" state indices`.
fn call<'s>(c: &mut Cursor<'s>, calls: &mut Vec<NamedCall<'s>>) -> Parsed<()> {
    c.keyword("call")?;
    let func = c.token(Kind::At, "the function's name, `@name`")?;
    let token = c.token(Kind::String, "the scope in quotes")?;
    let scopes = c.names(&token)?;
    let mut states = vec![];
    if c.is(Kind::Word, "state") {
        c.next();
        while states.is_empty() || c.accept(",") {
            let at = c.peek();
            let (first, count) = span(c, "a state's index")?;
            if count != scopes.len() {
                return c.wrong(&at, format!("expected a state for each of {} calls, got {count}", scopes.len()));
            }
            states.push(first);
        }
    }
    calls.push(NamedCall { func, scopes, states });
    Ok(())
}

/// Finds the function of a call.
fn resolve<'s>(c: &mut Cursor<'s>, module: &mut Module, call: &NamedCall<'s>) -> Parsed<()> {
    let name = c.name(&call.func)?;
    let Some(func) = module.funcs.iter().position(|f| f.name == name) else {
        return c.wrong(&call.func, format!("there is no function `@{name}`"));
    };
    module.main.extend(call.scopes.iter().enumerate().map(|(i, scope)| Call {
        func,
        scope: scope.clone(),
        states: call.states.iter().map(|first| first + i).collect(),
    }));
    Ok(())
}
