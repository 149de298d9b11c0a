//! Kernels that are wrong in one way: the verifier must refuse each, for that reason.

use swiftlm_ir::kernel::builder::{A, E, Kb};
use swiftlm_ir::kernel::verify::{KernelError, verify};
use swiftlm_ir::kernel::{
    Access, DataBound, Expr, Immediate, KType, Kernel, Length, LoopId, ReduceOp, Scalar, SharedArray, Stmt,
};

const LANES: u32 = 8;

/// A kernel over `x` (read, 100 elements), `y` (written, 100), `pages` (units of 40) and `table`.
fn kernel(body: impl for<'k> FnOnce(&'k Kb, [A<'k>; 4])) -> Kernel {
    let kb = Kb::new("case", LANES, [100, 50, 1000]);
    let args = [
        kb.arg("x", Access::Read, KType::U32, Length::Elements(100)),
        kb.arg("y", Access::ReadWrite, KType::U32, Length::Elements(100)),
        kb.arg("pages", Access::ReadWrite, KType::U32, Length::Units(40)),
        kb.arg("table", Access::Read, KType::U32, Length::PageTable),
    ];
    body(&kb, args);
    kb.finish()
}

#[track_caller]
fn passes(body: impl for<'k> FnOnce(&'k Kb, [A<'k>; 4])) {
    assert_eq!(verify(&kernel(body)), Ok(()));
}

#[track_caller]
fn refuses(why: fn(&KernelError) -> bool, body: impl for<'k> FnOnce(&'k Kb, [A<'k>; 4])) {
    refuses_kernel(why, &kernel(body));
}

#[track_caller]
fn refuses_kernel(why: fn(&KernelError) -> bool, kernel: &Kernel) {
    match verify(kernel) {
        Ok(()) => panic!("it passes"),
        Err(errors) => assert!(errors.iter().any(why), "refused for another reason: {errors:?}"),
    }
}

/// For what is built only to be there.
fn let_go<T>(_: T) {}

fn index(e: &KernelError) -> bool {
    matches!(e, KernelError::Index { .. })
}

fn divergent(e: &KernelError) -> bool {
    matches!(e, KernelError::Divergent { .. })
}

fn is_loop(e: &KernelError) -> bool {
    matches!(e, KernelError::Loop { .. })
}

fn unevaluated(e: &KernelError) -> bool {
    matches!(e, KernelError::Unevaluated { .. })
}

/// A bool that is the same in all lanes and not known.
fn maybe<'k>(kb: &'k Kb, x: A<'k>) -> E<'k> {
    x.load(kb.u32(0)).lt(kb.u32(7))
}

#[test]
fn indices_within_intervals() {
    passes(|kb, [x, y, ..]| y.store(kb.u32(99), x.load(kb.lane().times(14).plus(1))));
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.u32(100))));
    refuses(index, |kb, [_, y, ..]| y.store(kb.u32(100), kb.u32(0)));
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.lane().times(14).plus(2))));
    // What wraps, is loaded, or comes out of a variable may be anything.
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.lane() - kb.u32(1))));
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.lane().times(1 << 30))));
    refuses(index, |kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)))));
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.var(kb.u32(0)).get())));
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.f32(0.0).to_u32())));
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.group(0))));
    // Operators.
    passes(|kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)).modulo(100))));
    refuses(index, |kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)).modulo(101))));
    passes(|kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)).min(kb.u32(99)))));
    refuses(index, |kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)).max(kb.u32(99)))));
    passes(|kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)) & kb.u32(63))));
    refuses(index, |kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)) & kb.u32(127))));
    refuses(index, |kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)) | kb.u32(1))));
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.u32(64) ^ kb.lane().times(5))));
    passes(|kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)) >> kb.u32(26))));
    refuses(index, |kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)) >> kb.u32(25))));
    passes(|kb, [x, ..]| let_go(x.load(kb.lane() << kb.u32(3))));
    refuses(index, |kb, [x, ..]| let_go(x.load(kb.lane() << kb.u32(4))));
    passes(|kb, [x, ..]| let_go(x.load(maybe(kb, x).select(kb.u32(99), kb.lane()))));
    refuses(index, |kb, [x, ..]| let_go(x.load(maybe(kb, x).select(kb.u32(100), kb.lane()))));
}

#[test]
fn indices_behind_conditions() {
    passes(|kb, [x, ..]| kb.when(kb.group(0).lt(kb.u32(1)), || let_go(x.load(kb.lane()))));
    passes(|kb, [x, ..]| {
        let row = kb.group(0);
        kb.when(row.lt(kb.u32(100)), || let_go(x.load(row)));
    });
    refuses(index, |kb, [x, ..]| {
        let row = kb.group(0);
        kb.when(row.le(kb.u32(100)), || let_go(x.load(row)));
    });
    refuses(index, |kb, [x, ..]| {
        let (row, other) = (kb.group(0), kb.group(1));
        kb.when(row.lt(kb.u32(100)), || let_go(x.load(other)));
    });
    refuses(index, |kb, [x, ..]| {
        let row = kb.group(0);
        kb.when(row.lt(kb.u32(100)), || {});
        x.load(row);
    });
    refuses(index, |kb, [x, ..]| {
        let row = kb.group(0);
        kb.when_else(row.lt(kb.u32(100)), || {}, || let_go(x.load(row)));
    });
    // The negation of a condition holds in the other block.
    passes(|kb, [x, ..]| {
        let row = kb.group(0);
        kb.when_else(kb.u32(99).lt(row), || {}, || let_go(x.load(row)));
    });
    passes(|kb, [x, ..]| {
        let row = kb.group(0);
        kb.when(!(kb.u32(100).le(row)), || let_go(x.load(row)));
    });
    // Both halves of `and`, neither of `or`.
    passes(|kb, [x, ..]| {
        let row = kb.group(0);
        kb.when(maybe(kb, x) & row.lt(kb.u32(100)), || let_go(x.load(row)));
    });
    refuses(index, |kb, [x, ..]| {
        let row = kb.group(0);
        kb.when(maybe(kb, x) | row.lt(kb.u32(100)), || let_go(x.load(row)));
    });
    refuses(index, |kb, [x, ..]| {
        let row = kb.group(0);
        kb.when_else(!maybe(kb, x) & kb.u32(99).lt(row), || {}, || let_go(x.load(row)));
    });
    passes(|kb, [x, ..]| {
        let row = kb.group(0);
        kb.when(row.equals(kb.lane()), || let_go(x.load(row)));
    });
    refuses(index, |kb, [x, ..]| {
        let row = kb.group(0);
        kb.when_else(row.equals(kb.lane()), || {}, || let_go(x.load(row)));
    });
    // Lower bounds keep differences from wrapping.
    passes(|kb, [x, ..]| {
        let row = kb.lane();
        kb.when(kb.u32(2).le(row), || let_go(x.load(row - kb.u32(2))));
    });
    refuses(index, |kb, [x, ..]| {
        let row = kb.lane();
        kb.when(kb.u32(1).le(row), || let_go(x.load(row - kb.u32(2))));
    });
    // Immediates are at most what the kernel was made for: 100 tokens, 50 rows.
    let rows_of = |i: Immediate, at: usize| {
        kernel(|kb, [x, ..]| {
            let row = kb.group(0);
            kb.when(row.lt(kb.immediate(i)), || let_go(x.load(row.plus(at))));
        })
    };
    assert_eq!(verify(&rows_of(Immediate::Tokens, 0)), Ok(()));
    refuses_kernel(index, &rows_of(Immediate::Tokens, 1));
    assert_eq!(verify(&rows_of(Immediate::Rows, 50)), Ok(()));
    refuses_kernel(index, &rows_of(Immediate::Rows, 51));
}

#[test]
fn indices_in_loops() {
    let counted = |from: u32, to: u32, step: u32, at: usize| {
        kernel(|kb, [x, ..]| kb.range(kb.u32(from), kb.u32(to), step, |i| let_go(x.load(i.plus(at)))))
    };
    assert_eq!(verify(&counted(0, 100, 1, 0)), Ok(()));
    refuses_kernel(index, &counted(0, 101, 1, 0));
    refuses_kernel(index, &counted(0, 100, 1, 1));
    // 3, 11, …, 91: eight more are inside.
    assert_eq!(verify(&counted(3, 98, 8, 8)), Ok(()));
    refuses_kernel(index, &counted(3, 100, 8, 8));
    refuses(index, |kb, [x, ..]| kb.range(kb.lane(), kb.u32(96), 8, |i| let_go(x.load(i.plus(5)))));
    passes(|kb, [x, ..]| kb.range(kb.lane(), kb.u32(96), 8, |i| let_go(x.load(i.plus(4)))));
}

#[test]
fn indices_among_units() {
    let page = |trust: DataBound, scale: usize, rest: usize| {
        kernel(|kb, [x, _, pages, _]| {
            let page = x.load(kb.u32(3)).trust(trust);
            pages.load(page.times(scale) + kb.lane().plus(rest));
        })
    };
    let own = DataBound::BelowUnits(2);
    assert_eq!(verify(&page(own, 40, 32)), Ok(()));
    refuses_kernel(index, &page(own, 40, 33));
    refuses_kernel(index, &page(own, 41, 0));
    refuses_kernel(index, &page(own, 20, 0));
    refuses_kernel(index, &page(DataBound::BelowUnits(3), 40, 0));
    refuses_kernel(index, &page(DataBound::Below(1), 40, 0));
    refuses(index, |kb, [_, _, pages, _]| let_go(pages.load(kb.u32(0))));
    refuses(index, |kb, [x, _, pages, _]| {
        let page = x.load(kb.u32(3)).trust(own);
        pages.load(page.times(40) + page.times(40));
    });
    refuses(index, |kb, [x, _, pages, _]| {
        let page = x.load(kb.u32(3)).trust(own);
        pages.load(page.times(40) - kb.lane());
    });
}

#[test]
fn indices_of_the_page_table() {
    let entry = |row: DataBound, stride: Immediate, column: DataBound| {
        kernel(|kb, [x, _, _, table]| {
            let (row, column) = (x.load(kb.u32(0)).trust(row), x.load(kb.u32(1)).over(32).trust(column));
            table.load(row * kb.immediate(stride) + column);
        })
    };
    let (own, stride) = (DataBound::BelowUnits(3), Immediate::TableStride);
    let below = DataBound::BelowImmediate(stride);
    assert_eq!(verify(&entry(own, stride, below)), Ok(()));
    refuses_kernel(index, &entry(DataBound::BelowUnits(2), stride, below));
    refuses_kernel(index, &entry(DataBound::Below(1), stride, below));
    refuses_kernel(index, &entry(own, Immediate::Tokens, below));
    refuses_kernel(index, &entry(own, stride, DataBound::BelowImmediate(Immediate::Tokens)));
    refuses_kernel(index, &entry(own, stride, DataBound::Below(1)));
    // Blocks up to that of a position.
    let blocks = |more: usize| {
        kernel(|kb, [x, _, _, table]| {
            let row = x.load(kb.u32(0)).trust(own);
            let last = x.load(kb.u32(1)).over(32).trust(below);
            kb.range(kb.u32(0), last.plus(more), 1, |i| let_go(table.load(row * kb.immediate(stride) + i)));
        })
    };
    assert_eq!(verify(&blocks(1)), Ok(()));
    refuses_kernel(index, &blocks(2));
    // Any block, but no later one than a position's.
    let nearest = |bounded: bool| {
        kernel(|kb, [x, _, _, table]| {
            let row = x.load(kb.u32(0)).trust(own);
            let last = x.load(kb.u32(1)).over(32).trust(below);
            let any = x.load(kb.u32(2));
            let block = if bounded { any.min(last) } else { any.max(last) };
            let_go(table.load(row * kb.immediate(stride) + block));
        })
    };
    assert_eq!(verify(&nearest(true)), Ok(()));
    refuses_kernel(index, &nearest(false));
}

#[test]
fn shared_arrays() {
    let shared = |len: u32, at: usize| {
        kernel(|kb, _| {
            let array = kb.shared(KType::U32, len);
            array.set(kb.lane(), kb.u32(1));
            kb.barrier();
            array.get(kb.lane().plus(at));
        })
    };
    assert_eq!(verify(&shared(9, 1)), Ok(()));
    refuses_kernel(index, &shared(9, 2));
    refuses_kernel(index, &shared(7, 0));
}

#[test]
fn trust_is_for_data() {
    let not_data: fn(&KernelError) -> bool = |e| matches!(e, KernelError::NotData { .. });
    passes(|kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)).trust(DataBound::Below(100)))));
    refuses(index, |kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)).trust(DataBound::Below(101)))));
    refuses(not_data, |kb, [x, ..]| let_go(x.load(kb.group(0).trust(DataBound::Below(100)))));
    refuses(not_data, |kb, [x, ..]| let_go(x.load(x.load(kb.u32(0)).times(2).trust(DataBound::Below(100)))));
}

#[test]
fn all_lanes_reach_what_all_must_reach() {
    let sum = |kb: &Kb| let_go(kb.reduce(ReduceOp::Sum, kb.f32(1.0), 4).ex);
    passes(|kb, [x, ..]| {
        // The same for all: the grid, the step's numbers, constants, and what nobody writes read at one place.
        let row = kb.group(0);
        kb.when(row.lt(kb.immediate(Immediate::Tokens)), || {
            sum(kb);
            kb.range(kb.u32(0), x.load(row).min(kb.u32(8)), 1, |i| kb.when(i.lt(kb.u32(3)), || kb.barrier()));
        });
    });
    refuses(divergent, |kb, _| kb.when(kb.lane().lt(kb.u32(4)), || kb.barrier()));
    refuses(divergent, |kb, _| kb.when(kb.lane().lt(kb.u32(4)), || sum(kb)));
    refuses(divergent, |kb, _| kb.when_else(kb.lane().lt(kb.u32(4)), || {}, || kb.barrier()));
    refuses(divergent, |kb, _| kb.range(kb.lane(), kb.u32(8), 1, |_| kb.barrier()));
    refuses(divergent, |kb, _| kb.range(kb.u32(0), kb.lane(), 1, |_| kb.barrier()));
    refuses(divergent, |kb, [x, ..]| kb.when(x.load(kb.lane()).lt(kb.u32(4)), || kb.barrier()));
    refuses(divergent, |kb, [_, y, ..]| kb.when(y.load(kb.u32(0)).lt(kb.u32(4)), || kb.barrier()));
    refuses(divergent, |kb, _| {
        let shared = kb.shared(KType::U32, 1);
        kb.when(shared.get(kb.u32(0)).lt(kb.u32(4)), || kb.barrier());
    });
    refuses(divergent, |kb, _| {
        let var = kb.var(kb.u32(0));
        kb.when(kb.lane().lt(kb.u32(4)), || var.set(kb.u32(1)));
        kb.when(var.get().lt(kb.u32(1)), || kb.barrier());
    });
    refuses(divergent, |kb, _| {
        let part = kb.reduce(ReduceOp::Max, kb.lane().to_f32(), 4);
        kb.when(part.lt(kb.f32(4.0)), || kb.barrier());
    });
    for width in [0, 3, 16] {
        refuses_kernel(
            |e| matches!(e, KernelError::Width { .. }),
            &kernel(|kb, _| let_go(kb.reduce(ReduceOp::Sum, kb.f32(1.0), width).ex)),
        );
    }
}

#[test]
fn loops_end() {
    refuses(is_loop, |kb, _| kb.range(kb.u32(0), kb.u32(8), 0, |_| {}));
    refuses(is_loop, |kb, [x, ..]| kb.range(kb.u32(0), x.load(kb.u32(0)), 1, |_| {}));
    // The counter would wrap before it reaches the bound.
    refuses(is_loop, |kb, _| kb.range(kb.u32(u32::MAX - 8), kb.u32(u32::MAX - 2), 8, |_| {}));
    refuses(|e| matches!(e, KernelError::Undefined { .. }), |kb, [x, ..]| let_go(kb.lane() / x.load(kb.u32(0))));
    refuses(|e| matches!(e, KernelError::Undefined { .. }), |kb, _| let_go(kb.lane() % kb.lane()));
    refuses(|e| matches!(e, KernelError::Undefined { .. }), |kb, _| let_go(kb.lane() << (kb.lane().times(5))));
}

#[test]
fn values_are_there_when_they_are_used() {
    refuses(unevaluated, |kb, [x, ..]| {
        let mut inner = None;
        kb.when(maybe(kb, x), || inner = Some(kb.u32(1)));
        x.load(inner.expect("the block was built"));
    });
    refuses(unevaluated, |kb, [x, ..]| {
        let mut counter = None;
        kb.range(kb.u32(0), kb.u32(3), 1, |i| counter = Some(i));
        x.load(counter.expect("the loop was built"));
    });
    let unset: fn(&KernelError) -> bool = |e| matches!(e, KernelError::Unset { .. });
    let conditional = |otherwise: bool| {
        let mut k = kernel(|kb, [x, ..]| {
            let var = kb.var(kb.u32(0));
            kb.when_else(
                maybe(kb, x),
                || var.set(kb.u32(1)),
                || {
                    if otherwise {
                        var.set(kb.u32(2))
                    }
                },
            );
            var.get();
        });
        let first = k.body.iter().position(|s| matches!(s, Stmt::Set(..))).expect("the variable is set at first");
        k.body.remove(first);
        k
    };
    assert_eq!(verify(&conditional(true)), Ok(()));
    refuses_kernel(unset, &conditional(false));
    let mut looped = kernel(|kb, _| {
        let var = kb.var(kb.u32(0));
        kb.range(kb.u32(0), kb.u32(3), 1, |_| var.set(kb.u32(1)));
        var.get();
    });
    assert_eq!(verify(&looped), Ok(()));
    let first = looped.body.iter().position(|s| matches!(s, Stmt::Set(..))).expect("the variable is set at first");
    looped.body.remove(first);
    refuses_kernel(unset, &looped);
    let mut twice = kernel(|kb, _| let_go(kb.u32(1)));
    twice.body.push(twice.body[0].clone());
    refuses_kernel(|e| matches!(e, KernelError::Twice { .. }), &twice);
}

#[test]
fn types_and_handles() {
    let is_type: fn(&KernelError) -> bool = |e| matches!(e, KernelError::Type { .. });
    let handle: fn(&KernelError) -> bool = |e| matches!(e, KernelError::Handle { .. });
    refuses(is_type, |kb, _| let_go(kb.u32(1) + kb.f32(1.0)));
    refuses(is_type, |kb, _| let_go(kb.f32(1.0) % kb.f32(1.0)));
    refuses(is_type, |kb, _| let_go(kb.u32(1).exp()));
    refuses(is_type, |kb, _| let_go(kb.f32(1.0).dot(kb.f32(1.0))));
    refuses(is_type, |kb, _| let_go(kb.lane().extract(0) + kb.lane().splat(4)));
    refuses(is_type, |kb, _| let_go(kb.f32(f32::NAN)));
    refuses(is_type, |kb, [_, y, ..]| y.store(kb.u32(0), kb.f32(1.0)));
    refuses(is_type, |kb, [x, ..]| let_go(x.load(kb.f32(1.0))));
    refuses(is_type, |kb, _| kb.when(kb.u32(1), || {}));
    refuses(is_type, |kb, _| let_go(kb.reduce(ReduceOp::Sum, kb.u32(1), 4).ex));
    refuses(|e| matches!(e, KernelError::ReadOnly { .. }), |kb, [x, ..]| x.store(kb.u32(0), kb.u32(0)));
    let broken = |edit: fn(&mut Kernel)| {
        let mut k = kernel(|kb, [x, y, ..]| {
            let var = kb.var(x.load(kb.u32(0)));
            kb.range(kb.u32(0), kb.u32(3), 1, |i| y.store(i, var.get()));
        });
        assert_eq!(verify(&k), Ok(()));
        edit(&mut k);
        k
    };
    refuses_kernel(handle, &broken(|k| k.exprs[1] = Expr::Load { arg: 9, index: swiftlm_ir::kernel::Ex(0) }));
    refuses_kernel(handle, &broken(|k| k.vars.clear()));
    refuses_kernel(handle, &broken(|k| k.loops = 0));
    refuses_kernel(handle, &broken(|k| k.exprs[4] = Expr::Counter(LoopId(7))));
    refuses_kernel(unevaluated, &broken(|k| k.exprs[1] = Expr::Load { arg: 0, index: swiftlm_ir::kernel::Ex(1) }));
    refuses_kernel(unevaluated, &broken(|k| k.exprs[1] = Expr::Load { arg: 0, index: swiftlm_ir::kernel::Ex(999) }));
    refuses_kernel(is_type, &broken(|k| k.types[0] = KType::F32));
    refuses_kernel(|e| matches!(e, KernelError::Lanes { .. }), &broken(|k| k.lanes = 12));
    refuses_kernel(|e| matches!(e, KernelError::Lanes { .. }), &broken(|k| k.lanes = 512));
    let declaration: fn(&KernelError) -> bool = |e| matches!(e, KernelError::Declaration { .. });
    refuses_kernel(declaration, &broken(|k| let_go(k.types.pop())));
    refuses_kernel(declaration, &broken(|k| k.args[0].elem = KType { scalar: Scalar::Bool, width: 1 }));
    refuses_kernel(declaration, &broken(|k| k.args[0].elem.width = 3));
}

/// What would take the verifier, or what runs after it, more time or memory than there is.
#[test]
fn small_kernels_cannot_be_endless_work() {
    // Two hundred conditions, each the last one twice: as a tree they have no end.
    let deep = |index: u32| {
        kernel(|kb, [x, y, ..]| {
            let mut cond = maybe(kb, x);
            for _ in 0..200 {
                cond = cond & cond;
            }
            kb.when(cond, || y.store(kb.u32(index), kb.u32(0)));
        })
    };
    assert_eq!(verify(&deep(99)), Ok(()));
    refuses_kernel(index, &deep(100));
    let mut many = kernel(|_, _| {});
    many.loops = u32::MAX;
    refuses_kernel(|e| matches!(e, KernelError::Handle { what: "loop", .. }), &many);
    let mut large = kernel(|_, _| {});
    large.shared.push(SharedArray { elem: KType::F32, len: 1 << 30 });
    refuses_kernel(|e| matches!(e, KernelError::Declaration { .. }), &large);
    let mut odd = kernel(|_, _| {});
    odd.vars.push(KType { width: 3, ..KType::F32 });
    refuses_kernel(|e| matches!(e, KernelError::Declaration { .. }), &odd);
}

#[test]
fn all_errors_come_at_once() {
    let errors = verify(&kernel(|kb, [x, y, ..]| {
        x.store(kb.u32(100), kb.u32(0));
        y.store(kb.u32(0), kb.f32(0.0));
        kb.when(kb.lane().lt(kb.u32(1)), || kb.barrier());
    }))
    .expect_err("it is wrong in four ways");
    assert_eq!(errors.len(), 4, "{errors:?}");
}
