//! Elementwise programs over tiles of 16 columns: what a launch stores, in place of one kernel per activation.

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::map::{Map, MapStep, Reg};
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::template::Extra;

use super::context::{Context, Rows};
use super::isa::{Isa, LANES};
use super::math;
use super::weights::{load_floats, load_some, store_some};

/// Longest program.
const MAX_STEPS: usize = 48;
/// Most further inputs.
const MAX_EXTRAS: usize = 8;

/// A program with its further inputs, as a template has them.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    map: Map,
    extras: Vec<Extra>,
    /// Inputs before the extras: the accumulators.
    given: usize,
}

/// A further input in memory.
#[derive(Clone, Copy, Debug)]
enum Source {
    Column(Float, *const u8),
    Element(Rows),
    /// The columns `.0 .. .1` have a factor, the others 1.
    Part(usize, usize, f32),
}

/// A program with its further inputs resolved, for one launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue<'a> {
    steps: &'a [MapStep],
    sources: [Source; MAX_EXTRAS],
    given: usize,
    identity: bool,
}

// SAFETY: the pointers are to weights, which are only read.
unsafe impl Sync for Epilogue<'_> {}

impl Program {
    /// `None` where the program is too long, has too many inputs, or a column input is in groups of codes.
    pub(crate) fn new(map: &Map, extras: &[Extra], given: usize) -> Option<Self> {
        let fits = !map.steps.is_empty() && map.steps.len() <= MAX_STEPS && extras.len() <= MAX_EXTRAS;
        let floats = extras.iter().all(|e| !matches!(e, Extra::Column(format) if !matches!(format, Format::Float(_))));
        let defined = map.steps.iter().enumerate().all(|(at, step)| {
            let before = |r: &Reg| (r.0 as usize) < at;
            match step {
                MapStep::Input(i) => (*i as usize) < given + extras.len(),
                MapStep::Const(_) => true,
                MapStep::Add(a, b) | MapStep::Mul(a, b) | MapStep::Min(a, b) | MapStep::Max(a, b) => {
                    before(a) && before(b)
                }
                MapStep::Silu(a)
                | MapStep::GeluTanh(a)
                | MapStep::Sigmoid(a)
                | MapStep::Tanh(a)
                | MapStep::Round(a, _) => before(a),
            }
        });
        (fits && floats && defined).then(|| Self { map: map.clone(), extras: extras.to_vec(), given })
    }

    /// How many arguments of the launch are further inputs.
    pub(crate) fn extras(&self) -> usize {
        self.extras.iter().filter(|extra| extra.is_argument()).count()
    }

    /// The program over this launch's arguments, of which `first` is the first further input.
    pub(crate) fn bind(
        &self,
        ctx: &Context<'_>,
        first: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Epilogue<'_>, String> {
        let nothing = Source::Element(Rows { base: std::ptr::null_mut(), stride: 0 });
        let mut sources = [nothing; MAX_EXTRAS];
        let mut arg = first;
        for (extra, source) in self.extras.iter().zip(&mut sources) {
            *source = match extra {
                Extra::Part { start, len, factor } => Source::Part(*start, start + len, *factor),
                Extra::Element(view) => Source::Element(ctx.rows(arg, "extra", *view, rows, cols)?),
                Extra::Column(format) => {
                    let ty = WeightType { format: *format, rows: 1, cols };
                    let matrix = ctx.matrix(arg, "extra", ty)?;
                    let Format::Float(float) = format else { return Err(format!("{format} is no vector")) };
                    // SAFETY: row 0 exists.
                    Source::Column(*float, unsafe { matrix.row(0) })
                }
            };
            arg += usize::from(extra.is_argument());
        }
        Ok(Epilogue { steps: &self.map.steps, sources, given: self.given, identity: self.map.is_identity() })
    }
}

impl Epilogue<'_> {
    /// Stores `count` results of row `row` from column `col` on. `inputs` are the accumulators of these columns, with
    /// room to read 16 from the last multiple of 16 on.
    #[inline(always)]
    pub(crate) unsafe fn store<I: Isa>(
        &self,
        row: usize,
        col: usize,
        count: usize,
        inputs: [*const f32; 2],
        y: *mut f32,
    ) {
        let mut i = 0;
        while i < count {
            let left = count - i;
            let result = if self.identity && self.given > 0 {
                I::load(inputs[0].add(i))
            } else {
                self.eval::<I>(row, col + i, left, [inputs[0].wrapping_add(i), inputs[1].wrapping_add(i)])
            };
            store_some::<I>(y.add(i), result, left);
            i += LANES;
        }
    }

    #[inline(always)]
    unsafe fn eval<I: Isa>(&self, row: usize, col: usize, left: usize, inputs: [*const f32; 2]) -> I::F {
        let mut results = [std::mem::MaybeUninit::<I::F>::uninit(); MAX_STEPS];
        let mut last = I::splat(0.0);
        for (at, step) in self.steps.iter().enumerate() {
            macro_rules! reg {
                ($r:expr) => {
                    results.get_unchecked($r.0 as usize).assume_init()
                };
            }
            last = match *step {
                MapStep::Input(i) if (i as usize) < self.given => I::load(inputs[i as usize & 1]),
                MapStep::Input(i) => match self.sources[i as usize - self.given] {
                    Source::Element(rows) => load_some::<I>(rows.row(row).add(col), left),
                    Source::Column(float, base) => load_floats::<I>(float, base.add(col * float.bytes()), left),
                    Source::Part(start, end, factor) if start <= col && col + LANES <= end => I::splat(factor),
                    Source::Part(start, end, factor) => {
                        let of = |i: usize| if (start..end).contains(&(col + i)) { factor } else { 1.0 };
                        I::load(std::array::from_fn::<f32, LANES, _>(of).as_ptr())
                    }
                },
                MapStep::Const(x) => I::splat(x),
                MapStep::Add(a, b) => I::add(reg!(a), reg!(b)),
                MapStep::Mul(a, b) => I::mul(reg!(a), reg!(b)),
                MapStep::Silu(a) => math::silu::<I>(reg!(a)),
                MapStep::GeluTanh(a) => math::gelu_tanh::<I>(reg!(a)),
                MapStep::Sigmoid(a) => math::sigmoid::<I>(reg!(a)),
                MapStep::Tanh(a) => math::tanh::<I>(reg!(a)),
                MapStep::Min(a, b) => I::min(reg!(a), reg!(b)),
                MapStep::Max(a, b) => I::max(reg!(a), reg!(b)),
                MapStep::Round(a, to) => math::round::<I>(reg!(a), to),
            };
            results.get_unchecked_mut(at).write(last);
        }
        last
    }
}
