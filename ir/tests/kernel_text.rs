//! Kernels and plans as texts: small ones whose text is written by hand.

use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, DataBound, Immediate, KType, Kernel, Length};
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::plan::{Dispatch, FuncPlan, Groups, Input, Operand, Program, Stage};
use swiftlm_ir::quant::Format;
use swiftlm_ir::template::{Linear, Template, View};
use swiftlm_ir::text::{parse, print_kernel, print_plan, print_program};

/// The text without its first line's key, which is a hash.
fn text(kernel: &Kernel) -> String {
    print_kernel(kernel).replace(&format!("#{}", kernel.key()), "")
}

#[test]
fn a_kernel_reads_like_a_program() {
    let kb = Kb::new("sum", 32, [8, 1, 4]);
    let ids = kb.arg("ids", Access::Read, KType::U32, Length::Elements(8));
    let x = kb.arg("x", Access::Read, KType::F32X4, Length::Units(16));
    let y = kb.arg("y", Access::ReadWrite, KType::F32, Length::Elements(8));
    let shared = kb.shared(KType::F32, 32);
    let token = kb.group(0);
    kb.when_else(
        token.lt(kb.immediate(Immediate::Tokens)),
        || {
            let row = ids.load(token).trust(DataBound::BelowUnits(x.index));
            let sum = kb.var(kb.f32(0.0));
            kb.range(kb.lane(), kb.u32(16), 32, |i| {
                let v = x.load(row.times(16) + i);
                sum.set(sum.get() + v.dot(v));
            });
            shared.set(kb.lane(), kb.fold_sum(kb.lane(), 32, 1, |_| sum.get()));
            kb.barrier();
            kb.when(kb.lane().equals(kb.u32(0)), || y.store(token, -shared.get(kb.u32(0)).exp()));
        },
        || kb.when(kb.lane().lt(kb.u32(1)), || {}),
    );
    let expected = "\
kernel @sum lanes=32 max(T=8, R=1, table_stride=4) {
  arg 0 ids: read u32[8]
  arg 1 x: read f32x4[units of 16]
  arg 2 y: read_write f32[8]
  shared s0: f32[32]
  var v0..v2: f32
  if group.x < T {
    %0: u32 = ids[group.x]
    v0 = 0.0
    %1: u32 = trust(%0 < units of x)
    for i0 in lane..16 step 32 {
      %2: f32x4 = x[(%1 * 16) + i0]
      v0 = v0 + dot(%2, %2)
    }
    v1 = 0.0
    for i1 in lane..1 step 32 {
      v1 = v1 + v0
    }
    %3: f32 = reduce_sum(v1, lanes=32)
    s0[lane] = %3
    barrier
    if lane == 0 {
      %4: f32 = s0[0]
      y[group.x] = -exp(%4)
    }
  } else {
    if lane < 1 {
    }
  }
}
";
    assert_eq!(text(&kb.finish()), expected);
}

#[test]
fn a_variable_is_read_before_it_changes_and_masks_are_hexadecimal() {
    let kb = Kb::new("swap", 1, [1, 1, 1]);
    let y = kb.arg("y", Access::ReadWrite, KType::U32, Length::Elements(4));
    let (a, b) = (kb.var(kb.u32(1)), kb.var(kb.u32(2)));
    let (old_a, old_b) = (a.get().plus(5), b.get());
    a.set(old_b);
    b.set(old_a);
    y.store(kb.u32(0), a.get() & kb.u32(0xffff_0000));
    let expected = "\
kernel @swap lanes=1 max(T=1, R=1, table_stride=1) {
  arg 0 y: read_write u32[4]
  var v0..v2: u32
  v0 = 1
  v1 = 2
  %0: u32 = v0 + 5
  v0 = v1
  v1 = %0
  y[0] = v0 & 0xffff0000
}
";
    assert_eq!(text(&kb.finish()), expected);
}

#[test]
fn a_kernel_with_handles_that_lead_nowhere_still_prints() {
    let kb = Kb::new("odd name", 1, [1, 1, 1]);
    let y = kb.arg("y", Access::ReadWrite, KType::F32, Length::PageTable);
    y.store(kb.u32(0), kb.f32(1.0).exp());
    let mut kernel = kb.finish();
    kernel.exprs.truncate(1);
    kernel.types.clear();
    kernel.args.clear();
    assert!(text(&kernel).starts_with("kernel @\"odd name\" lanes=1"));
}

fn program() -> Program {
    let module = parse(
        "slir 1\nvocabulary 4\nfunc @head(%x: flow f32[T,32]) {\n  w\"head.weight\": f16[4,32]\n  %r = rows %x\n  \
         %y = linear %r, w\"head.weight\" @head\n  %g = arg_max %y\n  return %y, %g\n}\nmain {\n  call @head \"\"\n}",
    )
    .expect("the text is right");
    let mut epilogue = Map::default();
    let (x, extra) = (epilogue.push(MapStep::Input(0)), epilogue.push(MapStep::Input(1)));
    let gate = epilogue.push(MapStep::Silu(x));
    epilogue.push(MapStep::Mul(gate, extra));
    let weight = module.funcs[0].weights[0].ty;
    let (x, y) = (View::dense(32), View::dense(4));
    let template = Template::Linear(Linear {
        rows: Sym::Rows,
        class: ShapeClass::Few,
        weight,
        norm: None,
        round: None,
        pair: true,
        epilogue,
        extras: vec![],
        x,
        y,
    });
    let kb = Kb::new("linear", 32, [8, 8, 1]);
    for name in ["x", "positions", "weight", "keys", "y"] {
        kb.arg(name, Access::ReadWrite, KType::F32, Length::Elements(1));
    }
    let args = vec![
        Operand::Arena { offset: 0, bytes: 1024 },
        Operand::Input(Input::Positions),
        Operand::Weight { slot: 0, first: 2, count: 2 },
        Operand::State { state: 0, part: 1 },
        Operand::Arena { offset: 1024, bytes: 100 },
    ];
    let grid = [Groups::per_rows(2, Sym::Rows, 4), Groups::fixed(3), Groups::fixed(1)];
    let stages = vec![Stage { kernel: 0, args: (0..args.len()).collect(), grid }];
    let dispatch = Dispatch { template, args, stages, loc: "head".to_owned() };
    let results = vec![Operand::Arena { offset: 1024, bytes: 100 }];
    let plan = FuncPlan {
        func: 0,
        class: ShapeClass::Few,
        dispatches: vec![dispatch],
        fetches: vec![],
        arena_bytes: 98304,
        results,
    };
    Program {
        module,
        kernels: vec![kb.finish()],
        plans: vec![vec![plan]],
        weights: vec![],
        call_weights: vec![],
        chunk: 8,
        max_rows: 8,
        arena_bytes: 98304,
    }
}

#[test]
fn a_plan_says_what_runs_and_where_its_operands_lie() {
    let program = program();
    assert_eq!(program.module.funcs[0].weights[0].ty.format, Format::F16);
    let expected = format!(
        "plan @head class=few arena=96KiB {{\n   0 linear#{} grid(2·ceil(R/4), 3) x=@0+1KiB, positions, \
         weight=w\"head.weight\"[2..4], keys=values, y=@1KiB+100 {{pairs, y = silu(a0) · a1}} ; head\n  return @1KiB+100\n}}\n",
        program.kernels[0].key()
    );
    let plan = &program.plans[0][0];
    assert_eq!(print_plan(&program, plan), expected);
    let all = print_program(&program);
    assert_eq!(all, format!("program chunk=8 max_rows=8 arena=96KiB weights=0 kernels=1\n\n{expected}"));
}
