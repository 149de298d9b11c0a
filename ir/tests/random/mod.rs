//! Random modules that keep every rule of the IR, built through the graph builder from a list of numbers. Fewer and
//! smaller numbers make simpler modules, so that proptest shrinks well.

use proptest::prelude::*;
use swiftlm_ir::dim::Sym;
use swiftlm_ir::graph::{Arg, Call, Graph, GraphBuilder, Module, ParamKind, RopeTable, Value, WeightSlot, WeightType};
use swiftlm_ir::ops::{Op, RopeLayout, Routing};
use swiftlm_ir::quant::turbo::Scale;
use swiftlm_ir::quant::{Affine, Archive, Float, Format, Turbo};
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::ty::{DType, Recurrent, StateType, TensorType, Type};

/// Any module.
pub(crate) fn module() -> impl Strategy<Value = Module> {
    proptest::collection::vec(any::<u32>(), 0..400).prop_map(|numbers| Maker { numbers, at: 0, names: 0 }.module())
}

const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];
/// Places with characters that texts must escape, too.
const PLACES: [&str; 8] = ["self_attn", "mlp", "experts", "a b", "quo\"te", "back\\slash", "br{ace,s}..", "é\n"];

struct Maker {
    numbers: Vec<u32>,
    at: usize,
    names: usize,
}

/// What a function under construction has to offer.
struct Pool {
    b: GraphBuilder,
    values: Vec<Value>,
    histories: Vec<(Value, Value)>,
    rope: Vec<(usize, Value)>,
}

impl Maker {
    fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        self.numbers.get(self.at - 1).map_or(0, |x| *x as usize % n)
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// A rounding that rows of so many columns can have.
    fn rounding(&mut self, cols: usize) -> Rounding {
        let to = self.one(&Rounding::ALL);
        if cols.is_multiple_of(to.group()) { to } else { Rounding::F16 }
    }

    fn number(&mut self) -> f64 {
        match self.below(4) {
            0 => 1.0,
            1 => self.below(1000) as f64 / 1000.0,
            2 => -f64::from_bits(0x3f00_0000_0000_0000 + self.below(1 << 30) as u64),
            _ => 1e-6,
        }
    }

    fn format(&mut self, cols: usize) -> Format {
        let groups: Vec<u16> = [32, 64, 128].into_iter().filter(|g| cols.is_multiple_of(*g as usize)).collect();
        if groups.is_empty() || self.below(2) == 0 {
            return Format::Float(self.one(&FLOATS));
        }
        let (bits, group, scale) = (self.one(&[4, 2, 3, 5, 6, 8]), self.one(&groups), self.one(&FLOATS));
        Format::Affine(Affine::new(bits, group, scale).expect("these widths and groups are supported"))
    }

    fn archive(&mut self) -> Archive {
        let mut turbo = || {
            let (bits, scale) = (self.one(&[4, 3, 2, 1]), self.one(&[Scale::Matched, Scale::Unbiased]));
            Turbo::new(bits, scale).expect("these widths are supported")
        };
        let (k, v) = (turbo(), turbo());
        let (first, last) = (self.one(&[32, 0, 64]), self.one(&[32, 256]));
        Archive { k, v, first, last, centered: first > 0 && self.below(2) == 0 }
    }

    /// A new weight of one tensor, or of several whose rows follow one another.
    fn weight(&mut self, b: &mut GraphBuilder, rows: usize, cols: usize) -> WeightSlot {
        self.names += 1;
        let n = self.names;
        let names = match self.below(5) {
            1 if rows.is_multiple_of(2) => vec![format!("q{n}_proj.weight"), format!("k{n}_proj.weight")],
            2 if rows.is_multiple_of(4) => (0..4).map(|i| format!("experts.{i}.up{n}.weight")).collect(),
            3 if rows.is_multiple_of(4) => (7..11).map(|i| format!("switch{n}.weight#{i}")).collect(),
            4 if rows.is_multiple_of(4) => (0..4).map(|i| format!("half{n}.weight#{}/8", 2 * i + 1)).collect(),
            _ => vec![format!("proj{n}.weight")],
        };
        let format = self.format(cols);
        b.weight(&names, WeightType { format, rows, cols })
    }

    fn module(mut self) -> Module {
        let mut module = Module { vocabulary: self.below(7) + 2, ..Module::default() };
        for dim in [4, 8] {
            let inverse_frequencies = (0..dim / 2).map(|_| self.number()).collect();
            module.rope_tables.push(RopeTable { inverse_frequencies, magnitude: self.number() });
        }
        let width = self.one(&[32, 64, 8]);
        module.funcs.push(self.embed(module.vocabulary, width));
        module.main.push(Call { func: 0, scope: String::new(), states: vec![] });
        for layer in 0..self.below(3) + 1 {
            let (heads, dim) = (self.one(&[1, 2]), self.one(&[8, 4, 16]));
            let (k, v) = (Format::Float(self.one(&FLOATS)), Format::Float(self.one(&FLOATS)));
            let window = self.one(&[0, 0, 3]);
            let archive = (dim == 16 && self.below(2) == 0).then(|| self.archive());
            let latent = (heads == 1 && archive.is_none() && self.below(2) == 0).then_some(dim / 2);
            let v = if latent.is_some() { k } else { v };
            let paged = StateType::Paged { window, heads, dim, k, v, latent, archive };
            let states = match self.below(5) {
                0 => vec![],
                1 => vec![self.recurrent(width, heads, dim)],
                2 => vec![self.recurrent(width, heads, dim), paged],
                _ => vec![paged],
            };
            module.funcs.push(self.layer(&format!("layer{layer}"), width, &states));
            for i in 0..self.below(4) + 1 {
                let scope = if self.below(4) == 0 { format!("odd.{layer}.{i}") } else { format!("model.{layer}.{i}") };
                let first = module.states.len();
                module.states.extend(states.clone());
                module.main.push(Call {
                    func: module.funcs.len() - 1,
                    scope,
                    states: (first..module.states.len()).collect(),
                });
            }
        }
        module.funcs.push(self.head(module.vocabulary, width));
        module.main.push(Call { func: module.funcs.len() - 1, scope: String::new(), states: vec![] });
        module
    }

    /// With a convolution, a memory, or both.
    fn recurrent(&mut self, width: usize, heads: usize, value: usize) -> StateType {
        let parts = self.below(3);
        let (columns, channels) = if parts == 0 { (0, 0) } else { (self.below(3) + 1, width) };
        let (heads, value, key) = if parts == 1 { (0, 0, 0) } else { (heads, value, self.one(&[8, 4])) };
        StateType::Recurrent(Recurrent { columns, channels, heads, key, value })
    }

    /// A convolution of `x` and a memory of what is projected from it, as far as the state has them.
    fn recurrence(&mut self, p: &mut Pool, x: Value, r: Recurrent) -> Value {
        p.b.enter(self.one(&PLACES));
        let width = r.channels.max(1);
        let mut s = p.b.param(ParamKind::State(0), Type::State(StateType::Recurrent(r)));
        if r.columns > 0 {
            s = p.b.op(Op::ConvAppend, [s.into(), x.into()]);
            let w = self.weight(&mut p.b, width, r.columns + 1);
            let y = p.b.op(Op::ConvCausal, [s.into(), w.into()]);
            p.values.push(y);
        }
        if r.heads > 0 {
            let inputs = p.b.ty(x).tensor().and_then(TensorType::width).expect("a flow has a width");
            let rows = |m: &mut Self, p: &mut Pool, rows: usize| {
                let w = m.weight(&mut p.b, rows, inputs);
                p.b.op(Op::Linear, [x.into(), w.into()])
            };
            let key_heads = if self.below(2) == 0 { 1 } else { r.heads };
            let (k, v) = (rows(self, p, key_heads * r.key), rows(self, p, r.heads * r.value));
            let (alpha, beta) = (rows(self, p, r.heads), rows(self, p, r.heads));
            let k = p.b.op(Op::SplitHeads { heads: key_heads }, [k.into()]);
            let v = p.b.op(Op::SplitHeads { heads: r.heads }, [v.into()]);
            let [a, b] = [(); 2].map(|()| self.weight(&mut p.b, 1, r.heads));
            if self.below(2) == 0 {
                let dt = p.b.op(Op::TimeStep { least: 0.0, most: 1.5 }, [alpha.into(), b.into()]);
                s = p.b.op(Op::SsmAppend, [s.into(), k.into(), v.into(), dt.into(), a.into()]);
                let y = p.b.op(Op::SsmRead, [s.into(), k.into(), v.into(), a.into()]);
                p.values.push(y);
                p.b.leave();
                return s;
            }
            let k = p.b.op(Op::L2Norm { eps: self.number() }, [k.into()]);
            let alpha = p.b.op(Op::Decay, [alpha.into(), a.into(), b.into()]);
            s = p.b.op(Op::DeltaAppend, [s.into(), k.into(), v.into(), alpha.into(), beta.into()]);
            let y = p.b.op(Op::DeltaRead { scale: self.number() }, [s.into(), k.into()]);
            p.values.extend([k, y]);
        }
        p.b.leave();
        s
    }

    fn embed(&mut self, vocabulary: usize, width: usize) -> Graph {
        let mut b = GraphBuilder::new("embed");
        let ids = b.param(ParamKind::Ids, Type::Tensor(TensorType::new(DType::U32, [Sym::Tokens.into()])));
        let w = self.weight(&mut b, vocabulary, width);
        let scale = self.number();
        let x = b.op(Op::Embed { scale }, [ids.into(), w.into()]);
        b.finish(vec![x]).expect("an embedding is well-typed")
    }

    fn head(&mut self, vocabulary: usize, width: usize) -> Graph {
        let mut b = GraphBuilder::new("the head");
        let x = b.flow(width);
        let x = b.op(Op::Rows, [x.into()]);
        let w = self.weight(&mut b, vocabulary, width);
        let logits = b.op(Op::Linear, [x.into(), w.into()]);
        let greedy = b.op(Op::ArgMax, [logits.into()]);
        b.finish(vec![logits, greedy]).expect("a head is well-typed")
    }

    fn layer(&mut self, name: &str, width: usize, states: &[StateType]) -> Graph {
        let mut b = GraphBuilder::new(name);
        let x = b.flow(width);
        let mut p = Pool { b, values: vec![x], histories: vec![], rope: vec![] };
        let mut last = vec![];
        if let Some(StateType::Recurrent(r)) = states.first() {
            last.push(self.recurrence(&mut p, x, *r));
        }
        if let Some(ty) = states.last()
            && let StateType::Paged { heads, dim, latent, archive, .. } = *ty
        {
            p.b.enter(self.one(&PLACES));
            let s = p.b.param(ParamKind::State(last.len()), Type::State(ty.clone()));
            let rows = |m: &mut Self, p: &mut Pool, dim: usize| {
                let w = m.weight(&mut p.b, heads * dim, width);
                let y = p.b.op(Op::Linear, [x.into(), w.into()]);
                p.b.op(Op::SplitHeads { heads }, [y.into()])
            };
            let dims = latent.map_or((dim, dim), |latent| (latent, dim - latent));
            let (mut k, v) = (rows(self, &mut p, dims.0), rows(self, &mut p, dims.1));
            let turned = latent.is_none() && self.below(2) == 0;
            if turned {
                k = p.b.op(Op::Rotate { inverse: false }, [k.into()]);
            }
            let mut s = p.b.op(Op::KvAppend, [s.into(), k.into(), v.into()]);
            if archive.is_some() {
                s = p.b.op(Op::KvArchive, [s.into()]);
            }
            let mut histories = (p.b.op(Op::KvK, [s.into()]), p.b.op(Op::KvV, [s.into()]));
            if turned {
                histories.0 = p.b.op(Op::Rotate { inverse: true }, [histories.0.into()]);
            }
            p.histories.push(histories);
            p.values.extend([k, v]);
            p.b.leave();
            last.push(s);
        }
        for _ in 0..self.below(20) {
            p.b.enter(self.one(&PLACES));
            self.op(&mut p);
            p.b.leave();
        }
        let y = self.as_rows(&mut p);
        let cols = columns(&p.b, y);
        let w = self.weight(&mut p.b, width, cols);
        let y = p.b.op(Op::Linear, [y.into(), w.into()]);
        p.b.finish([y].into_iter().chain(last).collect()).expect("a random layer is well-typed")
    }

    /// Some value as rows `[T, n]`.
    fn as_rows(&mut self, p: &mut Pool) -> Value {
        let x = self.one(&p.values);
        if extents(&p.b, x) == 3 { p.b.op(Op::MergeHeads, [x.into()]) } else { x }
    }

    /// One more op on what there is.
    fn op(&mut self, p: &mut Pool) {
        let x = self.one(&p.values);
        let (cols, rank) = (columns(&p.b, x), extents(&p.b, x));
        let y = match self.below(16) {
            0 => {
                let rows = self.one(&[8, 32, 64, 4]);
                let w = self.weight(&mut p.b, rows, cols);
                p.b.op(Op::Linear, [x.into(), w.into()])
            }
            1 => {
                let w = self.weight(&mut p.b, 1, cols);
                let (eps, offset) = (1e-5, self.number());
                p.b.op(Op::RmsNorm { eps, offset }, [x.into(), w.into()])
            }
            2 => {
                let w = self.weight(&mut p.b, 1, cols);
                p.b.op(Op::Bias, [x.into(), w.into()])
            }
            3 => p.b.op(Op::Add, [x.into(), x.into()]),
            4 => p.b.op(Op::Mul, [x.into(), x.into()]),
            5 => {
                let factor = self.number();
                let part = Op::ScalePart { start: self.below(cols), len: 1, factor };
                p.b.op(self.one(&[Op::Scale { factor }, part]), [x.into()])
            }
            6 => {
                let bound = self.number();
                let (least, most) = (Op::Max { bound }, Op::Min { bound });
                p.b.op(self.one(&[Op::Silu, Op::GeluTanh, Op::Sigmoid, Op::Tanh, least, most]), [x.into()])
            }
            7 => p.b.op(Op::Round { to: self.rounding(cols) }, [x.into()]),
            8 if cols > 4 => {
                let start = self.below(cols - 4);
                p.b.op(Op::Slice { start, len: 4 }, [x.into()])
            }
            9 if rank == 2 => p.b.op(Op::SplitHeads { heads: 2 }, [x.into()]),
            10 => self.as_rows(p),
            11 if rank == 3 && cols >= 4 => self.rope(p, x, cols),
            12..=13 if !p.histories.is_empty() => self.attend(p),
            14 => self.experts(p),
            _ => return,
        };
        p.values.push(y);
    }

    fn rope(&mut self, p: &mut Pool, x: Value, cols: usize) -> Value {
        let table = if cols >= 8 { self.below(2) } else { 0 };
        let dim = [4, 8][table];
        let known = p.rope.iter().find(|(i, _)| *i == table).map(|(_, v)| *v);
        let v = known.unwrap_or_else(|| {
            let ty = TensorType::new(DType::F32, [Sym::Tokens.into(), dim.into()]);
            p.b.param(ParamKind::RopeTable(table), Type::Tensor(ty))
        });
        if known.is_none() {
            p.rope.push((table, v));
        }
        let layout = self.one(&[RopeLayout::Half, RopeLayout::Interleaved]);
        let start = self.below(cols - dim + 1);
        p.b.op(Op::Rope { start, dim, layout }, [x.into(), v.into()])
    }

    fn attend(&mut self, p: &mut Pool) -> Value {
        let (mut k, v) = p.histories[0];
        let Type::History { heads: stored, dim, .. } = *p.b.ty(k) else { return k };
        let heads = stored * self.one(&[1, 2]);
        if stored == 1 && self.below(2) == 0 {
            let w = self.weight(&mut p.b, heads * 3, dim - 1);
            k = p.b.op(Op::HeadLinear { heads, first: 1, len: 2, transposed: false }, [k.into(), w.into()]);
        }
        let Type::History { window: kept, dim, .. } = *p.b.ty(k) else { return k };
        let x = self.as_rows(p);
        let cols = columns(&p.b, x);
        let w = self.weight(&mut p.b, heads * dim, cols);
        let q = p.b.op(Op::Linear, [x.into(), w.into()]);
        let q = p.b.op(Op::SplitHeads { heads }, [q.into()]);
        let window = if kept == 0 { self.below(3) } else { self.below(kept) + 1 };
        let (scale, cap) = (self.number(), self.one(&[0.0, 1.5]));
        let mut args: Vec<Arg> = vec![q.into(), k.into(), v.into()];
        if self.below(2) == 0 {
            args.push(self.weight(&mut p.b, 1, heads).into());
        }
        p.b.op(Op::Attend { scale, window, cap }, args)
    }

    fn experts(&mut self, p: &mut Pool) -> Value {
        let x = self.as_rows(p);
        let cols = columns(&p.b, x);
        let w = self.weight(&mut p.b, 4, cols);
        let scores = p.b.op(Op::Linear, [x.into(), w.into()]);
        let (top_k, (groups, kept)) = (self.below(2) + 1, self.one(&[(1, 1), (2, 1), (2, 2)]));
        let ids = p.b.op(Op::RouteIds { top_k, groups, kept }, [scores.into()]);
        let routing = self.one(&[Routing::Softmax, Routing::Sigmoid]);
        let normalize = self.below(2) == 1;
        let weights = p.b.op(Op::RouteWeights { routing, normalize }, [scores.into(), ids.into()]);
        let ids = match self.below(2) {
            0 => ids,
            _ => p.b.op(Op::ExpertFetch { slots: self.below(3) + 1 }, [ids.into()]),
        };
        let up = self.weight(&mut p.b, 4 * 32, cols);
        let y = p.b.op(Op::ExpertLinear { experts: 4 }, [x.into(), ids.into(), up.into()]);
        let y = match self.below(2) {
            0 => y,
            _ => {
                let bias = self.weight(&mut p.b, 4 * 32, 1);
                p.b.op(Op::ExpertBias { experts: 4 }, [y.into(), ids.into(), bias.into()])
            }
        };
        let down = self.weight(&mut p.b, 4 * 8, 32);
        let y = p.b.op(Op::ExpertLinear { experts: 4 }, [y.into(), ids.into(), down.into()]);
        p.b.op(Op::Combine, [y.into(), weights.into()])
    }
}

fn extents(b: &GraphBuilder, v: Value) -> usize {
    b.ty(v).tensor().map_or(0, |t| t.shape.len())
}

fn columns(b: &GraphBuilder, v: Value) -> usize {
    b.ty(v).tensor().and_then(TensorType::width).expect("values of the pool end in a constant extent")
}
