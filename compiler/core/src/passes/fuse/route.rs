//! Choice of experts: ids and weights in one launch.

use swiftlm_ir::graph::{Arg, Value};
use swiftlm_ir::ops::{Op, Routing};
use swiftlm_ir::template::{Route, Template};

use super::{Fuser, GroupArg};

impl Fuser<'_> {
    /// What a choice is made from: the scores, and the weight that is added to their chances with the two values that
    /// this takes, if one is.
    fn chosen_from(&self, choice: Value) -> (Value, Option<(Arg, [Value; 2])>) {
        if let Some((Op::Bias, [Arg::Value(chances), w])) = self.g.node(choice)
            && let Some((Op::Sigmoid, [Arg::Value(scores)])) = self.g.node(*chances)
        {
            return (*scores, Some((*w, [*chances, choice])));
        }
        (choice, None)
    }

    /// Marks the chances and the bias that a choice is made from: no launch but the choice computes them.
    pub(super) fn plan_routes(&mut self) {
        for i in 0..self.g.values.len() {
            let Some((Op::RouteIds { .. }, [Arg::Value(choice)])) = self.g.node(Value(i as u32)) else { continue };
            if let (_, Some((_, inside))) = self.chosen_from(*choice) {
                let alone: Vec<Value> = inside.into_iter().filter(|v| self.only_user(*v).is_some()).collect();
                self.absorbed.extend(alone);
            }
        }
    }

    /// The choice at `ids`.
    pub(super) fn route(&mut self, ids: Value) -> Result<(), String> {
        let Some((Op::RouteIds { top_k, groups, kept }, [Arg::Value(choice)])) = self.g.node(ids) else {
            return Err("malformed choice of experts".into());
        };
        let weights = self.uses[ids.0 as usize].iter().flatten().find_map(|user| match self.g.node(*user) {
            Some((Op::RouteWeights { routing, normalize }, [Arg::Value(scores), Arg::Value(i)])) if *i == ids => {
                Some((*user, *scores, *routing, *normalize))
            }
            _ => None,
        });
        let (weights, scores, routing, normalize) = weights.ok_or("expert ids are used without their weights")?;
        let (from, bias) = self.chosen_from(*choice);
        if from != scores || bias.is_some() && routing != Routing::Sigmoid {
            return Err("experts are chosen by other numbers than they are weighted by".to_owned());
        }
        let format = |w: &Arg| match w {
            Arg::Weight(w) => Some(self.g.weights[w.0 as usize].ty.format),
            Arg::Value(_) => None,
        };
        let (placed, experts) = (self.place(scores)?, self.row_elements(scores)?);
        let (top_k, groups, kept) = (*top_k, *groups, *kept);
        let bias_format = bias.as_ref().and_then(|(w, _)| format(w));
        let template =
            Route { experts, top_k, groups, kept, bias: bias_format, routing, normalize, scores: placed.view };
        let mut args = vec![self.read(placed.base)];
        if let Some((w, _)) = bias {
            args.push(self.whole_weight(w)?);
        }
        args.extend([GroupArg::Write(ids), GroupArg::Write(weights)]);
        self.push(Template::Route(template), args, ids);
        Ok(())
    }
}
