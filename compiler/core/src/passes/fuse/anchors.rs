//! What each op becomes when nothing absorbed it.

use swiftlm_ir::dim::{Dim, Sym};
use swiftlm_ir::graph::{Arg, Value, WeightSlot};
use swiftlm_ir::ops::Op;
use swiftlm_ir::plan::Input;
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::{
    ArgMax, Combine, Elementwise, Embed, ExpertLinear, HeadLinear, Linear, Norm, RmsNorm, Rope, Rotate, Rows, Template,
    View,
};

use super::region::{Extras, Region};
use super::view::Placed;
use super::{Fuser, GroupArg};

/// The input of a product after its prologue is taken off.
struct Prologue {
    x: Placed,
    norm: Option<(Norm, GroupArg)>,
    round: Option<Rounding>,
}

impl Fuser<'_> {
    pub(super) fn anchor(&mut self, v: Value, op: &Op, args: &[Arg]) -> Result<(), String> {
        if self.is_view(op, args) {
            return Ok(());
        }
        match (op, args) {
            (Op::Embed { scale }, [Arg::Value(ids), w]) => self.embed(v, *ids, *w, *scale as f32),
            (Op::RmsNorm { .. }, [Arg::Value(x), w]) => self.rms_norm(v, op, *x, *w),
            (Op::Linear, [Arg::Value(x), w]) => self.linear(v, *x, *w),
            (Op::Rope { start, dim: rotated, layout }, [Arg::Value(x), Arg::Value(table)]) => {
                let (placed, (heads, dim)) = (self.place(*x)?, self.heads(*x)?);
                let (start, rotated, layout) = (*start, *rotated, *layout);
                let y = View::dense(self.row_elements(v)?);
                let template = Rope { heads, dim, start, rotated, layout, norm: None, x: placed.view, y };
                let args = vec![self.read(placed.base), self.read(*table), GroupArg::Write(v)];
                self.push(Template::Rope(template), args, v);
                Ok(())
            }
            (Op::Rotate { inverse }, [Arg::Value(x)]) => {
                let (placed, (heads, dim)) = (self.place(*x)?, self.heads(*x)?);
                let y = View::dense(self.row_elements(v)?);
                let template = Rotate { heads, dim, inverse: *inverse, x: placed.view, y };
                self.push(Template::Rotate(template), vec![self.read(placed.base), GroupArg::Write(v)], v);
                Ok(())
            }
            (Op::HeadLinear { .. }, [Arg::Value(x), w]) => self.head_linear(v, op, *x, *w),
            (Op::KvAppend, _) => self.append(v, args),
            (Op::KvArchive, [Arg::Value(state)]) => self.archive(v, *state),
            (Op::ConvAppend | Op::DeltaAppend | Op::SsmAppend, _) => self.recurs(v, op),
            (Op::ConvCausal, [Arg::Value(state), w]) => self.short_conv(v, *state, *w),
            (Op::DeltaRead { scale }, [Arg::Value(state), _]) => self.delta(v, *state, *scale),
            (Op::SsmRead, _) => self.ssm(v),
            (Op::Attend { .. }, [Arg::Value(q), Arg::Value(k), Arg::Value(_), sinks @ ..]) => {
                self.attend(v, op, (*q, *k), sinks.first().copied())
            }
            (Op::Rows, [Arg::Value(x)]) => {
                let (placed, dim) = (self.place(*x)?, self.row_elements(v)?);
                let template = Rows { dim, x: placed.view, y: View::dense(dim) };
                let args = vec![self.read(placed.base), GroupArg::Input(Input::Rows), GroupArg::Write(v)];
                self.push(Template::Rows(template), args, v);
                Ok(())
            }
            (Op::ArgMax, [Arg::Value(x)]) => {
                let placed = self.place(*x)?;
                let template = ArgMax { rows: self.row_symbol(*x)?, dim: self.row_elements(*x)?, x: placed.view };
                self.push(Template::ArgMax(template), vec![self.read(placed.base), GroupArg::Write(v)], v);
                Ok(())
            }
            (Op::RouteIds { .. }, [Arg::Value(_)]) => self.route(v),
            // The host does it: nothing is launched.
            (Op::ExpertFetch { .. }, _) => Ok(()),
            (Op::ExpertLinear { experts }, [Arg::Value(x), Arg::Value(ids), w]) => {
                self.expert_linear(v, *x, *ids, *w, *experts)
            }
            (Op::Combine, [Arg::Value(y), Arg::Value(weights)]) => self.combine(v, *y, *weights),
            _ => self.map(v, op),
        }
    }

    fn row_symbol(&self, v: Value) -> Result<Sym, String> {
        match self.g.value(v).ty.tensor().map(|t| t.shape[0]) {
            Some(Dim::Sym(sym)) => Ok(sym),
            _ => Err(format!("the outermost extent of {} must be T or R", self.g.value(v).ty)),
        }
    }

    pub(super) fn heads(&self, v: Value) -> Result<(usize, usize), String> {
        let t = self.g.value(v).ty.tensor().ok_or("expected a tensor")?;
        match t.shape[1..] {
            [Dim::Const(heads), Dim::Const(dim)] => Ok((heads, dim)),
            [Dim::Const(dim)] => Ok((1, dim)),
            _ => Err(format!("expected rows of heads, got {t}")),
        }
    }

    /// Row ranges of a weight that one argument can bind.
    fn segments(&self, w: Arg) -> Result<Vec<(usize, usize, usize)>, String> {
        let Arg::Weight(slot) = w else { return Err("expected a weight".to_owned()) };
        let ty = self.g.weights[slot.0 as usize].ty;
        let limit = self.options.max_binding;
        let fits = |rows: usize| ty.format.layout(rows, ty.cols).bytes <= limit;
        let mut count = ty.rows;
        while !fits(count) && count > 8 {
            count = (count / 2).next_multiple_of(8);
        }
        if !fits(count) {
            return Err(format!("8 rows of the weight {ty} exceed the {limit} bytes that an argument may span"));
        }
        let starts = (0..ty.rows).step_by(count);
        Ok(starts.map(|first| (slot.0 as usize, first, count.min(ty.rows - first))).collect())
    }

    fn embed(&mut self, v: Value, ids: Value, w: Arg, scale: f32) -> Result<(), String> {
        let (rows, y) = (self.row_symbol(v)?, View::dense(self.row_elements(v)?));
        for (slot, first, count) in self.segments(w)? {
            let mut weight = self.g.weights[slot].ty;
            weight.rows = count;
            let template = Embed { rows, weight, first_row: first, scale, y };
            let args = vec![self.read(ids), GroupArg::Weight(slot, first, count), GroupArg::Write(v)];
            self.push(Template::Embed(template), args, v);
        }
        Ok(())
    }

    fn rms_norm(&mut self, v: Value, op: &Op, x: Value, w: Arg) -> Result<(), String> {
        let (placed, (heads, dim)) = (self.place(x)?, self.heads(x)?);
        let norm = self.norm(op, w).ok_or("malformed norm")?;
        // A weight of an epilogue has a column for each element of a row, not of a head.
        let extras = if heads == 1 { Extras::Any } else { Extras::Elements };
        let region = self.grow(v, None, extras).ok_or("a norm has one output")?;
        self.finish_region(v, &region);
        let y = View::dense(self.row_elements(v)?);
        let template = RmsNorm {
            rows: self.row_symbol(v)?,
            heads,
            dim,
            norm,
            grouped: self.grouped(v, w),
            extras: region.inputs(),
            epilogue: region.map.clone(),
            x: placed.view,
            y,
        };
        let mut args = vec![self.read(placed.base), self.whole_weight(w)?];
        args.extend(region.args());
        args.push(GroupArg::Write(region.output));
        self.push(Template::RmsNorm(template), args, v);
        Ok(())
    }

    /// Takes rounding and an absorbed norm off the input of a product.
    fn prologue(&mut self, x: Value) -> Result<Prologue, String> {
        let (mut x, mut round) = (x, None);
        if let Some((Op::Round { to }, [Arg::Value(inner)])) = self.g.node(x)
            && !self.available.contains(&x)
        {
            (round, x) = (Some(*to), *inner);
        }
        let mut norm = None;
        if self.absorbed.contains(&x)
            && let Some((op @ Op::RmsNorm { .. }, [Arg::Value(inner), w])) = self.g.node(x)
        {
            norm = Some((self.norm(op, *w).ok_or("malformed norm")?, self.whole_weight(*w)?));
            x = *inner;
        }
        Ok(Prologue { x: self.place(x)?, norm, round })
    }

    /// The two halves of a product's columns, if it is used by nothing else.
    fn halves(&self, v: Value, columns: usize) -> Option<[Value; 2]> {
        let half = |user: Option<Value>, start: usize| {
            let user = user?;
            match self.g.node(user)? {
                (Op::Slice { start: s, len }, _) if *s == start && 2 * len == columns => Some(user),
                _ => None,
            }
        };
        match self.uses[v.0 as usize][..] {
            [a, b] => Some([half(a, 0)?, half(b, columns / 2)?]),
            _ => None,
        }
    }

    pub(super) fn finish_region(&mut self, anchor: Value, region: &Region) {
        self.absorbed.extend(region.members.iter().filter(|m| **m != region.output));
        if region.output != anchor {
            self.absorbed.insert(anchor);
        }
        self.absorbed.remove(&region.output);
    }

    fn linear(&mut self, v: Value, x: Value, w: Arg) -> Result<(), String> {
        let p = self.prologue(x)?;
        let segments = self.segments(w)?;
        let rows = self.row_symbol(v)?;
        let columns = self.row_elements(v)?;
        let paired = match self.halves(v, columns) {
            Some(halves) if segments.len() == 1 && self.chooser.fuse() => self.grow(v, Some(halves), Extras::None),
            _ => None,
        };
        let pair = paired.is_some();
        let extras = if segments.len() == 1 { Extras::Any } else { Extras::None };
        let region = paired.or_else(|| self.grow(v, None, extras)).ok_or("a product has one output")?;
        self.finish_region(v, &region);
        for (slot, first, count) in segments {
            let mut weight = self.g.weights[slot].ty;
            weight.rows = count;
            let stride = if pair { columns / 2 } else { columns };
            let template = Linear {
                rows,
                class: self.class,
                weight,
                norm: p.norm.as_ref().map(|n| n.0),
                round: p.round,
                pair,
                epilogue: region.map.clone(),
                extras: region.inputs(),
                x: p.x.view,
                y: View { offset: first, stride },
            };
            let mut args = vec![self.read(p.x.base)];
            args.extend(p.norm.iter().map(|n| n.1.clone()));
            args.push(GroupArg::Weight(slot, first, count));
            args.extend(region.args());
            args.push(GroupArg::Write(region.output));
            self.push(Template::Linear(template), args, v);
        }
        Ok(())
    }

    /// Of a weight that cannot be cut.
    fn too_large(&self, what: &str, bytes: usize) -> String {
        let limit = self.options.max_binding;
        let mib = bytes.div_ceil(1 << 20);
        format!(
            "{what}: {bytes} bytes, and an argument may span {limit}; a device must bind {mib} MiB (swiftlmc --max-binding {mib})"
        )
    }

    fn head_linear(&mut self, v: Value, op: &Op, x: Value, w: Arg) -> Result<(), String> {
        let (Op::HeadLinear { first, len, transposed, .. }, Arg::Weight(slot)) = (op, w) else {
            return Err("malformed product of heads".into());
        };
        let (placed, (heads, dim)) = (self.place(x)?, self.heads(x)?);
        let weight = self.g.weights[slot.0 as usize].ty;
        if weight.bytes() > self.options.max_binding {
            return Err(self.too_large(&format!("the weight {weight}"), weight.bytes()));
        }
        let y = View::dense(self.row_elements(v)?);
        let (first, len, transposed) = (*first, *len, *transposed);
        let template = HeadLinear { class: self.class, weight, heads, dim, first, len, transposed, x: placed.view, y };
        let args = vec![self.read(placed.base), self.whole_weight(w)?, GroupArg::Write(v)];
        self.push(Template::HeadLinear(template), args, v);
        Ok(())
    }

    fn expert_linear(&mut self, v: Value, x: Value, ids: Value, w: Arg, experts: usize) -> Result<(), String> {
        let p = self.prologue(x)?;
        let Arg::Weight(slot) = w else { return Err("expected a weight".to_owned()) };
        let mut weight = self.g.weights[slot.0 as usize].ty;
        let columns = weight.rows / experts;
        let experts = match self.g.node(ids) {
            Some((Op::ExpertFetch { slots }, _)) => *slots,
            _ => experts,
        };
        weight.rows = experts * columns;
        if weight.bytes() > self.options.max_binding {
            return Err(self.too_large(&format!("{experts} experts of one layer"), weight.bytes()));
        }
        let top_k = self.row_elements(ids)?;
        // Never left out: no other launch adds them.
        let (sum, bias) = self.expert_bias(v, ids)?;
        if sum != v {
            self.absorbed.insert(v);
        }
        // Never left out: half a row per token and rank is no view.
        let paired = self.halves(sum, columns).and_then(|halves| self.grow(sum, Some(halves), Extras::None));
        let pair = paired.is_some();
        let region = paired.or_else(|| self.grow(sum, None, Extras::None)).ok_or("a product has one output")?;
        self.finish_region(sum, &region);
        let x_per_rank = self.rank(x) == 3;
        let x_view = if x_per_rank { View::dense(weight.cols) } else { p.x.view };
        let template = ExpertLinear {
            class: self.class,
            weight,
            experts,
            top_k,
            x_per_rank,
            round: p.round,
            bias: bias.map(|(float, _)| float),
            pair,
            epilogue: region.map,
            x: x_view,
            y: View::dense(if pair { columns / 2 } else { columns }),
        };
        let rows = |slot: WeightSlot| GroupArg::Weight(slot.0 as usize, 0, weight.rows);
        let mut args = vec![self.read(p.x.base), self.read(ids), rows(slot)];
        args.extend(bias.map(|(_, slot)| rows(slot)));
        args.push(GroupArg::Write(region.output));
        self.push(Template::ExpertLinear(template), args, v);
        Ok(())
    }

    /// What the vectors of the same experts are added to a product in, and how they are stored; or the product itself.
    fn expert_bias(&self, v: Value, ids: Value) -> Result<(Value, Option<(Float, WeightSlot)>), String> {
        let Some(user) = self.only_user(v) else { return Ok((v, None)) };
        match self.g.node(user) {
            Some((Op::ExpertBias { .. }, [Arg::Value(_), Arg::Value(of), Arg::Weight(w)])) if *of == ids => {
                match self.g.weights[w.0 as usize].ty.format {
                    Format::Float(float) => Ok((user, Some((float, *w)))),
                    other => Err(format!("biases stored as {other}: expected f32, f16 or bf16")),
                }
            }
            _ => Ok((v, None)),
        }
    }

    fn combine(&mut self, v: Value, y: Value, weights: Value) -> Result<(), String> {
        let region = self.grow(v, None, Extras::Any).ok_or("a sum has one output")?;
        self.finish_region(v, &region);
        let (dim, top_k) = (self.row_elements(v)?, self.row_elements(weights)?);
        let (placed, factors) = (self.place(y)?, self.place(weights)?);
        if placed.view != View::dense(top_k * dim) || factors.view != View::dense(top_k) {
            return Err("the ranks of a sum and their weights must lie one after another".to_owned());
        }
        let template =
            Combine { dim, top_k, extras: region.inputs(), epilogue: region.map.clone(), out: View::dense(dim) };
        let mut args = vec![self.read(placed.base), self.read(factors.base)];
        args.extend(region.args());
        args.push(GroupArg::Write(region.output));
        self.push(Template::Combine(template), args, v);
        Ok(())
    }

    /// Elementwise ops that nothing took: launched with the last of them, which takes the ones before.
    fn map(&mut self, v: Value, op: &Op) -> Result<(), String> {
        if self.joins_later(v) && self.chooser.fuse() {
            return Ok(());
        }
        let region = self.grow_map(v).ok_or_else(|| format!("no template covers `{}` here", op.name()))?;
        let dim = self.row_elements(v)?;
        let template = Elementwise {
            rows: self.row_symbol(v)?,
            dim,
            map: region.map.clone(),
            extras: region.inputs(),
            y: View::dense(dim),
        };
        let mut args: Vec<GroupArg> = region.args().collect();
        args.push(GroupArg::Write(v));
        self.push(Template::Map(template), args, v);
        Ok(())
    }
}
