//! The language as people write it: a module by hand, and what is said of texts that are wrong.

use swiftlm_ir::graph::{Arg, Def, Value, WeightSlot};
use swiftlm_ir::ops::Op;
use swiftlm_ir::text::{parse, parse_graph, print};
use swiftlm_ir::verify::verify;

/// As printing writes it.
const MODULE: &str = r#"slir 1
vocabulary 8

rope 0 = magnitude 1 [
  1, 0.1,
]

state 0..3 = paged(heads=1, dim=4, k=f16, v=f16)

func @embed(%ids: ids u32[T]) {
  w"embed.weight": bf16[8,32]
  %embed = embed %ids, w"embed.weight" {scale=1} : f32[T,32]
  return %embed
}

func @layer(%x: flow f32[T,32], %state: state paged(heads=1, dim=4, k=f16, v=f16) @attn, %rope0: rope(0) f32[T,4] @attn) {
  w"norm.weight": f32[1,32]
  w"attn.{q,k,v}_proj.weight": affine4_g32_bf16[12,32]
  w"attn.o_proj.weight": f32[32,4]
  %norm = rms_norm %x, w"norm.weight" {eps=1e-6, offset=0} : f32[T,32] @norm
  param %state
  %q_k_v_proj = linear %norm, w"attn.{q,k,v}_proj.weight" : f32[T,12] @attn
  %slice = slice %q_k_v_proj {start=0, len=4} : f32[T,4] @attn.q_proj
  %split_heads = split_heads %slice {heads=1} : f32[T,1,4] @attn
  %slice_2 = slice %q_k_v_proj {start=4, len=4} : f32[T,4] @attn.k_proj
  %split_heads_2 = split_heads %slice_2 {heads=1} : f32[T,1,4] @attn
  %slice_3 = slice %q_k_v_proj {start=8, len=4} : f32[T,4] @attn.v_proj
  %split_heads_3 = split_heads %slice_3 {heads=1} : f32[T,1,4] @attn
  param %rope0
  %rope = rope %split_heads, %rope0 {start=0, dim=4, layout=half} : f32[T,1,4] @attn
  %rope_2 = rope %split_heads_2, %rope0 {start=0, dim=4, layout=half} : f32[T,1,4] @attn
  %kv_append = kv.append! %state, %rope_2, %split_heads_3 : paged(heads=1, dim=4, k=f16, v=f16) @attn
  %kv_k = kv.k %kv_append : history(heads=1, dim=4) @attn
  %kv_v = kv.v %kv_append : history(heads=1, dim=4) @attn
  %attend = attend %rope, %kv_k, %kv_v {scale=0.5, window=0, cap=0} : f32[T,1,4] @attn
  %merge_heads = merge_heads %attend : f32[T,4] @attn
  %o_proj = linear %merge_heads, w"attn.o_proj.weight" : f32[T,32] @attn.o_proj
  %add = add %x, %o_proj : f32[T,32]
  return %add, %kv_append
}

func @head(%x: flow f32[T,32]) {
  w"head.weight": f16[8,32]
  %rows = rows %x : f32[R,32]
  %head = linear %rows, w"head.weight" : f32[R,8]
  %arg_max = arg_max %head : u32[R]
  return %head, %arg_max
}

main {
  call @embed ""
  call @layer "model.layers.{0..3}" state 0..3
  call @head ""
}
"#;

#[test]
fn a_module_by_hand_means_what_it_says() {
    let module = parse(MODULE).expect("the text is right");
    assert_eq!(verify(&module), Ok(()));
    assert_eq!(print(&module), MODULE);
    assert_eq!((module.vocabulary, module.states.len()), (8, 3));
    assert_eq!(module.rope_tables[0].inverse_frequencies, [1.0, 0.1]);
    let calls: Vec<_> = module.main.iter().map(|c| (c.func, c.scope.as_str(), &c.states[..])).collect();
    let layers = ["model.layers.0", "model.layers.1", "model.layers.2"];
    assert_eq!(calls[0], (0, "", &[][..]));
    assert_eq!(calls[1..4], [0, 1, 2].map(|i| (1, layers[i], &[[0], [1], [2]][i][..])));
    let layer = &module.funcs[1];
    assert_eq!(layer.weights[1].names, ["attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"]);
    let norm = &layer.values[1];
    let args = vec![Arg::Value(Value(0)), Arg::Weight(WeightSlot(0))];
    assert_eq!(norm.def, Def::Node { op: Op::RmsNorm { eps: 1e-6, offset: 0.0 }, args });
    assert_eq!(norm.loc, "norm");
    assert_eq!(layer.params[2].1, Value(10));
}

#[test]
fn comments_blanks_and_names_are_the_writers_own() {
    let text = MODULE.replace("%q_k_v_proj", "%qkv").replace('\n', "   ; a note: \"@x {\n\n").replace(" = ", "\t=  ");
    assert_eq!(parse(&text), parse(MODULE));
}

/// Replaces `from` in the module's text and expects these errors, in order: each the place's text and a part of the
/// message.
fn errors(from: &str, to: &str, expected: &[(&str, &str)]) {
    assert_eq!(MODULE.matches(from).count(), 1, "`{from}` must occur once");
    let text = MODULE.replace(from, to);
    let errors = parse(&text).expect_err("the text is wrong");
    let got: Vec<(String, &str)> = (errors.iter())
        .map(|e| (e.text.chars().skip(e.column - 1).take(e.width).collect(), e.message.as_str()))
        .collect();
    assert_eq!(got.len(), expected.len(), "{errors:?}");
    for ((place, message), (want_place, want)) in got.iter().zip(expected) {
        assert_eq!(place, want_place, "{message}");
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    errors("slir 1", "slir 2", &[("2", "expected 1")]);
    errors("vocabulary 8", "vocabulary many", &[("many", "expected the number of token ids, got `many`")]);
    errors("0.1,", "x,", &[("x", "expected a frequency")]);
    errors("state 0..3 =", "state 1..3 =", &[("1", "expected state 0, got 1")]);
    errors("%arg_max = arg_max", "%arg_max = argmax", &[("argmax", "unknown op `argmax`: expected one of embed,")]);
    errors(", offset=0}", "}", &[("rms_norm", "needs the attribute `offset`")]);
    errors("offset=0}", "offset=0, axis=1}", &[("axis", "has no attribute `axis`: it takes eps, offset")]);
    errors(
        "layout=half} : f32[T,1,4] @attn\n  %rope_2",
        "layout=both} : f32[T,1,4] @attn\n  %rope_2",
        &[("rope", "attribute `layout` of `rope` cannot be `both`")],
    );
    errors("bf16[8,32]", "q4_k[8,32]", &[("q4_k", "unknown format `q4_k`"), ("\"embed.weight\"", "declared above")]);
    errors("call @head", "call @tail", &[("@tail", "there is no function `@tail`")]);
    errors("state 0..3\n", "state 0..2\n", &[("0", "expected a state for each of 3 calls, got 2")]);
    errors("%slice_2 {heads", "%slice_9 {heads", &[("%slice_9", "there is no value `%slice_9` above")]);
    errors("%rows = ", "%x = ", &[("%x", "there is a value `%x` already"), ("%rows", "no value `%rows` above")]);
    errors("  return %head, %arg_max\n", "", &[("}", "expected `return`")]);
    errors("f32[R,8]\n", "f32[]\n", &[("[", "at least one extent")]);
    errors("f32[R,8]\n", "f32[R,8] 9\n", &[("9", "expected the end of the line")]);
    errors("{0..3}\"", "{3..0}\"", &[("\"model.layers.{3..0}\"", "expected a range of numbers")]);
    errors("main {", "main {\n  cal", &[("cal", "expected `call`, got `cal`")]);
    errors(
        "call @head \"\"",
        "call @head \"",
        &[("\"", "this string does not end on its line"), ("}", "expected the scope in quotes")],
    );
    errors("vocabulary 8", "vocabulary 8 $", &[("$", "`$` means nothing here")]);
}

#[test]
fn one_mistake_is_one_error_and_several_are_all_reported() {
    // What the broken line defines is not missed below; a broken function's calls are not to blame.
    errors("split_heads %slice {heads=1}", "split_heads %slice {heads}", &[("}", "expected `=`, got `}`")]);
    errors("func @layer(", "func @layer[", &[("[", "expected `(`, got `[`")]);
    let text = MODULE.replace("= rows %x", "= rows").replace("= embed %ids,", "= embed").replace(" : f32[R,32]", "");
    let text = text.replace("{scale=1} : f32[T,32]", "{scale=1}");
    let errors = parse(&text).expect_err("two lines are wrong");
    let lines: Vec<&str> = errors.iter().map(|e| e.text.trim()).collect();
    assert_eq!(lines, ["%embed = embed w\"embed.weight\" {scale=1}", "%rows = rows"]);
}

#[test]
fn an_error_reads_like_this() {
    let text = "slir 1\nvocabulary 8\nmain {\n\tcall @embed 7\n}\n";
    let errors = parse(text).expect_err("a scope is no number");
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let expected = "line 4, column 14: expected the scope in quotes, got `7`\n  | \tcall @embed 7\n  | \t            ^";
    assert_eq!(shown, [expected]);
}

#[test]
fn a_type_that_does_not_follow_is_asked_for() {
    let text = "func @f(%x: flow f32[T,4]) {\n  %y = slice %x {start=2, len=4}\n  return %y\n}";
    let errors = parse_graph(text).expect_err("the slice ends behind its row");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].message.contains("`slice`: range: expected at most 4, got 6"), "{}", errors[0]);
    // With its type written the text is a graph, and the verifier says what is wrong with it.
    let typed = text.replace("len=4}", "len=4} : f32[T,4]");
    let errors = swiftlm_ir::verify::verify_graph(&parse_graph(&typed).expect("the text is right"));
    let errors = errors.expect_err("the slice ends behind its row");
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].to_string(), "@f %slice: `slice`: range: expected at most 4, got 6");
}
