//! Operands: functions from index to value. Activations through their views, extras, normalisation.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::builder::{A, E, Kb};
use swiftlm_ir::kernel::{Access, KType, Length, ReduceOp};
use swiftlm_ir::map::Map;
use swiftlm_ir::quant::Format;
use swiftlm_ir::quant::decode::{Encoded, pack_width};
use swiftlm_ir::template::{Extra, Norm, View};

use super::Bounds;

/// Partial sums of a reduction over few columns: pack `p` of a row belongs to partial sum `p % RUN`. Eight is the
/// narrowest subgroup of the devices we know, so such a run of lanes never needs shared memory.
pub(super) const RUN: u32 = 8;

/// Partial sums of a reduction over a row of `width` columns.
pub(super) fn run_of(width: usize) -> u32 {
    if width / pack_width(width) >= 32 { 32 } else { RUN }
}

/// Elements from the start of the first of `rows` rows to the end of the last.
fn extent(view: View, rows: usize, width: usize) -> u64 {
    (rows.saturating_sub(1) * view.stride + view.offset + width) as u64
}

/// Rows of f32 in the arena, element by element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'k> {
    arg: A<'k>,
    view: View,
}

impl<'k> Rows<'k> {
    /// Declares the next argument as `rows` rows of `width` elements.
    pub(super) fn declare(kb: &'k Kb, name: &str, view: View, rows: usize, width: usize) -> Self {
        Self::declare_views(kb, name, rows, [(view, width)])[0]
    }

    /// Declares the next argument as rows seen through several views with their widths.
    pub(super) fn declare_views<const N: usize>(
        kb: &'k Kb,
        name: &str,
        rows: usize,
        views: [(View, usize); N],
    ) -> [Self; N] {
        let len = views.iter().map(|(view, width)| extent(*view, rows, *width)).max().unwrap_or(0);
        let arg = kb.arg(name, Access::ReadWrite, KType::F32, Length::Elements(len));
        views.map(|(view, _)| Self { arg, view })
    }

    /// Declares the next argument as `rows` dense rows of an input of the step.
    pub(super) fn declare_input(kb: &'k Kb, name: &str, rows: usize, width: usize) -> Self {
        let len = Length::Elements((rows * width) as u64);
        Self { arg: kb.arg(name, Access::Read, KType::F32, len), view: View::dense(width) }
    }

    fn index(&self, row: E<'k>, col: E<'k>) -> E<'k> {
        row.times(self.view.stride) + col.plus(self.view.offset)
    }

    /// Element (`row`, `col`).
    pub(super) fn load(&self, row: E<'k>, col: E<'k>) -> E<'k> {
        self.arg.load(self.index(row, col))
    }

    /// `n` elements from (`row`, `col`) on, as a pack.
    pub(super) fn pack(&self, row: E<'k>, col: E<'k>, n: usize) -> Vec<E<'k>> {
        vectors((0..n).map(|i| self.load(row, col.plus(i))).collect())
    }

    /// Writes element (`row`, `col`).
    pub(super) fn store(&self, row: E<'k>, col: E<'k>, value: E<'k>) {
        self.arg.store(self.index(row, col), value);
    }
}

/// Rows of f32 in the arena, read in packs of [`pack_width`] columns as [`Encoded::pack`] gives them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packs<'k> {
    kb: &'k Kb,
    arg: A<'k>,
    view: View,
    /// Elements of a row, or of a head, that packs are of.
    pub(super) width: usize,
    /// Elements from head to head.
    step: usize,
    /// Whether the argument is an array of vectors of 4.
    vectors: bool,
}

impl<'k> Packs<'k> {
    /// Declares the next argument as `rows` rows of `width` elements.
    pub(super) fn declare(kb: &'k Kb, name: &str, view: View, rows: usize, width: usize) -> Self {
        Self::declare_heads(kb, name, view, rows, 1, width)
    }

    /// Declares the next argument as `rows` rows of `heads` heads of `width` elements.
    pub(super) fn declare_heads(kb: &'k Kb, name: &str, view: View, rows: usize, heads: usize, width: usize) -> Self {
        let vectors = [width, view.offset, view.stride].iter().all(|n| n.is_multiple_of(4));
        let (elem, per) = if vectors { (KType::F32X4, 4) } else { (KType::F32, 1) };
        let len = Length::Elements(extent(view, rows, heads * width) / per);
        Self { kb, arg: kb.arg(name, Access::ReadWrite, elem, len), view, width, step: width, vectors }
    }

    /// Declares the next argument as `rows` rows of heads, element by element, and as packs of the first `width` elements
    /// of each head.
    pub(super) fn declare_parts(
        kb: &'k Kb,
        name: &str,
        view: View,
        rows: usize,
        (heads, step, width): (usize, usize, usize),
    ) -> (Rows<'k>, Self) {
        let elements = Rows::declare(kb, name, view, rows, heads * step);
        (elements, Self { kb, arg: elements.arg, view, width, step, vectors: false })
    }

    /// Packs of a row, or of a head.
    pub(super) fn count(&self) -> usize {
        self.width / pack_width(self.width)
    }

    /// Pack `pack` of row `row`.
    pub(super) fn pack(&self, row: E<'k>, pack: E<'k>) -> Vec<E<'k>> {
        self.head_pack(row, self.kb.u32(0), pack)
    }

    /// Pack `pack` of head `head` of row `row`.
    pub(super) fn head_pack(&self, row: E<'k>, head: E<'k>, pack: E<'k>) -> Vec<E<'k>> {
        let (n, per) = (pack_width(self.width), if self.vectors { 4 } else { 1 });
        let start = row.times(self.view.stride / per) + head.times(self.step / per).plus(self.view.offset / per);
        let first = start + pack.times(n / per);
        if self.vectors {
            return (0..n / 4).map(|i| self.arg.load(first.plus(i))).collect();
        }
        vectors((0..n).map(|i| self.arg.load(first.plus(i))).collect())
    }
}

/// One element, or vectors of 4 made of several.
pub(super) fn vectors(values: Vec<E<'_>>) -> Vec<E<'_>> {
    if values.len() == 1 {
        return values;
    }
    values.chunks_exact(4).map(|q| E::compose4([q[0], q[1], q[2], q[3]])).collect()
}

/// `1 / sqrt(mean(x²) + eps)` over `width` elements given by their packs, the same in all `run` lanes of a run.
pub(super) fn inverse_rms<'k>(
    kb: &'k Kb,
    run: u32,
    width: usize,
    eps: f64,
    pack: impl Fn(E<'k>) -> Vec<E<'k>>,
) -> E<'k> {
    let lane = kb.lane().modulo(run as usize);
    let sum = kb.fold_sum(lane, run, width / pack_width(width), |p| {
        let x = pack(p);
        dot(&x, &x)
    });
    (sum / kb.f32(width as f32) + kb.f32(eps as f32)).rsqrt()
}

/// Dot product of two packs.
pub(super) fn dot<'k>(a: &[E<'k>], b: &[E<'k>]) -> E<'k> {
    let product = |(a, b): (&E<'k>, &E<'k>)| if a.ty().width == 1 { *a * *b } else { a.dot(*b) };
    let mut parts = a.iter().zip(b).map(product);
    let first = parts.next().expect("a pack holds a column");
    parts.fold(first, |sum, part| sum + part)
}

/// A number that orders f32 values as u32: equal for equal values, least (0) for NaN.
pub(super) fn order_key<'k>(kb: &'k Kb, value: E<'k>) -> E<'k> {
    let (bits, sign) = (value.bitcast(), kb.u32(0x8000_0000));
    let magnitude = bits & kb.u32(0x7fff_ffff);
    let key = bits.lt(sign).select(bits + sign, bits ^ kb.u32(0xffff_ffff));
    let key = magnitude.equals(kb.u32(0)).select(sign, key);
    kb.u32(0x7f80_0000).lt(magnitude).select(kb.u32(0), key)
}

/// Sum of the lanes of a run.
pub(super) fn sum_of_run<'k>(kb: &'k Kb, value: E<'k>) -> E<'k> {
    kb.reduce(ReduceOp::Sum, value, RUN)
}

/// A normalisation's weight: `w + offset`.
#[derive(Clone, Debug)]
pub(super) struct NormWeight<'k> {
    kb: &'k Kb,
    weight: Encoded<'k>,
    norm: Norm,
}

impl<'k> NormWeight<'k> {
    /// Declares the next argument as the weight of `norm` over `dim` elements.
    pub(super) fn declare(kb: &'k Kb, name: &str, norm: Norm, dim: usize) -> Self {
        Self { kb, weight: vector(kb, name, norm.weight, dim), norm }
    }

    /// Added to the mean square.
    pub(super) fn eps(&self) -> f64 {
        self.norm.eps
    }

    fn shifted(&self, w: E<'k>) -> E<'k> {
        if self.norm.offset == 0.0 {
            return w;
        }
        w + self.kb.f32(self.norm.offset as f32).splat_to(w)
    }

    /// `w[col] + offset`.
    pub(super) fn load(&self, col: E<'k>) -> E<'k> {
        self.shifted(self.weight.load(self.kb.u32(0), col))
    }

    /// Pack `pack` of `x · scale · (w + offset)` of several rows.
    pub(super) fn apply(&self, rows: &[Vec<E<'k>>], scales: &[E<'k>], pack: E<'k>) -> Vec<Vec<E<'k>>> {
        let w: Vec<E<'k>> = self.weight.pack(self.kb.u32(0), pack).into_iter().map(|w| self.shifted(w)).collect();
        let row =
            |(x, scale): (&Vec<E<'k>>, &E<'k>)| x.iter().zip(&w).map(|(x, w)| *x * scale.splat_to(*x) * *w).collect();
        rows.iter().zip(scales).map(row).collect()
    }
}

/// Declares the next argument as a weight vector.
pub(super) fn vector<'k>(kb: &'k Kb, name: &str, format: Format, len: usize) -> Encoded<'k> {
    Encoded::declare(kb, name, WeightType { format, rows: 1, cols: len })
}

/// Scalar to the width of another value.
pub(super) trait SplatTo<'k> {
    /// The scalar in every element of a value as wide as `like`.
    fn splat_to(self, like: E<'k>) -> E<'k>;
}

impl<'k> SplatTo<'k> for E<'k> {
    fn splat_to(self, like: E<'k>) -> E<'k> {
        match like.ty().width {
            1 => self,
            n => self.splat(n),
        }
    }
}

/// Further inputs of an epilogue.
#[derive(Clone, Debug)]
pub(super) struct Extras<'k> {
    kb: &'k Kb,
    inputs: Vec<Input<'k>>,
}

#[derive(Clone, Debug)]
enum Input<'k> {
    Column(Box<Encoded<'k>>),
    Element(Rows<'k>),
    Part(usize, usize, f32),
}

impl<'k> Extras<'k> {
    /// Declares the next arguments as those `extras` that are arguments, indexed like an output of `rows` rows of `width` columns.
    pub(super) fn declare(kb: &'k Kb, extras: &[Extra], rows: usize, width: usize) -> Self {
        let declare = |(i, extra): (usize, &Extra)| match extra {
            Extra::Column(format) => Input::Column(Box::new(vector(kb, &format!("extra{i}"), *format, width))),
            Extra::Element(view) => Input::Element(Rows::declare(kb, &format!("extra{i}"), *view, rows, width)),
            Extra::Part { start, len, factor } => Input::Part(*start, *len, *factor),
        };
        Self { kb, inputs: extras.iter().enumerate().map(declare).collect() }
    }

    /// `map` at an output's place: its first inputs are `values`, the rest these extras.
    pub(super) fn map(&self, map: &Map, values: &[E<'k>], row: E<'k>, col: E<'k>) -> E<'k> {
        self.kb.map(map, |i| match values.get(i as usize) {
            Some(value) => *value,
            None => match &self.inputs[i as usize - values.len()] {
                Input::Column(weight) => weight.load(self.kb.u32(0), col),
                Input::Element(rows) => rows.load(row, col),
                Input::Part(start, len, factor) => {
                    let (kb, one) = (self.kb, self.kb.f32(1.0));
                    let below = col.lt(kb.dim(start + len)).select(kb.f32(*factor), one);
                    if *start == 0 { below } else { col.lt(kb.dim(*start)).select(one, below) }
                }
            },
        })
    }
}

/// Declares the next argument as ids in the arena or among the step's inputs.
pub(super) fn ids<'k>(kb: &'k Kb, name: &str, access: Access, count: usize) -> A<'k> {
    kb.arg(name, access, KType::U32, Length::Elements(count as u64))
}

/// Declares the next argument as one u32 per token of the step.
pub(super) fn per_token<'k>(kb: &'k Kb, name: &str, bounds: Bounds) -> A<'k> {
    ids(kb, name, Access::Read, bounds.of(Sym::Tokens))
}
