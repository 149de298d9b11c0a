//! Causal convolution of each channel over the inputs of its own sequence. Template `short_conv`.

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::ShortConv;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::epilogue::{Epilogue, Program};
use super::isa::{Isa, LANES, Task};
use super::segments::{Segment, Segments};
use super::weights::{Matrix, load_some, store_some};

/// Channels of a task.
const BLOCK: usize = 256;

/// The template with its epilogue checked.
pub(crate) struct ConvMicro {
    template: ShortConv,
    epilogue: Program,
}

impl ConvMicro {
    /// `None` where the epilogue is beyond the vector machine.
    pub(crate) fn new(template: &ShortConv) -> Option<Self> {
        let epilogue = Program::new(&template.epilogue, &template.extras, 1)?;
        Some(Self { template: template.clone(), epilogue })
    }
}

/// Some channels of a segment. The scratch holds their weights, tap after tap, a row of them as stored, and sums.
struct Channels<'a> {
    segment: Segment,
    channels: usize,
    first: usize,
    count: usize,
    weight: Matrix,
    epilogue: &'a Epilogue<'a>,
    x: Rows,
    y: Rows,
    scratch: *mut f32,
}

impl Channels<'_> {
    fn columns(&self) -> usize {
        self.weight.ty.cols - 1
    }

    /// Inputs of channels `first + k ..` that come `back` before token `token`.
    #[inline(always)]
    unsafe fn input<I: Isa>(&self, token: usize, back: usize, k: usize) -> I::F {
        let Segment { first, begins, state, .. } = self.segment;
        let (at, left) = (self.first + k, self.count - k);
        match token.checked_sub(back) {
            Some(t) if t >= first => load_some::<I>(self.x.row(t).add(at), left),
            _ if begins => I::splat(0.0),
            _ => {
                // The last column of the state is the input just before the segment.
                let column = self.columns() + token - first - back;
                load_some::<I>(state.add(column * self.channels + at), left)
            }
        }
    }
}

impl Task for Channels<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let (taps, columns) = (self.weight.ty.cols, self.columns());
        let (row, sums) =
            (self.scratch.add(taps * BLOCK), self.scratch.add(taps * BLOCK + taps.next_multiple_of(LANES)));
        for k in 0..self.count {
            self.weight.decode::<I>(self.first + k, row);
            for j in 0..taps {
                *self.scratch.add(j * BLOCK + k) = *row.add(j);
            }
        }
        for token in self.segment.first..self.segment.end {
            for k in (0..self.count).step_by(LANES) {
                let mut sum = I::splat(0.0);
                for j in 0..taps {
                    sum = I::fma(I::load(self.scratch.add(j * BLOCK + k)), self.input::<I>(token, columns - j, k), sum);
                }
                I::store(sums.add(k), sum);
            }
            let to = self.y.row(token).add(self.first);
            self.epilogue.store::<I>(token, self.first, self.count, [sums.cast_const(); 2], to);
        }
        // A column is replaced by one behind it, so the first goes first.
        for column in 0..columns {
            for k in (0..self.count).step_by(LANES) {
                let input = self.input::<I>(self.segment.end, columns - column, k);
                store_some::<I>(self.segment.state.add(column * self.channels + self.first + k), input, self.count - k);
            }
        }
    }
}

impl Micro for ConvMicro {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        let taps = self.template.taps;
        Needs { launch: 0, worker: taps * BLOCK + taps.next_multiple_of(LANES) + BLOCK }
    }

    fn run(&self, ctx: &Context<'_>, _scratch: *mut f32) -> Result<(), String> {
        let t = &self.template;
        let (tokens, channels) = (ctx.sizes.tokens as usize, t.channels);
        let x = ctx.rows(0, "x", t.x, tokens, channels)?;
        let weight = ctx.matrix(1, "weight", WeightType { format: t.weight, rows: channels, cols: t.taps })?;
        let segments = Segments::new(ctx, 2, (t.taps - 1) * channels)?;
        let epilogue = &self.epilogue.bind(ctx, 5, tokens, channels)?;
        let y = ctx.rows(5 + self.epilogue.extras(), "y", t.y, tokens, channels)?;
        let blocks = channels.div_ceil(BLOCK);
        let all: Vec<Segment> = (0..segments.count()).filter_map(|i| segments.get(ctx, i)).collect();
        ctx.parallel(all.len() * blocks, |task, scratch| {
            let first = task % blocks * BLOCK;
            let count = BLOCK.min(channels - first);
            Channels { segment: all[task / blocks], channels, first, count, weight, epilogue, x, y, scratch }
        });
        Ok(())
    }
}
