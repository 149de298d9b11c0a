//! Kernels that no verifier lets through still come back as errors that say what to do.

mod kernels;

use kernels::{matvec, row_sum, transpose, vector_add};
use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, Ex, Expr, KType, Length, LoopId, Scalar, Stmt, Unary, Var};
use swiftlm_shader::{LowerOptions, ShaderError, lower, scratch_bytes, validate};

fn error(kernel: &swiftlm_ir::kernel::Kernel) -> String {
    lower(kernel, &LowerOptions::default()).expect_err("refused").to_string()
}

#[test]
fn use_before_evaluation_names_the_expression() {
    let mut kernel = vector_add();
    kernel.body.retain(|s| *s != Stmt::Eval(Ex(0)));
    assert!(error(&kernel).starts_with("kernel vector_add: expression 0 does not exist where it is used"));
}

#[test]
fn handles_out_of_range_do_not_panic() {
    let mut kernel = vector_add();
    kernel.body.push(Stmt::Set(Var(9), Ex(0)));
    assert!(error(&kernel).contains("variable 9"));
    let mut kernel = vector_add();
    kernel.body.push(Stmt::Eval(Ex(999)));
    assert!(error(&kernel).contains("expression 999"));
    let mut kernel = vector_add();
    kernel.body.push(Stmt::Loop { id: LoopId(4), from: Ex(0), to: Ex(0), step: 1, body: vec![] });
    assert!(error(&kernel).contains("loop 4"));
    let mut kernel = vector_add();
    kernel.exprs[0] = Expr::Load { arg: 7, index: Ex(0) };
    assert!(error(&kernel).contains("argument 7"));
}

#[test]
fn counter_outside_its_loop_is_unknown() {
    let mut kernel = row_sum(32);
    let counter = kernel.exprs.iter().position(|e| matches!(e, Expr::Counter(_))).expect("a loop");
    kernel.body.insert(0, Stmt::Eval(Ex(counter as u32)));
    assert!(error(&kernel).contains("loop 0"));
}

#[test]
fn operators_know_their_types() {
    let k = Kb::new("wrong", 32, [1, 1, 0]);
    let y = k.arg("y", Access::ReadWrite, KType::U32, Length::Elements(1));
    let zero = k.u32(0);
    y.store(zero, zero);
    let mut kernel = k.finish();
    kernel.exprs.push(Expr::Unary(Unary::Exp, Ex(0)));
    kernel.types.push(KType { scalar: Scalar::U32, width: 1 });
    kernel.body.push(Stmt::Eval(Ex(1)));
    assert_eq!(error(&kernel), "kernel wrong: expression 1 applies Exp to U32");
}

#[test]
fn infinities_name_the_remedy() {
    let k = Kb::new("masked", 32, [1, 1, 0]);
    k.f32(f32::NEG_INFINITY);
    assert_eq!(
        error(&k.finish()),
        "kernel masked: expression 0 is the constant -inf; use a finite one such as f32::MIN"
    );
}

#[test]
fn shared_memory_counts_reductions() {
    let tight = |shared_bytes| LowerOptions { shared_bytes, ..LowerOptions::default() };
    assert_eq!(scratch_bytes(&row_sum(256), None), 1024);
    assert_eq!(scratch_bytes(&row_sum(256), Some(32)), 1024);
    assert_eq!(scratch_bytes(&row_sum(32), Some(32)), 0);
    assert!(lower(&row_sum(256), &tight(1024)).is_ok());
    let refused = lower(&row_sum(256), &tight(1023));
    let expected = ShaderError::SharedMemory { kernel: "row_sum".to_owned(), needed: 1024, available: 1023 };
    assert_eq!(refused.err(), Some(expected));
    assert!(lower(&transpose(), &tight(1023)).is_err());
}

#[test]
fn a_run_must_tile_the_workgroup() {
    let mut kernel = matvec();
    for e in &mut kernel.exprs {
        if let Expr::Reduce { width, .. } = e {
            *width = 64;
        }
    }
    assert!(error(&kernel).starts_with("kernel matvec: reduction over 64 of 32 lanes"));
}

#[test]
fn a_store_to_a_read_argument_is_invalid() {
    let mut kernel = vector_add();
    kernel.args[1].access = Access::Read;
    let module = lower(&kernel, &LowerOptions::default()).expect("lowers");
    let reason = validate(&module).expect_err("invalid").to_string();
    assert!(reason.starts_with("kernel vector_add: invalid shader:"), "{reason}");
}
