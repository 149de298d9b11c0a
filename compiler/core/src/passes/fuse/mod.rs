//! Fusion and selection: groups ops around anchors into templates.
//!
//! An anchor (a product, attention, a norm …) takes the elementwise ops after it as its epilogue and, where that pays, the
//! norm or rounding before it as its prologue. Slices, head splits and merges cost nothing: they are views. Every op is an
//! anchor on its own if nothing absorbs it, so every graph gets a plan.

mod anchors;
mod attention;
mod recurrent;
mod region;
mod route;
mod view;

use std::collections::BTreeSet;

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::graph::{Arg, Def, Graph, ParamKind, Value};
use swiftlm_ir::ops::Op;
use swiftlm_ir::plan::Input;
use swiftlm_ir::template::Template;

use super::ahead;
use crate::choices::Chooser;
use crate::pipeline::CompileOptions;
use crate::rewrite::uses;

/// An argument of a group, before memory is assigned.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupArg {
    /// A value that lies in memory, read.
    Read(Value),
    /// A value that lies in memory, read only at the element that is then written, so that both may share their place.
    ReadInPlace(Value),
    /// A value that lies in memory, written.
    Write(Value),
    /// The place of the hidden values handed to the next call, written.
    WriteFlow,
    /// Rows `first .. first + count` of a weight slot.
    Weight(usize, usize, usize),
    /// An input of the step.
    Input(Input),
    /// A state of the call and a part of it, as [`Operand::State`](swiftlm_ir::plan::Operand::State) numbers them.
    State(usize, usize),
}

/// One launch, before memory is assigned.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What it computes.
    pub template: Template,
    /// Arguments in binding order.
    pub args: Vec<GroupArg>,
    /// The op it is built around.
    pub anchor: Value,
    /// Path of that op.
    pub loc: String,
}

impl Group {
    /// The values that the launch computes, those that never lie in memory included: all between what it reads and what
    /// it writes.
    pub fn computes(&self, g: &Graph) -> Vec<Value> {
        let mut reads = BTreeSet::new();
        let mut open = vec![self.anchor];
        for arg in &self.args {
            match arg {
                GroupArg::Read(v) | GroupArg::ReadInPlace(v) => {
                    reads.insert(*v);
                }
                GroupArg::Write(v) => open.push(*v),
                _ => {}
            }
        }
        let mut found = BTreeSet::new();
        while let Some(v) = open.pop() {
            let Some((op, args)) = g.node(v).filter(|_| !reads.contains(&v)) else { continue };
            if (op.is_effect() && v != self.anchor) || !found.insert(v) {
                continue;
            }
            open.extend(args.iter().filter_map(|a| match a {
                Arg::Value(x) => Some(*x),
                Arg::Weight(_) => None,
            }));
        }
        found.into_iter().collect()
    }
}

/// State of the pass.
pub(crate) struct Fuser<'g> {
    g: &'g Graph,
    class: ShapeClass,
    options: &'g CompileOptions,
    chooser: Chooser,
    uses: Vec<Vec<Option<Value>>>,
    /// Values that another group's launch computes inside itself.
    absorbed: BTreeSet<Value>,
    /// Values that lie in memory by now.
    available: BTreeSet<Value>,
    groups: Vec<Group>,
}

/// Groups of a function for a class.
///
/// # Errors
/// An op that no template covers, with its place.
pub fn run(g: &Graph, class: ShapeClass, options: &CompileOptions) -> Result<Vec<Group>, String> {
    let salt = g.values.len() << 2 | class as usize;
    let mut f = Fuser {
        g,
        class,
        options,
        chooser: Chooser::new(options.choices, salt),
        uses: uses(g),
        absorbed: BTreeSet::new(),
        available: BTreeSet::new(),
        groups: vec![],
    };
    // The host reads guesses in small steps only.
    if !f.few() {
        f.absorbed = ahead::guessed(g);
    }
    let merged = f.plan_rope_appends();
    f.absorb_recurrent_inputs();
    f.plan_latent_appends();
    f.plan_routes();
    f.absorb_rounding();
    f.absorb_norms();
    for i in 0..g.values.len() {
        let v = Value(i as u32);
        match &g.value(v).def {
            Def::Param(_) => {
                f.available.insert(v);
            }
            Def::Node { .. } if f.absorbed.contains(&v) || f.available.contains(&v) => {}
            Def::Node { op, args } => {
                if let Some(m) = merged.iter().find(|m| m.append == v) {
                    f.rope_append(m);
                } else {
                    f.anchor(v, op, args).map_err(|e| format!("@{} {}: {e}", g.name, g.value(v).loc))?;
                }
            }
        }
    }
    Ok(f.groups)
}

impl<'g> Fuser<'g> {
    fn push(&mut self, template: Template, args: Vec<GroupArg>, of: Value) {
        for a in &args {
            if let GroupArg::Write(v) = a {
                self.available.insert(*v);
            }
        }
        let loc = self.g.value(of).loc.clone();
        self.groups.push(Group { template, args, anchor: of, loc });
    }

    /// Whether steps are small enough that launches cost more than what they compute.
    fn few(&self) -> bool {
        matches!(self.class, ShapeClass::One | ShapeClass::Few)
    }

    /// The one user of a value that has no other use.
    fn only_user(&self, v: Value) -> Option<Value> {
        match self.uses[v.0 as usize][..] {
            [user] => user,
            _ => None,
        }
    }

    /// How a value that lies in memory is read: parameters that are step inputs are not in the arena.
    fn read(&self, base: Value) -> GroupArg {
        match &self.g.value(base).def {
            Def::Param(p) => match &self.g.params[*p].0 {
                ParamKind::Ids => GroupArg::Input(Input::Ids),
                ParamKind::RopeTable(i) => GroupArg::Input(Input::RopeTable(*i)),
                ParamKind::Flow | ParamKind::State(_) => GroupArg::Read(base),
            },
            Def::Node { op: Op::ExpertFetch { .. }, .. } => GroupArg::Input(Input::Slots),
            Def::Node { .. } => GroupArg::Read(base),
        }
    }

    /// A part of the state that `version` is a version of.
    fn part(&self, mut version: Value, part: usize) -> GroupArg {
        let mut state = 0;
        while let Some((_, [Arg::Value(before), ..])) = self.g.node(version) {
            version = *before;
        }
        if let Def::Param(p) = self.g.value(version).def
            && let (ParamKind::State(i), _) = self.g.params[p]
        {
            state = i;
        }
        GroupArg::State(state, part)
    }

    fn whole_weight(&self, a: Arg) -> Result<GroupArg, String> {
        match a {
            Arg::Weight(w) => Ok(GroupArg::Weight(w.0 as usize, 0, self.g.weights[w.0 as usize].ty.rows)),
            Arg::Value(_) => Err("expected a weight".to_owned()),
        }
    }

    /// Rounding that only feeds products is done where they load.
    fn absorb_rounding(&mut self) {
        let product = |user: &Option<Value>| {
            matches!(user.and_then(|u| self.g.node(u)), Some((Op::Linear | Op::ExpertLinear { .. }, _)))
        };
        let rounds = (0..self.g.values.len()).map(|i| Value(i as u32)).filter(|v| {
            matches!(self.g.node(*v), Some((Op::Round { .. }, _)))
                && self.uses[v.0 as usize].iter().all(product)
                && self.chooser.fuse()
        });
        let rounds: Vec<Value> = rounds.collect();
        self.absorbed.extend(rounds);
    }

    /// Norms whose every use is a product join those products, where a launch more costs more than the norm done again
    /// in each workgroup.
    fn absorb_norms(&mut self) {
        if !self.few() {
            return;
        }
        for i in 0..self.g.values.len() {
            let v = Value(i as u32);
            let flat = self.g.value(v).ty.tensor().is_some_and(|t| t.shape.len() == 2);
            if flat
                && matches!(self.g.node(v), Some((Op::RmsNorm { .. }, _)))
                && self.only_feeds_products(v)
                && self.chooser.fuse()
            {
                self.absorbed.insert(v);
            }
        }
    }

    fn only_feeds_products(&self, v: Value) -> bool {
        self.uses[v.0 as usize].iter().all(|user| match user.map(|u| (u, self.g.node(u))) {
            Some((_, Some((Op::Linear, _)))) => true,
            Some((u, Some((Op::Round { .. }, _)))) => {
                self.uses[u.0 as usize].iter().all(|w| matches!(w.and_then(|w| self.g.node(w)), Some((Op::Linear, _))))
            }
            _ => false,
        })
    }
}
