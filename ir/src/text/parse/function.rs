//! Functions. A line that cannot be parsed is reported and left out; what it would have defined is remembered, so that
//! its uses are not reported as well.

use indexmap::IndexMap;

use super::cursor::{Cursor, Fail, Parsed};
use super::types::{value_type, weight_type};
use crate::graph::{Arg, Def, Graph, ParamKind, Value, ValueInfo, WeightDecl, WeightSlot};
use crate::ops::infer::infer;
use crate::ops::{Attribute, Op};
use crate::text::lex::{Kind, Token};
use crate::ty::Type;

/// A parameter of the list, before its value has a place.
struct Param<'s> {
    name: Token<'s>,
    kind: ParamKind,
    ty: Type,
    loc: String,
}

/// A function so far.
struct Function<'s> {
    graph: Graph,
    /// Parameters in the list's order; `None` once their value has a place.
    params: Vec<Option<Param<'s>>>,
    /// Values by name; `None` for one whose line could not be parsed.
    values: IndexMap<&'s str, Option<Value>>,
    returned: bool,
}

/// `func @name(…) { … }`.
pub(super) fn function(c: &mut Cursor<'_>) -> Parsed<Graph> {
    c.keyword("func")?;
    let token = c.token(Kind::At, "the function's name, `@name`")?;
    let name = c.name(&token)?;
    c.mark("(")?;
    let params = c.list(")", param)?;
    c.mark("{")?;
    let mut f = Function {
        graph: Graph { name, params: vec![], weights: vec![], values: vec![], results: vec![] },
        params: vec![],
        values: IndexMap::new(),
        returned: false,
    };
    f.declare(c, params);
    loop {
        if c.is(Kind::Mark, "}") {
            if !f.returned {
                let _ = c.expected::<()>("`return` with the function's results");
            }
            c.next();
            break;
        }
        if c.at_end() || c.exhausted() || is_top_level(&c.peek()) {
            return c.expected("`}` at the end of the function");
        }
        let start = c.place();
        if f.statement(c).is_err() {
            c.recover(start, |t| t.kind != Kind::Mark || t.text == "}");
        }
    }
    for name in f.params.iter().flatten().map(|p| p.name.clone()) {
        let _ = c.wrong::<()>(&name, format!("its line `param %{}` is broken", name.text));
    }
    Ok(f.graph)
}

/// Whether a line that begins so is outside of functions.
pub(super) fn is_top_level(token: &Token<'_>) -> bool {
    token.first && token.kind == Kind::Word && matches!(token.text, "func" | "main" | "rope" | "state" | "vocabulary")
}

/// `%name: kind type @loc`.
fn param<'s>(c: &mut Cursor<'s>) -> Parsed<Param<'s>> {
    let name = c.token(Kind::Value, "a parameter, `%name: kind type`")?;
    c.mark(":")?;
    let what = "a kind of parameter: `flow`, `ids`, `rope(i)`, `state` or `state(i)`";
    let kind = match (c.peek().kind, c.peek().text) {
        (Kind::Word, "flow") => ParamKind::Flow,
        (Kind::Word, "ids") => ParamKind::Ids,
        (Kind::Word, "state") => ParamKind::State(0),
        (Kind::Word, "rope") => ParamKind::RopeTable(0),
        _ => return c.expected(what),
    };
    c.next();
    let kind = match kind {
        ParamKind::RopeTable(_) => {
            c.mark("(")?;
            let i = c.size("the index of a rope table")?;
            c.mark(")")?;
            ParamKind::RopeTable(i)
        }
        ParamKind::State(_) if c.accept("(") => {
            let i = c.size("the number of a state of the call")?;
            c.mark(")")?;
            ParamKind::State(i)
        }
        kind => kind,
    };
    Ok(Param { name, kind, ty: value_type(c)?, loc: c.location()? })
}

impl<'s> Function<'s> {
    /// Takes the parameters in. Those that a `param` line places later wait for it.
    fn declare(&mut self, c: &mut Cursor<'s>, params: Vec<Param<'s>>) {
        let lines = c.rest().windows(2).take_while(|w| w[0].text != "}" || !w[0].first);
        let later: Vec<&str> = lines
            .filter(|w| w[0].first && w[0].kind == Kind::Word && w[0].text == "param" && w[1].kind == Kind::Value)
            .map(|w| w[1].text)
            .collect();
        self.graph.params = params.iter().map(|p| (p.kind.clone(), Value(u32::MAX))).collect();
        for (i, param) in params.into_iter().enumerate() {
            if later.contains(&param.name.text) {
                self.params.push(Some(param));
            } else {
                self.params.push(None);
                let _ = self.place(c, i, param);
            }
        }
    }

    fn place(&mut self, c: &mut Cursor<'s>, i: usize, param: Param<'s>) -> Parsed<()> {
        let value = self.define(c, &param.name, ValueInfo { def: Def::Param(i), ty: param.ty, loc: param.loc })?;
        self.graph.params[i].1 = value;
        Ok(())
    }

    /// Adds a value under a new name.
    fn define(&mut self, c: &mut Cursor<'s>, name: &Token<'s>, info: ValueInfo) -> Parsed<Value> {
        if let Some(Some(_)) = self.values.get(name.text) {
            return c.wrong(name, format!("there is a value `%{}` already", name.text));
        }
        let value = Value(u32::try_from(self.graph.values.len()).unwrap_or(u32::MAX));
        self.graph.values.push(info);
        self.values.insert(name.text, Some(value));
        Ok(value)
    }

    fn statement(&mut self, c: &mut Cursor<'s>) -> Parsed<()> {
        let token = c.peek();
        match (token.kind, token.text) {
            (Kind::Value, _) => {
                let result = self.node(c);
                if result.is_err() {
                    self.values.entry(token.text).or_insert(None);
                }
                result
            }
            (Kind::Word, "w") => self.weight(c),
            (Kind::Word, "param") => self.param_line(c),
            (Kind::Word, "return") => self.results(c),
            _ => c.expected("a line of a function: `w\"…\": …`, `%value = op …`, `param %value`, `return …` or `}`"),
        }
    }

    /// `w"names": type`.
    fn weight(&mut self, c: &mut Cursor<'s>) -> Parsed<()> {
        c.keyword("w")?;
        let token = c.token(Kind::String, "the weight's names in quotes")?;
        let names = c.names(&token)?;
        c.mark(":")?;
        let ty = weight_type(c)?;
        if self.graph.weights.iter().any(|w| w.names == names) {
            return c.wrong(&token, "there is a weight of these names already".to_owned());
        }
        self.graph.weights.push(WeightDecl { names, ty });
        Ok(())
    }

    /// `param %name`.
    fn param_line(&mut self, c: &mut Cursor<'s>) -> Parsed<()> {
        c.keyword("param")?;
        let name = c.token(Kind::Value, "a parameter of the list above")?;
        let waiting = |p: &Option<Param<'s>>| p.as_ref().is_some_and(|p| p.name.text == name.text);
        let at = self.params.iter().position(waiting);
        match at.and_then(|i| Some((i, self.params[i].take()?))) {
            Some((i, param)) => self.place(c, i, param),
            None => c.wrong(&name, format!("`%{}` is no parameter that waits for its place", name.text)),
        }
    }

    /// `return %a, %b`.
    fn results(&mut self, c: &mut Cursor<'s>) -> Parsed<()> {
        let keyword = c.next();
        if std::mem::replace(&mut self.returned, true) {
            return c.wrong(&keyword, "there is a `return` already".to_owned());
        }
        while c.peek().kind == Kind::Value && !c.peek().first {
            let value = self.value(c)?;
            self.graph.results.push(value);
            if !c.accept(",") {
                break;
            }
        }
        Ok(())
    }

    /// A value defined above.
    fn value(&mut self, c: &mut Cursor<'s>) -> Parsed<Value> {
        let token = c.token(Kind::Value, "a value, `%name`")?;
        match self.values.get(token.text) {
            Some(Some(value)) => Ok(*value),
            Some(None) => Err(Fail),
            None => c.wrong(&token, format!("there is no value `%{}` above", token.text)),
        }
    }

    fn argument(&mut self, c: &mut Cursor<'s>) -> Parsed<Arg> {
        if !c.is(Kind::Word, "w") {
            if c.peek().kind != Kind::Value {
                return c.expected("an argument: `%value` or `w\"weight\"`");
            }
            return self.value(c).map(Arg::Value);
        }
        c.next();
        let token = c.token(Kind::String, "the weight's names in quotes")?;
        let names = c.names(&token)?;
        match self.graph.weights.iter().position(|w| w.names == names) {
            Some(slot) => Ok(Arg::Weight(WeightSlot(u32::try_from(slot).unwrap_or(u32::MAX)))),
            None => c.wrong(&token, format!("no weight \"{}\" is declared above", token.text)),
        }
    }

    /// `%name = op args {attributes} : type @loc`; the type may be left out.
    fn node(&mut self, c: &mut Cursor<'s>) -> Parsed<()> {
        let name = c.next();
        c.mark("=")?;
        let op_name = c.token(Kind::Word, "an op")?;
        let mut args = vec![];
        let mut more = !c.peek().first && (c.peek().kind == Kind::Value || c.is(Kind::Word, "w"));
        while more {
            args.push(self.argument(c)?);
            more = c.accept(",");
        }
        let op = op(c, &op_name)?;
        let ty = if c.accept(":") {
            value_type(c)?
        } else {
            match infer(&op, &self.graph.arg_types(&args)) {
                Ok(ty) => ty,
                Err(message) => return c.wrong(&op_name, message),
            }
        };
        let loc = c.location()?;
        if !c.peek().first {
            return c.expected("the end of the line");
        }
        self.define(c, &name, ValueInfo { def: Def::Node { op, args }, ty, loc }).map(|_| ())
    }
}

/// The op of this name with the attributes `{name=value, …}` that follow, if any.
fn op<'s>(c: &mut Cursor<'s>, name: &Token<'s>) -> Parsed<Op> {
    let attributes = if c.accept("{") { c.list("}", attribute)? } else { vec![] };
    if !Op::NAMES.contains(&name.text) {
        return c.wrong(name, format!("unknown op `{}`: expected one of {}", name.text, Op::NAMES.join(", ")));
    }
    let get = |wanted: &str| attributes.iter().find(|(n, _)| n.text == wanted).map(|(_, a)| a.clone());
    let op = match Op::from_attributes(name.text, &get) {
        Ok(op) => op,
        Err(message) => return c.wrong(name, message),
    };
    let known: Vec<&str> = op.attributes().iter().map(|(n, _)| *n).collect();
    for (i, (token, _)) in attributes.iter().enumerate() {
        if !known.contains(&token.text) {
            let takes = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return c.wrong(token, format!("`{}` has no attribute `{}`: it takes {takes}", name.text, token.text));
        }
        if attributes[..i].iter().any(|(other, _)| other.text == token.text) {
            return c.wrong(token, format!("attribute `{}` is given twice", token.text));
        }
    }
    Ok(op)
}

/// `name=value`.
fn attribute<'s>(c: &mut Cursor<'s>) -> Parsed<(Token<'s>, Attribute)> {
    let name = c.token(Kind::Word, "an attribute, `name=value`")?;
    c.mark("=")?;
    let value = c.peek();
    let attribute = match (value.kind, value.text) {
        (Kind::Word, "true") => Attribute::Bool(true),
        (Kind::Word, "false") => Attribute::Bool(false),
        (Kind::Word, word) if !matches!(word, "inf" | "NaN") => Attribute::Word(word.to_owned()),
        _ => return Ok((name, Attribute::Number(c.float("a number, `true`, `false` or a word")?))),
    };
    c.next();
    Ok((name, attribute))
}
