//! Small kernels that the tests of this crate lower.
#![allow(dead_code, reason = "each test binary uses a part")]

use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, Immediate, KType, Kernel, Length, ReduceOp};

/// `y = x + y` over `64 · tokens` elements.
pub(crate) fn vector_add() -> Kernel {
    let k = Kb::new("vector_add", 64, [8, 8, 0]);
    let x = k.arg("x", Access::Read, KType::F32, Length::Elements(512));
    let y = k.arg("y", Access::ReadWrite, KType::F32, Length::Elements(512));
    let n = k.immediate(Immediate::Tokens).times(64);
    let i = k.group(0).times(64) + k.lane();
    k.when(i.lt(n), || y.store(i, x.load(i) + y.load(i)));
    k.finish()
}

/// `y[row] = Σ x[row, ..]`, runs of `width` lanes sharing a row of 256.
pub(crate) fn row_sum(width: u32) -> Kernel {
    let k = Kb::new("row_sum", 256, [8, 8, 0]);
    let x = k.arg("x", Access::Read, KType::F32, Length::Elements(256 * 8));
    let y = k.arg("y", Access::ReadWrite, KType::F32, Length::Elements(8));
    let (row, lane) = (k.group(0), k.lane());
    let sum = k.fold_sum(lane, width, 256, |i| x.load(row.times(256) + i));
    k.when(lane.equals(k.u32(0)), || y.store(row, sum));
    k.finish()
}

/// `y[lane]` summed over runs of `width` lanes, once per token.
pub(crate) fn repeated_sum(width: u32) -> Kernel {
    let k = Kb::new("repeated_sum", 256, [8, 8, 0]);
    let y = k.arg("y", Access::ReadWrite, KType::F32, Length::Elements(256));
    let value = k.var(y.load(k.lane()));
    let tokens = k.immediate(Immediate::Tokens);
    k.range(k.u32(0), tokens, 1, |_| value.set(k.reduce(ReduceOp::Sum, value.get(), width)));
    y.store(k.lane(), value.get());
    k.finish()
}

/// Transpose of a 16 × 16 tile through shared memory.
pub(crate) fn transpose() -> Kernel {
    let k = Kb::new("transpose", 256, [8, 8, 0]);
    let x = k.arg("x", Access::Read, KType::F32, Length::Elements(256));
    let y = k.arg("y", Access::ReadWrite, KType::F32, Length::Elements(256));
    let tile = k.shared(KType::F32, 256);
    let lane = k.lane();
    tile.set(lane.modulo(16).times(16) + lane.over(16), x.load(lane));
    k.barrier();
    y.store(lane, tile.get(lane));
    k.finish()
}

/// `y = W x` for binary16 `W`, 32 lanes to a row of 256, four elements at a time.
pub(crate) fn matvec() -> Kernel {
    let k = Kb::new("matvec", 32, [8, 8, 0]);
    let w = k.arg("w", Access::Read, KType::U32X2, Length::Elements(64 * 64));
    let x = k.arg("x", Access::Read, KType::F32X4, Length::Elements(64));
    let y = k.arg("y", Access::ReadWrite, KType::F32, Length::Units(64));
    let row = k.group(0);
    let sum = k.fold_sum(k.lane(), 32, 64, |i| {
        let packed = w.load(row.times(64) + i);
        let (low, high) = (packed.extract(0), packed.extract(1));
        let parts = [low.half_low(), low.half_high(), high.half_low(), high.half_high()];
        swiftlm_ir::kernel::builder::E::compose4(parts).dot(x.load(i))
    });
    k.when(k.lane().equals(k.u32(0)), || y.store(row, sum));
    k.finish()
}
