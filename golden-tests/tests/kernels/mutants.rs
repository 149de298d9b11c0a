//! Real kernels with one thing changed: what must be refused is, and what is not refused runs without a fault.

use swiftlm_compiler::kernels::Built;
use swiftlm_cpu::interp;
use swiftlm_ir::kernel::verify::verify;
use swiftlm_ir::kernel::{Access, Block, Ex, Expr, KType, Kernel, Length, Scalar, Stmt};

use crate::harness::Random;
use crate::samples::{arguments, kernels, largest_step};

#[track_caller]
fn must_refuse(kernel: &Kernel, change: impl std::fmt::Display) {
    assert!(verify(kernel).is_err(), "{} passes with {change}", kernel.name);
}

fn statements(block: &Block, visit: &mut dyn FnMut(&Stmt)) {
    for stmt in block {
        visit(stmt);
        match stmt {
            Stmt::If { then, otherwise, .. } => [then, otherwise].into_iter().for_each(|b| statements(b, visit)),
            Stmt::Loop { body, .. } => statements(body, visit),
            _ => {}
        }
    }
}

/// Removes the first statement that `is` accepts, wherever it is.
fn remove(block: &mut Block, is: &dyn Fn(&Stmt) -> bool) -> bool {
    if let Some(at) = block.iter().position(is) {
        block.remove(at);
        return true;
    }
    block.iter_mut().any(|stmt| match stmt {
        Stmt::If { then, otherwise, .. } => remove(then, is) || remove(otherwise, is),
        Stmt::Loop { body, .. } => remove(body, is),
        _ => false,
    })
}

/// Handles that appear in a text of the IR.
fn handles(text: &str) -> Vec<u32> {
    let digits = |t: &str| t.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok());
    text.split("Ex(").skip(1).filter_map(digits).collect()
}

/// Expressions that others or statements use.
fn used(kernel: &Kernel) -> Vec<u32> {
    let mut used: Vec<u32> = kernel.exprs.iter().flat_map(|e| handles(&format!("{e:?}"))).collect();
    statements(&kernel.body, &mut |stmt| match stmt {
        Stmt::Eval(_) => {}
        Stmt::If { cond, .. } => used.push(cond.0),
        Stmt::Loop { from, to, .. } => used.extend([from.0, to.0]),
        other => used.extend(handles(&format!("{other:?}"))),
    });
    used.sort_unstable();
    used.dedup();
    used
}

#[test]
fn declared_lengths_are_exact() {
    for (template, Built { kernel, .. }) in kernels() {
        assert_eq!(verify(&kernel), Ok(()), "{}", kernel.name);
        for i in 0..kernel.args.len() {
            let mut shorter = kernel.clone();
            match &mut shorter.args[i].len {
                Length::Elements(n) | Length::Units(n) => *n -= 1,
                Length::PageTable => continue,
            }
            must_refuse(&shorter, format!("`{}` one element shorter", kernel.args[i].name));
        }
        for i in 0..kernel.shared.len() {
            let mut shorter = kernel.clone();
            shorter.shared[i].len -= 1;
            must_refuse(&shorter, format!("shared array {i} one element shorter"));
        }
        let mut longer = kernel.clone();
        longer.immediate_max[template.rows() as usize] += 1;
        must_refuse(&longer, "steps of one row more");
    }
}

#[test]
fn what_a_kernel_relies_on_cannot_be_left_out() {
    let mut random = Random(41);
    for (_, Built { kernel, .. }) in kernels() {
        for i in (0..kernel.args.len()).filter(|i| kernel.args[*i].access == Access::ReadWrite) {
            let mut stored = false;
            statements(&kernel.body, &mut |s| stored |= matches!(s, Stmt::Store { arg, .. } if *arg as usize == i));
            if stored {
                let mut read = kernel.clone();
                read.args[i].access = Access::Read;
                must_refuse(&read, format!("`{}` declared as read", kernel.args[i].name));
            }
        }
        for var in 0..kernel.vars.len() as u32 {
            let mut unset = kernel.clone();
            assert!(remove(&mut unset.body, &|s| matches!(s, Stmt::Set(v, _) if v.0 == var)));
            must_refuse(&unset, format!("variable {var} not set at first"));
        }
        let used = used(&kernel);
        for _ in 0..40 {
            let e = Ex(used[random.below(used.len())]);
            let mut missing = kernel.clone();
            assert!(remove(&mut missing.body, &|s| *s == Stmt::Eval(e)));
            must_refuse(&missing, format!("{e:?} not evaluated"));
            let mut retyped = kernel.clone();
            let ty = &mut retyped.types[e.0 as usize];
            ty.scalar = if ty.scalar == Scalar::F32 { Scalar::U32 } else { Scalar::F32 };
            must_refuse(&retyped, format!("{e:?} of another type"));
        }
    }
}

#[test]
fn only_some_lanes_do_not_reduce() {
    for (_, Built { mut kernel, .. }) in kernels() {
        let mut joint = kernel.exprs.iter().any(|e| matches!(e, Expr::Reduce { .. }));
        statements(&kernel.body, &mut |s| joint |= *s == Stmt::Barrier);
        let first = kernel.exprs.len() as u32;
        kernel.exprs.extend([
            Expr::Lane,
            Expr::U32(1),
            Expr::Binary(swiftlm_ir::kernel::Binary::Less, Ex(first), Ex(first + 1)),
        ]);
        kernel.types.extend([KType::U32, KType::U32, KType::BOOL]);
        let then = std::mem::take(&mut kernel.body);
        kernel.body = (first..first + 3).map(|e| Stmt::Eval(Ex(e))).collect();
        kernel.body.push(Stmt::If { cond: Ex(first + 2), then, otherwise: vec![] });
        assert_eq!(verify(&kernel).is_err(), joint, "{}", kernel.name);
    }
}

/// The claim that licenses running without checks, tried on kernels that nobody wrote: constants are changed at random,
/// and whatever the verifier lets pass must run on checked memory without a fault.
#[test]
fn what_passes_does_not_fault() {
    let mut random = Random(42);
    let (mut passed, mut refused) = (0, 0);
    for (template, built) in kernels() {
        let constants: Vec<usize> =
            (0..built.kernel.exprs.len()).filter(|i| matches!(built.kernel.exprs[*i], Expr::U32(_))).collect();
        for _ in 0..60 {
            let mut kernel = built.kernel.clone();
            for _ in 0..1 + random.below(3) {
                let Expr::U32(n) = &mut kernel.exprs[constants[random.below(constants.len())]] else { continue };
                *n = match random.below(6) {
                    0 => n.wrapping_add(1),
                    1 => n.wrapping_sub(1),
                    2 => n.wrapping_mul(2),
                    3 => *n / 2,
                    4 => n.wrapping_add(8),
                    _ => random.below(40) as u32,
                };
            }
            if verify(&kernel).is_err() {
                refused += 1;
                continue;
            }
            let mut args = arguments(&kernel, &mut random);
            let mut slices: Vec<&mut [u8]> = args.iter_mut().map(Vec::as_mut_slice).collect();
            let sizes = largest_step(&kernel);
            // More groups than the kernel needs: its proof does not rest on the grid.
            let grid = built.grid.map(|groups| groups.count(&sizes) + 1);
            match interp::run(&kernel, &mut slices, grid, sizes) {
                Err(fault) if fault.to_string().contains("trusted value") => {}
                Err(fault) => panic!("{} passes, but {fault}", template.name()),
                Ok(()) => passed += 1,
            }
        }
    }
    // Both kinds are there, or nothing was tried.
    assert!(passed > 100 && refused > 100, "{passed} passed, {refused} were refused");
}
