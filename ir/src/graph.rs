//! Modules and graphs: typed values in program order, built with inference.
//!
//! A [`Graph`] is one function. Identical layers are one function called with different weights and states: inside a
//! function a weight is a *slot* (`self_attn.q_proj`), and a [`Call`] gives the scope (`model.layers.3`) that completes it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dim::Sym;
use crate::ops::Op;
use crate::ops::infer::{ArgType, infer};
use crate::quant::Format;
use crate::ty::{DType, StateType, TensorType, Type};

/// A value of a graph: index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value(pub u32);

/// A weight slot of a graph: index into [`Graph::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WeightSlot(pub u32);

/// Type of a weight: a matrix of encoded rows. A vector is one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WeightType {
    /// How rows are stored.
    pub format: Format,
    /// Rows (outputs of a linear).
    pub rows: usize,
    /// Elements of a row (inputs of a linear).
    pub cols: usize,
}

impl WeightType {
    /// Bytes in its buffer.
    pub fn bytes(&self) -> usize {
        self.format.layout(self.rows, self.cols).bytes
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{},{}]", self.format, self.rows, self.cols)
    }
}

/// A name of a weight's rows, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'n> {
    /// Name of the tensor.
    pub tensor: &'n str,
    /// Unless it is the whole tensor, which piece: of so many equal ones along the outermost extent, or of as many as it
    /// has elements.
    pub slice: Option<(usize, Option<usize>)>,
    /// Whether rows of the weight are columns of the piece.
    pub transposed: bool,
    /// How many parts the rows of the piece are dealt to in turn: in the weight one part follows another. 1 where they
    /// keep their order.
    pub dealt: usize,
}

impl<'n> Piece<'n> {
    /// `name`, `name#i` or `name#i/n`; behind the last two `^` for columns as rows, and `%d` for rows dealt to `d` parts.
    pub fn parse(name: &'n str) -> Self {
        let parse = |(tensor, text): (&'n str, &str)| {
            let (text, dealt) = text.split_once('%').map_or((text, None), |(text, dealt)| (text, Some(dealt)));
            let dealt = dealt.map_or(Some(1), |dealt| dealt.parse().ok().filter(|dealt| *dealt > 0))?;
            let (text, transposed) = text.strip_suffix('^').map_or((text, false), |text| (text, true));
            let (index, count) = text.split_once('/').map_or((text, None), |(index, count)| (index, Some(count)));
            let count = count.map(str::parse).transpose().ok()?;
            Some(Self { tensor, slice: Some((index.parse().ok()?, count)), transposed, dealt })
        };
        let whole = Self { tensor: name, slice: None, transposed: false, dealt: 1 };
        name.rsplit_once('#').and_then(parse).unwrap_or(whole)
    }

    /// Where the piece has row `row` of the `rows` that the weight has of it.
    pub fn place(&self, row: usize, rows: usize) -> usize {
        let part = (rows / self.dealt).max(1);
        row % part * self.dealt + row / part
    }
}

/// What the name of a weight begins with that is not the call's own, but the next call's that fetches experts.
pub const AHEAD: char = '>';

/// A weight that a function uses, named relative to the call's scope or, behind [`AHEAD`], to that of a later call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WeightDecl {
    /// Names of tensors relative to the scope, `self_attn.q_proj.weight`, whose rows follow one another in this weight;
    /// one name unless merged. `name#i` is slice `i` of the tensor's outermost extent (an expert of a stacked tensor), `name#i/n`
    /// piece `i` of `n` equal ones that it is cut into; rows may also stand in another order ([`Piece`]).
    pub names: Vec<String>,
    /// Type of the whole.
    pub ty: WeightType,
}

/// Argument of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Arg {
    /// A value.
    Value(Value),
    /// A weight slot.
    Weight(WeightSlot),
}

impl From<Value> for Arg {
    fn from(v: Value) -> Self {
        Self::Value(v)
    }
}

impl From<WeightSlot> for Arg {
    fn from(w: WeightSlot) -> Self {
        Self::Weight(w)
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Def {
    /// Parameter `i` of the function.
    Param(usize),
    /// The result of an op.
    Node {
        /// The op with its attributes.
        op: Op,
        /// Its arguments.
        args: Vec<Arg>,
    },
}

/// A value with its type and where in the model it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueInfo {
    /// Where it comes from.
    pub def: Def,
    /// Its type.
    pub ty: Type,
    /// Dotted path relative to the scope (`self_attn`), for names and messages; may be empty.
    pub loc: String,
}

/// What a function's parameter is bound to at each call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ParamKind {
    /// The hidden values handed from call to call; `None` before the first call.
    Flow,
    /// Token ids of the step, `u32[T]`.
    Ids,
    /// Cosines and sines of the step's positions for rope table `i` of the module, `f32[T, dim]`.
    RopeTable(usize),
    /// State `i` of this call.
    State(usize),
}

/// One function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// Name, unique in the module.
    pub name: String,
    /// Parameters: kind and value.
    pub params: Vec<(ParamKind, Value)>,
    /// Weight slots.
    pub weights: Vec<WeightDecl>,
    /// All values in program order; an argument precedes its use.
    pub values: Vec<ValueInfo>,
    /// Results: the tensor that flows on (or several outputs in the last function), then the states in order.
    pub results: Vec<Value>,
}

/// One call of a function in the main sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Index of the function.
    pub func: usize,
    /// Prefix of its weight names (`model.layers.3`); may be empty.
    pub scope: String,
    /// Indices into [`Module::states`] of what the function takes.
    pub states: Vec<usize>,
}

/// Frequencies of a rotary embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeTable {
    /// Radians per position of each pair, already scaled; half as many as rotated elements.
    pub inverse_frequencies: Vec<f64>,
    /// Factor on cosine and sine (yarn's attention factor); 1 otherwise.
    pub magnitude: f64,
}

/// A whole model.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Module {
    /// Functions; identical layers share one.
    pub funcs: Vec<Graph>,
    /// The main sequence: embed, layers, head. The flow value of one call is the next call's.
    pub main: Vec<Call>,
    /// State types; each belongs to one call.
    pub states: Vec<StateType>,
    /// Rotary tables computed on the host for the positions of each step.
    pub rope_tables: Vec<RopeTable>,
    /// Token ids are below this.
    pub vocabulary: usize,
}

impl Module {
    /// The next call after `call` whose function fetches experts.
    pub fn next_fetch(&self, call: usize) -> Option<usize> {
        let fetches = |call: &Call| self.funcs.get(call.func).is_some_and(Graph::fetches);
        let later = self.main.iter().enumerate().skip(call.saturating_add(1));
        later.filter(|(_, call)| fetches(call)).map(|(at, _)| at).next()
    }

    /// The full names of a weight of call `call`. What is named after the next call that fetches experts is the call's own
    /// where there is none: it is computed for nobody then.
    pub fn weight_names(&self, call: usize, weight: &WeightDecl) -> Vec<String> {
        let full = |name: &String| {
            let (of, name) = match name.strip_prefix(AHEAD) {
                Some(name) => (self.next_fetch(call).unwrap_or(call), name),
                None => (call, name.as_str()),
            };
            let scope = self.main[of].scope.as_str();
            if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
        };
        weight.names.iter().map(full).collect()
    }
}

/// A graph under construction.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
    loc: Vec<String>,
    errors: Vec<String>,
}

impl GraphBuilder {
    /// An empty function.
    pub fn new(name: &str) -> Self {
        let graph = Graph { name: name.to_owned(), params: vec![], weights: vec![], values: vec![], results: vec![] };
        Self { graph, loc: vec![], errors: vec![] }
    }

    fn push(&mut self, def: Def, ty: Type) -> Value {
        let value = Value(u32::try_from(self.graph.values.len()).unwrap_or(u32::MAX));
        self.graph.values.push(ValueInfo { def, ty, loc: self.loc.join(".") });
        value
    }

    /// Declares a parameter.
    pub fn param(&mut self, kind: ParamKind, ty: Type) -> Value {
        let value = self.push(Def::Param(self.graph.params.len()), ty);
        self.graph.params.push((kind, value));
        value
    }

    /// The flow parameter `f32[T, width]`.
    pub fn flow(&mut self, width: usize) -> Value {
        let ty = TensorType::new(DType::F32, [Sym::Tokens.into(), width.into()]);
        self.param(ParamKind::Flow, Type::Tensor(ty))
    }

    /// Adds `name` to locations and weight names until [`Self::leave`].
    pub fn enter(&mut self, name: &str) {
        self.loc.push(name.to_owned());
    }

    /// Ends the last [`Self::enter`].
    pub fn leave(&mut self) {
        self.loc.pop();
    }

    /// `name` relative to the function.
    pub fn path(&self, name: &str) -> String {
        let mut path = self.loc.join(".");
        if !path.is_empty() && !name.is_empty() {
            path.push('.');
        }
        path + name
    }

    /// A weight of tensors named relative to the current scope; the same names give the same slot.
    pub fn weight(&mut self, names: &[String], ty: WeightType) -> WeightSlot {
        let decl = WeightDecl { names: names.iter().map(|n| self.path(n)).collect(), ty };
        let at = self.graph.weights.iter().position(|w| *w == decl).unwrap_or_else(|| {
            self.graph.weights.push(decl);
            self.graph.weights.len() - 1
        });
        WeightSlot(u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// Type of a value.
    pub fn ty(&self, v: Value) -> &Type {
        &self.graph.values[v.0 as usize].ty
    }

    /// Type of a weight made so far.
    pub fn weight_type(&self, w: WeightSlot) -> WeightType {
        self.graph.weights[w.0 as usize].ty
    }

    /// Appends an op. A type error is kept for [`Self::finish`] and the first argument's type stands in for the result's.
    pub fn op(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) -> Value {
        let args: Vec<Arg> = args.into_iter().collect();
        let ty = infer(&op, &self.graph.arg_types(&args)).unwrap_or_else(|message| {
            let at = if self.loc.is_empty() { String::new() } else { format!(" (at {})", self.loc.join(".")) };
            self.errors.push(format!("@{}: {message}{at}", self.graph.name));
            Type::Tensor(TensorType::new(DType::F32, [Sym::Tokens.into(), 1.into()]))
        });
        self.push(Def::Node { op, args }, ty)
    }

    /// The finished function.
    ///
    /// # Errors
    /// Every type error met while building.
    pub fn finish(mut self, results: Vec<Value>) -> Result<Graph, Vec<String>> {
        self.graph.results = results;
        if self.errors.is_empty() { Ok(self.graph) } else { Err(self.errors) }
    }
}

impl Graph {
    /// Types of arguments, for inference.
    pub fn arg_types(&self, args: &[Arg]) -> Vec<ArgType> {
        args.iter()
            .map(|a| match a {
                Arg::Value(v) => ArgType::Value(self.values[v.0 as usize].ty.clone()),
                Arg::Weight(w) => ArgType::Weight(self.weights[w.0 as usize].ty),
            })
            .collect()
    }

    /// Facts of a value.
    pub fn value(&self, v: Value) -> &ValueInfo {
        &self.values[v.0 as usize]
    }

    /// Type of state `i` of a call.
    pub fn state(&self, i: usize) -> Option<&StateType> {
        let (_, v) = self.params.iter().find(|(kind, _)| *kind == ParamKind::State(i))?;
        match &self.values.get(v.0 as usize)?.ty {
            Type::State(state) => Some(state),
            _ => None,
        }
    }

    /// Whether the host brings experts in its midst.
    pub fn fetches(&self) -> bool {
        self.values.iter().any(|info| matches!(&info.def, Def::Node { op: Op::ExpertFetch { .. }, .. }))
    }

    /// The op and arguments that define a value, unless it is a parameter.
    pub fn node(&self, v: Value) -> Option<(&Op, &[Arg])> {
        match &self.value(v).def {
            Def::Node { op, args } => Some((op, args)),
            Def::Param(_) => None,
        }
    }
}
