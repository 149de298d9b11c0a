//! Two packages beside one another: what was chosen differently, which rules applied, which kernels run, what it costs.

use std::collections::BTreeMap;
use std::fmt::Write;

use swiftlm_ir::plan::Program;

use super::{Cost, Manifest, Outline};

/// The differences, a line each; empty where there is none.
pub fn diff(a: &Outline, b: &Outline) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    for ((name, a), (_, b)) in facts(&a.manifest).iter().zip(&facts(&b.manifest)) {
        if a != b {
            line(format!("{name}: {a} -> {b}"));
        }
    }
    let (rules_a, rules_b) = (rules(&a.manifest), rules(&b.manifest));
    for (name, (a, b)) in both(&rules_a, &rules_b) {
        line(format!("rule {name}: {a} -> {b} times"));
    }
    let (kernels_a, kernels_b) = (kernels(&a.program), kernels(&b.program));
    for (name, (a, b)) in both(&kernels_a, &kernels_b) {
        line(format!("kernel {name}: {a} -> {b} launches"));
    }
    for ((name, a), (_, b)) in Cost::of(&a.program).lines().iter().zip(&Cost::of(&b.program).lines()) {
        if a != b {
            line(format!("{name}: {a} -> {b}"));
        }
    }
    let (files_a, files_b) = (files(&a.manifest), files(&b.manifest));
    for path in files_a.keys().chain(files_b.keys().filter(|path| !files_a.contains_key(*path))) {
        match (files_a.get(path), files_b.get(path)) {
            (Some(a), Some(b)) if a != b => line(format!("file {path}: its content differs")),
            (Some(_), None) => line(format!("file {path}: only in the first")),
            (None, Some(_)) => line(format!("file {path}: only in the second")),
            _ => {}
        }
    }
    out
}

fn facts(manifest: &Manifest) -> [(&'static str, String); 10] {
    let made = &manifest.options;
    let weights = if manifest.sources.is_empty() { "in the package" } else { "in the model's directory" };
    [
        ("family", manifest.family.clone()),
        ("context", manifest.context.to_string()),
        ("tokens of a step", made.chunk.to_string()),
        ("rows of a step that want logits", made.max_rows.to_string()),
        ("bytes of a binding", made.max_binding.to_string()),
        ("keys, values", format!("{}, {}", made.keys, made.values)),
        ("activations", made.activations.clone()),
        ("choices", made.choices.clone()),
        ("rules left out", made.without_rules.join(", ")),
        ("weights", weights.to_owned()),
    ]
}

/// How often each rule applied, by function.
fn rules(manifest: &Manifest) -> BTreeMap<String, usize> {
    let of = |func: &String, (rule, count): (&String, &usize)| (format!("{rule} in @{func}"), *count);
    manifest.rules.iter().flat_map(|applied| applied.rules.iter().map(move |r| of(&applied.func, r))).collect()
}

/// How often the launches of the plans run each kernel.
fn kernels(program: &Program) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let launches = program.plans.iter().flatten().flat_map(|plan| &plan.dispatches);
    for stage in launches.flat_map(|launch| &launch.stages) {
        let kernel = &program.kernels[stage.kernel];
        *counts.entry(format!("{}#{}", kernel.name, kernel.key())).or_default() += 1;
    }
    counts
}

/// Names whose counts differ, with both.
fn both(a: &BTreeMap<String, usize>, b: &BTreeMap<String, usize>) -> BTreeMap<String, (usize, usize)> {
    let count = |of: &BTreeMap<String, usize>, name: &String| of.get(name).copied().unwrap_or(0);
    let names = a.keys().chain(b.keys());
    let counts = names.map(|name| (name.clone(), (count(a, name), count(b, name))));
    counts.filter(|(_, (a, b))| a != b).collect()
}

/// Hashes of what is no text of the program: those differ wherever the program does.
fn files(manifest: &Manifest) -> BTreeMap<&str, &str> {
    let of_program = |path: &str| path.ends_with(".slir") || path.ends_with(".bin") || path.starts_with("kernels/");
    let files = manifest.files.iter().chain(&manifest.sources).filter(|f| !of_program(&f.path));
    files.map(|f| (f.path.as_str(), f.sha256.as_str())).collect()
}
