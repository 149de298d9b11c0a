//! Recurrent layers: a convolution with the state that it looks back into, the delta rule with the norms and gates of its
//! inputs, and a selective state space with its time steps are one launch each. A state's effect and what reads it belong
//! together: there the launch is made.

use swiftlm_ir::graph::{Arg, Value};
use swiftlm_ir::ops::Op;
use swiftlm_ir::plan::Input;
use swiftlm_ir::quant::Format;
use swiftlm_ir::template::{Delta, ShortConv, Ssm, Template, View};
use swiftlm_ir::ty::{Recurrent, Type};

use super::region::Extras;
use super::{Fuser, GroupArg};

/// The delta rule at `delta.read`: what its queries, keys, decays and betas are made of.
struct Rule {
    q: Value,
    k: Value,
    v: Value,
    norm: Option<f64>,
    alpha: Value,
    weights: [Arg; 2],
    beta: Value,
    /// Values computed inside.
    inside: [Value; 4],
}

/// The selective state space at `ssm.read`.
struct Space {
    state: Value,
    c: Value,
    b: Value,
    x: Value,
    /// What time steps are made of.
    dt: Value,
    /// The time steps, computed inside.
    steps: Value,
    bounds: [f32; 2],
    /// a, the bias of time steps, and d.
    weights: [Arg; 3],
}

impl Fuser<'_> {
    /// Marks what the launches of the delta rule and of state spaces compute of their inputs by themselves.
    pub(super) fn absorb_recurrent_inputs(&mut self) {
        let rules: Vec<Rule> = (0..self.g.values.len()).filter_map(|i| self.rule(Value(i as u32)).ok()).collect();
        for rule in rules {
            let own = rule.inside.into_iter().filter(|v| self.only_user(*v).is_some());
            let own: Vec<Value> = own.filter(|v| ![rule.q, rule.k].contains(v)).collect();
            self.absorbed.extend(own);
        }
        let spaces: Vec<Space> = (0..self.g.values.len()).filter_map(|i| self.space(Value(i as u32)).ok()).collect();
        let steps = spaces.into_iter().map(|space| space.steps).filter(|v| self.only_user(*v).is_some());
        let steps: Vec<Value> = steps.collect();
        self.absorbed.extend(steps);
    }

    /// An effect on a recurrent state is part of the launch of the one op that reads what came of it.
    pub(super) fn recurs(&mut self, v: Value, op: &Op) -> Result<(), String> {
        let reads = |user: &&Option<Value>| {
            matches!(user.and_then(|u| self.g.node(u)), Some((Op::ConvCausal | Op::DeltaRead { .. } | Op::SsmRead, _)))
        };
        match self.uses[v.0 as usize].iter().filter(reads).count() {
            1 => {
                self.available.insert(v);
                Ok(())
            }
            n => Err(format!("`{}`: {n} ops read the state then: expected 1", op.name())),
        }
    }

    fn sizes(&self, state: Value) -> Result<Recurrent, String> {
        match &self.g.value(state).ty {
            Type::State(ty) => ty.recurrent().copied().ok_or_else(|| format!("{ty} is not recurrent")),
            ty => Err(format!("{ty} is no state")),
        }
    }

    /// A convolution with the bias and the activation behind it.
    pub(super) fn short_conv(&mut self, v: Value, state: Value, w: Arg) -> Result<(), String> {
        let Some((Op::ConvAppend, [_, Arg::Value(x)])) = self.g.node(state) else {
            return Err("a convolution must follow on its inputs".to_owned());
        };
        let (placed, sizes) = (self.place(*x)?, self.sizes(state)?);
        let Arg::Weight(slot) = w else { return Err("expected a weight".to_owned()) };
        let region = self.grow(v, None, Extras::Any).ok_or("a convolution has one output")?;
        self.finish_region(v, &region);
        let template = ShortConv {
            channels: sizes.channels,
            taps: sizes.columns + 1,
            weight: self.g.weights[slot.0 as usize].ty.format,
            extras: region.inputs(),
            epilogue: region.map.clone(),
            x: placed.view,
            y: View::dense(sizes.channels),
        };
        let mut args = vec![
            self.read(placed.base),
            self.whole_weight(w)?,
            GroupArg::Input(Input::Segments),
            GroupArg::Input(Input::Units),
            self.part(state, 0),
        ];
        args.extend(region.args());
        args.push(GroupArg::Write(region.output));
        self.push(Template::ShortConv(template), args, v);
        Ok(())
    }

    /// The delta rule.
    pub(super) fn delta(&mut self, v: Value, state: Value, scale: f64) -> Result<(), String> {
        let (rule, sizes) = (self.rule(v)?, self.sizes(state)?);
        let (q, k, values) = (self.place(rule.q)?, self.place(rule.k)?, self.place(rule.v)?);
        if q.base != k.base || q.base != values.base {
            return Err("queries, keys and values of the delta rule must lie in one row".to_owned());
        }
        let (alpha, beta) = (self.place(rule.alpha)?, self.place(rule.beta)?);
        let template = Delta {
            heads: sizes.heads,
            key_heads: self.row_elements(rule.k)? / sizes.key,
            key: sizes.key,
            value: sizes.value,
            scale: scale as f32,
            norm: rule.norm,
            decay: [self.format(rule.weights[0])?, self.format(rule.weights[1])?],
            q: q.view,
            k: k.view,
            v: values.view,
            alpha: alpha.view,
            beta: beta.view,
            y: View::dense(sizes.heads * sizes.value),
        };
        let args = vec![
            self.read(q.base),
            self.read(alpha.base),
            self.read(beta.base),
            self.whole_weight(rule.weights[0])?,
            self.whole_weight(rule.weights[1])?,
            GroupArg::Input(Input::Segments),
            GroupArg::Input(Input::Units),
            self.part(state, 1),
            GroupArg::Write(v),
        ];
        self.push(Template::Delta(template), args, v);
        Ok(())
    }

    /// What the delta rule at `read` is made of.
    fn rule(&self, read: Value) -> Result<Rule, String> {
        let Some((Op::DeltaRead { .. }, [Arg::Value(state), Arg::Value(q)])) = self.g.node(read) else {
            return Err("no delta rule".to_owned());
        };
        let Some((Op::DeltaAppend, [_, Arg::Value(k), Arg::Value(v), Arg::Value(decay), Arg::Value(beta)])) =
            self.g.node(*state)
        else {
            return Err("a memory is read where it was written".to_owned());
        };
        let Some((Op::Decay, [Arg::Value(alpha), a, b])) = self.g.node(*decay) else {
            return Err("what the delta rule decays by must be a `decay`".to_owned());
        };
        let Some((Op::Sigmoid, [Arg::Value(open)])) = self.g.node(*beta) else {
            return Err("what the delta rule writes by must be a `sigmoid`".to_owned());
        };
        let normalised = |v: Value| match self.g.node(v) {
            Some((Op::L2Norm { eps }, [Arg::Value(x)])) => (*x, Some(*eps)),
            _ => (v, None),
        };
        let ((q_in, q_norm), (k_in, k_norm)) = (normalised(*q), normalised(*k));
        if q_norm != k_norm {
            return Err("queries and keys of the delta rule must be normalised alike".to_owned());
        }
        let (weights, inside) = ([*a, *b], [*q, *k, *decay, *beta]);
        Ok(Rule { q: q_in, k: k_in, v: *v, norm: q_norm, alpha: *alpha, weights, beta: *open, inside })
    }

    fn format(&self, w: Arg) -> Result<Format, String> {
        match w {
            Arg::Weight(slot) => Ok(self.g.weights[slot.0 as usize].ty.format),
            Arg::Value(_) => Err("expected a weight".to_owned()),
        }
    }

    /// A selective state space with what is done to its result.
    pub(super) fn ssm(&mut self, v: Value) -> Result<(), String> {
        let space = self.space(v)?;
        let sizes = self.sizes(space.state)?;
        let (c, b, x, dt) = (self.place(space.c)?, self.place(space.b)?, self.place(space.x)?, self.place(space.dt)?);
        if c.base != b.base || c.base != x.base {
            return Err("B, C and x of a state space must lie in one row".to_owned());
        }
        let region = self.grow(v, None, Extras::Elements).ok_or("a state space has one output")?;
        self.finish_region(v, &region);
        let [a, shift, d] = space.weights;
        let template = Ssm {
            heads: sizes.heads,
            groups: self.row_elements(space.b)? / sizes.key,
            key: sizes.key,
            value: sizes.value,
            bounds: space.bounds,
            weights: [self.format(a)?, self.format(shift)?, self.format(d)?],
            extras: region.inputs(),
            epilogue: region.map.clone(),
            c: c.view,
            b: b.view,
            x: x.view,
            dt: dt.view,
            y: View::dense(sizes.heads * sizes.value),
        };
        let mut args = vec![self.read(c.base), self.read(dt.base)];
        args.extend([self.whole_weight(a)?, self.whole_weight(shift)?, self.whole_weight(d)?]);
        args.extend([GroupArg::Input(Input::Segments), GroupArg::Input(Input::Units), self.part(space.state, 1)]);
        args.extend(region.args());
        args.push(GroupArg::Write(region.output));
        self.push(Template::Ssm(template), args, v);
        Ok(())
    }

    /// What the state space at `read` is made of.
    fn space(&self, read: Value) -> Result<Space, String> {
        let Some((Op::SsmRead, [Arg::Value(state), Arg::Value(c), Arg::Value(x), d])) = self.g.node(read) else {
            return Err("no state space".to_owned());
        };
        let Some((Op::SsmAppend, [_, Arg::Value(b), Arg::Value(taken), Arg::Value(steps), a])) = self.g.node(*state)
        else {
            return Err("a memory is read where it was written".to_owned());
        };
        let Some((Op::TimeStep { least, most }, [Arg::Value(dt), shift])) = self.g.node(*steps) else {
            return Err("the steps of a state space must be a `time_step`".to_owned());
        };
        if taken != x || self.row_elements(*b)? != self.row_elements(*c)? {
            return Err("a state space must read what it took in, by C as wide as B".to_owned());
        }
        let (bounds, weights) = ([*least as f32, *most as f32], [*a, *shift, *d]);
        Ok(Space { state: *state, c: *c, b: *b, x: *x, dt: *dt, steps: *steps, bounds, weights })
    }
}
