//! Template `latent_append`: latents, and behind each of them the rotated part of the key, to the pages.

use std::ops::Range;

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::LatentAppend;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::isa::{Isa, LANES, Task};
use super::norm::Normalizer;
use super::pages::{PageTable, Pages, Part};
use super::rope::Rotation;

/// Some tokens of a launch.
struct Tokens<'a> {
    ctx: &'a Context<'a>,
    t: &'a LatentAppend,
    x: Rows,
    r: Rows,
    norm: Option<Normalizer>,
    rotation: Option<Rotation>,
    table: PageTable,
    pages: Pages,
    tokens: Range<usize>,
    /// What is stored of a token.
    scratch: *mut f32,
}

impl Task for Tokens<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { ctx, t, x, r, norm, rotation, table, pages, tokens, scratch } = self;
        for token in tokens {
            let position = table.position(token);
            let Some(page) = table.page(ctx, token, position / PAGE_TOKENS, pages.count()) else { continue };
            let (latent, rest) = (scratch, scratch.add(t.latent));
            match norm {
                Some(norm) => norm.apply::<I>(x.row(token), latent),
                None => std::ptr::copy_nonoverlapping(x.row(token), latent, t.latent),
            }
            match rotation {
                Some(rotation) => rotation.apply::<I>(token, r.row(token), rest, t.rest),
                None => std::ptr::copy_nonoverlapping(r.row(token), rest, t.rest),
            }
            pages.store::<I>(pages.head(page, 0), position % PAGE_TOKENS, scratch);
        }
    }
}

impl Micro for LatentAppend {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        let launch = if self.norm.is_some() { Normalizer::needs(self.latent) } else { 0 };
        Needs { launch, worker: (self.latent + self.rest).next_multiple_of(LANES) }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (t, count) = (self, ctx.sizes.tokens as usize);
        let x = ctx.rows(0, "latents", t.x, count, t.latent)?;
        let norm = t.norm.as_ref().map(|n| Normalizer::new(ctx, 1, n, t.latent, scratch)).transpose()?;
        let at = if norm.is_some() { 2 } else { 1 };
        let r = ctx.rows(at, "rest", t.r, count, t.rest)?;
        let rotation = match t.rotation {
            Some(layout) => Rotation::new(ctx, at + 1, (0, t.rest), layout)?,
            None => None,
        };
        let at = at + if t.rotation.is_some() { 2 } else { 1 };
        let table = PageTable::new(ctx, at)?;
        let pages = Pages::new(ctx, at + 3, Part::Keys, t.format, 1, t.latent + t.rest)?;
        let per = (8_192 / (t.latent + t.rest)).max(1);
        ctx.parallel(count.div_ceil(per), |task, scratch| {
            let tokens = task * per..((task + 1) * per).min(count);
            Tokens { ctx, t, x, r, norm, rotation, table, pages, tokens, scratch }
        });
        Ok(())
    }
}
