//! Rows compiled otherwise than for speed, and how far their logits are from the reference then.

use std::collections::BTreeMap;

use swiftlm_compiler::{Choices, CompileOptions, Seen, compile};
use swiftlm_ir::graph::Graph;
use swiftlm_ir::plan::{Dispatch, FuncPlan, Program, Stage};
use swiftlm_ir::text::print_graph;

use crate::fixture::Row;
use crate::run::{Loaded, On, exact, relative_error};

/// Largest relative error of a row's logits, however it was compiled.
pub const BAR: f64 = 1e-4;

/// What became of a row with other choices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// Launches of all plans.
    pub launches: usize,
    /// Launches of kernels that the compiler's own choices do not make there.
    pub other_launches: usize,
    /// Ops behind the e-graph that the compiler's own choices do not have there.
    pub other_ops: usize,
    /// Relative error of the logits against the reference.
    pub error: f64,
}

/// A row with the program that the compiler chooses.
#[derive(Debug)]
pub struct Subject {
    row: Row,
    best: Compiled,
}

/// A program and the ops that its functions had behind the e-graph.
#[derive(Debug)]
struct Compiled {
    program: Program,
    ops: Vec<String>,
}

impl Subject {
    /// Reads and compiles a row.
    pub fn open(name: &str) -> Self {
        let row = Row::open(name);
        let best = compiled(&row, CompileOptions::default());
        Self { row, best }
    }

    /// Launches of all plans that the compiler chooses.
    pub fn launches(&self) -> usize {
        launches(&self.best.program).len()
    }

    /// Compiles the row so and runs it.
    pub fn choose(&self, options: CompileOptions) -> Chosen {
        self.run(compiled(&self.row, options))
    }

    /// As [`Self::choose`], with choices made at random.
    pub fn chance(&self, seed: u64) -> Chosen {
        self.choose(CompileOptions { choices: Choices::Random(seed), ..CompileOptions::default() })
    }

    /// As [`Self::choose`], if the program is another one.
    pub fn choose_if_other(&self, options: CompileOptions) -> Option<Chosen> {
        let other = compiled(&self.row, options);
        (other.program != self.best.program).then(|| self.run(other))
    }

    fn run(&self, Compiled { program, ops }: Compiled) -> Chosen {
        let row = &self.row;
        let all = launches(&program);
        let chosen = Chosen {
            launches: all.len(),
            other_launches: others(all, launches(&self.best.program)),
            other_ops: others(ops, self.best.ops.clone()),
            error: 0.0,
        };
        let mut loaded = Loaded::new(row, program, On::Cpu.open(2), 1);
        let mut logits = loaded.prompt(0, &row.prompt[..130], 64);
        // Single tokens take the schedule of decoding.
        for (position, id) in row.prompt.iter().enumerate().skip(130) {
            logits.extend(loaded.step(&[(0, position as u32, *id)]));
        }
        Chosen { error: relative_error(&logits.concat(), &row.logits), ..chosen }
    }
}

fn compiled(row: &Row, options: CompileOptions) -> Compiled {
    let model =
        swiftlm_models::build(&row.config, &row.index, &exact()).unwrap_or_else(|e| panic!("{}: {e}", row.name));
    let options = CompileOptions { chunk: 64, max_rows: 64, ..options };
    let mut ops = vec![];
    let compiled = compile(&model.module, &options, &mut |pass, seen| match seen {
        Seen::Graph(func) if pass == "egraph" => ops.extend(ops_of(func)),
        _ => {}
    });
    Compiled { program: compiled.unwrap_or_else(|e| panic!("{}: {e}", row.name)).program, ops }
}

/// Every launch: function, class and kernels.
fn launches(program: &Program) -> Vec<String> {
    let of_plan = |plan: &FuncPlan| {
        let place = format!("{} {}", program.module.funcs[plan.func].name, plan.class.name());
        let kernel = |stage: &Stage| program.kernels[stage.kernel].key().to_string();
        let launch = |d: &Dispatch| d.stages.iter().map(kernel).collect::<Vec<_>>().join(" ");
        plan.dispatches.iter().map(|d| format!("{place} {}", launch(d))).collect::<Vec<_>>()
    };
    program.plans.iter().flatten().flat_map(of_plan).collect()
}

/// Every op with its attributes and type, without the names of values.
fn ops_of(func: &Graph) -> Vec<String> {
    let op = |line: &str| {
        let words = line.split(" = ").nth(1)?.split_whitespace();
        Some(words.filter(|word| !word.starts_with('%')).collect::<Vec<_>>().join(" "))
    };
    print_graph(func).lines().filter_map(op).map(|op| format!("{} {op}", func.name)).collect()
}

/// How many of some the others do not have.
fn others(some: Vec<String>, others: Vec<String>) -> usize {
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    others.into_iter().for_each(|text| *held.entry(text).or_default() += 1);
    let missing = |text: &String| match held.get_mut(text) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    some.iter().map(missing).filter(|missing| *missing).count()
}
