//! Random modules: they verify, they survive printing and parsing, and they run.

mod random;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use swiftlm_ir::graph::Def;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::ops::Op;
use swiftlm_ir::reference::{Session, Token, WeightBytes};
use swiftlm_ir::text::{parse, parse_graph, print, print_graph};
use swiftlm_ir::verify::verify;

/// Small numbers of every format: code bytes of all kinds, scales and biases of ±2⁻⁷.
struct Noise;

impl WeightBytes for Noise {
    fn bytes(&self, _: &[String], ty: &WeightType) -> Result<Vec<u8>, String> {
        let layout = ty.format.layout(ty.rows, ty.cols);
        // 0x3c00 is 2⁻⁷ as bf16, 1 as f16 and the upper half of 2⁻⁷ as f32.
        let mut bytes: Vec<u8> = [0x00u8, 0x3c, 0x00, 0x3c].into_iter().cycle().take(layout.bytes).collect();
        let codes = &layout.components[0];
        if layout.components.len() > 1 {
            bytes[codes.offset..codes.bytes].iter_mut().enumerate().for_each(|(i, b)| *b = (i * 37) as u8);
        }
        Ok(bytes)
    }
}

#[test]
fn random_modules_use_every_op_and_every_turn_of_the_language() {
    let mut runner = TestRunner::deterministic();
    let mut ops = BTreeSet::new();
    let mut texts = String::new();
    for _ in 0..200 {
        let module = random::module().new_tree(&mut runner).expect("nothing is filtered out").current();
        texts.push_str(&print(&module));
        for info in module.funcs.iter().flat_map(|f| &f.values) {
            if let Def::Node { op, .. } = &info.def {
                ops.insert(op.name());
            }
        }
    }
    assert_eq!(ops, Op::NAMES.iter().copied().collect());
    for turn in
        ["param %rope0", "param %rope1", "state 0..", "#{7..11}", "experts.{0..4}", "{q", "@\"quo\\\"te", "affine3"]
    {
        assert!(texts.contains(turn), "{turn}");
    }
}

proptest! {
    #[test]
    fn modules_survive_printing_and_parsing(module in random::module()) {
        prop_assert_eq!(verify(&module), Ok(()));
        let text = print(&module);
        let parsed = parse(&text).map_err(|e| TestCaseError::fail(format!("{}\n{text}", e[0])))?;
        prop_assert_eq!(&parsed, &module);
        prop_assert_eq!(print(&parsed), text);
    }

    #[test]
    fn functions_survive_on_their_own(module in random::module()) {
        for graph in &module.funcs {
            let text = print_graph(graph);
            let parsed = parse_graph(&text).map_err(|e| TestCaseError::fail(format!("{}\n{text}", e[0])))?;
            prop_assert_eq!(&parsed, graph);
        }
    }

    #[test]
    fn types_that_follow_may_be_left_out(module in random::module()) {
        let text = print(&module);
        // Behind the ` : ` of an op stands its type, then the place.
        let shorter: Vec<String> = text.lines().map(|line| match line.split_once(" : ") {
            Some((op, rest)) => format!("{op}{}", rest.find(" @").map_or("", |i| &rest[i..])),
            None => line.to_owned(),
        }).collect();
        prop_assert_eq!(parse(&shorter.join("\n")), Ok(module));
    }

    #[test]
    fn what_verifies_runs_and_chunks_change_nothing(module in random::module()) {
        let token = |sequence, position: u32| Token { id: position % module.vocabulary as u32, sequence, position };
        let tokens: Vec<Token> = (0..3).map(|i| token(5, i)).collect();
        let mut whole = Session::new(&module, &Noise).expect("a random module verifies");
        let logits = whole.step(&tokens, &[0, 1, 2]).expect("a random module runs");
        prop_assert_eq!(logits.len(), 3);
        prop_assert!(logits.iter().all(|row| row.len() == module.vocabulary));
        // One token at a time, with another sequence beside it.
        let mut single = Session::new(&module, &Noise).expect("a random module verifies");
        for (i, t) in tokens.iter().enumerate() {
            let other = token(9, t.position);
            let row = single.step(&[other, *t], &[1]).expect("a random module runs");
            prop_assert_eq!(format!("{:?}", row[0]), format!("{:?}", logits[i]));
        }
    }
}
