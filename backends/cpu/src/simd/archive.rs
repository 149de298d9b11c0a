//! Full pages to an archive: the template `archive`.

use half::f16;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::quant::archive::MEAN_FROM;
use swiftlm_ir::quant::turbo::Scale;
use swiftlm_ir::quant::{ArchiveRow, Turbo};
use swiftlm_ir::template::Archiving;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Micro;
use super::archived::ArchivePages;
use super::context::{Context, Needs};
use super::isa::{Isa, LANES, Task};
use super::pages::{PageTable, Pages, Part};

/// A launch's operands.
struct Launch<'a> {
    ctx: &'a Context<'a>,
    template: &'a Archiving,
    table: PageTable,
    keys: Pages,
    values: Pages,
    old_table: PageTable,
    old_keys: ArchivePages,
    old_values: ArchivePages,
}

/// One head of the page that a token fills. The scratch holds a decoded page, a row of codes for each slot, and the mean.
struct Head<'a> {
    launch: &'a Launch<'a>,
    token: usize,
    head: usize,
    scratch: *mut f32,
}

/// Codes of a page: a row of bytes for each slot; and its scales.
struct Coded {
    codes: *mut u8,
    scales: [u16; PAGE_TOKENS],
}

impl Task for Head<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { launch, token, head, scratch } = self;
        let Launch { ctx, template, table, keys, values, old_table, old_keys, old_values } = launch;
        let dim = template.dim;
        let block = table.position(token) / PAGE_TOKENS;
        let pages = keys.count().min(values.count());
        let old_pages = old_keys.count.min(old_values.count);
        let Some(page) = table.page(ctx, token, block, pages) else { return };
        let Some(old_page) = old_table.page(ctx, token, block, old_pages) else { return };
        let (x, codes) = (scratch, scratch.add(PAGE_TOKENS * dim).cast::<u8>());
        let mean = scratch.add(PAGE_TOKENS * dim + PAGE_TOKENS * dim / 4);
        for d in 0..dim {
            *mean.add(d) = 0.0;
        }
        let first = template.archive.first / PAGE_TOKENS;
        if template.archive.centered && block + 1 >= first {
            for block in 0..first {
                let Some(page) = table.page(ctx, token, block, pages) else { return };
                keys.floats::<I>(keys.head(page, head), x);
                for slot in if block == 0 { MEAN_FROM } else { 0 }..PAGE_TOKENS {
                    for d in 0..dim {
                        *mean.add(d) += *x.add(slot * dim + d);
                    }
                }
            }
            for d in 0..dim {
                *mean.add(d) /= (template.archive.first - MEAN_FROM) as f32;
            }
        }
        keys.floats::<I>(keys.head(page, head), x);
        if template.archive.centered {
            for i in 0..PAGE_TOKENS * dim {
                *x.add(i) -= *mean.add(i % dim);
            }
        }
        let coded = encode(template.archive.k, x, dim, codes);
        pack(old_keys, old_keys.head(old_page, head), &coded, true);
        values.floats::<I>(values.head(page, head), x);
        let coded = encode(template.archive.v, x, dim, codes);
        pack(old_values, old_values.head(old_page, head), &coded, false);
    }
}

/// The codes of `dim` elements of each slot.
#[inline(always)]
unsafe fn encode(format: Turbo, x: *const f32, dim: usize, codes: *mut u8) -> Coded {
    let mut coded = Coded { codes, scales: [0; PAGE_TOKENS] };
    let (half, levels) = (format.levels().len(), format.levels());
    let mut borders = [f32::INFINITY; 7];
    for (to, border) in borders.iter_mut().zip(format.borders()) {
        *to = border;
    }
    for slot in 0..PAGE_TOKENS {
        let (x, codes) = (x.add(slot * dim), codes.add(slot * dim));
        let mut squares = [0f32; LANES];
        for d in (0..dim).step_by(LANES) {
            for lane in 0..LANES {
                squares[lane] += *x.add(d + lane) * *x.add(d + lane);
            }
        }
        let square: f32 = squares.iter().sum();
        if !(square > 0.0 && square < f32::INFINITY) {
            std::ptr::write_bytes(codes, 0, dim);
            continue;
        }
        let factor = format.levels_per_deviation() * (dim as f32).sqrt() / square.sqrt();
        let mut products = [0f32; LANES];
        for d in (0..dim).step_by(LANES) {
            for lane in 0..LANES {
                let x = *x.add(d + lane);
                let (size, positive) = ((x * factor).abs(), x >= 0.0);
                let (mut beyond, mut level) = (0u8, f32::from(levels[0]));
                for b in 0..half - 1 {
                    let over = size >= borders[b];
                    beyond += u8::from(over);
                    level = if over { f32::from(levels[b + 1]) } else { level };
                }
                *codes.add(d + lane) = if positive { half as u8 + beyond } else { half as u8 - 1 - beyond };
                products[lane] += level * if format.scale == Scale::Matched { level } else { x.abs() };
            }
        }
        let product: f32 = products.iter().sum();
        let scale = match format.scale {
            Scale::Matched => (square / product).sqrt(),
            Scale::Unbiased => square / product,
        };
        coded.scales[slot] = f16::from_f32(scale.min(f16::MAX.to_f32())).to_bits();
    }
    coded
}

/// Codes and scales to a head of a page.
#[inline(always)]
unsafe fn pack(to: &ArchivePages, head: *mut u32, coded: &Coded, keys: bool) {
    let ArchiveRow { format, dim } = to.row;
    let (count, columns) = if keys { (dim, PAGE_TOKENS) } else { (PAGE_TOKENS, dim) };
    let code = |i: usize, column: usize| {
        let (slot, d) = if keys { (column, i) } else { (i, column) };
        u32::from(*coded.codes.add(slot * dim + d))
    };
    let (mut first, mut below) = (0, 0);
    for bits in format.planes().iter().map(|bits| *bits as usize) {
        let per = 32 / bits;
        for word in 0..(count * bits).div_ceil(32) {
            let within = 0..per.min(count - word * per);
            for column in 0..columns {
                let mut packed = 0;
                for i in within.clone() {
                    let field = code(word * per + i, column) >> below & ((1 << bits) - 1);
                    packed |= field << (8 * (i % 4) + bits * (i / 4));
                }
                *head.add((first + word) * columns + column) = packed;
            }
        }
        first += (count * bits).div_ceil(32);
        below += bits;
    }
    for pair in 0..PAGE_TOKENS / 2 {
        let word = u32::from(coded.scales[2 * pair]) | u32::from(coded.scales[2 * pair + 1]) << 16;
        *head.add(to.row.code_words() + pair) = word;
    }
}

/// The template `archive`.
impl Micro for Archiving {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        Needs { launch: 0, worker: PAGE_TOKENS * self.dim + PAGE_TOKENS * self.dim / 4 + self.dim }
    }

    fn run(&self, ctx: &Context<'_>, _scratch: *mut f32) -> Result<(), String> {
        let (heads, dim) = (self.heads, self.dim);
        let table = PageTable::new(ctx, 0)?;
        let launch = Launch {
            ctx,
            template: self,
            table,
            keys: Pages::new(ctx, 3, Part::Keys, self.k_format, heads, dim)?,
            values: Pages::new(ctx, 4, Part::Values, self.v_format, heads, dim)?,
            old_table: table.second(ctx, 5)?,
            old_keys: ArchivePages::new(ctx, 6, self.archive.k, heads, dim)?,
            old_values: ArchivePages::new(ctx, 7, self.archive.v, heads, dim)?,
        };
        let tokens = ctx.sizes.tokens as usize;
        let fills = |token: &usize| table.position(*token) % PAGE_TOKENS == PAGE_TOKENS - 1;
        // Few tokens fill a page, one in 32: they are listed some at a time, without memory of their own.
        let mut first = 0;
        while first < tokens {
            let (mut full, mut count) = ([0usize; 64], 0);
            while first < tokens && count < full.len() {
                if fills(&first) {
                    full[count] = first;
                    count += 1;
                }
                first += 1;
            }
            let full = &full;
            ctx.parallel(count * heads, |task, scratch| Head {
                launch: &launch,
                token: full[task / heads],
                head: task % heads,
                scratch,
            });
        }
        Ok(())
    }
}
