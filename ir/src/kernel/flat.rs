//! A kernel's body as data: one flat list, blocks closed by a mark, so that no input can make reading recurse without
//! bound.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Block, Ex, LoopId, Shared, Stmt, Var};

/// Most blocks inside one another. Kernels of the templates nest a few deep; passes over a body recurse.
const DEEPEST: usize = 64;

/// A statement, or the beginning or end of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Mark {
    Eval(Ex),
    Store { arg: u32, index: Ex, value: Ex },
    Set(Var, Ex),
    SharedSet(Shared, Ex, Ex),
    Barrier,
    If(Ex),
    Else,
    Loop { id: LoopId, from: Ex, to: Ex, step: u32 },
    End,
}

/// A statement whose blocks are still being read, with what was read before it.
enum Open {
    Then { cond: Ex },
    Otherwise { cond: Ex, then: Block },
    Loop { id: LoopId, from: Ex, to: Ex, step: u32 },
}

pub(super) fn serialize<S: Serializer>(body: &Block, serializer: S) -> Result<S::Ok, S::Error> {
    let mut marks = vec![];
    flatten(body, &mut marks);
    marks.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Block, D::Error> {
    nest(Vec::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn flatten(block: &Block, marks: &mut Vec<Mark>) {
    for stmt in block {
        match stmt {
            Stmt::Eval(e) => marks.push(Mark::Eval(*e)),
            Stmt::Store { arg, index, value } => marks.push(Mark::Store { arg: *arg, index: *index, value: *value }),
            Stmt::Set(var, value) => marks.push(Mark::Set(*var, *value)),
            Stmt::SharedSet(array, index, value) => marks.push(Mark::SharedSet(*array, *index, *value)),
            Stmt::Barrier => marks.push(Mark::Barrier),
            Stmt::If { cond, then, otherwise } => {
                marks.push(Mark::If(*cond));
                flatten(then, marks);
                marks.push(Mark::Else);
                flatten(otherwise, marks);
                marks.push(Mark::End);
            }
            Stmt::Loop { id, from, to, step, body } => {
                marks.push(Mark::Loop { id: *id, from: *from, to: *to, step: *step });
                flatten(body, marks);
                marks.push(Mark::End);
            }
        }
    }
}

fn nest(marks: Vec<Mark>) -> Result<Block, String> {
    let mut block: Block = vec![];
    // The blocks around it, each with the statement that it waits for.
    let mut around: Vec<(Block, Open)> = vec![];
    for mark in marks {
        match mark {
            Mark::Eval(e) => block.push(Stmt::Eval(e)),
            Mark::Store { arg, index, value } => block.push(Stmt::Store { arg, index, value }),
            Mark::Set(var, value) => block.push(Stmt::Set(var, value)),
            Mark::SharedSet(array, index, value) => block.push(Stmt::SharedSet(array, index, value)),
            Mark::Barrier => block.push(Stmt::Barrier),
            Mark::If(cond) => around.push((std::mem::take(&mut block), Open::Then { cond })),
            Mark::Loop { id, from, to, step } => {
                around.push((std::mem::take(&mut block), Open::Loop { id, from, to, step }));
            }
            Mark::Else => match around.pop() {
                Some((outer, Open::Then { cond })) => {
                    around.push((outer, Open::Otherwise { cond, then: std::mem::take(&mut block) }));
                }
                _ => return Err("a kernel's body has an `else` without its `if`".to_owned()),
            },
            Mark::End => {
                let (outer, open) = around.pop().ok_or("a kernel's body ends a block that was not begun")?;
                let inner = std::mem::replace(&mut block, outer);
                block.push(match open {
                    Open::Otherwise { cond, then } => Stmt::If { cond, then, otherwise: inner },
                    Open::Loop { id, from, to, step } => Stmt::Loop { id, from, to, step, body: inner },
                    Open::Then { .. } => return Err("a kernel's body has an `if` without its `else`".to_owned()),
                });
            }
        }
        if around.len() > DEEPEST {
            return Err(format!("a kernel's body nests more than {DEEPEST} blocks"));
        }
    }
    if around.is_empty() { Ok(block) } else { Err("a kernel's body does not end its blocks".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Block {
        let inner = Stmt::If { cond: Ex(3), then: vec![Stmt::Barrier], otherwise: vec![] };
        let set = Stmt::Set(Var(0), Ex(1));
        vec![
            Stmt::Eval(Ex(0)),
            Stmt::Loop { id: LoopId(0), from: Ex(0), to: Ex(1), step: 2, body: vec![inner, set.clone()] },
            Stmt::If { cond: Ex(4), then: vec![], otherwise: vec![set] },
            Stmt::Store { arg: 1, index: Ex(5), value: Ex(6) },
        ]
    }

    fn flat(body: &Block) -> Vec<Mark> {
        let mut marks = vec![];
        flatten(body, &mut marks);
        marks
    }

    #[test]
    fn nesting_undoes_flattening() {
        assert_eq!(nest(flat(&body())), Ok(body()));
    }

    #[test]
    fn blocks_that_do_not_close_are_refused() {
        let marks = flat(&body());
        for without in 0..marks.len() {
            let mut marks = marks.clone();
            let removed = marks.remove(without);
            let opens = matches!(removed, Mark::If(_) | Mark::Else | Mark::Loop { .. } | Mark::End);
            assert_eq!(nest(marks).is_err(), opens, "without {removed:?}");
        }
        let deep = vec![Mark::Loop { id: LoopId(0), from: Ex(0), to: Ex(0), step: 1 }; DEEPEST + 1];
        assert!(nest(deep).is_err_and(|e| e.contains("nests more than")));
    }
}
