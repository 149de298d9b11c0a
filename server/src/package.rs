//! Starting from a package: its program is taken as it was made, so whatever a flag asks of the program is either so
//! already, or refused; but where not all experts fit, it is compiled again for as many as do.

use std::cell::RefCell;
use std::time::Instant;

use swiftlm_device::Device;
use swiftlm_driver::compile::{self, Compiled};
use swiftlm_driver::package::{Manifest, Package};
use swiftlm_ir::quant::Format;
use swiftlm_runtime::MemoryPlan;

use crate::flags::{Kv, Precision, Prefetch};
use crate::load::LoadError;
use crate::placement::{self, GpuLayers};
use crate::prepare::{Found, Model, Wishes};
use crate::residency::{self, Held};

/// Opens a package; nothing is compiled.
///
/// # Errors
/// It is damaged, was made otherwise than the flags wish, or does not fit.
pub(crate) fn open(found: &Found, wishes: &Wishes, device: &dyn Device) -> Result<Model, LoadError> {
    let start = Instant::now();
    let package = Package::open(found.directory(), wishes.weights.as_deref()).map_err(|e| found.wrong(e))?;
    let Package { manifest, program, checkpoint } = package;
    if let Some(refusal) = refusal(&manifest, placement::layers(&program), wishes) {
        let remedy = "leave the flag out, or make the package again with swiftlmc";
        return Err(found.wrong(format!("{refusal}: {remedy}")));
    }
    let (seconds, kernels) = (start.elapsed().as_secs_f64(), program.kernels.len());
    tracing::info!(family = manifest.family, hash = manifest.hash, seconds, kernels, "opened the package");
    let options = manifest.options.again().map_err(|e| found.wrong(e))?;
    let whole = Compiled {
        program,
        family: manifest.family,
        context: manifest.context,
        rules: vec![],
        fingerprint: manifest.hash,
        options: options.compile.clone(),
        note: None,
        time: start.elapsed(),
    };
    let (context, fingerprint) = (whole.context, whole.fingerprint.clone());
    let whole = RefCell::new(Some(whole));
    // A package holds the program for all experts in memory. Another number of slots is another program, which computes
    // the same; how many fit is known here only.
    let compile = |slots: Option<usize>| match (slots, whole.take()) {
        (None, Some(whole)) => Ok(whole),
        _ => {
            let mut options = options.clone();
            options.compile.slots = slots;
            options.compile.ahead = wishes.prefetch != Prefetch::Off;
            options.compile.max_binding = options.compile.max_binding.min(device.target().max_binding);
            compile::compile(&checkpoint, &options).map_err(|e| e.to_string())
        }
    };
    let plan = |compiled: &Compiled, held: Held| {
        MemoryPlan::new(&compiled.program, device.target(), wishes.memory(context, held))
    };
    let fitted = residency::fit(wishes.experts, compile, plan).map_err(|e| found.wrong(e))?;
    let (compiled, plan) = fitted.map_err(|e| LoadError::Memory(e.to_string()))?;
    let Compiled { program, family, .. } = compiled;
    let weights = wishes.weights.clone().unwrap_or_else(|| found.directory().to_owned());
    Ok(Model {
        checkpoint,
        weights,
        program,
        plan,
        split: None,
        family,
        fingerprint,
        packaged: true,
        context,
        lossy: None,
        note: None,
    })
}

/// What the flags ask for and the package was not made for.
fn refusal(manifest: &Manifest, layers: usize, wishes: &Wishes) -> Option<String> {
    let made = &manifest.options;
    if let Some(tokens) = wishes.chunk.filter(|tokens| *tokens != made.chunk) {
        return Some(format!("--prefill-size {tokens}: this package was made for {}", made.chunk));
    }
    if let Some(sequences) = wishes.sequences.filter(|sequences| *sequences > made.max_rows) {
        return Some(format!("--parallel {sequences}: this package was made for at most {}", made.max_rows));
    }
    if matches!(wishes.gpu_layers, GpuLayers::Count(n) if n > 0 && n < layers) {
        return Some("--gpu-layers: a package's layers run on one device".to_owned());
    }
    if wishes.experts_per_token.is_some() {
        return Some("--experts-per-token: a package computes what its model says".to_owned());
    }
    let stored = (made.keys, made.values);
    let as_stored =
        |kv: &Kv| (kv.format(), kv.format()) == stored && (kv.archive(), kv.rotates()) == (made.archive, made.rotated);
    if let Some(kv) = wishes.kv.filter(|kv| !as_stored(kv)) {
        let archive = made.archive.map_or(String::new(), |a| format!(", older ones of {} and {}", a.k, a.v));
        return Some(format!(
            "--kv {}: this package was made for keys of {} and values of {}{archive}",
            kv.name(),
            stored.0,
            stored.1
        ));
    }
    let exact = stored == (Format::F32, Format::F32) && made.activations == "f32";
    match wishes.precision {
        Precision::Exact if wishes.kv.is_none() && !exact => {
            Some("--precision exact: this package was not made for it".to_owned())
        }
        Precision::Fine if made.activations != "int16" => {
            Some("--precision fine: this package was not made for it".to_owned())
        }
        _ => None,
    }
}
