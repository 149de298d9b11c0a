//! Emission: templates become kernels, equal kernels are shared, and groups become launches.

use indexmap::IndexMap;
use swiftlm_ir::kernel::{Kernel, KernelKey};
use swiftlm_ir::plan::{Dispatch, Operand, Stage};

use super::fuse::{Group, GroupArg};
use super::memory::Placement;
use crate::kernels;
use crate::pipeline::CompileOptions;

/// The distinct kernels of a program.
#[derive(Debug, Default)]
pub struct Kernels(IndexMap<KernelKey, Kernel>);

impl Kernels {
    /// Index of a kernel, added if new.
    fn index(&mut self, kernel: Kernel) -> usize {
        let entry = self.0.entry(kernel.key());
        let at = entry.index();
        entry.or_insert(kernel);
        at
    }

    /// All of them, in order of index.
    pub fn into_vec(self) -> Vec<Kernel> {
        self.0.into_values().collect()
    }
}

/// The launches of a function.
pub fn run(groups: &[Group], placement: &Placement, kernels: &mut Kernels, options: &CompileOptions) -> Vec<Dispatch> {
    let launch = |(at, group): (usize, &Group)| {
        let mut stage = |built: kernels::Built| {
            let kernels::Built { kernel, args, grid } = built;
            Stage { kernel: kernels.index(kernel), args, grid }
        };
        let built = kernels::build(&group.template, options.chunk, options.max_rows);
        let args = group.args.iter().map(|a| operand(a, placement)).chain(placement.scratch.get(&at).cloned());
        Dispatch {
            template: group.template.clone(),
            args: args.collect(),
            stages: built.into_iter().map(&mut stage).collect(),
            loc: group.loc.clone(),
        }
    };
    groups.iter().enumerate().map(launch).collect()
}

fn operand(arg: &GroupArg, placement: &Placement) -> Operand {
    match arg {
        GroupArg::Read(v) | GroupArg::ReadInPlace(v) | GroupArg::Write(v) => {
            placement.operands.get(v).cloned().expect("the memory pass places every value that a group names")
        }
        GroupArg::WriteFlow => placement.flow.clone().expect("only a function with a flow result gets a copy to it"),
        GroupArg::Weight(slot, first, count) => Operand::Weight { slot: *slot, first: *first, count: *count },
        GroupArg::Input(input) => Operand::Input(*input),
        GroupArg::State(state, part) => Operand::State { state: *state, part: *part },
    }
}
