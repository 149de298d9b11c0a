//! Printing of kernels: one line per statement. Constants, lane, group and counters stand where they are used, and so
//! does arithmetic that is used once; every read and write of memory keeps a line of its own.

use std::fmt::Write;

use super::print::at;
use crate::kernel::{
    Access, Binary, Block, DataBound, Ex, Expr, Immediate, KType, Kernel, Length, ReduceOp, Scalar, Stmt, Unary, Var,
};

/// Characters of arithmetic that may stand inside a line.
const INSIDE: usize = 60;

/// The text of a kernel.
pub fn print_kernel(kernel: &Kernel) -> String {
    let mut p = Printer {
        kernel,
        out: String::new(),
        indent: 0,
        uses: uses(kernel),
        named: vec![None; kernel.exprs.len()],
        waiting: vec![],
        count: 0,
    };
    let [tokens, rows, stride] = kernel.immediate_max;
    p.line(&format!(
        "kernel {}#{} lanes={} max(T={tokens}, R={rows}, table_stride={stride}) {{",
        at(&kernel.name),
        kernel.key(),
        kernel.lanes
    ));
    p.indent += 1;
    for (i, arg) in kernel.args.iter().enumerate() {
        let access = match arg.access {
            Access::Read => "read",
            Access::ReadWrite => "read_write",
        };
        let length = match arg.len {
            Length::Elements(n) => n.to_string(),
            Length::Units(n) => format!("units of {n}"),
            Length::PageTable => "page_table".to_owned(),
        };
        p.line(&format!("arg {i} {}: {access} {}[{length}]", arg.name, ktype(arg.elem)));
    }
    for (i, array) in kernel.shared.iter().enumerate() {
        p.line(&format!("shared s{i}: {}[{}]", ktype(array.elem), array.len));
    }
    let mut first = 0;
    for run in kernel.vars.chunk_by(|a, b| a == b) {
        let name = if run.len() == 1 { format!("v{first}") } else { format!("v{first}..v{}", first + run.len()) };
        p.line(&format!("var {name}: {}", ktype(run[0])));
        first += run.len();
    }
    p.block(&kernel.body);
    p.indent -= 1;
    p.line("}");
    p.out
}

/// The type in texts: `f32`, `u32x4`.
fn ktype(ty: KType) -> String {
    let scalar = match ty.scalar {
        Scalar::F32 => "f32",
        Scalar::U32 => "u32",
        Scalar::Bool => "bool",
    };
    if ty.width == 1 { scalar.to_owned() } else { format!("{scalar}x{}", ty.width) }
}

/// How often each expression is an operand.
fn uses(kernel: &Kernel) -> Vec<u32> {
    let mut uses = vec![0; kernel.exprs.len()];
    let mut count = |e: Ex| {
        if let Some(n) = uses.get_mut(e.0 as usize) {
            *n += 1;
        }
    };
    kernel.exprs.iter().for_each(|e| operands(e).into_iter().for_each(&mut count));
    let mut blocks: Vec<&Block> = vec![&kernel.body];
    while let Some(block) = blocks.pop() {
        for stmt in block {
            match stmt {
                Stmt::Eval(_) | Stmt::Barrier => {}
                Stmt::Set(_, value) => count(*value),
                Stmt::Store { index, value, .. } | Stmt::SharedSet(_, index, value) => {
                    count(*index);
                    count(*value);
                }
                Stmt::If { cond, then, otherwise } => {
                    count(*cond);
                    blocks.extend([then, otherwise]);
                }
                Stmt::Loop { from, to, body, .. } => {
                    count(*from);
                    count(*to);
                    blocks.push(body);
                }
            }
        }
    }
    uses
}

fn operands(e: &Expr) -> Vec<Ex> {
    match *e {
        Expr::F32(_)
        | Expr::U32(_)
        | Expr::Bool(_)
        | Expr::Immediate(_)
        | Expr::GroupId(_)
        | Expr::Lane
        | Expr::Counter(_)
        | Expr::Get(_) => vec![],
        Expr::Unary(_, a) | Expr::Splat(a, _) | Expr::Extract(a, _) | Expr::Trust(a, _) => vec![a],
        Expr::Load { index, .. } => vec![index],
        Expr::SharedGet(_, index) => vec![index],
        Expr::Reduce { value, .. } => vec![value],
        Expr::Binary(_, a, b) | Expr::Dot(a, b) => vec![a, b],
        Expr::Fma(a, b, c) | Expr::Select { cond: a, yes: b, no: c } => vec![a, b, c],
        Expr::Compose4(parts) => parts.to_vec(),
    }
}

/// The text of an expression that is the same wherever it stands.
fn leaf(e: &Expr) -> Option<String> {
    Some(match e {
        Expr::F32(x) => format!("{x:?}"),
        // Numbers of this size are masks.
        Expr::U32(n) if *n >= 1 << 28 => format!("{n:#x}"),
        Expr::U32(n) => n.to_string(),
        Expr::Bool(b) => b.to_string(),
        Expr::Immediate(i) => immediate(*i).to_owned(),
        Expr::GroupId(axis) => format!("group.{}", ["x", "y", "z"].get(*axis as usize).unwrap_or(&"?")),
        Expr::Lane => "lane".to_owned(),
        Expr::Counter(id) => format!("i{}", id.0),
        _ => return None,
    })
}

fn immediate(i: Immediate) -> &'static str {
    match i {
        Immediate::Tokens => "T",
        Immediate::Rows => "R",
        Immediate::TableStride => "table_stride",
    }
}

/// Arithmetic on its way into the line that uses it.
struct Waiting {
    ex: Ex,
    text: String,
    /// Whether it needs brackets as an operand.
    compound: bool,
    /// Variables it reads: it must not pass their change.
    vars: Vec<Var>,
}

struct Printer<'k> {
    kernel: &'k Kernel,
    out: String,
    indent: usize,
    uses: Vec<u32>,
    named: Vec<Option<String>>,
    waiting: Vec<Waiting>,
    count: usize,
}

impl Printer<'_> {
    fn line(&mut self, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{:1$}{text}", "", 2 * self.indent);
    }

    /// Gives an expression a line and a name.
    fn name(&mut self, ex: Ex, text: &str) {
        let ty = self.kernel.types.get(ex.0 as usize).map_or_else(|| "?".to_owned(), |ty| ktype(*ty));
        self.line(&format!("%{}: {ty} = {text}", self.count));
        if let Some(named) = self.named.get_mut(ex.0 as usize) {
            *named = Some(format!("%{}", self.count));
        }
        self.count += 1;
    }

    /// Gives lines to what waits and `must` not any longer, in the order in which it was evaluated.
    fn flush(&mut self, must: impl Fn(&Waiting) -> bool) {
        let (now, later) = std::mem::take(&mut self.waiting).into_iter().partition(must);
        self.waiting = later;
        let now: Vec<Waiting> = now;
        for w in now {
            self.name(w.ex, &w.text);
        }
    }

    /// An operand's text; what it reads is noted in `vars`.
    fn operand(&mut self, ex: Ex, bracket: bool, vars: &mut Vec<Var>) -> String {
        if let Some(at) = self.waiting.iter().position(|w| w.ex == ex) {
            let w = self.waiting.remove(at);
            vars.extend(w.vars);
            return if bracket && w.compound { format!("({})", w.text) } else { w.text };
        }
        let known = self.kernel.exprs.get(ex.0 as usize).and_then(leaf);
        known.or_else(|| self.named.get(ex.0 as usize).cloned().flatten()).unwrap_or_else(|| format!("%?{}", ex.0))
    }

    /// Operands of a call or a statement.
    fn arguments(&mut self, of: &[Ex], vars: &mut Vec<Var>) -> Vec<String> {
        of.iter().map(|e| self.operand(*e, false, vars)).collect()
    }

    fn eval(&mut self, ex: Ex) {
        let Some(expr) = self.kernel.exprs.get(ex.0 as usize) else { return };
        if leaf(expr).is_some() {
            return;
        }
        let mut vars = vec![];
        let (text, compound) = self.expression(expr, &mut vars);
        let memory = matches!(expr, Expr::Load { .. } | Expr::SharedGet(..) | Expr::Reduce { .. });
        if !memory && self.uses[ex.0 as usize] == 1 && text.len() <= INSIDE {
            self.waiting.push(Waiting { ex, text, compound, vars });
        } else {
            self.name(ex, &text);
        }
    }

    /// The text of an expression, and whether it needs brackets as an operand.
    fn expression(&mut self, expr: &Expr, vars: &mut Vec<Var>) -> (String, bool) {
        let call = |p: &mut Self, name: &str, of: &[Ex], vars: &mut Vec<Var>| {
            (format!("{name}({})", p.arguments(of, vars).join(", ")), false)
        };
        match *expr {
            Expr::Unary(op, a) => match op {
                Unary::Neg => (format!("-{}", self.operand(a, true, vars)), true),
                Unary::Not => (format!("!{}", self.operand(a, true, vars)), true),
                _ => call(self, unary(op), &[a], vars),
            },
            Expr::Binary(op, a, b) => match infix(op) {
                Some(sign) => (format!("{} {sign} {}", self.operand(a, true, vars), self.operand(b, true, vars)), true),
                None => call(self, function(op), &[a, b], vars),
            },
            Expr::Fma(a, b, c) => call(self, "fma", &[a, b, c], vars),
            Expr::Select { cond, yes, no } => call(self, "select", &[cond, yes, no], vars),
            Expr::Splat(a, width) => call(self, &format!("splat{width}"), &[a], vars),
            Expr::Compose4(parts) => call(self, "vec4", &parts, vars),
            Expr::Dot(a, b) => call(self, "dot", &[a, b], vars),
            Expr::Extract(a, i) => {
                let part = ["x", "y", "z", "w"].get(i as usize).unwrap_or(&"?");
                (format!("{}.{part}", self.operand(a, true, vars)), false)
            }
            Expr::Load { arg, index } => {
                let name = self.kernel.args.get(arg as usize).map_or("?", |a| a.name.as_str());
                (format!("{name}[{}]", self.operand(index, false, vars)), false)
            }
            Expr::Get(var) => {
                vars.push(var);
                (format!("v{}", var.0), false)
            }
            Expr::SharedGet(s, index) => (format!("s{}[{}]", s.0, self.operand(index, false, vars)), false),
            Expr::Reduce { op, value, width } => {
                let name = match op {
                    ReduceOp::Sum => "sum",
                    ReduceOp::Max => "max",
                };
                (format!("reduce_{name}({}, lanes={width})", self.operand(value, false, vars)), false)
            }
            Expr::Trust(a, bound) => {
                let bound = match bound {
                    DataBound::Below(n) => n.to_string(),
                    DataBound::BelowUnits(arg) => {
                        format!("units of {}", self.kernel.args.get(arg as usize).map_or("?", |a| a.name.as_str()))
                    }
                    DataBound::BelowImmediate(i) => immediate(i).to_owned(),
                };
                (format!("trust({} < {bound})", self.operand(a, true, vars)), false)
            }
            // Leaves never come here.
            _ => (String::new(), false),
        }
    }

    fn block(&mut self, block: &Block) {
        for stmt in block {
            self.stmt(stmt);
        }
        self.flush(|_| true);
    }

    fn inner(&mut self, block: &Block) {
        self.indent += 1;
        self.block(block);
        self.indent -= 1;
    }

    fn stmt(&mut self, stmt: &Stmt) {
        let vars = &mut vec![];
        match stmt {
            Stmt::Eval(ex) => self.eval(*ex),
            Stmt::Set(var, value) => {
                let value = self.operand(*value, false, vars);
                self.flush(|w| w.vars.contains(var));
                self.line(&format!("v{} = {value}", var.0));
            }
            Stmt::Store { arg, index, value } => {
                let texts = self.arguments(&[*index, *value], vars);
                let name = self.kernel.args.get(*arg as usize).map_or("?", |a| a.name.as_str());
                self.line(&format!("{name}[{}] = {}", texts[0], texts[1]));
            }
            Stmt::SharedSet(shared, index, value) => {
                let texts = self.arguments(&[*index, *value], vars);
                self.line(&format!("s{}[{}] = {}", shared.0, texts[0], texts[1]));
            }
            Stmt::If { cond, then, otherwise } => {
                let cond = self.operand(*cond, false, vars);
                self.flush(|_| true);
                self.line(&format!("if {cond} {{"));
                self.inner(then);
                if !otherwise.is_empty() {
                    self.line("} else {");
                    self.inner(otherwise);
                }
                self.line("}");
            }
            Stmt::Loop { id, from, to, step, body } => {
                let (from, to) = (self.operand(*from, true, vars), self.operand(*to, true, vars));
                self.flush(|_| true);
                let step = if *step == 1 { String::new() } else { format!(" step {step}") };
                self.line(&format!("for i{} in {from}..{to}{step} {{", id.0));
                self.inner(body);
                self.line("}");
            }
            Stmt::Barrier => self.line("barrier"),
        }
    }
}

fn unary(op: Unary) -> &'static str {
    match op {
        Unary::Neg => "neg",
        Unary::Not => "not",
        Unary::Exp => "exp",
        Unary::InverseSqrt => "rsqrt",
        Unary::Sqrt => "sqrt",
        Unary::Tanh => "tanh",
        Unary::Abs => "abs",
        Unary::ToF32 => "f32",
        Unary::ToU32 => "u32",
        Unary::Bitcast => "bits",
        Unary::HalfLow => "half_low",
        Unary::HalfHigh => "half_high",
    }
}

/// The sign of an operator that stands between its operands.
fn infix(op: Binary) -> Option<&'static str> {
    Some(match op {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::Rem => "%",
        Binary::And => "&",
        Binary::Or => "|",
        Binary::Xor => "^",
        Binary::Shl => "<<",
        Binary::Shr => ">>",
        Binary::Less => "<",
        Binary::LessEqual => "<=",
        Binary::Equal => "==",
        Binary::Min | Binary::Max | Binary::PackHalf => return None,
    })
}

/// The name of one that stands before them.
fn function(op: Binary) -> &'static str {
    match op {
        Binary::Min => "min",
        Binary::Max => "max",
        _ => "pack_half",
    }
}
