//! Kernels of the templates, written in the kernel DSL: one file per template, each a plain function that reads like
//! the formula. Nothing here knows models, devices or where operands lie.
//!
//! An operand is a function from index to value ([`operand`]): an activation is addressed by its view, a weight is
//! decoded where it is read, prologues and epilogues are applied on the way. So no kernel is written twice.
//!
//! Grids are never trusted: a kernel compares its rows with the step's sizes, and clamps what else a group index
//! selects. A row's value depends neither on its class nor on the rows around it: sums over columns are made in one order
//! ([`deal`]), however rows and outputs are blocked.

mod ahead;
mod append;
mod archive;
mod archived;
mod arg_max;
mod attend;
mod codes;
mod combine;
mod deal;
mod delta;
mod embed;
mod expert;
mod head_linear;
mod history;
mod latent;
mod linear;
mod map;
mod memory;
mod norm;
mod operand;
mod pages;
mod rope;
mod rotate;
mod round;
mod route;
mod rows;
mod scores;
mod segment;
mod shape;
mod share;
mod short_conv;
mod span;
mod ssm;
mod sums;
mod tile;

use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::kernel::{Immediate, Kernel};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::Template;

/// A kernel of a launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// The kernel.
    pub kernel: Kernel,
    /// Which of the launch's arguments it takes: the template's in their order, then the scratch.
    pub args: Vec<usize>,
    /// Workgroups per axis.
    pub grid: [Groups; 3],
}

impl Built {
    /// A kernel that takes the template's arguments.
    fn whole(kernel: Kernel, grid: [Groups; 3]) -> Self {
        Self { args: (0..kernel.args.len()).collect(), kernel, grid }
    }
}

/// Most entries of the page table per sequence that kernels are made for: 2^25 tokens.
pub const MAX_TABLE_STRIDE: u32 = 1 << 20;

/// The kernels of `template`, which run one after another, for steps of at most `chunk` tokens of which at most `max_rows`
/// want logits; a template of a class is bounded by its class, too.
pub fn build(template: &Template, chunk: usize, max_rows: usize) -> Vec<Built> {
    let bounds = Bounds::new(chunk, max_rows);
    let name = template.name();
    vec![match template {
        Template::Embed(t) => embed::build(t, name, bounds),
        Template::RmsNorm(t) => norm::build(t, name, bounds),
        Template::Linear(t) => linear::build(t, name, bounds.of_class(t.rows, t.class)),
        Template::Rope(t) => rope::build(t, name, bounds),
        Template::HeadLinear(t) => head_linear::build(t, name, bounds.of_class(Sym::Tokens, t.class)),
        Template::LatentAppend(t) => latent::build(t, name, bounds),
        Template::Rotate(t) => rotate::build(t, name, bounds),
        Template::Append(t) => append::build(t, name, bounds),
        Template::Archive(t) => archive::build(t, name, bounds),
        Template::RopeAppend(t) => append::build_with_rope(t, name, bounds),
        Template::Attend(t) => return attend::build(t, name, bounds.of_class(Sym::Tokens, t.class)),
        Template::ShortConv(t) => short_conv::build(t, name, bounds),
        Template::Delta(t) => delta::build(t, name, bounds),
        Template::Ssm(t) => ssm::build(t, name, bounds),
        Template::Route(t) => route::build(t, name, bounds),
        Template::ExpertLinear(t) => expert::build(t, name, bounds.of_class(Sym::Tokens, t.class)),
        Template::Combine(t) => combine::build(t, name, bounds),
        Template::Rows(t) => rows::build(t, name, bounds),
        Template::ArgMax(t) => return arg_max::build(t, name, bounds),
        Template::Map(t) => map::build(t, name, bounds),
    }]
}

/// Bytes of the arena that the kernels of `template` leave one another something in, at the sizes of [`build`].
pub fn scratch_bytes(template: &Template, chunk: usize, max_rows: usize) -> usize {
    let bounds = Bounds::new(chunk, max_rows);
    match template {
        Template::Attend(t) => attend::scratch_bytes(t, bounds.of_class(Sym::Tokens, t.class)),
        Template::ArgMax(t) => arg_max::scratch_bytes(t, bounds),
        _ => 0,
    }
}

/// Largest sizes of the steps that a kernel is made for.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    tokens: usize,
    rows: usize,
}

impl Bounds {
    fn new(chunk: usize, max_rows: usize) -> Self {
        Self { tokens: chunk.max(1), rows: max_rows.max(1) }
    }

    /// Narrowed to a class of the symbol's values.
    fn of_class(mut self, sym: Sym, class: ShapeClass) -> Self {
        let bound = class.max_rows(self.tokens);
        match sym {
            Sym::Tokens => self.tokens = self.tokens.min(bound),
            Sym::Rows => self.rows = self.rows.min(bound),
        }
        self
    }

    fn of(self, sym: Sym) -> usize {
        match sym {
            Sym::Tokens => self.tokens,
            Sym::Rows => self.rows,
        }
    }

    /// A builder for such steps.
    fn kernel(self, name: &str, lanes: u32) -> Kb {
        let fit = |n: usize| u32::try_from(n).expect("rows of a step fit 32 bits");
        Kb::new(name, lanes, [fit(self.tokens), fit(self.rows), MAX_TABLE_STRIDE])
    }
}

/// Runs `body` for `row` if the step has so many.
fn when_row<'k>(kb: &'k Kb, sym: Sym, row: E<'k>, body: impl FnOnce()) {
    let count = match sym {
        Sym::Tokens => Immediate::Tokens,
        Sym::Rows => Immediate::Rows,
    };
    kb.when(row.lt(kb.immediate(count)), body);
}

/// Lanes of kernels that work column by column.
const COLUMN_LANES: u32 = 64;
/// Columns of a workgroup of such kernels.
const COLUMN_BLOCK: usize = 256;

/// The blocks of `cols` columns: what axis 1 counts.
fn column_blocks(cols: usize) -> Groups {
    Groups::fixed(cols.div_ceil(COLUMN_BLOCK))
}

/// The columns of this workgroup's block, shared by its lanes.
fn for_columns<'k>(kb: &'k Kb, cols: usize, body: impl FnOnce(E<'k>)) {
    let first = kb.group(1).times(COLUMN_BLOCK);
    kb.for_lanes(COLUMN_BLOCK.min(cols.next_multiple_of(COLUMN_LANES as usize)), |i| {
        let col = first + i;
        kb.when(col.lt(kb.dim(cols)), || body(col));
    });
}

/// One group.
fn single() -> Groups {
    Groups::fixed(1)
}
