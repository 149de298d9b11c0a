//! The mock program: one function that appends ids to the pages, one that reads histories back as logits.

use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::graph::{Call, Graph, Module, RopeTable, WeightType};
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::plan::{Dispatch, FuncPlan, Groups, Input, Operand, Program, Stage, WeightBuffer};
use swiftlm_ir::quant::{Affine, Float, Format};
use swiftlm_ir::template::{Append, Rows, Template, View};
use swiftlm_ir::ty::{StateType, Window};
use swiftlm_runtime::WeightSource;

/// Ids of the mock model are below this.
pub const VOCABULARY: usize = 61;
/// Default tokens of a step.
pub const CHUNK: usize = 48;
/// Default rows that may want logits.
pub const MAX_ROWS: usize = 12;

/// Bounds of a mock program's steps.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub chunk: usize,
    pub max_rows: usize,
    /// Of the one state; 0 for all tokens.
    pub window: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { chunk: CHUNK, max_rows: MAX_ROWS, window: 0 }
    }
}

/// Byte `i` of every weight is a hash of `i`.
pub struct WeightBytes;

impl WeightBytes {
    pub fn at(i: usize) -> u8 {
        ((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }
}

impl WeightSource for WeightBytes {
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String> {
        if offset + into.len() > weight.ty.bytes() {
            return Err(format!("bytes {offset}..{} are outside", offset + into.len()));
        }
        for (i, byte) in into.iter_mut().enumerate() {
            *byte = Self::at(offset + i);
        }
        Ok(())
    }
}

/// Weight 0 is bound whole by the body; weight 1, of 11 rows, in segments of 4 and 7 by the head.
pub fn weights() -> Vec<WeightBuffer> {
    let affine = Format::Affine(Affine { bits: 4, group: 32, scale: Float::Bf16 });
    let ty = |format, rows, cols| WeightType { format, rows, cols };
    vec![
        WeightBuffer { names: vec!["odd".into()], ty: ty(Format::F16, 3, 5) },
        WeightBuffer { names: vec!["split".into()], ty: ty(affine, 11, 32) },
    ]
}

/// The mock program.
pub fn program(shape: Shape) -> Program {
    let Shape { chunk, max_rows, window } = shape;
    let graph =
        |name: &str| Graph { name: name.into(), params: vec![], weights: vec![], values: vec![], results: vec![] };
    let call = |func, scope: &str| Call { func, scope: scope.into(), states: vec![0] };
    let module = Module {
        funcs: vec![graph("block"), graph("head")],
        main: vec![call(0, "layers.0"), call(1, "")],
        states: vec![StateType::Paged {
            window,
            heads: 1,
            dim: 1,
            k: Format::F32,
            v: Format::F16,
            latent: None,
            archive: None,
        }],
        rope_tables: vec![RopeTable { inverse_frequencies: vec![1.0, 0.5], magnitude: 1.0 }],
        vocabulary: VOCABULARY,
    };
    let logits_bytes = max_rows.max(65) * VOCABULARY * 4;
    let greedy = Operand::Arena { offset: logits_bytes.next_multiple_of(256), bytes: max_rows.max(65) * 4 };
    let logits = Operand::Arena { offset: 0, bytes: logits_bytes };
    let history = [Input::Positions, Input::Sequences, Input::PageTable(Window::last(window))].map(Operand::Input);
    let keys = Operand::State { state: 0, part: 0 };
    let weight = |slot, first, count| Operand::Weight { slot, first, count };

    let mut append = vec![Operand::Input(Input::Ids)];
    append.extend(history.clone());
    append.extend([keys.clone(), weight(0, 0, 3)]);
    let mut read = vec![Operand::Input(Input::Rows)];
    read.extend(history);
    read.extend([keys, logits.clone(), greedy.clone(), weight(0, 0, 4), weight(0, 4, 7)]);

    let view = View::dense(1);
    let templates = [
        Template::Append(Append { heads: 1, dim: 1, k_format: Format::F32, v_format: Format::F16, k: view, v: view }),
        Template::Rows(Rows { dim: 1, x: view, y: view }),
    ];
    let plan = |func: usize, class, args: &[Operand], results: &[Operand]| FuncPlan {
        func,
        class,
        dispatches: vec![Dispatch {
            template: templates[func].clone(),
            args: args.to_vec(),
            stages: vec![Stage {
                kernel: func,
                args: (0..args.len()).collect(),
                grid: [Groups::per_rows(1, [Sym::Tokens, Sym::Rows][func], 1), Groups::fixed(1), Groups::fixed(1)],
            }],
            loc: ["append", "read"][func].into(),
        }],
        fetches: vec![],
        arena_bytes: 0,
        results: results.to_vec(),
    };
    let kernel = |name: &str| Kernel { name: name.into(), ..Kernel::default() };
    Program {
        module,
        kernels: vec![kernel("append"), kernel("read")],
        plans: vec![
            ShapeClass::ALL.map(|c| plan(0, c, &append, &[])).to_vec(),
            ShapeClass::ALL.map(|c| plan(1, c, &read, &[logits.clone(), greedy.clone()])).to_vec(),
        ],
        weights: weights(),
        call_weights: vec![vec![0], vec![1]],
        chunk,
        max_rows,
        arena_bytes: logits_bytes.next_multiple_of(256) + max_rows.max(65) * 4,
    }
}
