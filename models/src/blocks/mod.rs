//! Functional blocks that families are made of. A block sees explicit specs, never a family name.

pub mod attention;
pub mod delta_net;
pub mod experts;
pub mod latent;
pub mod mamba2;
pub mod mlp;
pub mod moe;
pub mod rope;

use swiftlm_ir::graph::{Arg, GraphBuilder, ParamKind, Value, WeightSlot, WeightType};
use swiftlm_ir::ops::Op;
use swiftlm_ir::quant::Format;
use swiftlm_ir::ty::{StateType, Type};

use crate::BuildOptions;
use crate::tensors::Resolver;

/// What distinguishes one RMS norm from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean square.
    pub eps: f64,
    /// Added to the weight.
    pub offset: f64,
}

/// Some of the equal pieces that the rows of a matrix are cut into: every `step`-th of `count · step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// The first.
    pub first: usize,
    /// From one to the next.
    pub step: usize,
    /// How many.
    pub count: usize,
}

impl Pieces {
    /// All rows.
    pub const WHOLE: Self = Self { first: 0, step: 1, count: 1 };
}

/// One function under construction, with the checkpoint it takes its weights from.
#[derive(Debug)]
pub struct Block<'a> {
    graph: GraphBuilder,
    resolver: &'a Resolver<'a>,
    options: &'a BuildOptions,
    scope: String,
    tables: Vec<(usize, Value)>,
    states: Vec<StateType>,
    /// What is otherwise than the options asked for, if anything.
    note: Option<String>,
}

/// A finished function with what it needs beside weights.
#[derive(Debug)]
pub struct Built {
    /// The function.
    pub graph: swiftlm_ir::graph::Graph,
    /// Types of its states.
    pub states: Vec<StateType>,
    /// What is otherwise than the options asked for, because the model does not stand that: a sentence.
    pub note: Option<String>,
}

impl<'a> Block<'a> {
    /// A function whose weights are named below `scope` (`model.layers.3`; may be empty).
    pub fn new(name: &str, scope: &str, resolver: &'a Resolver<'a>, options: &'a BuildOptions) -> Self {
        let graph = GraphBuilder::new(name);
        Self { graph, resolver, options, scope: scope.to_owned(), tables: vec![], states: vec![], note: None }
    }

    /// The finished function; the last versions of its states are its last results.
    pub fn finish(self, results: Vec<Value>) -> Option<Built> {
        match self.graph.finish(results) {
            Ok(graph) => Some(Built { graph, states: self.states, note: self.note }),
            Err(messages) => {
                messages.into_iter().for_each(|m| self.resolver.error(m));
                None
            }
        }
    }

    /// The hidden values handed from call to call, `f32[T, width]`.
    pub fn flow(&mut self, width: usize) -> Value {
        self.graph.flow(width)
    }

    /// A parameter.
    pub fn param(&mut self, kind: ParamKind, ty: Type) -> Value {
        self.graph.param(kind, ty)
    }

    /// One more state of the call, as it comes in.
    pub fn state(&mut self, ty: StateType) -> Value {
        let v = self.param(ParamKind::State(self.states.len()), Type::State(ty.clone()));
        self.states.push(ty);
        v
    }

    /// Whether the checkpoint holds a tensor of this name relative to the current place.
    pub fn has(&self, name: &str) -> bool {
        self.resolver.has(&self.full(name))
    }

    fn full(&self, name: &str) -> String {
        let path = self.graph.path(name);
        if self.scope.is_empty() { path } else { format!("{}.{path}", self.scope) }
    }

    /// Runs `f` one step down in names.
    pub fn within<R>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        self.graph.enter(name);
        let result = f(self);
        self.graph.leave();
        result
    }

    /// The matrix `name` of `rows` × `cols`.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> WeightSlot {
        let ty = self.resolver.weight(&self.full(name), 1, rows, cols);
        self.graph.weight(&[name.to_owned()], ty)
    }

    /// Of the matrix `name` the pieces that make up `rows` rows of `cols`.
    fn matrix_pieces(&mut self, name: &str, rows: usize, cols: usize, pieces: Pieces) -> WeightSlot {
        let Pieces { first, step, count } = pieces;
        if step == 1 {
            return self.matrix(name, rows, cols);
        }
        let ty = self.resolver.weight(&self.full(name), 1, rows * step, cols);
        let names: Vec<String> = (0..count).map(|i| format!("{name}#{}/{}", first + i * step, count * step)).collect();
        self.graph.weight(&names, WeightType { rows, ..ty })
    }

    /// The kernel `name` of a convolution of each channel on its own, `[channels, taps]`.
    pub fn taps(&mut self, name: &str, channels: usize, taps: usize) -> WeightSlot {
        let ty = self.resolver.taps(&self.full(name), channels, taps);
        self.graph.weight(&[name.to_owned()], ty)
    }

    /// The vector `name`.
    pub fn vector(&mut self, name: &str, len: usize) -> WeightSlot {
        self.matrix(name, 1, len)
    }

    /// Matrices that one tensor `name` holds as `count` slices, rows of one after those of another.
    pub fn stacked_matrices(&mut self, name: &str, count: usize, rows: usize, cols: usize) -> WeightSlot {
        let ty = self.resolver.weight(&self.full(name), count, rows, cols);
        let names: Vec<String> = (0..count).map(|i| format!("{name}#{i}")).collect();
        self.graph.weight(&names, ty)
    }

    /// Appends an op.
    pub fn op(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) -> Value {
        self.graph.op(op, args)
    }

    /// The last extent of a tensor value.
    pub fn width(&self, x: Value) -> usize {
        self.graph.ty(x).tensor().and_then(|t| t.width()).unwrap_or(1)
    }

    /// Extents of a tensor value.
    pub fn rank(&self, x: Value) -> usize {
        self.graph.ty(x).tensor().map_or(0, |t| t.shape.len())
    }

    /// RMS norm with the weight `name`.
    pub fn rms_norm(&mut self, name: &str, x: Value, norm: Norm) -> Value {
        let Norm { eps, offset } = norm;
        let width = self.width(x);
        self.within(name, |b| {
            let w = b.vector("weight", width);
            b.op(Op::RmsNorm { eps, offset }, [x.into(), w.into()])
        })
    }

    /// `x Wᵀ` with the weight `name`, plus its bias if `bias`; the input is rounded as the options declare.
    pub fn linear(&mut self, name: &str, x: Value, outputs: usize, bias: bool) -> Value {
        self.linear_pieces(name, x, outputs, Pieces::WHOLE, bias)
    }

    /// [`Self::linear`] with `outputs` rows of a larger matrix.
    pub fn linear_pieces(&mut self, name: &str, x: Value, outputs: usize, pieces: Pieces, bias: bool) -> Value {
        let inputs = self.width(x);
        self.within(name, |b| {
            let w = b.matrix_pieces("weight", outputs, inputs, pieces);
            let x = b.activation(x, w);
            b.product(x, w, outputs, pieces, bias)
        })
    }

    /// A product whose input is never rounded: where a small difference decides, as in a router.
    pub fn linear_exact(&mut self, name: &str, x: Value, outputs: usize, bias: bool) -> Value {
        let inputs = self.width(x);
        self.within(name, |b| {
            let w = b.matrix("weight", outputs, inputs);
            b.product(x, w, outputs, Pieces::WHOLE, bias)
        })
    }

    /// `x wᵀ`, plus `bias` of the current place if `bias`.
    fn product(&mut self, x: Value, w: WeightSlot, outputs: usize, pieces: Pieces, bias: bool) -> Value {
        let y = self.op(Op::Linear, [x.into(), w.into()]);
        if !bias {
            return y;
        }
        if pieces.step > 1 {
            self.resolver
                .error(format!("`{}`: a bias whose rows belong to two products is not supported", self.full("bias")));
        }
        let w = self.vector("bias", outputs);
        self.op(Op::Bias, [y.into(), w.into()])
    }

    /// The input of a product with `w`, rounded as the options declare.
    pub fn activation(&mut self, x: Value, w: WeightSlot) -> Value {
        let format: Format = self.graph.weight_type(w).format;
        match self.options.activations.rounding(format) {
            Some(to) => self.op(Op::Round { to }, [x.into()]),
            None => x,
        }
    }

    /// `x · factor`.
    pub fn scale(&mut self, x: Value, factor: f64) -> Value {
        self.op(Op::Scale { factor }, [x.into()])
    }

    /// `cap · tanh(x / cap)`, or `x` without a cap.
    pub fn soft_cap(&mut self, x: Value, cap: Option<f64>) -> Value {
        let Some(cap) = cap else { return x };
        let x = self.scale(x, 1.0 / cap);
        let x = self.op(Op::Tanh, [x.into()]);
        self.scale(x, cap)
    }

    /// `a + b`.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.op(Op::Add, [a.into(), b.into()])
    }
}
