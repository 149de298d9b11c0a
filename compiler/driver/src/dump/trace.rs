//! Everything that a compilation went through, kept for whoever asks afterwards.

use swiftlm_compiler::Seen;
use swiftlm_ir::graph::Graph;

use crate::checkpoint::Checkpoint;
use crate::compile::{Compiled, DriverError, Options, compile_observed};

/// A function after a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct AfterPass {
    /// Name of the pass.
    pub pass: String,
    /// The function; functions follow one another, each through all passes.
    pub graph: Graph,
}

/// A compilation with its history.
#[derive(Debug)]
pub struct Trace {
    /// What came of it; its reports say by which rules values came to be as they are.
    pub compiled: Compiled,
    /// Functions after each pass, in order.
    pub passes: Vec<AfterPass>,
    /// Names of functions with drawings of their e-graphs.
    pub egraphs: Vec<(String, String)>,
}

impl Trace {
    /// Compiles a checkpoint and watches.
    ///
    /// # Errors
    /// As [`compile`](crate::compile::compile).
    pub fn of(checkpoint: &Checkpoint, options: &Options) -> Result<Self, DriverError> {
        let mut options = options.clone();
        options.compile.explain = true;
        let (mut passes, mut egraphs) = (vec![], vec![]);
        let compiled = compile_observed(checkpoint, &options, &mut |pass, seen| match seen {
            Seen::Graph(graph) => passes.push(AfterPass { pass: pass.to_owned(), graph: graph.clone() }),
            Seen::EGraph(func, island) => egraphs.push((func.to_owned(), island.dot())),
        })?;
        Ok(Self { compiled, passes, egraphs })
    }

    /// A function after each pass, in order.
    pub fn of_func<'t>(&'t self, func: &'t str) -> impl Iterator<Item = &'t AfterPass> {
        self.passes.iter().filter(move |after| after.graph.name == func)
    }
}
