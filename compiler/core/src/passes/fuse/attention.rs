//! Rotation and append in one launch: recognises `append(state, rope(norm(k)), v)` with the query rotated beside it.

use swiftlm_ir::graph::{Arg, Value, WeightSlot};
use swiftlm_ir::ops::{Op, RopeLayout};
use swiftlm_ir::plan::Input;
use swiftlm_ir::quant::Format;
use swiftlm_ir::template::{Append, Archiving, Attend, LatentAppend, Norm, RopeAppend, Template, View};
use swiftlm_ir::ty::{StateType, Type};

use super::view::Placed;
use super::{Fuser, GroupArg};

/// A head tensor on its way to attention: where it lies, how it is normalised and rotated.
struct Chain {
    placed: Placed,
    norm: Option<(Norm, GroupArg)>,
    rope: Option<(usize, RopeLayout, Value)>,
    /// Whether it is rotated for quantisation behind everything else.
    rotate: bool,
    /// Values computed inside.
    inside: Vec<Value>,
}

/// A match: what the launch at `append` computes.
pub(super) struct Match {
    pub(super) append: Value,
    query: Value,
    template: RopeAppend,
    base: Value,
    norms: Vec<GroupArg>,
    table: Value,
}

impl Fuser<'_> {
    /// Finds every append whose keys, values and queries come from one row, and marks what it absorbs.
    pub(super) fn plan_rope_appends(&mut self) -> Vec<Match> {
        let mut matches = vec![];
        for i in 0..self.g.values.len() {
            if let Some((m, inside)) = self.match_rope_append(Value(i as u32)).filter(|_| self.chooser.fuse()) {
                self.absorbed.extend(inside);
                matches.push(m);
            }
        }
        matches
    }

    fn match_rope_append(&self, append: Value) -> Option<(Match, Vec<Value>)> {
        let (Op::KvAppend, [Arg::Value(state), Arg::Value(k), Arg::Value(v)]) = self.g.node(append)? else {
            return None;
        };
        let keys = self.chain(*k)?;
        let (rotated, layout, table) = keys.rope?;
        let (values, rotated_values) = self.rotated(*v);
        let values = self.place(values).ok()?;
        let (query, queries) = (0..self.g.values.len()).find_map(|i| {
            let q = Value(i as u32);
            let chain = (q != *k).then(|| self.chain(q)).flatten()?;
            let alike = chain.rope == keys.rope && chain.rotate == keys.rotate;
            (alike && chain.placed.base == keys.placed.base).then_some((q, chain))
        })?;
        let apart = rotated_values.is_some() != keys.rotate;
        if apart || values.base != keys.placed.base || self.only_user(*k).is_none() {
            return None;
        }
        let heads = self.g.value(query).ty.tensor()?.shape.get(1)?.constant()?;
        let base = keys.placed.base;
        let q_out = View::dense(self.row_elements(query).ok()?);
        let (q_norm, k_norm) = (queries.norm.clone(), keys.norm.clone());
        let norms = [&q_norm, &k_norm].into_iter().flatten().map(|n| n.1.clone()).collect();
        let template = RopeAppend {
            heads,
            rotated,
            layout,
            q_norm: q_norm.map(|n| n.0),
            k_norm: k_norm.map(|n| n.0),
            rotate: keys.rotate,
            q: queries.placed.view,
            q_out,
            append: self.append_template(*state, keys.placed, values)?,
        };
        let mut inside: Vec<Value> = queries.inside.into_iter().chain(keys.inside).collect();
        inside.extend(rotated_values);
        inside.extend([query, *k]);
        Some((Match { append, query, template, base, norms, table }, inside))
    }

    /// What is rotated for quantisation to make `v`, and that rotation's value; or `v` itself.
    fn rotated(&self, v: Value) -> (Value, Option<Value>) {
        match self.g.node(v) {
            Some((Op::Rotate { inverse: false }, [Arg::Value(x)])) => (*x, Some(v)),
            _ => (v, None),
        }
    }

    /// `rope(norm?(x))` ending in `v`, or that rotated for quantisation.
    fn chain(&self, v: Value) -> Option<Chain> {
        if let (x, Some(_)) = self.rotated(v) {
            let mut chain = self.chain(x).filter(|chain| !chain.rotate && self.only_user(x).is_some())?;
            chain.inside.push(x);
            return Some(Chain { rotate: true, ..chain });
        }
        let (Op::Rope { start: 0, dim, layout }, [Arg::Value(x), Arg::Value(table)]) = self.g.node(v)? else {
            return None;
        };
        let rope = Some((*dim, *layout, *table));
        if let (Some((op @ Op::RmsNorm { .. }, [Arg::Value(inner), w])), Some(_)) =
            (self.g.node(*x), self.only_user(*x))
            && !self.grouped(*x, *w)
        {
            let placed = self.place(*inner).ok()?;
            let norm = Some((self.norm(op, *w)?, self.whole_weight(*w).ok()?));
            return Some(Chain { placed, norm, rope, rotate: false, inside: vec![*x] });
        }
        Some(Chain { placed: self.place(*x).ok()?, norm: None, rope, rotate: false, inside: vec![] })
    }

    /// Whether a norm of heads has a weight for each of them.
    pub(super) fn grouped(&self, norm: Value, w: Arg) -> bool {
        let cols = |w: WeightSlot| self.g.weights[w.0 as usize].ty.cols;
        match (self.heads(norm), w) {
            (Ok((heads, dim)), Arg::Weight(w)) => heads > 1 && cols(w) == heads * dim,
            _ => false,
        }
    }

    /// The parameters of a norm op.
    pub(super) fn norm(&self, op: &Op, w: Arg) -> Option<Norm> {
        match (op, w) {
            (Op::RmsNorm { eps, offset }, Arg::Weight(w)) => {
                Some(Norm { eps: *eps, offset: *offset, weight: self.g.weights[w.0 as usize].ty.format })
            }
            _ => None,
        }
    }

    fn append_template(&self, state: Value, k: Placed, v: Placed) -> Option<Append> {
        let Type::State(StateType::Paged { heads, dim, k: k_format, v: v_format, latent: None, .. }) =
            &self.g.value(state).ty
        else {
            return None;
        };
        let (heads, dim, k_format, v_format) = (*heads, *dim, *k_format, *v_format);
        Some(Append { heads, dim, k_format, v_format, k: k.view, v: v.view })
    }

    /// The inputs that say where the tokens of a state are kept.
    pub(super) fn page_inputs(&self, state: Value) -> [GroupArg; 3] {
        [Input::Positions, Input::Sequences, self.page_table(state, 0)].map(GroupArg::Input)
    }

    /// The page table of a part of a state.
    fn page_table(&self, state: Value, part: usize) -> Input {
        let window = match &self.g.value(state).ty {
            Type::State(state) => state.window(part),
            _ => None,
        };
        Input::PageTable(window.unwrap_or_default())
    }

    /// Page table, keys and values of a state's archive.
    pub(super) fn archive_args(&self, state: Value) -> [GroupArg; 3] {
        [GroupArg::Input(self.page_table(state, 2)), self.part(state, 2), self.part(state, 3)]
    }

    /// Full pages to the archive.
    pub(super) fn archive(&mut self, v: Value, state: Value) -> Result<(), String> {
        let Type::State(StateType::Paged { heads, dim, k, v: values, archive: Some(archive), .. }) =
            &self.g.value(state).ty
        else {
            return Err("the state has no archive".to_owned());
        };
        let template = Archiving { heads: *heads, dim: *dim, k_format: *k, v_format: *values, archive: *archive };
        let mut args = self.page_inputs(state).to_vec();
        args.extend([self.part(state, 0), self.part(state, 1)]);
        args.extend(self.archive_args(state));
        self.available.insert(v);
        self.push(Template::Archive(template), args, v);
        Ok(())
    }

    pub(super) fn rope_append(&mut self, m: &Match) {
        let mut args = vec![GroupArg::Read(m.base)];
        args.extend(m.norms.iter().cloned());
        args.push(self.read(m.table));
        args.extend(self.page_inputs(m.append));
        args.extend([GroupArg::Write(m.query), self.part(m.append, 0), self.part(m.append, 1)]);
        self.absorbed.remove(&m.query);
        self.available.insert(m.append);
        self.push(Template::RopeAppend(m.template.clone()), args, m.append);
    }

    /// An append on its own.
    pub(super) fn append(&mut self, v: Value, args: &[Arg]) -> Result<(), String> {
        let [Arg::Value(state), Arg::Value(k), Arg::Value(values)] = args else {
            return Err("malformed append".into());
        };
        if let Type::State(StateType::Paged { dim, k: format, latent: Some(latent), .. }) = self.g.value(*state).ty {
            return self.latent_append(v, (*k, *values), (latent, dim - latent, format));
        }
        let (k, values) = (self.place(*k)?, self.place(*values)?);
        let template = self.append_template(*state, k, values).ok_or("append needs a paged state")?;
        let mut args = vec![self.read(k.base), self.read(values.base)];
        args.extend(self.page_inputs(v));
        args.extend([self.part(v, 0), self.part(v, 1)]);
        self.available.insert(v);
        self.push(Template::Append(template), args, v);
        Ok(())
    }

    /// An append of latents, with their norm and the rotation of what lies behind them where nothing else uses either.
    fn latent_append(
        &mut self,
        v: Value,
        (x, r): (Value, Value),
        (latent, rest, format): (usize, usize, Format),
    ) -> Result<(), String> {
        let inside = |f: &Self, v: Value| f.absorbed.contains(&v);
        let (x, norm) = match self.normed(x).filter(|(v, ..)| inside(self, *v)) {
            Some((_, inner, norm)) => (inner, Some(norm)),
            None => (x, None),
        };
        let (r, rotation) = match self.rotated_rest(r).filter(|(v, ..)| inside(self, *v)) {
            Some((_, inner, rotation)) => (inner, Some(rotation)),
            None => (r, None),
        };
        let (x, r) = (self.place(x)?, self.place(r)?);
        let mut args = vec![self.read(x.base)];
        args.extend(norm.iter().map(|n| n.1.clone()));
        args.push(self.read(r.base));
        args.extend(rotation.map(|(_, table)| self.read(table)));
        args.extend(self.page_inputs(v));
        args.push(self.part(v, 0));
        let (norm, rotation) = (norm.map(|n| n.0), rotation.map(|(layout, _)| layout));
        let template = LatentAppend { latent, rest, format, norm, rotation, x: x.view, r: r.view };
        self.available.insert(v);
        self.push(Template::LatentAppend(template), args, v);
        Ok(())
    }

    /// The norm that makes the latent `v`: its value, what it is of, its parameters.
    fn normed(&self, v: Value) -> Option<(Value, Value, (Norm, GroupArg))> {
        let flat = match self.g.node(v)? {
            (Op::SplitHeads { heads: 1 }, [Arg::Value(flat)]) => *flat,
            _ => v,
        };
        let (op, [Arg::Value(x), w]) = self.g.node(flat)? else { return None };
        Some((flat, *x, (self.norm(op, *w)?, self.whole_weight(*w).ok()?)))
    }

    /// The rotation of all of `v`: its value, what it is of, its layout and table.
    fn rotated_rest(&self, v: Value) -> Option<(Value, Value, (RopeLayout, Value))> {
        match self.g.node(v)? {
            (Op::Rope { start: 0, dim, layout }, [Arg::Value(x), Arg::Value(table)])
                if self.g.value(v).ty.tensor()?.width() == Some(*dim) =>
            {
                Some((v, *x, (*layout, *table)))
            }
            _ => None,
        }
    }

    /// Marks the norms and rotations that appends of latents take in.
    pub(super) fn plan_latent_appends(&mut self) {
        for i in 0..self.g.values.len() {
            let Some((Op::KvAppend, [Arg::Value(state), Arg::Value(x), Arg::Value(r)])) = self.g.node(Value(i as u32))
            else {
                continue;
            };
            if !matches!(self.g.value(*state).ty, Type::State(StateType::Paged { latent: Some(_), .. })) {
                continue;
            }
            let alone = |f: &Self, mut v: Value, end: Value| {
                while v != end {
                    match f.only_user(v) {
                        Some(user) => v = user,
                        None => return false,
                    }
                }
                f.only_user(end).is_some()
            };
            let found = [self.normed(*x).map(|n| (n.0, *x)), self.rotated_rest(*r).map(|n| (n.0, *r))];
            for (v, end) in found.into_iter().flatten() {
                if alone(self, v, end) && self.chooser.fuse() {
                    self.absorbed.insert(v);
                }
            }
        }
    }

    /// Attention over a state.
    pub(super) fn attend(
        &mut self,
        v: Value,
        op: &Op,
        (q, k): (Value, Value),
        sinks: Option<Arg>,
    ) -> Result<(), String> {
        let Op::Attend { scale, window, cap } = op else { return Err("malformed attention".into()) };
        let Some((Op::KvK, [Arg::Value(state)])) = self.g.node(k) else {
            return Err("keys must come from a state".into());
        };
        let Type::State(StateType::Paged { heads: kv_heads, dim, k: k_format, v: v_format, latent, archive, .. }) =
            &self.g.value(*state).ty
        else {
            return Err("attention needs a paged state".into());
        };
        let (placed, (heads, _)) = (self.place(q)?, self.heads(q)?);
        let back =
            self.only_user(v).filter(|user| matches!(self.g.node(*user), Some((Op::Rotate { inverse: true }, _))));
        // Where a head's elements meet in several workgroups, rotating back is a launch of its own.
        let output = back.filter(|_| archive.is_some() && self.chooser.fuse()).unwrap_or(v);
        if output != v {
            self.absorbed.insert(v);
        }
        let stored = match sinks {
            Some(Arg::Weight(w)) => match self.g.weights[w.0 as usize].ty.format {
                Format::Float(float) => Some(float),
                other => return Err(format!("sinks stored as {other}: expected f32, f16 or bf16")),
            },
            _ => None,
        };
        let template = Attend {
            class: self.class,
            heads,
            kv_heads: *kv_heads,
            dim: *dim,
            scale: *scale as f32,
            window: *window,
            cap: *cap as f32,
            k_format: *k_format,
            v_format: *v_format,
            latent: *latent,
            archive: *archive,
            rotate_back: output != v,
            sinks: stored,
            q: placed.view,
            y: View::dense(self.row_elements(v)?),
        };
        let mut args = vec![self.read(placed.base)];
        args.extend(self.page_inputs(*state));
        args.push(self.part(*state, 0));
        if latent.is_none() {
            args.push(self.part(*state, 1));
        }
        if archive.is_some() {
            args.extend(self.archive_args(*state));
        }
        args.extend(sinks.map(|w| self.whole_weight(w)).transpose()?);
        args.push(GroupArg::Write(output));
        self.push(Template::Attend(template), args, v);
        Ok(())
    }
}
