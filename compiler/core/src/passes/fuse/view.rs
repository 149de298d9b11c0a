//! Views: values that are rows of another value's memory.

use swiftlm_ir::graph::{Arg, Value};
use swiftlm_ir::ops::Op;
use swiftlm_ir::template::View;

use super::Fuser;

/// A value as rows of a value that lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placed {
    /// The value that lies in memory.
    pub(super) base: Value,
    /// Its rows: one row per token (or per row that wants logits).
    pub(super) view: View,
}

impl Fuser<'_> {
    /// Where a value lies once its base does.
    pub(super) fn place(&self, v: Value) -> Result<Placed, String> {
        if let Some((op, [Arg::Value(x)])) = self.g.node(v) {
            match op {
                Op::SplitHeads { .. } | Op::MergeHeads => return self.place(*x),
                Op::Slice { start, .. } if self.rank(*x) == 2 => {
                    let inner = self.place(*x)?;
                    let view = View { offset: inner.view.offset + start, ..inner.view };
                    return Ok(Placed { view, ..inner });
                }
                _ => {}
            }
        }
        Ok(Placed { base: v, view: View::dense(self.row_elements(v)?) })
    }

    /// Elements of a row of the outermost extent.
    pub(super) fn row_elements(&self, v: Value) -> Result<usize, String> {
        let ty = &self.g.value(v).ty;
        ty.tensor().and_then(|t| t.row_elements()).ok_or_else(|| format!("rows of {ty} have no constant size"))
    }

    /// Number of extents.
    pub(super) fn rank(&self, v: Value) -> usize {
        self.g.value(v).ty.tensor().map_or(0, |t| t.shape.len())
    }

    /// Whether an op costs nothing because its result is a view.
    pub(super) fn is_view(&self, op: &Op, args: &[Arg]) -> bool {
        match (op, args) {
            (Op::SplitHeads { .. } | Op::MergeHeads | Op::KvK | Op::KvV, _) => true,
            (Op::Slice { .. }, [Arg::Value(x)]) => self.rank(*x) == 2,
            _ => false,
        }
    }
}
