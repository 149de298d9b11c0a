//! Every row of reference logits on every backend.

use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::run::{Loaded, On, arg_max, compile, exact, relative_error};
use swiftlm_ir::quant::Float;
use swiftlm_ir::ty::Window;
use swiftlm_models::{Activations, BuildOptions, StoredType, TensorFacts};

/// Bars of the project: relative error over every prompt position.
const EXACT: f64 = 1e-4;
const F16: f64 = 2e-3;
/// With inputs rounded to whole numbers: least and largest distance from the reference, and distance of two backends.
const INT8: (f64, f64, f64) = (5e-3, 0.1, 1.5e-2);
const INT16: (f64, f64, f64) = (2e-5, 4e-4, 2e-4);
/// The same with inputs rounded to bfloat16, and to sums of two.
const BF16: (f64, f64, f64) = (5e-4, 2e-2, 4e-3);
const BF16X2: (f64, f64, f64) = (0.0, 1e-4, 5e-5);

fn check(on: On, build: &BuildOptions, bar: f64) {
    let mut failures = vec![];
    for name in names() {
        let row = Row::open(&name);
        let program = compile(&row, build, 64);
        let mut loaded = Loaded::new(&row, program, on.open(2), 1);
        let logits = loaded.prompt(0, &row.prompt, 64);
        let error = relative_error(&logits.concat(), &row.logits);
        let last = logits.last().expect("a prompt is not empty");
        let greedy = loaded.greedy(0, row.prompt.len(), last, row.greedy.len());
        if error > bar || greedy != row.greedy {
            failures.push(format!("{name}: error {error:.2e}, greedy equal: {}", greedy == row.greedy));
        }
    }
    assert!(failures.is_empty(), "{on:?}:\n{}", failures.join("\n"));
}

#[test]
fn logits_on_the_micro_kernels() {
    check(On::Cpu, &exact(), EXACT);
}

#[test]
fn logits_on_the_interpreter() {
    check(On::Interpreter, &exact(), EXACT);
}

#[test]
fn logits_on_wgpu() {
    check(On::Wgpu, &exact(), EXACT);
}

#[test]
fn logits_with_f16_activations() {
    let build = BuildOptions { activations: Activations::F16, ..exact() };
    for on in [On::Cpu, On::Wgpu] {
        check(on, &build, F16);
    }
}

/// What is served unless flags say otherwise. Both roundings together would send single tokens near a tie of the router
/// to another expert, which says nothing about arithmetic.
#[test]
fn logits_with_an_f16_kv() {
    for on in [On::Cpu, On::Wgpu] {
        check(on, &BuildOptions::default(), F16);
    }
}

/// Whether some weights are codes with scales.
fn is_coded(name: &str) -> bool {
    name.contains("mlx") || name.contains("mxfp4")
}

/// Micro-kernels of whole numbers and of bfloat16 compute what the interpreter computes with rounded floats, on every row
/// with such weights, and both are as far from the reference as the rounding makes them. A value in the middle between two
/// steps may go to either, and of two experts that are nearly even either may be taken, so what counts is the middle one of
/// all positions.
#[test]
fn rounded_activations_agree_with_the_interpreter() {
    let (mut coded, mut plain) = (0, 0);
    for (name, bits) in names().into_iter().flat_map(|n| [(n.clone(), 8), (n, 16)]) {
        let row = Row::open(&name);
        let matrix = |facts: &TensorFacts| facts.dtype == StoredType::Float(Float::Bf16) && facts.shape.len() > 1;
        if !is_coded(&name) && !row.index.values().any(matrix) {
            continue;
        }
        let build = BuildOptions { activations: Activations::int(bits), ..exact() };
        let logits = |on: On| {
            let mut loaded = Loaded::new(&row, compile(&row, &build, 64), on.open(2), 1);
            loaded.prompt(0, &row.prompt, 64).concat()
        };
        let cpu = logits(On::Cpu);
        let error = median_error(&row, &cpu, &logits(On::Interpreter));
        let rounded = median_error(&row, &cpu, &row.logits);
        let (least, most, apart) = match (is_coded(&name), bits) {
            (true, 8) => INT8,
            (true, _) => INT16,
            (false, 8) => BF16,
            (false, _) => BF16X2,
        };
        assert!((least..most).contains(&rounded), "{name}, {bits} bits: {rounded:.2e} from the reference");
        assert!(error < apart, "{name}, {bits} bits: {error:.2e} where rounding makes {rounded:.2e}");
        (coded, plain) = if is_coded(&name) { (coded + 1, plain) } else { (coded, plain + 1) };
    }
    assert!(coded > 0 && plain > 0, "some rows have codes, some have none");
}

/// Of the relative errors at each position, the middle one.
fn median_error(row: &Row, a: &[f32], b: &[f32]) -> f64 {
    let vocab = row.logits.len() / row.prompt.len();
    let mut errors: Vec<f64> = a.chunks(vocab).zip(b.chunks(vocab)).map(|(a, b)| relative_error(a, b)).collect();
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

/// Chunks of 1, 7, 64 and 512 give what one chunk gives, bit for bit.
#[test]
fn chunking_changes_nothing() {
    for name in [
        "llama-rope3",
        "qwen3",
        "qwen3_moe-mlx4",
        "qwen2-mlx-mixed",
        "gemma2",
        "gemma3_text-mlx4",
        "qwen3_5-mlx4",
        "deepseek_v3",
        "falcon_h1-mlx4",
        "falcon_h1-norm",
        "gpt_oss-mxfp4",
    ] {
        let row = Row::open(name);
        for activations in [Activations::F32, Activations::int(8), Activations::int(16)] {
            let build = BuildOptions { activations, ..exact() };
            let run = |chunk: usize| {
                let mut loaded = Loaded::new(&row, compile(&row, &build, 512), On::Cpu.open(2), 1);
                loaded.prompt(0, &row.prompt, chunk)
            };
            let whole = run(512);
            for chunk in [1, 7, 64] {
                assert_eq!(run(chunk), whole, "{name} in chunks of {chunk}, {activations:?}");
            }
        }
    }
}

/// Four sequences that share steps compute what each computes alone, bit for bit.
#[test]
fn interleaving_changes_nothing() {
    for name in [
        "llama",
        "qwen3-mlx8",
        "qwen3_moe",
        "gemma3_text",
        "qwen3_5",
        "deepseek_v3",
        "deepseek_v3-mlx4",
        "falcon_h1",
        "gpt_oss",
    ] {
        let row = Row::open(name);
        let load = || Loaded::new(&row, compile(&row, &exact(), 64), On::Cpu.open(2), 4);
        let prompts: Vec<Vec<u32>> =
            (0..4usize).map(|s| row.prompt.iter().skip(s * 13).copied().take(90).collect()).collect();
        let alone: Vec<Vec<Vec<f32>>> = prompts.iter().map(|p| load().prompt(0, p, 64)).collect();
        let mut shared = load();
        let mut together = vec![vec![]; 4];
        let mut done = [0usize; 4];
        // Uneven pieces, so that decode-like single tokens and prefill pieces meet in one step.
        for turn in 0.. {
            let mut tokens = vec![];
            for s in 0..4 {
                let take = [1, 17, 5, 30][(s + turn) % 4].min(prompts[s].len() - done[s]);
                tokens.extend((done[s]..done[s] + take).map(|p| (s as u32, p as u32, prompts[s][p])));
                done[s] += take;
            }
            if tokens.is_empty() {
                break;
            }
            for (token, logits) in tokens.iter().zip(shared.step(&tokens)) {
                together[token.0 as usize].push(logits);
            }
        }
        assert_eq!(together, alone, "{name}");
    }
}

/// A window's pages that are used again, many times over, give what pages give that are used once, bit for bit.
#[test]
fn pages_used_again_change_nothing() {
    for (name, window) in [("gemma2", 20), ("gemma3_text", 20), ("mistral", 50), ("gpt_oss-mxfp4", 20)] {
        let row = Row::open(name);
        let ids = row.endless(500);
        let run = |chunk: usize| {
            let mut loaded = Loaded::new(&row, compile(&row, &exact(), chunk), On::Cpu.open(2), 1);
            let sets = loaded.executable().page_sets();
            let pages = sets.iter().find(|set| set.window == Window::last(window)).expect("the row has a window").pages;
            (pages, loaded.prompt(0, &ids, chunk))
        };
        let (few, again) = run(16);
        let (many, once) = run(512);
        assert!(few <= 5 && many == 16, "{name}: {few} and {many} pages for 16 blocks");
        assert_eq!(again, once, "{name}");
    }
}

/// Append a, mark, append b, rewind, append c gives what a, c gives, whatever kinds of states there are. What lies too
/// far back for a window comes again.
#[test]
fn rewinding_changes_nothing() {
    const CHUNK: usize = 16;
    for name in ["llama", "gemma3_text", "mistral", "deepseek_v3", "gpt_oss"] {
        let row = Row::open(name);
        let (ids, other) = (row.endless(300), row.endless(400).split_off(130));
        let load = || Loaded::new(&row, compile(&row, &exact(), CHUNK), On::Cpu.open(2), 1);
        for (mark, end) in [(140, 170), (140, 250), (3, 20), (256, 300)] {
            let mut loaded = load();
            loaded.prompt(0, &ids[..mark], CHUNK);
            let to = loaded.mark(0);
            loaded.feed(0, &ids[mark..end], CHUNK);
            let from = loaded.rewind(0, to);
            assert!(
                from == mark || from == 0 && name != "llama" && end - mark > 32,
                "{name}: back to {from} of {mark}"
            );
            loaded.feed(0, &ids[from..mark], CHUNK);
            let expected = load().prompt(0, &[&ids[..mark], &other[..60]].concat(), CHUNK);
            assert_eq!(loaded.feed(0, &other[..60], CHUNK), expected[mark..], "{name}, {mark} to {end}");
        }
    }
}

/// Layers behind the last, as published files have them to foretell further tokens, are left alone; others are not.
#[test]
fn layers_that_foretell_are_left_alone() {
    let with = |name: &str| {
        let mut row = Row::open("deepseek_v3");
        let facts = row.index["model.norm.weight"].clone();
        row.index.insert(name.to_owned(), facts);
        swiftlm_models::build(&row.config, &row.index, &exact()).map(|model| model.unused)
    };
    assert_eq!(with("model.layers.3.enorm.weight"), Ok(vec!["model.layers.3".to_owned()]));
    let refused = with("model.layers.4.enorm.weight").expect_err("one layer foretells").to_string();
    assert!(refused.contains("model.layers.4.enorm.weight"), "{refused}");
}

/// The scaling of the row `deepseek_v3` with one number changed.
fn yarn(field: &str, value: f64) -> serde_json::Value {
    let mut scaling = serde_json::json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
        "beta_fast": 8, "beta_slow": 1, "mscale": 0.7, "mscale_all_dim": 1.0});
    scaling[field] = value.into();
    scaling
}

/// The scaling of the row `gpt_oss` with one number changed.
fn yarn_unrounded(field: &str, value: serde_json::Value) -> serde_json::Value {
    let mut scaling = Row::open("gpt_oss").config.get("rope_scaling").cloned().expect("the row scales");
    scaling[field] = value;
    scaling
}

/// The bar catches what it must: each of these small mistakes breaks it.
#[test]
fn mutations_are_noticed() {
    let rope = |theta: f64, part: f64| serde_json::json!({"rope_theta": theta, "partial_rotary_factor": part});
    // The text half's configuration with one field replaced.
    let text = |field: &str, value: serde_json::Value| {
        let mut text = Row::open("qwen3_5").config.get("text_config").cloned().expect("the row sees images");
        text[field] = value;
        text
    };
    let mutations = [
        ("llama", "rms_norm_eps", serde_json::json!(1e-4)),
        ("llama", "rope_theta", serde_json::json!(11000.0)),
        ("qwen2", "rms_norm_eps", serde_json::json!(1e-5)),
        ("qwen3", "rope_theta", serde_json::json!(900_000.0)),
        ("qwen3_moe", "norm_topk_prob", serde_json::json!(false)),
        ("qwen3_moe", "num_experts_per_tok", serde_json::json!(3)),
        ("qwen2_moe", "norm_topk_prob", serde_json::json!(true)),
        ("qwen2_moe", "num_experts_per_tok", serde_json::json!(3)),
        ("mixtral", "num_experts_per_tok", serde_json::json!(3)),
        ("mixtral", "sliding_window", serde_json::json!(149)),
        ("mixtral", "rope_theta", serde_json::json!(900_000.0)),
        ("olmoe", "norm_topk_prob", serde_json::json!(true)),
        ("olmoe", "num_experts_per_tok", serde_json::json!(2)),
        ("olmoe", "rms_norm_eps", serde_json::json!(1e-6)),
        ("gemma2", "attn_logit_softcapping", serde_json::json!(2.1)),
        ("gemma2", "final_logit_softcapping", serde_json::json!(4.1)),
        ("gemma2", "query_pre_attn_scalar", serde_json::json!(25)),
        ("gemma2", "sliding_window", serde_json::json!(21)),
        ("gemma3_text", "sliding_window", serde_json::json!(19)),
        ("gemma3_text", "sliding_window", serde_json::json!(21)),
        ("gemma3_text", "sliding_window_pattern", serde_json::json!(4)),
        ("gemma3_text", "query_pre_attn_scalar", serde_json::json!(25)),
        ("gemma3_text", "rope_theta", serde_json::json!(900_000.0)),
        ("gemma3_text", "rope_local_base_freq", serde_json::json!(11000.0)),
        ("gemma3_text", "rope_scaling", serde_json::json!({"rope_type": "linear", "factor": 7.5})),
        ("gemma3_text", "hidden_activation", serde_json::json!("silu")),
        ("qwen3_5", "text_config", text("rms_norm_eps", serde_json::json!(1e-4))),
        ("qwen3_5", "text_config", text("rope_parameters", rope(11_000.0, 0.25))),
        ("qwen3_5", "text_config", text("rope_parameters", rope(10_000.0, 0.1875))),
        ("deepseek_v3", "rope_interleave", serde_json::json!(false)),
        ("deepseek_v3", "rope_theta", serde_json::json!(11000.0)),
        ("deepseek_v3", "rms_norm_eps", serde_json::json!(1e-4)),
        ("deepseek_v3", "topk_group", serde_json::json!(3)),
        ("deepseek_v3", "n_group", serde_json::json!(2)),
        ("deepseek_v3", "num_experts_per_tok", serde_json::json!(2)),
        ("deepseek_v3", "norm_topk_prob", serde_json::json!(false)),
        ("deepseek_v3", "routed_scaling_factor", serde_json::json!(1.7)),
        ("deepseek_v3", "rope_scaling", yarn("mscale_all_dim", 0.0)),
        ("deepseek_v3", "rope_scaling", yarn("mscale", 1.0)),
        ("deepseek_v3", "rope_scaling", yarn("beta_slow", 4.0)),
        ("deepseek_v3", "rope_scaling", yarn("factor", 4.5)),
        ("deepseek_v3-mlx4", "topk_group", serde_json::json!(2)),
        ("falcon_h1", "embedding_multiplier", serde_json::json!(5.0)),
        ("falcon_h1", "lm_head_multiplier", serde_json::json!(0.61)),
        ("falcon_h1", "key_multiplier", serde_json::json!(0.41)),
        ("falcon_h1", "attention_in_multiplier", serde_json::json!(1.11)),
        ("falcon_h1", "attention_out_multiplier", serde_json::json!(0.91)),
        ("falcon_h1", "ssm_in_multiplier", serde_json::json!(1.26)),
        ("falcon_h1", "ssm_out_multiplier", serde_json::json!(0.71)),
        ("falcon_h1", "ssm_multipliers", serde_json::json!([0.81, 1.5, 0.7, 1.2, 0.6])),
        ("falcon_h1", "ssm_multipliers", serde_json::json!([0.8, 1.51, 0.7, 1.2, 0.6])),
        ("falcon_h1", "ssm_multipliers", serde_json::json!([0.8, 1.5, 0.71, 1.2, 0.6])),
        ("falcon_h1", "ssm_multipliers", serde_json::json!([0.8, 1.5, 0.7, 1.21, 0.6])),
        ("falcon_h1", "ssm_multipliers", serde_json::json!([0.8, 1.5, 0.7, 1.2, 0.61])),
        ("falcon_h1", "mlp_multipliers", serde_json::json!([0.89, 0.59])),
        ("falcon_h1", "mlp_multipliers", serde_json::json!([0.88, 0.6])),
        ("falcon_h1", "rope_theta", serde_json::json!(11000.0)),
        ("falcon_h1", "rms_norm_eps", serde_json::json!(1e-4)),
        ("falcon_h1", "time_step_limit", serde_json::json!([0.0, 2.0])),
        ("falcon_h1-norm", "time_step_limit", serde_json::json!([0.41, 1.1])),
        ("falcon_h1-norm", "time_step_limit", serde_json::json!([0.4, 1.09])),
        ("falcon_h1-norm", "mamba_norm_before_gate", serde_json::json!(true)),
        ("falcon_h1-gated", "mamba_norm_before_gate", serde_json::json!(false)),
        ("falcon_h1-mlx4", "lm_head_multiplier", serde_json::json!(0.61)),
        ("gpt_oss", "swiglu_limit", serde_json::json!(1.55)),
        ("gpt_oss", "swiglu_alpha", serde_json::json!(1.7)),
        ("gpt_oss", "sliding_window", serde_json::json!(19)),
        ("gpt_oss", "sliding_window", serde_json::json!(21)),
        ("gpt_oss", "layer_types", serde_json::json!(["full_attention", "sliding_attention"])),
        ("gpt_oss", "rms_norm_eps", serde_json::json!(1e-4)),
        ("gpt_oss", "rope_theta", serde_json::json!(140_000.0)),
        ("gpt_oss", "rope_scaling", yarn_unrounded("truncate", true.into())),
        ("gpt_oss", "rope_scaling", yarn_unrounded("factor", 7.5.into())),
        ("gpt_oss-mxfp4", "num_experts_per_tok", serde_json::json!(2)),
        ("gpt_oss-mxfp4", "swiglu_limit", serde_json::json!(7.0)),
        ("mistral", "sliding_window", serde_json::json!(49)),
        ("mistral", "sliding_window", serde_json::json!(51)),
    ];
    for (name, field, value) in mutations {
        let row = Row::open(name).with_config(field, value);
        let mut loaded = Loaded::new(&row, compile(&row, &exact(), 64), On::Cpu.open(2), 1);
        let error = relative_error(&loaded.prompt(0, &row.prompt, 64).concat(), &row.logits);
        assert!(error > 3.0 * EXACT, "{name} with another {field}: error {error:.2e} passes unnoticed");
    }
}

/// Tensors that could be left out without an error: sinks so low that they take no weight, biases of experts or of the
/// router that are 0, what passes a state space by, and what its time steps and decays begin with.
#[test]
fn tensors_without_effect_are_noticed() {
    for (name, tensor, value) in [
        ("falcon_h1-norm", "layers.0.mamba.D", [0, 0]),
        ("falcon_h1-norm", "layers.1.mamba.dt_bias", [0, 0]),
        ("falcon_h1-norm", "layers.0.mamba.A_log", [0, 0]),
        ("gpt_oss", "layers.0.self_attn.sinks", [0x1c, 0xc6]),
        ("gpt_oss-mxfp4", "layers.1.self_attn.sinks", [0x1c, 0xc6]),
        ("gpt_oss", "layers.1.mlp.experts.gate_up_proj_bias", [0, 0]),
        ("gpt_oss-mxfp4", "layers.0.mlp.experts.down_proj_bias", [0, 0]),
        ("gpt_oss", "layers.0.mlp.router.bias", [0, 0]),
        ("gpt_oss", "layers.0.self_attn.o_proj.bias", [0, 0]),
    ] {
        let row = Row::open(name).with_tensor(tensor, value);
        let mut loaded = Loaded::new(&row, compile(&row, &exact(), 64), On::Cpu.open(2), 1);
        let error = relative_error(&loaded.prompt(0, &row.prompt, 64).concat(), &row.logits);
        assert!(error > 3.0 * EXACT, "{name} without {tensor}: error {error:.2e} passes unnoticed");
    }
}

/// The reference's own greedy text follows from the reference's logits: the fixtures agree with themselves.
#[test]
fn fixtures_agree_with_themselves() {
    for name in names() {
        let row = Row::open(&name);
        let vocabulary = row.logits.len() / row.prompt.len();
        let last = &row.logits[row.logits.len() - vocabulary..];
        assert_eq!(arg_max(last), row.greedy[0], "{name}");
    }
}
