//! Metal texts without a Mac: every one of them passes a C++ compiler's check of syntax and types, and some rows run
//! through them. No Apple GPU is needed, and none has run them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::msl::compiler::Clang;
use swiftlm_golden_tests::msl::{MslDevice, text};
use swiftlm_golden_tests::run::{Loaded, compile, exact, relative_error};
use swiftlm_ir::kernel::KernelKey;
use swiftlm_shader::LowerOptions;

/// Texts of one file.
const AT_ONCE: usize = 40;
/// Lanes of Apple's subgroups.
const SUBGROUP: Option<u32> = Some(32);

/// A compiler with a folder of its own.
fn clang(name: &str) -> Clang {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("msl-{name}"));
    Clang::find(&dir).unwrap_or_else(|e| panic!("{e}"))
}

/// The Metal texts of every kernel of every row, each once.
fn texts() -> BTreeMap<KernelKey, String> {
    let options = LowerOptions { subgroup: SUBGROUP, ..LowerOptions::default() };
    let mut texts = BTreeMap::new();
    for name in names() {
        for kernel in &compile(&Row::open(&name), &exact(), 512).kernels {
            let of_kernel = || text::of_kernel(kernel, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            texts.entry(kernel.key()).or_insert_with(of_kernel);
        }
    }
    texts
}

#[test]
fn texts_of_all_rows_are_right_in_syntax_and_types() {
    let (clang, texts) = (clang("texts"), texts());
    assert!(texts.len() > 500, "{} texts", texts.len());
    let texts: Vec<String> = texts.into_values().collect();
    let check = |(i, texts): (usize, &[String])| {
        let numbered = |(i, text): (usize, &String)| text::numbered(text, i).unwrap_or_else(|e| panic!("{e}"));
        let file: String = texts.iter().enumerate().map(numbered).collect();
        let name = format!("texts{i}.cpp");
        clang.write(&name, &format!("{}{file}", text::PROLOGUE)).unwrap_or_else(|e| panic!("{e}"));
        clang.check(&name).unwrap_or_else(|e| panic!("{e}"));
    };
    let files: Vec<(usize, &[String])> = texts.chunks(AT_ONCE).enumerate().collect();
    let (even, odd): (Vec<_>, Vec<_>) = files.into_iter().partition(|(i, _)| i % 2 == 0);
    std::thread::scope(|scope| {
        scope.spawn(|| even.into_iter().for_each(check));
        odd.into_iter().for_each(check);
    });
}

/// The check finds what is wrong.
#[test]
fn mistakes_in_texts_are_found() {
    let clang = clang("mistakes");
    let texts = texts();
    let mistakes = [
        ("metal::dot(", "metal::dott("),
        ("float v0_ = {};", ""),
        ("device type_1 const& x", "device type_1 const& z"),
        ("metal::float4 ", "metal::uint4 "),
    ];
    let check = |text: &str| {
        let numbered = text::numbered(text, 0)?;
        clang.write("text.cpp", &format!("{}{numbered}", text::PROLOGUE))?;
        clang.check("text.cpp")
    };
    let has_all = |text: &&String| mistakes.iter().all(|(right, _)| text.contains(right));
    let text = texts.values().find(has_all).expect("some kernel multiplies vectors");
    assert_eq!(check(text), Ok(()));
    for (right, wrong) in mistakes {
        assert!(check(&text.replacen(right, wrong, 1)).is_err(), "`{wrong}` in place of `{right}` was not seen");
    }
}

/// How far a row that runs through its texts is from the reference: the prompt in one step, then token after token.
fn error(name: &str, test: &str, subgroup: Option<u32>, change: fn(String) -> String) -> f64 {
    let row = Row::open(name);
    let device = MslDevice::new(clang(test), subgroup, change).unwrap_or_else(|e| panic!("{e}"));
    let mut loaded = Loaded::new(&row, compile(&row, &exact(), 64), Box::new(device), 1);
    let (many, few) = row.prompt.split_at(row.prompt.len() - 3);
    let mut logits = loaded.prompt(0, many, 64);
    logits.extend(loaded.feed(0, few, 1));
    relative_error(&logits.concat(), &row.logits)
}

#[test]
fn rows_run_through_their_texts() {
    for name in [
        "llama-mlx4",
        "qwen3_moe-mlx4",
        "gemma3_text",
        "qwen3_5-mlx4",
        "deepseek_v3-mlx4",
        "falcon_h1-mlx4",
        "falcon_h1-norm",
    ] {
        let error = error(name, "rows", SUBGROUP, |text| text);
        assert!(error < 1e-4, "{name}: {error:.1e}");
    }
}

#[test]
fn a_row_runs_without_subgroups() {
    let error = error("llama-mlx4", "no-subgroups", None, |text| text);
    assert!(error < 1e-4, "{error:.1e}");
}

/// Lanes that do not wait for one another read what is not there yet.
#[test]
fn barriers_matter() {
    let error = error("llama-mlx4", "barriers", None, |text| text.replace("metal::threadgroup_barrier", "(void)"));
    assert!(error.is_nan() || error > 1e-2, "{error:.1e}");
}
