//! Templates `map` and `combine`: elementwise work over rows.

use std::ops::Range;

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::{Combine, Elementwise, View};

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::epilogue::{Epilogue, Program};
use super::isa::{Isa, LANES, Task};
use super::weights::{load_some, store_some};

/// Elements that one task handles.
const PER_TASK: usize = 8_192;

/// An elementwise launch with its program checked.
pub(crate) struct MapMicro {
    template: Elementwise,
    program: Program,
}

/// A combining launch with its epilogue checked.
pub(crate) struct CombineMicro {
    template: Combine,
    epilogue: Program,
}

impl MapMicro {
    /// `None` where the program is beyond the vector machine.
    pub(crate) fn new(template: &Elementwise) -> Option<Self> {
        let program = Program::new(&template.map, &template.extras, 0)?;
        Some(Self { template: template.clone(), program })
    }
}

impl CombineMicro {
    /// `None` where the epilogue is beyond the vector machine.
    pub(crate) fn new(template: &Combine) -> Option<Self> {
        let epilogue = Program::new(&template.epilogue, &template.extras, 1)?;
        Some(Self { template: template.clone(), epilogue })
    }
}

/// Some columns of some rows.
struct Tile<'a> {
    rows: Range<usize>,
    cols: Range<usize>,
    epilogue: &'a Epilogue<'a>,
    /// What to sum first: the experts' outputs, their weights, and how many there are.
    experts: Option<(Rows, Rows, usize)>,
    y: Rows,
    /// A row of sums.
    scratch: *mut f32,
}

impl Task for Tile<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { rows, cols, epilogue, experts, y, scratch } = self;
        for row in rows {
            if let Some((outputs, weights, top_k)) = experts {
                for k in (0..cols.len()).step_by(LANES) {
                    let left = cols.len() - k;
                    let term = |rank: usize| {
                        let output = outputs.row(row * top_k + rank).add(cols.start + k).cast_const();
                        (*weights.row(row).add(rank), output)
                    };
                    let (weight, output) = term(0);
                    let mut sum = I::mul(I::splat(weight), load_some::<I>(output, left));
                    for rank in 1..top_k {
                        let (weight, output) = term(rank);
                        sum = I::fma(I::splat(weight), load_some::<I>(output, left), sum);
                    }
                    store_some::<I>(scratch.add(k), sum, left);
                }
            }
            let to = y.row(row).add(cols.start);
            epilogue.store::<I>(row, cols.start, cols.len(), [scratch.cast_const(); 2], to);
        }
    }
}

/// Runs `make` for tiles that cover `rows` × `cols`.
fn tiles<'a>(
    ctx: &Context<'_>,
    (rows, cols): (usize, usize),
    make: impl Fn(Range<usize>, Range<usize>, *mut f32) -> Tile<'a> + Sync,
) {
    let width = cols.min(PER_TASK);
    let height = (PER_TASK / width.max(1)).max(1);
    let across = cols.div_ceil(width.max(1));
    ctx.parallel(rows.div_ceil(height) * across, |task, scratch| {
        let (i, j) = (task / across * height, task % across * width);
        make(i..(i + height).min(rows), j..(j + width).min(cols), scratch)
    });
}

impl Micro for MapMicro {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        Needs { launch: 0, worker: LANES }
    }

    fn run(&self, ctx: &Context<'_>, _scratch: *mut f32) -> Result<(), String> {
        let t = &self.template;
        let rows = ctx.sizes.get(t.rows) as usize;
        let epilogue = &self.program.bind(ctx, 0, rows, t.dim)?;
        let y = ctx.rows(self.program.extras(), "y", t.y, rows, t.dim)?;
        tiles(ctx, (rows, t.dim), |rows, cols, scratch| Tile { rows, cols, epilogue, experts: None, y, scratch });
        Ok(())
    }
}

impl Micro for CombineMicro {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        Needs { launch: 0, worker: self.template.dim.min(PER_TASK).next_multiple_of(LANES) }
    }

    fn run(&self, ctx: &Context<'_>, _scratch: *mut f32) -> Result<(), String> {
        let t = &self.template;
        let tokens = ctx.sizes.tokens as usize;
        if t.top_k == 0 {
            return Err("combines no experts".to_owned());
        }
        let outputs = ctx.rows(0, "y", View::dense(t.dim), tokens * t.top_k, t.dim)?;
        let weights = ctx.rows(1, "weights", View::dense(t.top_k), tokens, t.top_k)?;
        let epilogue = &self.epilogue.bind(ctx, 2, tokens, t.dim)?;
        let y = ctx.rows(2 + self.epilogue.extras(), "out", t.out, tokens, t.dim)?;
        let experts = Some((outputs, weights, t.top_k));
        tiles(ctx, (tokens, t.dim), |rows, cols, scratch| Tile { rows, cols, epilogue, experts, y, scratch });
        Ok(())
    }
}
