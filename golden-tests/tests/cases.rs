//! File tests: every `.slir` file below `cases` names in its first line what is done with it, and what comes out is a
//! snapshot that people review, or a comparison with the host reference.
//!
//! | command | what is done |
//! |---|---|
//! | `cat` | the text as it prints; it parses back to the same |
//! | `error` | what is wrong with it, each with a caret below the place |
//! | `verify` | nothing is wrong with it |
//! | `optimize` | the function after all rules, and the rules that applied |
//! | `sound` | the optimised function computes what it did, on random inputs by the host reference |
//! | `fuse` | the launches of one row and of many, and what each computes |
//! | `plan` | the plan of a step of one token |
//! | `emit` | the kernels of such a step in WGSL |
//! | `run` | micro-kernels, interpreter and GPU give the logits of the host reference |

use std::fmt::Write;
use std::ops::Deref;

use swiftlm_compiler::egraph::run::run as rewrite;
use swiftlm_compiler::passes::{canon, fuse, siblings};
use swiftlm_compiler::rules::all;
use swiftlm_compiler::{CompileOptions, compile};
use swiftlm_golden_tests::cases;
use swiftlm_golden_tests::host::{BAR, Tensors, evaluate};
use swiftlm_golden_tests::run::{On, relative_error};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::graph::{Graph, Module};
use swiftlm_ir::plan::Program;
use swiftlm_ir::reference::{HostTensor, Session, Token};
use swiftlm_ir::text::names::{value_name, value_names};
use swiftlm_ir::text::{parse, parse_graph, point, print, print_graph, print_plan};
use swiftlm_ir::ty::{PAGE_TOKENS, Type};
use swiftlm_ir::verify::{VerifyError, verify, verify_graph};
use swiftlm_runtime::executable::{Batch, Row, Want};
use swiftlm_runtime::{Executable, ExecutableOptions};
use swiftlm_shader::{LowerOptions, lower, wgsl};

/// What a file holds.
enum Case {
    Module(Module),
    Func(Graph),
}

/// A file and what its commands do.
struct File(cases::File);

impl Deref for File {
    type Target = cases::File;

    fn deref(&self) -> &cases::File {
        &self.0
    }
}

impl File {
    fn case(&self) -> Case {
        let failed = |errors: Vec<_>| -> ! { panic!("{}: {errors:?}", self.name) };
        match self.is_module() {
            true => Case::Module(parse(&self.source).unwrap_or_else(|e| failed(e))),
            false => Case::Func(parse_graph(&self.source).unwrap_or_else(|e| failed(e))),
        }
    }

    fn module(&self) -> Module {
        match self.case() {
            Case::Module(module) => module,
            Case::Func(_) => panic!("{}: a function alone is no program", self.name),
        }
    }

    fn func(&self) -> Graph {
        match self.case() {
            Case::Func(func) => func,
            Case::Module(_) => panic!("{}: expected a function alone", self.name),
        }
    }

    fn program(&self) -> Program {
        let options = CompileOptions { chunk: 128, max_rows: 128, ..CompileOptions::default() };
        compile(&self.module(), &options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", self.name)).program
    }

    /// What a command prints; nothing if it only compares.
    fn output(&self, command: &str) -> Option<String> {
        match command {
            "cat" => Some(self.cat()),
            "error" => Some(self.errors()),
            "verify" => {
                let errors = match self.case() {
                    Case::Module(module) => verify(&module),
                    Case::Func(func) => verify_graph(&func),
                };
                assert_eq!(errors, Ok(()), "{}", self.name);
                None
            }
            "optimize" => {
                let (func, report) = optimised(&self.func());
                let applied: Vec<&str> = report.applied.keys().map(String::as_str).collect();
                assert!(report.saturated && report.defects.is_empty(), "{}: {report:?}", self.name);
                Some(format!("{}applied: {}\n", print_graph(&func), applied.join(", ")))
            }
            "sound" => {
                self.sound();
                None
            }
            "fuse" => Some(self.fused()),
            "plan" => {
                let program = self.program();
                let one = program.plans.iter().flatten().filter(|plan| plan.class == ShapeClass::One);
                Some(one.map(|plan| print_plan(&program, plan)).collect())
            }
            "emit" => Some(self.emitted()),
            "run" => {
                self.run();
                None
            }
            other => panic!("{}: `{other}` is no command", self.name),
        }
    }

    fn cat(&self) -> String {
        let (text, again) = match self.case() {
            Case::Module(module) => (print(&module), parse(&print(&module)).map(|again| print(&again))),
            Case::Func(func) => (print_graph(&func), parse_graph(&print_graph(&func)).map(|again| print_graph(&again))),
        };
        assert_eq!(again.as_ref(), Ok(&text), "{} prints as it parses", self.name);
        text
    }

    fn errors(&self) -> String {
        let pointed = |funcs: &[Graph], errors: Vec<VerifyError>| -> String {
            errors.iter().map(|e| point(funcs, e) + "\n").collect()
        };
        let found: Result<String, _> = match self.is_module() {
            true => parse(&self.source).map(|m| pointed(&m.funcs, verify(&m).err().unwrap_or_default())),
            false => parse_graph(&self.source).map(|g| {
                let errors = verify_graph(&g).err().unwrap_or_default();
                pointed(&[g], errors)
            }),
        };
        let text = found.unwrap_or_else(|errors| errors.iter().map(|e| format!("{e}\n")).collect());
        assert!(!text.is_empty(), "{}: nothing is wrong", self.name);
        text
    }

    fn sound(&self) {
        let func = self.func();
        let (optimised, _) = optimised(&func);
        for seed in 1..=8 {
            let (before, after) = (evaluate(&func, &func, seed), evaluate(&optimised, &func, seed));
            let tensors =
                func.results.iter().enumerate().filter(|(_, v)| matches!(func.value(**v).ty, Type::Tensor(_)));
            for (i, _) in tensors {
                let floats = |of: &[swiftlm_ir::reference::HostValue]| -> Vec<f32> {
                    let tensor = of[i].tensor().and_then(HostTensor::floats).expect("cases compute f32");
                    tensor.to_vec()
                };
                let error = relative_error(&floats(&after), &floats(&before));
                assert!(error <= BAR, "{}, seed {seed}: result {i} is off by {error:.2e}", self.name);
            }
        }
    }

    fn fused(&self) -> String {
        let (func, _) = optimised(&self.func());
        let (names, mut out) = (value_names(&func), String::new());
        for class in [ShapeClass::One, ShapeClass::Many] {
            let groups = fuse::run(&func, class, &CompileOptions::default());
            for (i, group) in groups.unwrap_or_else(|e| panic!("{}: {e}", self.name)).iter().enumerate() {
                let values: Vec<String> = group.computes(&func).into_iter().map(|v| value_name(&names, v)).collect();
                writeln!(out, "{} {i} {}: {}", class.name(), group.template.name(), values.join(" "))
                    .expect("a string grows");
            }
        }
        out
    }

    fn emitted(&self) -> String {
        let program = self.program();
        let one = program.plans.iter().flatten().filter(|plan| plan.class == ShapeClass::One);
        let used: std::collections::BTreeSet<usize> =
            one.flat_map(|plan| &plan.dispatches).flat_map(|d| &d.stages).map(|stage| stage.kernel).collect();
        let text = |kernel: usize| {
            let kernel = &program.kernels[kernel];
            let module = lower(kernel, &LowerOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", self.name));
            format!("// {}\n{}", kernel.name, wgsl(&module).unwrap_or_else(|e| panic!("{}: {e}", self.name)))
        };
        used.into_iter().map(text).collect::<Vec<_>>().join("\n")
    }

    /// A prompt in steps of every class, then compared position by position.
    fn run(&self) {
        let (module, program) = (self.module(), self.program());
        let ids: Vec<u32> = (0..110).map(|i| (i * 7 + 3) % module.vocabulary as u32).collect();
        let weights = Tensors::of(&module);
        let mut session = Session::new(&module, &weights).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let tokens = ids.iter().enumerate().map(|(p, id)| Token { id: *id, sequence: 0, position: p as u32 });
        let rows: Vec<usize> = (0..ids.len()).collect();
        let expected =
            session.step(&tokens.collect::<Vec<_>>(), &rows).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        for on in [On::Interpreter, On::Cpu, On::Wgpu] {
            let pages = ids.len().div_ceil(PAGE_TOKENS);
            let options = ExecutableOptions {
                kv_pages: pages,
                max_sequences: 1,
                table_stride: pages,
                layers: None,
                experts: None,
                rest: None,
                progress: &mut |_| {},
            };
            let mut executable = Executable::load(on.open(2), program.clone(), &weights, options)
                .unwrap_or_else(|e| panic!("{} on {on:?}: {e}", self.name));
            let (mut got, mut at) = (vec![], 0);
            for count in [1, 5, 30, 74] {
                let batch = Batch {
                    ids: ids[at..at + count].to_vec(),
                    positions: (at..at + count).map(|p| p as u32).collect(),
                    sequences: vec![0; count],
                    rows: (0..count).map(|token| Row { token: token as u32, want: Want::Logits }).collect(),
                    table: if at == 0 { executable.alone(ids.len()) } else { vec![] },
                    ..Batch::default()
                };
                let output = executable.step(&batch).unwrap_or_else(|e| panic!("{} on {on:?}: {e}", self.name));
                got.extend((0..count).flat_map(|row| output.logits(row).expect("every row wants logits").to_vec()));
                at += count;
            }
            let error = relative_error(&got, &expected.concat());
            assert!(error < 1e-5, "{} on {on:?}: off by {error:.2e}", self.name);
        }
    }
}

fn optimised(func: &Graph) -> (Graph, swiftlm_compiler::egraph::run::Report) {
    let (func, report) = rewrite(&siblings::run(&canon::run(func)), &all());
    (canon::run(&func), report)
}

#[test]
fn cases() {
    let mut used = std::collections::BTreeSet::new();
    for file in cases::all().into_iter().map(File) {
        assert!(!file.commands.is_empty(), "{}: nothing is done with it", file.name);
        for command in &file.commands {
            if let Some(text) = file.output(command) {
                insta::assert_snapshot!(format!("{}@{command}", file.name.replace('/', "-")), text);
            }
            used.insert(command.clone());
        }
    }
    assert_eq!(used.len(), 9, "every command has a case: {used:?}");
}
