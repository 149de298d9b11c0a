//! Sessions on a model small enough to be worked out on paper, and single functions on tensors at hand.

use std::rc::Rc;

use swiftlm_ir::graph::{Module, WeightType};
use swiftlm_ir::quant::Format;
use swiftlm_ir::reference::{HostState, HostTensor, HostValue, Session, Step, Token, WeightBytes, eval_graph};
use swiftlm_ir::text::{parse, parse_graph};
use swiftlm_ir::ty::StateType;

/// One layer that attends with equal scores to all that it has seen: with keys of 0 the result is the mean of the values.
const MEAN: &str = r#"slir 1
vocabulary 2
state 0 = paged(heads=1, dim=2, k=f16, v=f16)
func @embed(%ids: ids u32[T]) {
  w"embed": f32[2,2]
  %x = embed %ids, w"embed" {scale=1}
  return %x
}
func @layer(%x: flow f32[T,2], %s: state paged(heads=1, dim=2, k=f16, v=f16)) {
  %zero = scale %x {factor=0}
  %k = split_heads %zero {heads=1}
  %v = split_heads %x {heads=1}
  %s2 = kv.append! %s, %k, %v
  %keys = kv.k %s2
  %values = kv.v %s2
  %a = attend %v, %keys, %values {scale=1, window=0, cap=0}
  %y = merge_heads %a
  return %y, %s2
}
func @head(%x: flow f32[T,2]) {
  w"head": f32[2,2]
  %r = rows %x
  %logits = linear %r, w"head"
  %greedy = arg_max %logits
  return %logits, %greedy
}
main {
  call @embed ""
  call @layer "layer" state 0
  call @head ""
}
"#;

/// Embedding rows (1, 0) and (0, 1); the head gives (a, a + 2b).
struct Weights;

impl WeightBytes for Weights {
    fn bytes(&self, names: &[String], ty: &WeightType) -> Result<Vec<u8>, String> {
        assert_eq!((ty.format, ty.rows, ty.cols), (Format::F32, 2, 2));
        let matrix: [f32; 4] = match names[0].as_str() {
            "embed" => [1.0, 0.0, 0.0, 1.0],
            "head" => [1.0, 0.0, 1.0, 2.0],
            other => return Err(format!("there is no tensor `{other}`")),
        };
        Ok(matrix.iter().flat_map(|x| x.to_le_bytes()).collect())
    }
}

fn mean() -> Module {
    parse(MEAN).expect("the text is right")
}

fn token(sequence: u32, position: u32, id: u32) -> Token {
    Token { id, sequence, position }
}

#[test]
fn a_model_worked_out_on_paper() {
    let module = mean();
    let mut s = Session::new(&module, &Weights).expect("the module is good");
    // Two sequences in one step; sequence 1 says 0, 1, 1 and sequence 2 says 1.
    let step = [token(1, 0, 0), token(2, 0, 1), token(1, 1, 1), token(1, 2, 1)];
    let logits = s.step(&step, &[0, 3, 2, 1]).expect("the step is good");
    // Means of (1, 0) and (0, 1): after one, three, two; the thirds are rounded by nothing but the f32 result.
    let third = (1.0f64 / 3.0) as f32;
    let two_thirds = (2.0f64 / 3.0) as f32;
    let three = [third, (f64::from(third) + 2.0 * f64::from(two_thirds)) as f32];
    assert_eq!(logits, [vec![1.0, 1.0], three.to_vec(), vec![0.5, 1.5], vec![0.0, 2.0]]);
    // The next step of sequence 2 knows its first.
    assert_eq!(s.step(&[token(2, 1, 0)], &[0]), Ok(vec![vec![0.5, 1.5]]));
    assert_eq!((s.len(1), s.len(2), s.len(3)), (3, 2, 0));
}

#[test]
fn what_does_not_follow_on_is_refused_and_changes_nothing() {
    let module = mean();
    let mut s = Session::new(&module, &Weights).expect("the module is good");
    s.step(&[token(1, 0, 0)], &[]).expect("the step is good");
    let refused = |s: &mut Session<'_>, tokens: &[Token], rows: &[usize], message: &str| {
        assert_eq!(s.step(tokens, rows), Err(message.to_owned()));
    };
    refused(&mut s, &[token(1, 0, 1)], &[], "sequence 1: expected a token at position 1, got 0");
    refused(&mut s, &[token(1, 1, 1), token(1, 3, 1)], &[], "sequence 1: expected a token at position 2, got 3");
    refused(&mut s, &[token(1, 1, 2)], &[], "token 2 is not in a vocabulary of 2");
    refused(&mut s, &[token(1, 1, 1)], &[1], "row 1 wants logits in a step of 1 tokens");
    assert_eq!(s.step(&[token(1, 1, 1)], &[0]), Ok(vec![vec![0.5, 1.5]]));
    s.forget(1);
    assert_eq!(s.step(&[token(1, 0, 1)], &[0]), Ok(vec![vec![0.0, 2.0]]));
}

#[test]
fn bad_modules_and_bad_weights_are_refused() {
    let mut module = mean();
    module.funcs[2].weights[0].names = vec!["tail".to_owned()];
    let mut s = Session::new(&module, &Weights).expect("the module is good");
    assert_eq!(s.step(&[token(1, 0, 0)], &[0]), Err("there is no tensor `tail`".to_owned()));
    module.main.pop();
    let error = Session::new(&module, &Weights).expect_err("nothing gives logits");
    assert!(error.contains("results: expected f32[R,2], u32[R]"), "{error}");

    struct Short;
    impl WeightBytes for Short {
        fn bytes(&self, _: &[String], _: &WeightType) -> Result<Vec<u8>, String> {
            Ok(vec![0; 12])
        }
    }
    let module = mean();
    let mut s = Session::new(&module, &Short).expect("the module is good");
    let error = s.step(&[token(1, 0, 0)], &[0]).expect_err("the bytes are too few");
    assert_eq!(error, "weight `embed`: expected 16 bytes of f32[2,2], got 12");
}

#[test]
fn a_function_is_evaluated_on_tensors_at_hand() {
    // The rule `xWᵀ + yWᵀ = (x + y)Wᵀ`, both sides.
    let text = |body: &str| {
        parse_graph(&format!("func @f(%x: flow f32[T,2], %y: rope(0) f32[T,2]) {{\n w\"w\": f32[3,2]\n{body}\n}}"))
            .expect("the text is right")
    };
    let left = text(" %a = linear %x, w\"w\"\n %b = linear %y, w\"w\"\n %c = add %a, %b\n return %c");
    let right = text(" %a = add %x, %y\n %b = linear %a, w\"w\"\n return %b");
    let tokens = [token(0, 0, 0), token(0, 1, 0)];
    let step = Step { tokens: &tokens, rows: &[] };
    let tensor = |data: [f32; 4]| HostValue::from(HostTensor::f32(&[2, 2], data.to_vec()));
    let weights = [Rc::from([1.0f32, 0.0, 0.0, 1.0, 2.0, -3.0])];
    for graph in [left, right] {
        let params = vec![tensor([1.0, 2.0, 3.0, 4.0]), tensor([10.0, 20.0, 30.0, 40.0])];
        let results = eval_graph(&graph, params, &weights, &step).expect("the inputs fit");
        let expected = HostTensor::f32(&[2, 3], vec![11.0, 22.0, -44.0, 33.0, 44.0, -66.0]);
        assert_eq!(results[0].tensor(), Some(&expected));
    }
}

#[test]
fn a_state_that_is_passed_in_stays_as_it_was() {
    let layer = &mean().funcs[1];
    let ty =
        StateType::Paged { window: 0, heads: 1, dim: 2, k: Format::F16, v: Format::F16, latent: None, archive: None };
    let before = Rc::new(HostState::new(&ty));
    let tokens = [token(4, 0, 0)];
    let step = Step { tokens: &tokens, rows: &[] };
    let x = HostValue::from(HostTensor::f32(&[1, 2], vec![3.0, 4.0]));
    let results = eval_graph(layer, vec![x, HostValue::State(before.clone())], &[], &step).expect("the inputs fit");
    let HostValue::State(after) = &results[1] else { panic!("the second result is the state") };
    assert_eq!((before.len(4), after.len(4)), (0, 1));
}

#[test]
fn inputs_of_other_types_are_refused() {
    let graph = parse_graph("func @f(%x: flow f32[T,2]) {\n  return %x\n}").expect("the text is right");
    let tokens = [token(0, 0, 0)];
    let step = Step { tokens: &tokens, rows: &[] };
    for wrong in [
        HostTensor::f32(&[2, 2], vec![0.0; 4]),
        HostTensor::f32(&[1, 2], vec![0.0; 3]),
        HostTensor::u32(&[1, 2], vec![0; 2]),
    ] {
        let error = eval_graph(&graph, vec![wrong.into()], &[], &step).expect_err("the tensor does not fit");
        assert_eq!(error, "@f: the value given for parameter 0 is not a f32[T,2] in this step");
    }
    assert!(eval_graph(&graph, vec![], &[], &step).is_err());
}
