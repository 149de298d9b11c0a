//! Rebuilding a graph value by value: what every graph pass is written with.

use swiftlm_ir::graph::{Arg, Def, Graph, Value, ValueInfo, WeightDecl, WeightSlot};
use swiftlm_ir::ops::Op;
use swiftlm_ir::ops::infer::infer;

/// A new graph growing from an old one. Parameters and weights are taken over first.
#[derive(Debug)]
pub struct Rewriter<'g> {
    old: &'g Graph,
    new: Graph,
    map: Vec<Option<Value>>,
}

impl<'g> Rewriter<'g> {
    /// Starts with the old graph's weights and nothing else.
    pub fn new(old: &'g Graph) -> Self {
        let new = Graph {
            name: old.name.clone(),
            params: old.params.clone(),
            weights: old.weights.clone(),
            values: vec![],
            results: vec![],
        };
        Self { old, new, map: vec![None; old.values.len()] }
    }

    /// The new graph so far.
    pub fn graph(&self) -> &Graph {
        &self.new
    }

    /// The new argument for an old one.
    pub fn arg(&self, a: Arg) -> Arg {
        match a {
            Arg::Value(v) => Arg::Value(self.value(v)),
            Arg::Weight(w) => Arg::Weight(w),
        }
    }

    /// The new value for an old one, which must have been copied or replaced before.
    pub fn value(&self, v: Value) -> Value {
        self.map[v.0 as usize].expect("a pass visits arguments before their uses")
    }

    /// Takes an old value over as it is.
    pub fn copy(&mut self, v: Value) -> Value {
        let info = self.old.value(v);
        let new = match &info.def {
            Def::Param(i) => {
                let new = self.push(info.clone());
                self.new.params[*i].1 = new;
                new
            }
            Def::Node { op, args } => {
                let args = args.iter().map(|a| self.arg(*a)).collect();
                self.push(ValueInfo { def: Def::Node { op: op.clone(), args }, ..info.clone() })
            }
        };
        self.replace(v, new);
        new
    }

    /// Uses of the old value become uses of the new one.
    pub fn replace(&mut self, old: Value, new: Value) {
        self.map[old.0 as usize] = Some(new);
    }

    fn push(&mut self, info: ValueInfo) -> Value {
        self.new.values.push(info);
        Value(self.new.values.len() as u32 - 1)
    }

    /// Appends an op on new arguments.
    pub fn emit(&mut self, op: Op, args: Vec<Arg>, loc: &str) -> Value {
        let ty = infer(&op, &self.new.arg_types(&args)).expect("a pass keeps a graph well-typed");
        self.push(ValueInfo { def: Def::Node { op, args }, ty, loc: loc.to_owned() })
    }

    /// Adds a weight.
    pub fn weight(&mut self, decl: WeightDecl) -> WeightSlot {
        let at = self.new.weights.iter().position(|w| *w == decl).unwrap_or_else(|| {
            self.new.weights.push(decl);
            self.new.weights.len() - 1
        });
        WeightSlot(at as u32)
    }

    /// The new graph without values and weights that nothing uses.
    pub fn finish(mut self) -> Graph {
        self.new.results = self.old.results.iter().map(|v| self.value(*v)).collect();
        prune(&self.new)
    }
}

/// Users of each value, in program order; results count as a use by `None`.
pub fn uses(g: &Graph) -> Vec<Vec<Option<Value>>> {
    let mut uses = vec![vec![]; g.values.len()];
    for (i, info) in g.values.iter().enumerate() {
        if let Def::Node { args, .. } = &info.def {
            for a in args {
                if let Arg::Value(v) = a {
                    uses[v.0 as usize].push(Some(Value(i as u32)));
                }
            }
        }
    }
    for v in &g.results {
        uses[v.0 as usize].push(None);
    }
    uses
}

/// The graph without unused values and weights. Parameters and effects stay.
pub fn prune(g: &Graph) -> Graph {
    let mut live = vec![false; g.values.len()];
    for v in &g.results {
        live[v.0 as usize] = true;
    }
    for (i, info) in g.values.iter().enumerate().rev() {
        let keep = match &info.def {
            Def::Param(_) => true,
            Def::Node { op, .. } => live[i] || op.is_effect(),
        };
        live[i] = keep;
        if let (true, Def::Node { args, .. }) = (keep, &info.def) {
            for a in args {
                if let Arg::Value(v) = a {
                    live[v.0 as usize] = true;
                }
            }
        }
    }
    let mut values = vec![None; g.values.len()];
    let mut slots = vec![None; g.weights.len()];
    let mut new = Graph { weights: vec![], values: vec![], results: vec![], ..g.clone() };
    for (i, info) in g.values.iter().enumerate().filter(|(i, _)| live[*i]) {
        let mut info = info.clone();
        match &mut info.def {
            Def::Param(p) => new.params[*p].1 = Value(new.values.len() as u32),
            Def::Node { args, .. } => {
                for a in args {
                    *a = match *a {
                        Arg::Value(v) => Arg::Value(values[v.0 as usize].expect("arguments precede their uses")),
                        Arg::Weight(w) => Arg::Weight(*slots[w.0 as usize].get_or_insert_with(|| {
                            new.weights.push(g.weights[w.0 as usize].clone());
                            WeightSlot(new.weights.len() as u32 - 1)
                        })),
                    };
                }
            }
        }
        values[i] = Some(Value(new.values.len() as u32));
        new.values.push(info);
    }
    new.results = g.results.iter().map(|v| values[v.0 as usize].expect("results are live")).collect();
    new
}
