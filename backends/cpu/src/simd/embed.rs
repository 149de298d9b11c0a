//! Rows picked by id: templates `embed` and `rows`.

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::{self, Embed};

use super::Micro;
use super::context::{Context, Ids, Needs, Rows};
use super::isa::{Isa, LANES, Task};
use super::packed::Packed;
use super::weights::{Matrix, store_some};

/// A table in either order.
#[derive(Clone, Copy)]
enum Table {
    Rows(Matrix),
    Blocks(Packed),
}

/// One row of a table to one row of an activation.
struct Lookup {
    table: Table,
    ids: Ids,
    y: Rows,
    first_row: usize,
    scale: f32,
    row: usize,
    scratch: *mut f32,
}

impl Task for Lookup {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        // Ids outside the segment are left to the launches of other segments.
        let Some(row) = self.ids.get(self.row).checked_sub(self.first_row) else { return };
        let ty = match self.table {
            Table::Rows(matrix) => matrix.ty,
            Table::Blocks(packed) => packed.ty,
        };
        if row >= ty.rows {
            return;
        }
        match self.table {
            Table::Rows(matrix) => matrix.decode::<I>(row, self.scratch),
            Table::Blocks(packed) => packed.decode(row, self.scratch),
        }
        let (y, cols) = (self.y.row(self.row), ty.cols);
        for k in (0..cols).step_by(LANES) {
            let scaled = I::mul(I::load(self.scratch.add(k)), I::splat(self.scale));
            store_some::<I>(y.add(k), scaled, cols - k);
        }
    }
}

impl Micro for Embed {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        Needs { launch: 0, worker: self.weight.cols.next_multiple_of(LANES) }
    }

    fn run(&self, ctx: &Context<'_>, _scratch: *mut f32) -> Result<(), String> {
        let rows = ctx.sizes.get(self.rows) as usize;
        let ids = ctx.ids(0, "ids", rows)?;
        let table = match ctx.packed(1, "weight", self.weight)? {
            Some(packed) => Table::Blocks(packed),
            None => Table::Rows(ctx.matrix(1, "weight", self.weight)?),
        };
        let y = ctx.rows(2, "y", self.y, rows, self.weight.cols)?;
        let (first_row, scale) = (self.first_row, self.scale);
        ctx.parallel(rows, |row, scratch| Lookup { table, ids, y, first_row, scale, row, scratch });
        Ok(())
    }
}

/// The template `rows`.
impl Micro for template::Rows {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        Needs::default()
    }

    fn run(&self, ctx: &Context<'_>, _scratch: *mut f32) -> Result<(), String> {
        let (tokens, rows) = (ctx.sizes.tokens as usize, ctx.sizes.rows as usize);
        let x = ctx.rows(0, "x", self.x, tokens, self.dim)?;
        let ids = ctx.ids(1, "rows", rows)?;
        let y = ctx.rows(2, "y", self.y, rows, self.dim)?;
        for row in 0..rows {
            let token = ids.get(row);
            if token >= tokens {
                ctx.faults.report(1, token);
                continue;
            }
            // SAFETY: both rows exist.
            unsafe { std::ptr::copy(x.row(token), y.row(row), self.dim) }
        }
        Ok(())
    }
}
