//! One good module, broken in every way: each defect is named, with its function, value and place, and nothing else is.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::graph::{Arg, Call, Def, Graph, Module, ParamKind, Value, ValueInfo, WeightDecl, WeightSlot};
use swiftlm_ir::ops::Op;
use swiftlm_ir::quant::{Affine, Float, Format};
use swiftlm_ir::text::{names, parse, parse_graph};
use swiftlm_ir::ty::{DType, StateType, TensorType, Type};
use swiftlm_ir::verify::{Defect, VerifyError, verify, verify_graph};

const MODULE: &str = r#"slir 1
vocabulary 8
rope 0 = magnitude 1 [1, 0.1]
state 0..2 = paged(heads=1, dim=4, k=f16, v=f16)
func @embed(%ids: ids u32[T]) {
  w"embed.weight": bf16[8,32]
  %embed = embed %ids, w"embed.weight" {scale=1}
  return %embed
}
func @layer(%x: flow f32[T,32], %state: state paged(heads=1, dim=4, k=f16, v=f16), %rope0: rope(0) f32[T,4]) {
  w"k_proj.weight": affine4_g32_bf16[4,32]
  w"o_proj.weight": f32[32,4]
  %k_proj = linear %x, w"k_proj.weight" @attn.k_proj
  %split_heads = split_heads %k_proj {heads=1} @attn
  %rope = rope %split_heads, %rope0 {start=0, dim=4, layout=half} @attn
  %kv_append = kv.append! %state, %rope, %split_heads @attn
  %kv_k = kv.k %kv_append @attn
  %kv_v = kv.v %kv_append @attn
  %attend = attend %rope, %kv_k, %kv_v {scale=0.5, window=0, cap=0} @attn
  %merge_heads = merge_heads %attend @attn
  %o_proj = linear %merge_heads, w"o_proj.weight" @attn.o_proj
  %add = add %x, %o_proj
  return %add, %kv_append
}
func @head(%x: flow f32[T,32]) {
  w"head.weight": f16[8,32]
  %rows = rows %x
  %head = linear %rows, w"head.weight"
  %arg_max = arg_max %head
  return %head, %arg_max
}
main {
  call @embed ""
  call @layer "layers.{0..2}" state 0..2
  call @head ""
}
"#;

const LAYER: usize = 1;

fn module() -> Module {
    parse(MODULE).expect("the text is right")
}

/// The value of this name.
fn value(g: &Graph, name: &str) -> Value {
    let at = names::value_names(g).iter().position(|n| n == name).expect("the function has this value");
    Value(at as u32)
}

fn info<'m>(m: &'m mut Module, name: &str) -> &'m mut ValueInfo {
    let v = value(&m.funcs[LAYER], name);
    &mut m.funcs[LAYER].values[v.0 as usize]
}

fn args<'m>(m: &'m mut Module, name: &str) -> &'m mut Vec<Arg> {
    match &mut info(m, name).def {
        Def::Node { args, .. } => args,
        Def::Param(_) => panic!("{name} is a parameter"),
    }
}

/// Breaks the module and expects errors that read like this, all of them, in order.
fn broken(break_it: impl FnOnce(&mut Module), expected: &[&str]) -> Vec<VerifyError> {
    let mut m = module();
    break_it(&mut m);
    let errors = verify(&m).expect_err("the module is broken");
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
    errors
}

#[test]
fn the_module_is_good() {
    assert_eq!(verify(&module()), Ok(()));
}

#[test]
fn types_must_follow() {
    let errors = broken(
        |m| info(m, "k_proj").ty = Type::Tensor(TensorType::new(DType::F32, [Sym::Tokens.into(), 8.into()])),
        &[
            "@layer %k_proj (at attn.k_proj): its type is f32[T,8], but its arguments give f32[T,4]",
            "@layer %split_heads (at attn): its type is f32[T,1,4], but its arguments give f32[T,1,8]",
        ],
    );
    assert!(matches!(errors[0].defect, Defect::Type { .. }));
    broken(
        |m| *args(m, "merge_heads") = vec![],
        &["@layer %merge_heads (at attn): `merge_heads`: number of arguments: expected x, got 0"],
    );
    broken(
        |m| args(m, "k_proj").reverse(),
        &["@layer %k_proj (at attn.k_proj): `linear`: argument 0 of (x, w) must be a tensor"],
    );
    broken(
        |m| {
            info(m, "split_heads").def = Def::Node { op: Op::SplitHeads { heads: 3 }, args: vec![Arg::Value(Value(3))] }
        },
        &["@layer %split_heads (at attn): `split_heads`: heads: expected a divisor of 4, got 3"],
    );
}

#[test]
fn types_must_be_possible() {
    broken(
        |m| info(m, "merge_heads").ty = Type::Tensor(TensorType::new(DType::F32, [])),
        &[
            "@layer %merge_heads (at attn): f32[]: expected 1 to 4294967295 elements for each token",
            "@layer %merge_heads (at attn): its type is f32[], but its arguments give f32[T,4]",
        ],
    );
    broken(
        |m| m.funcs[LAYER].weights[0].ty.cols = 48,
        &[
            "@layer %k_proj (at attn.k_proj): `linear`: inner extent: expected 48, got f32[T,32]",
            "@layer w\"k_proj.weight\": rows of 48 elements do not divide into groups of 32",
        ],
    );
    broken(
        |m| m.funcs[LAYER].weights[1].ty.rows = 0,
        &[
            "@layer %o_proj (at attn.o_proj): its type is f32[T,32], but its arguments give f32[T,0]",
            "@layer w\"o_proj.weight\": expected 1 to 4294967295 elements, got f32[0,4]",
        ],
    );
    broken(|m| m.funcs[LAYER].weights[1].names.clear(), &["@layer w\"{}\": a weight of no tensor"]);
}

#[test]
fn arguments_must_exist_and_come_before() {
    broken(
        |m| args(m, "rope")[0] = Arg::Value(Value(99)),
        &["@layer %rope (at attn): argument 0 is %99?, which does not exist"],
    );
    broken(
        |m| {
            let add = value(&m.funcs[LAYER], "add");
            args(m, "rope")[0] = Arg::Value(add);
        },
        &["@layer %rope (at attn): argument 0 is %add, which comes later"],
    );
    broken(
        |m| {
            let rope = value(&m.funcs[LAYER], "rope");
            args(m, "rope")[0] = Arg::Value(rope);
        },
        &["@layer %rope (at attn): argument 0 is %rope, which comes later"],
    );
    broken(
        |m| args(m, "o_proj")[1] = Arg::Weight(WeightSlot(7)),
        &[
            "@layer %linear (at attn.o_proj): argument 1 is weight 7, which does not exist",
            "@layer w\"o_proj.weight\": no op uses it",
        ],
    );
}

#[test]
fn parameters_must_be_as_listed() {
    broken(|m| m.funcs[LAYER].params.truncate(2), &["@layer %param: is not parameter 2 of the function"]);
    broken(
        |m| m.funcs[LAYER].params[2].1 = Value(0),
        &[
            "@layer %rope0: is not parameter 2 of the function",
            "@layer %x: stands in the list as parameter 2, which it is not",
            "@layer %rope0: rope table 0 rotates 4 elements, the parameter is f32[T,32]",
        ],
    );
}

#[test]
fn states_are_linear() {
    let append_again = |m: &mut Module| {
        let g = &mut m.funcs[LAYER];
        let mut again = g.values[value(g, "kv_append").0 as usize].clone();
        again.loc = "again".to_owned();
        g.values.push(again);
        Value(g.values.len() as u32 - 1)
    };
    let errors = broken(
        |m| {
            append_again(m);
        },
        &[
            "@layer %kv_append_2 (at again): consumes %state, which %kv_append has consumed",
            "@layer %kv_append_2 (at again): is the last version of the state, but no result",
        ],
    );
    assert!(matches!(errors[0].defect, Defect::ConsumedTwice { .. }));
    broken(
        |m| {
            // The second append continues the first, but the first is still returned.
            let first = value(&m.funcs[LAYER], "kv_append");
            let second = append_again(m);
            let g = &mut m.funcs[LAYER];
            if let Def::Node { args, .. } = &mut g.values[second.0 as usize].def {
                args[0] = Arg::Value(first);
            }
        },
        &[
            "@layer %kv_append_2 (at again): is the last version of the state, but no result",
            "@layer: results: expected the last version of the state, got %kv_append",
        ],
    );
    broken(
        |m| args(m, "kv_v")[0] = Arg::Value(Value(1)),
        &[
            "@layer %kv_v (at attn): reads %state after %kv_append has consumed it",
            "@layer %attend (at attn): reads %state after %kv_append has consumed it",
        ],
    );
    broken(
        |m| {
            m.funcs[LAYER].results.pop();
        },
        &[
            "@layer %kv_append (at attn): is the last version of the state, but no result",
            "main call 1 of @layer (at layers.0): results: expected the state paged(heads=1, dim=4, k=f16, v=f16), got none",
            "main call 2 of @layer (at layers.1): results: expected the state paged(heads=1, dim=4, k=f16, v=f16), got none",
        ],
    );
    broken(
        |m| m.funcs[LAYER].results.reverse(),
        &["@layer: results: expected tensors, then the states, got paged(heads=1, dim=4, k=f16, v=f16), f32[T,32]"],
    );
}

#[test]
fn results_must_exist() {
    broken(
        |m| m.funcs[LAYER].results.insert(0, Value(50)),
        &["@layer: results: expected values of the function, got %50?"],
    );
    broken(
        |m| m.funcs[LAYER].results.insert(0, Value(0)),
        &[
            "main call 1 of @layer (at layers.0): results: expected one tensor that flows on, got f32[T,32], f32[T,32]",
            "main call 2 of @layer (at layers.1): results: expected one tensor that flows on, got f32[T,32], f32[T,32]",
        ],
    );
}

#[test]
fn weights_and_functions_have_their_own_names() {
    let spare = WeightDecl { names: vec!["spare".to_owned()], ..module().funcs[LAYER].weights[1].clone() };
    broken(|m| m.funcs[LAYER].weights.push(spare), &["@layer w\"spare\": no op uses it"]);
    broken(
        |m| m.funcs[LAYER].weights[1].names = vec!["k_proj.weight".to_owned()],
        &["@layer w\"k_proj.weight\": there are two of this name"],
    );
    broken(|m| m.funcs[2].name = "layer".to_owned(), &["@layer: there are two of this name"]);
}

#[test]
fn calls_name_what_exists() {
    let none = |func| Call { func, scope: "odd".to_owned(), states: vec![] };
    broken(|m| m.main.insert(1, none(9)), &["main call 1 of @? (at odd): there is no function 9: the module has 3"]);
    broken(
        |m| m.main[2].states = vec![7],
        &[
            "main call 2 of @layer (at layers.1): there is no state 7: the module has 2",
            "main: 0 calls use state 1: expected exactly one",
        ],
    );
    broken(
        |m| m.main[2].states = vec![0],
        &["main: 2 calls use state 0: expected exactly one", "main: 0 calls use state 1: expected exactly one"],
    );
    broken(
        |m| m.main[2].states = vec![],
        &[
            "main call 2 of @layer (at layers.1): state: expected paged(heads=1, dim=4, k=f16, v=f16), got none",
            "main: 0 calls use state 1: expected exactly one",
        ],
    );
    let wide =
        StateType::Paged { window: 0, heads: 1, dim: 8, k: Format::F16, v: Format::F16, latent: None, archive: None };
    broken(
        |m| m.states[1] = wide,
        &[
            "main call 2 of @layer (at layers.1): state: expected paged(heads=1, dim=4, k=f16, v=f16), got paged(heads=1, dim=8, k=f16, v=f16)",
        ],
    );
}

#[test]
fn values_flow_from_call_to_call() {
    let empty: &[&str] = &["main: there is no call"];
    broken(|m| (m.main, m.states) = (vec![], vec![]), empty);
    broken(
        |m| {
            m.main.remove(0);
        },
        &["main call 0 of @layer (at layers.0): flow: expected f32[T,32], got none"],
    );
    broken(
        |m| m.main.insert(1, Call { func: 0, scope: "twice".to_owned(), states: vec![] }),
        &["main call 1 of @embed (at twice): flow: expected none, got f32[T,32]"],
    );
    broken(
        |m| {
            m.main.pop();
        },
        &["main call 2 of @layer (at layers.1): results: expected f32[R,8], u32[R], got f32[T,32]"],
    );
    broken(
        |m| {
            let narrow = m.funcs[0].values.len() - 1;
            m.funcs[0].values[narrow].ty = Type::Tensor(TensorType::new(DType::F32, [Sym::Tokens.into(), 16.into()]));
            m.funcs[0].weights[0].ty.cols = 16;
        },
        &["main call 1 of @layer (at layers.0): flow: expected f32[T,32], got f32[T,16]"],
    );
    broken(
        |m| {
            m.funcs[2].results.pop();
        },
        &["main call 3 of @head: results: expected f32[R,8], u32[R], got f32[R,8]"],
    );
}

#[test]
fn tables_and_vocabulary_fit() {
    broken(|m| m.rope_tables.clear(), &["@layer %rope0: there is no rope table 0: the module has 0"]);
    broken(
        |m| m.rope_tables[0].inverse_frequencies.push(0.01),
        &["@layer %rope0: rope table 0 rotates 6 elements, the parameter is f32[T,4]"],
    );
    broken(
        |m| m.vocabulary = 9,
        &[
            "@embed: vocabulary: expected at least 9 rows, got bf16[8,32]",
            "main call 3 of @head: results: expected f32[R,9], u32[R], got f32[R,8], u32[R]",
        ],
    );
}

#[test]
fn heads_in_pages_fill_whole_words() {
    let format = Format::Affine(Affine::new(4, 32, Float::F16).expect("supported"));
    let mut m = module();
    m.funcs[LAYER].values[1].ty = Type::State(StateType::Paged {
        window: 0,
        heads: 1,
        dim: 4,
        k: format,
        v: format,
        latent: None,
        archive: None,
    });
    let errors = verify(&m).expect_err("4 codes of 4 bits fill no word");
    assert_eq!(errors[0].to_string(), "@layer %state: heads of 4 elements do not fill whole words of 4-bit codes");
    assert_eq!(
        errors[0].defect,
        Defect::Malformed("heads of 4 elements do not fill whole words of 4-bit codes".to_owned())
    );
}

#[test]
fn kinds_of_parameters_have_types() {
    let mut m = module();
    m.funcs[LAYER].params[0].0 = ParamKind::Ids;
    let errors = verify(&m).expect_err("the hidden values are no ids");
    assert_eq!(errors[0].to_string(), "@layer %ids: expected u32[T], got f32[T,32]");
}

/// What a ring no longer keeps cannot be read.
#[test]
fn attention_over_a_ring_looks_no_further_back_than_it_keeps() {
    let ring = MODULE.replace("paged(", "ring(window=2, ");
    for (window, message) in [(2, None), (1, None), (0, Some("got 0")), (3, Some("got 3"))] {
        let parsed = parse(&ring.replace("window=0,", &format!("window={window},")));
        match message {
            None => assert_eq!(verify(&parsed.expect("the text is right")), Ok(())),
            Some(got) => {
                let errors = parsed.expect_err("the window is wider than the ring");
                let text = errors.iter().map(ToString::to_string).collect::<String>();
                let expected = format!("`attend`: window: expected 1 to 2, which the state keeps, {got}");
                assert!(text.contains(&expected), "{text}");
            }
        }
    }
}

/// A function of two states gives back both, in their order, and the text says which call has which.
#[test]
fn states_of_a_call_keep_their_order() {
    let swap = |text: &str| text.replace("%kv_append, %kv_append_2\n", "%kv_append_2, %kv_append\n");
    let paged = "paged(heads=1, dim=4, k=f16, v=f16)";
    let text = format!(
        "func @both(%x: flow f32[T,4], %state: state {paged}, %state1: state(1) {paged}) {{
  %split_heads = split_heads %x {{heads=1}}
  %kv_append = kv.append! %state, %split_heads, %split_heads
  %kv_append_2 = kv.append! %state1, %split_heads, %split_heads
  return %x, %kv_append, %kv_append_2
}}
"
    );
    let check = |text: &str| verify_graph(&parse_graph(text).expect("the text is right"));
    assert_eq!(check(&text), Ok(()));
    let errors = check(&swap(&text)).expect_err("the first state is not the second").into_iter().map(|e| e.to_string());
    let expected = [
        "@both: results: expected state 0 in its place, got %kv_append_2",
        "@both: results: expected state 1 in its place, got %kv_append",
    ];
    assert_eq!(errors.collect::<Vec<_>>(), expected);
    let missing = text.replace("state(1)", "state(2)").replace("%state1", "%state2");
    let errors = check(&missing).expect_err("there is no state 1");
    assert_eq!(errors[0].to_string(), "@both %state2: is state 2, of fewer");
}
