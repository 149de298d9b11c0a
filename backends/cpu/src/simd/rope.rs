//! Heads on their way from a projection to where they are used: normalised, rotated, rounded into pages.
//! Templates `rope`, `append` and `rope_append`.

use swiftlm_ir::ops::RopeLayout;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::{Append, Norm, Rope, RopeAppend, View};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::isa::{Isa, LANES, Task};
use super::norm::Normalizer;
use super::pages::{PageTable, Pages, Part as Half};
use super::turn::Turn;
use super::weights::{load_some, store_some};

/// The step's rotation.
#[derive(Clone, Copy)]
pub(super) struct Rotation {
    table: Rows,
    start: usize,
    rotated: usize,
    layout: RopeLayout,
}

/// What happens to each head of a part of a row.
#[derive(Clone, Copy)]
struct Part {
    x: Rows,
    heads: usize,
    norm: Option<Normalizer>,
    rotation: Option<Rotation>,
    turn: Option<Turn>,
    to: To,
}

/// Where heads go.
#[derive(Clone, Copy)]
enum To {
    Rows(Rows),
    Pages(Pages),
}

/// A launch: parts of each token's row.
struct Launch<'a> {
    ctx: &'a Context<'a>,
    table: Option<PageTable>,
    parts: [Option<Part>; 3],
    dim: usize,
}

/// Some tokens of a launch. The scratch holds two heads.
struct Tokens<'a> {
    launch: &'a Launch<'a>,
    first: usize,
    last: usize,
    scratch: *mut f32,
}

impl Rotation {
    /// Of `rotated` elements from `start` on, by the table of argument `arg`; `None` where there are none.
    pub(super) fn new(
        ctx: &Context<'_>,
        arg: usize,
        (start, rotated): (usize, usize),
        layout: RopeLayout,
    ) -> Result<Option<Self>, String> {
        if rotated == 0 {
            return Ok(None);
        }
        let table = ctx.rows(arg, "table", View::dense(rotated), ctx.sizes.tokens as usize, rotated)?;
        Ok(Some(Self { table, start, rotated, layout }))
    }

    /// Rotates the head `x` of token `token` to `y`, which is another; the rest of the head is copied.
    #[inline(always)]
    pub(super) unsafe fn apply<I: Isa>(&self, token: usize, x: *const f32, y: *mut f32, dim: usize) {
        std::ptr::copy_nonoverlapping(x, y, self.start);
        let (x, y, dim) = (x.add(self.start), y.add(self.start), dim - self.start);
        let half = self.rotated / 2;
        let cos = self.table.row(token).cast_const();
        let sin = cos.add(half);
        match self.layout {
            RopeLayout::Half => {
                for i in (0..half).step_by(LANES) {
                    let left = half - i;
                    let (c, s) = (load_some::<I>(cos.add(i), left), load_some::<I>(sin.add(i), left));
                    let (a, b) = (load_some::<I>(x.add(i), left), load_some::<I>(x.add(half + i), left));
                    store_some::<I>(y.add(i), I::sub(I::mul(a, c), I::mul(b, s)), left);
                    store_some::<I>(y.add(half + i), I::add(I::mul(b, c), I::mul(a, s)), left);
                }
            }
            RopeLayout::Interleaved => {
                for i in 0..half {
                    let (a, b, c, s) = (*x.add(2 * i), *x.add(2 * i + 1), *cos.add(i), *sin.add(i));
                    *y.add(2 * i) = a * c - b * s;
                    *y.add(2 * i + 1) = b * c + a * s;
                }
            }
        }
        std::ptr::copy_nonoverlapping(x.add(self.rotated), y.add(self.rotated), dim - self.rotated);
    }
}

impl Task for Tokens<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Launch { ctx, table, parts, dim } = self.launch;
        for token in self.first..self.last {
            for part in parts.iter().flatten() {
                let page = match (part.to, table) {
                    (To::Pages(pages), Some(table)) => {
                        let position = table.position(token);
                        match table.page(ctx, token, position / PAGE_TOKENS, pages.count()) {
                            Some(page) => Some((page, position % PAGE_TOKENS)),
                            None => continue,
                        }
                    }
                    _ => None,
                };
                for head in 0..part.heads {
                    let mut from = part.x.row(token).add(head * dim).cast_const();
                    if let Some(norm) = part.norm {
                        norm.apply::<I>(from, self.scratch);
                        from = self.scratch;
                    }
                    if let Some(rotation) = part.rotation {
                        let to = self.scratch.add(dim.next_multiple_of(LANES));
                        rotation.apply::<I>(token, from, to, *dim);
                        from = to;
                    }
                    if let Some(turn) = part.turn {
                        let to = self.scratch.add(dim.next_multiple_of(LANES));
                        if from != to {
                            std::ptr::copy_nonoverlapping(from, to, *dim);
                        }
                        turn.apply::<I>(to, false);
                        from = to;
                    }
                    match (part.to, page) {
                        (To::Pages(pages), Some((page, slot))) => {
                            pages.store::<I>(pages.head(page, head), slot, from);
                        }
                        (To::Rows(rows), _) => {
                            std::ptr::copy(from, rows.row(token).add(head * dim), *dim);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

impl Launch<'_> {
    fn run(&self) {
        let tokens = self.ctx.sizes.tokens as usize;
        let floats: usize = self.parts.iter().flatten().map(|p| p.heads * self.dim).sum();
        let per = (8_192 / floats.max(1)).max(1);
        self.ctx.parallel(tokens.div_ceil(per), |task, scratch| Tokens {
            launch: self,
            first: task * per,
            last: ((task + 1) * per).min(tokens),
            scratch,
        });
    }
}

fn head_needs(dim: usize, norms: usize) -> Needs {
    Needs { launch: norms * Normalizer::needs(dim), worker: 2 * dim.next_multiple_of(LANES) }
}

/// The template `rope`.
impl Micro for Rope {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        head_needs(self.dim, 1)
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (tokens, width) = (ctx.sizes.tokens as usize, self.heads * self.dim);
        let at = if self.norm.is_some() { 2 } else { 1 };
        let norm = self.norm.as_ref().map(|n| Normalizer::new(ctx, 1, n, self.dim, scratch)).transpose()?;
        let part = Part {
            x: ctx.rows(0, "x", self.x, tokens, width)?,
            heads: self.heads,
            norm,
            rotation: Rotation::new(ctx, at, (self.start, self.rotated), self.layout)?,
            turn: None,
            to: To::Rows(ctx.rows(at + 1, "y", self.y, tokens, width)?),
        };
        Launch { ctx, table: None, parts: [Some(part), None, None], dim: self.dim }.run();
        Ok(())
    }
}

/// The template `append`.
impl Micro for Append {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        head_needs(self.dim, 0)
    }

    fn run(&self, ctx: &Context<'_>, _scratch: *mut f32) -> Result<(), String> {
        let (tokens, width) = (ctx.sizes.tokens as usize, self.heads * self.dim);
        let part = |x, to| Part { x, heads: self.heads, norm: None, rotation: None, turn: None, to: To::Pages(to) };
        let k = ctx.rows(0, "k", self.k, tokens, width)?;
        let v = ctx.rows(1, "v", self.v, tokens, width)?;
        let keys = Pages::new(ctx, 5, Half::Keys, self.k_format, self.heads, self.dim)?;
        let values = Pages::new(ctx, 6, Half::Values, self.v_format, self.heads, self.dim)?;
        let parts = [Some(part(k, keys)), Some(part(v, values)), None];
        Launch { ctx, table: Some(PageTable::new(ctx, 2)?), parts, dim: self.dim }.run();
        Ok(())
    }
}

/// The template `rope_append`.
impl Micro for RopeAppend {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        let needs = head_needs(self.append.dim, 2);
        let turn = if self.rotate { Turn::needs(self.append.dim) } else { 0 };
        Needs { launch: needs.launch + turn, ..needs }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (tokens, append) = (ctx.sizes.tokens as usize, &self.append);
        let (q_width, kv_width) = (self.heads * append.dim, append.heads * append.dim);
        let mut at = 1;
        let mut next_norm = |norm: &Option<Norm>, scratch: *mut f32| {
            let Some(norm) = norm else { return Ok(None) };
            at += 1;
            Normalizer::new(ctx, at - 1, norm, append.dim, scratch).map(Some)
        };
        let q_norm = next_norm(&self.q_norm, scratch)?;
        let k_norm = next_norm(&self.k_norm, scratch.wrapping_add(Normalizer::needs(append.dim)))?;
        let rotation = Rotation::new(ctx, at, (0, self.rotated), self.layout)?;
        let q_out = ctx.rows(at + 4, "q", self.q_out, tokens, q_width)?;
        let keys = Pages::new(ctx, at + 5, Half::Keys, append.k_format, append.heads, append.dim)?;
        let values = Pages::new(ctx, at + 6, Half::Values, append.v_format, append.heads, append.dim)?;
        let turn = match self.rotate {
            true => Some(Turn::new(append.dim, scratch.wrapping_add(2 * Normalizer::needs(append.dim)))?),
            false => None,
        };
        let heads = append.heads;
        let part = |x, heads, norm, rotation, to| Some(Part { x, heads, norm, rotation, turn, to });
        let q = ctx.rows(0, "qkv", self.q, tokens, q_width)?;
        let k = ctx.rows(0, "qkv", append.k, tokens, kv_width)?;
        let v = ctx.rows(0, "qkv", append.v, tokens, kv_width)?;
        let parts = [
            part(q, self.heads, q_norm, rotation, To::Rows(q_out)),
            part(k, heads, k_norm, rotation, To::Pages(keys)),
            part(v, heads, None, None, To::Pages(values)),
        ];
        Launch { ctx, table: Some(PageTable::new(ctx, at + 1)?), parts, dim: append.dim }.run();
        Ok(())
    }
}
