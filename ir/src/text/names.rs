//! Names of values in texts and messages. A graph holds none: they follow from kinds, weights and ops, so that equal
//! graphs print alike.

use indexmap::IndexSet;

use super::group;
use crate::graph::{Arg, Def, Graph, ParamKind, Value, ValueInfo, WeightSlot};
use crate::ops::Op;

/// A name for every value of a function, all different: a parameter's after its kind, an op's after its weight (`q_proj`)
/// or, where it has none, after itself (`rope`); a second one of the same name gets a number (`rope_2`).
pub fn value_names(graph: &Graph) -> Vec<String> {
    let mut taken = IndexSet::new();
    for info in &graph.values {
        let base = base_name(graph, info);
        let mut name = base.clone();
        let mut n = 1;
        while !taken.insert(name.clone()) {
            n += 1;
            name = format!("{base}_{n}");
        }
    }
    taken.into_iter().collect()
}

/// The name of a value, also of one that does not exist.
pub fn value_name(names: &[String], v: Value) -> String {
    names.get(v.0 as usize).map_or_else(|| format!("%{}?", v.0), |n| format!("%{n}"))
}

fn base_name(graph: &Graph, info: &ValueInfo) -> String {
    match &info.def {
        Def::Param(i) => match graph.params.get(*i) {
            Some((ParamKind::Flow, _)) => "x".to_owned(),
            Some((ParamKind::Ids, _)) => "ids".to_owned(),
            Some((ParamKind::RopeTable(table), _)) => format!("rope{table}"),
            Some((ParamKind::State(0), _)) => "state".to_owned(),
            Some((ParamKind::State(i), _)) => format!("state{i}"),
            None => "param".to_owned(),
        },
        Def::Node { op, args } => {
            let slot = args.iter().find_map(|a| match a {
                Arg::Weight(w) => Some(*w),
                Arg::Value(_) => None,
            });
            match slot.map(|slot| weight_word(graph, slot)) {
                Some(word) if !word.is_empty() && *op == Op::Bias => format!("{word}_bias"),
                Some(word) if !word.is_empty() => word,
                _ => word_of(op.name()),
            }
        }
    }
}

/// The module that a weight belongs to: `q_proj` of `self_attn.q_proj.weight`, `q_k_v_proj` of three merged ones.
fn weight_word(graph: &Graph, slot: WeightSlot) -> String {
    let Some(decl) = graph.weights.get(slot.0 as usize) else { return String::new() };
    let mut words: Vec<String> = vec![];
    for name in &decl.names {
        let name = name.split_once('#').map_or(name.as_str(), |(tensor, _)| tensor);
        let module = name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name);
        let word = module.rsplit('.').next().unwrap_or_default().to_owned();
        if !words.contains(&word) {
            words.push(word);
        }
    }
    word_of(&group::join(&words))
}

/// The letters and digits of a text, with `_` between them where something else stands.
fn word_of(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    words.join("_")
}
