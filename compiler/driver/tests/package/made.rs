//! Making: the same bytes wherever, by however many threads; what stands where a package should go; what `diff` tells.

use std::fs;

use swiftlm_compiler::Choices;
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_driver::compile::compile;
use swiftlm_driver::package::{Cost, Outline, PackOptions, Package, diff, inspect, pack, verify};
use swiftlm_driver::precision::{Kv, Precision};

use super::{Made, repository, row};

fn quick() -> PackOptions {
    PackOptions { without_certificate: true, ..PackOptions::default() }
}

/// Twice, in two places, from two places, with 1 thread and 3.
#[test]
fn the_same_bytes_everywhere() {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(repository("server/demo/model")).expect("the demo model").flatten() {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("it can be copied");
    }
    let make = |model, threads| Made::new(model, &PackOptions { threads, ..PackOptions::default() });
    let (a, b) = (make(&repository("server/demo/model"), 1), make(copy.path(), 3));
    assert_eq!(a.files(), b.files());
    for file in a.files() {
        assert!(a.read(&file) == b.read(&file), "{file} differs");
    }
    let (found, again) = (verify(&a.path(), None, 2), verify(&b.path(), None, 1));
    let (found, again) = (found.expect("the package holds"), again.expect("so does its twin"));
    assert_eq!(found, again);
    assert_eq!(found.files + 1, a.files().len(), "all but the manifest");
    let certified = found.certified.expect("there is a certificate");
    assert_eq!(certified.deviations.iter().map(|d| d.depth).collect::<Vec<_>>(), [0, 31, 32, 100, 159]);
}

/// The program of a package is the one that compiling gives, so what it computes is.
#[test]
fn the_program_is_the_compiled_one() {
    for name in ["granite", "qwen3", "qwen2-mlx-mixed", "qwen3_moe-mlx4", "deepseek_v3", "deepseek_v3-mlx4"] {
        let options = quick();
        let made = Made::new(&row(name), &options);
        let package = Package::open(&made.path(), None).unwrap_or_else(|e| panic!("{name}: {e}"));
        let checkpoint = Checkpoint::open(&row(name)).expect("a row opens");
        let compiled = compile(&checkpoint, &options.program).expect("a row compiles");
        assert!(package.program == compiled.program, "{name}: the programs differ");
        assert_eq!((package.manifest.family, package.manifest.context), (compiled.family, compiled.context));
    }
}

/// The certificate holds for every way of storing and rounding that can be asked for, and for small steps.
#[test]
fn certificates_hold() {
    for (precision, kv, chunk) in [
        (Precision::Exact, None, 512),
        (Precision::Default, None, 7),
        (Precision::Default, Some(Kv::Bf16), 64),
        (Precision::Default, Some(Kv::Q8), 64),
        (Precision::Default, Some(Kv::Q4), 64),
        (Precision::Fine, None, 64),
    ] {
        let mut options = PackOptions::default();
        options.program.build = precision.build(kv, true);
        (options.program.compile.chunk, options.program.compile.max_rows) = (chunk, chunk.min(3));
        let made = Made::new(&row("llama-mlx4"), &options);
        verify(&made.path(), None, 1).unwrap_or_else(|e| panic!("{precision:?} {kv:?}: {e}"));
    }
}

#[test]
fn weights_may_stay_where_they_are() {
    let made = Made::new(&row("qwen3"), &PackOptions { in_place: true, ..PackOptions::default() });
    assert!(!made.files().iter().any(|f| f.starts_with("model-")), "no shard is copied");
    let refused = Package::open(&made.path(), None).expect_err("the weights are elsewhere").to_string();
    assert!(refused.contains("--weights"), "{refused}");
    verify(&made.path(), Some(&row("qwen3")), 1).expect("with its own weights it holds");
    let refused = Package::open(&made.path(), Some(&row("llama"))).expect_err("another's weights").to_string();
    assert!(refused.contains("model.safetensors"), "{refused}");
    let holds = Made::new(&row("llama"), &quick());
    assert!(Package::open(&holds.path(), Some(&row("llama"))).is_err(), "two places of weights");
}

#[test]
fn only_packages_are_replaced() {
    let place = tempfile::tempdir().expect("a directory");
    let out = place.path().join("package");
    fs::create_dir(&out).expect("a directory");
    pack(&row("llama"), &out, &quick()).expect("an empty directory is taken");
    let first = fs::read(out.join("manifest.json")).expect("a manifest");
    let mut other = quick();
    other.program.compile.chunk = 64;
    pack(&row("llama"), &out, &other).expect("a package is replaced");
    assert_ne!(fs::read(out.join("manifest.json")).expect("a manifest"), first);
    let left: Vec<_> = fs::read_dir(place.path()).expect("a directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["package"], "nothing is left beside it");

    let full = place.path().join("full");
    fs::create_dir(&full).expect("a directory");
    fs::write(full.join("diary.txt"), "dear").expect("a file");
    for taken in [&full, &full.join("diary.txt")] {
        let refused = pack(&row("llama"), taken, &quick()).expect_err("something else is there").to_string();
        assert!(refused.contains("another place"), "{refused}");
    }
    assert_eq!(fs::read(full.join("diary.txt")).expect("the file is there"), b"dear");
}

#[test]
fn differences_are_named() {
    let mut plain = quick();
    plain.program.compile.choices = Choices::Plain;
    let (best, plain) = (Made::new(&row("granite"), &quick()), Made::new(&row("granite"), &plain));
    let (best, plain) = (Outline::read(&best.path()), Outline::read(&plain.path()));
    let (best, plain) = (best.expect("a package"), plain.expect("a package"));
    assert_eq!(diff(&best, &best), "");
    let text = diff(&plain, &best);
    let rules: Vec<&str> = best.manifest.rules.iter().flat_map(|a| a.rules.keys().map(String::as_str)).collect();
    assert!(!rules.is_empty(), "rules apply to granite");
    for rule in rules {
        assert!(text.contains(&format!("rule {rule} in ")), "{rule} is not in\n{text}");
    }
    assert!(text.contains("choices: plain -> best"), "{text}");
    assert!(text.contains("kernel norm_linear#"), "a fused kernel only the second has:\n{text}");
    let launches = |of: &Outline| Cost::of(&of.program).launches[0].1;
    let line = format!("launches of a step, class one: {} -> {}", launches(&plain), launches(&best));
    assert!(launches(&plain) > launches(&best) && text.contains(&line), "{line} is not in\n{text}");
    assert!(!text.contains("file model.safetensors"), "the weights are the same:\n{text}");
    let table = inspect(&best);
    for fact in [best.manifest.hash.as_str(), "granite", "f16, f16", "rules in @"] {
        assert!(table.contains(fact), "{fact} is not in\n{table}");
    }
}
