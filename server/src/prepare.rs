//! From a model's name to a program on a device: find, compile or take from a package, plan memory, load. The same for
//! serving and for `bench`.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use swiftlm_cpu::{CpuDevice, CpuOptions, Tier};
use swiftlm_device::{Device, Target};
use swiftlm_driver::checkpoint::{Checkpoint, Uncached};
use swiftlm_driver::compile::{Compiled, Options, compile};
use swiftlm_driver::debug::Debug;
use swiftlm_driver::package::is_package;
use swiftlm_gpu::GpuDevice;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::Program;
use swiftlm_runtime::budget::{ContextWish, MemoryPlan, MemoryRequest};
use swiftlm_runtime::executable::{ProfiledLaunch, Progress as LoadProgress, Rest};
use swiftlm_runtime::experts::ExpertSource;
use swiftlm_runtime::{DoesNotFit, Executable, ExecutableOptions, StepError, WeightSource};

use crate::flags::{Backend, Io, Kv, Precision, Prefetch, ServeFlags};
use crate::kv::KvInfo;
use crate::load::{LoadError, ModelInfo};
use crate::memory::Memory;
use crate::placement::{self, GpuLayers, Split};
use crate::prefix_files::{self, PrefixFiles};
use crate::progress::Progress;
use crate::residency::{self, ExpertWish, Held};
use crate::{demo, hub, package};

/// Rows that want logits in a step, unless more sequences are asked for: a scored prompt takes so many at a time.
const LEAST_ROWS: usize = 32;

/// Context and sequences of a model whose experts do not all fit, unless asked for.
const EXPERTS_AWAY: (usize, usize) = (8192, 4);

/// Sequences of a model whose layers take turns, unless asked for.
const LAYERS_AWAY: usize = 2;

/// A model's files.
pub struct Found {
    /// As it was asked for.
    pub name: String,
    directory: demo::Directory,
}

impl Found {
    /// Finds the model: a directory, a hub id, or the demo model.
    ///
    /// # Errors
    /// There is no such model, or it cannot be downloaded.
    pub fn new(model: Option<&str>, progress: &Progress) -> Result<Self, LoadError> {
        let name = model.unwrap_or(demo::NAME).to_owned();
        let wrong = |reason: String| LoadError::Model { model: name.clone(), reason };
        let directory = match model {
            None => demo::unpack().map_err(|e| wrong(format!("the demo model cannot be unpacked: {e}")))?,
            Some(model) => demo::Directory::Existing(hub::find(model, progress).map_err(|e| wrong(e.to_string()))?),
        };
        let name = match &directory {
            demo::Directory::Existing(path) if Path::new(&name).is_dir() => {
                path.file_name().map_or(name.clone(), |n| n.to_string_lossy().into_owned())
            }
            _ => name,
        };
        Ok(Self { name, directory })
    }

    /// Where the files lie.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The error that this model cannot be loaded.
    pub(crate) fn wrong(&self, reason: impl ToString) -> LoadError {
        LoadError::Model { model: self.name.clone(), reason: reason.to_string() }
    }
}

/// What the flags ask of the device and the program.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Where the model runs.
    pub backend: Backend,
    /// Part of a device's name.
    pub device: Option<String>,
    /// CPU threads; 0 for one per core.
    pub threads: usize,
    /// How activations and states are kept.
    pub precision: Precision,
    /// How keys and values are stored; by the precision if not said.
    pub kv: Option<Kv>,
    /// Whether a model that does not stand that gets something finer.
    pub careful: bool,
    /// Where the weights of a package are that does not hold them.
    pub weights: Option<PathBuf>,
    /// Tokens of a step; 512 if not said.
    pub chunk: Option<usize>,
    /// Context asked for.
    pub context: Option<usize>,
    /// Sequences asked for.
    pub sequences: Option<usize>,
    /// Layers on the GPU, where one is used.
    pub gpu_layers: GpuLayers,
    /// Experts in memory.
    pub experts: ExpertWish,
    /// Experts of a token at most.
    pub experts_per_token: Option<usize>,
    /// How experts are read from disk.
    pub io: Io,
    /// Whether they are read before they are chosen.
    pub prefetch: Prefetch,
    /// Bytes that everything may take; 0 for 85 % of the system's.
    pub limit: u64,
}

impl Wishes {
    /// From the flags of serving.
    pub fn of(flags: &ServeFlags) -> Self {
        Self {
            backend: flags.backend,
            device: flags.device.clone(),
            threads: flags.threads.unwrap_or(0) as usize,
            precision: flags.precision,
            kv: flags.turbo_kv.map(Kv::from).or(flags.kv),
            careful: flags.turbo_kv.is_some(),
            weights: flags.weights.clone(),
            chunk: flags.prefill_size.map(|n| n as usize),
            context: flags.ctx_size.map(|n| n as usize),
            sequences: flags.parallel.map(|n| n as usize),
            experts_per_token: flags.experts_per_token.map(|n| n as usize),
            io: flags.io,
            gpu_layers: flags.gpu_layers,
            prefetch: flags.ssd_prefetch,
            experts: flags.expert_budget.map_or(ExpertWish::Fit, |mb| ExpertWish::Budget(mb << 20)),
            limit: flags.mem_limit.unwrap_or(0) << 20,
        }
    }

    /// What the plan is made for. Where weights wait on disk, histories do not take the memory from them unless asked to.
    pub(crate) fn memory(&self, context: usize, held: Held) -> MemoryRequest {
        let bounds = match held {
            Held::All => None,
            Held::Experts(_) => Some(EXPERTS_AWAY),
            Held::Layers { context, .. } => Some((context, LAYERS_AWAY)),
        };
        let limit = if self.limit == 0 { Memory::now().total / 100 * 85 } else { self.limit };
        let longest = bounds.map_or(context, |(longest, _)| context.min(longest));
        MemoryRequest {
            limit: if limit == 0 { u64::MAX } else { limit },
            context: self.context.map_or(ContextWish::UpTo(longest), ContextWish::Exactly),
            sequences: self.sequences.or(bounds.map(|(_, sequences)| sequences)),
            layers: if let Held::Layers { stay, .. } = held { Some(stay) } else { None },
        }
    }

    /// What of the flags cannot be had together.
    fn contradiction(&self, device: &dyn Device) -> Option<&'static str> {
        match self.gpu_layers {
            GpuLayers::Auto | GpuLayers::Count(0) => None,
            GpuLayers::Count(_) if backend(device) == "cpu" => {
                Some("--gpu-layers: no GPU is used: leave the flag out, or ask for one with --backend wgpu")
            }
            GpuLayers::Count(_) if self.experts != ExpertWish::Fit => Some(
                "--gpu-layers and --expert-budget: what is read from disk goes to one device: leave one of them out",
            ),
            GpuLayers::Count(_) => None,
        }
    }

    fn cpu(&self) -> Box<dyn Device> {
        Box::new(CpuDevice::new(CpuOptions { threads: self.threads, tier: Tier::Native }))
    }

    /// What runs where on a CPU and a GPU, if not all on the GPU.
    fn divide(&self, whole: &Compiled, fits: bool, gpu: &Target) -> Result<Option<Divided>, DoesNotFit> {
        if self.gpu_layers == GpuLayers::Auto && fits {
            return Ok(None);
        }
        let (cpu, request) = (self.cpu(), self.memory(whole.context, Held::All));
        let split = Split::wanted(self.gpu_layers, &whole.program, fits, cpu.target(), gpu, request)?;
        Ok(split.map(|split| (cpu, split)))
    }

    fn open(&self) -> Result<Box<dyn Device>, String> {
        let cpu = || self.cpu();
        match self.backend {
            _ if self.gpu_layers == GpuLayers::Count(0) => Ok(cpu()),
            Backend::Cpu => Ok(cpu()),
            Backend::Wgpu => Ok(Box::new(GpuDevice::open(self.device.as_deref()).map_err(|e| e.to_string())?)),
            Backend::Auto if self.device.is_some() || has_gpu() => match GpuDevice::open(self.device.as_deref()) {
                Ok(gpu) => Ok(Box::new(gpu)),
                Err(e) if self.device.is_some() => Err(e.to_string()),
                Err(e) => {
                    tracing::warn!("the GPU cannot be used, running on the CPU: {e}");
                    Ok(cpu())
                }
            },
            Backend::Auto => Ok(cpu()),
        }
    }
}

/// Whether there is an adapter that is no CPU in disguise.
fn has_gpu() -> bool {
    swiftlm_gpu::adapters().iter().any(|a| a.unusable.is_none() && a.kind != "CPU")
}

/// The CPU that takes some layers while a GPU has the others, and which.
type Divided = (Box<dyn Device>, Split);

/// A program that fits, and where its weights are, however it came about.
pub(crate) struct Model {
    pub(crate) checkpoint: Checkpoint,
    /// Where the files of weights lie.
    pub(crate) weights: PathBuf,
    pub(crate) program: Program,
    pub(crate) plan: MemoryPlan,
    /// Where some layers run on the CPU, whose plan [`Self::plan`] is then.
    pub(crate) split: Option<Divided>,
    pub(crate) family: String,
    /// Hash of the package, or of the program where there is none.
    pub(crate) fingerprint: String,
    /// Whether it comes from a package.
    pub(crate) packaged: bool,
    /// Positions that the model was made for.
    pub(crate) context: usize,
    /// How it computes less than the model says, if it does.
    pub(crate) lossy: Option<String>,
    /// What is otherwise than was asked for, because the model does not stand that.
    pub(crate) note: Option<String>,
}

/// A model with a device and a plan that fits, before any weight is read.
pub struct Prepared {
    found: Found,
    device: Box<dyn Device>,
    backend: &'static str,
    model: Model,
    io: Io,
    prefetch: Prefetch,
}

/// Compiles a model directory for a device.
fn compiled(found: &Found, wishes: &Wishes, device: &dyn Device) -> Result<Model, LoadError> {
    if wishes.weights.is_some() {
        return Err(found.wrong("only a package can have its weights elsewhere, and this is none: leave --weights out"));
    }
    let checkpoint = Checkpoint::open(found.directory()).map_err(|e| found.wrong(e))?;
    let mut build = wishes.precision.build(wishes.kv, backend(device) == "cpu");
    build.experts_per_token = wishes.experts_per_token;
    if let Some(policy) = &mut build.archive {
        policy.careful = wishes.careful;
    }
    let mut options = Options { build, ..Options::default() };
    options.compile.chunk = wishes.chunk.unwrap_or(options.compile.chunk);
    options.compile.max_rows = wishes.sequences.unwrap_or(0).max(LEAST_ROWS).min(options.compile.chunk.max(1));
    options.compile.max_binding = device.target().max_binding;
    let whole = RefCell::new(None);
    let compile = |slots: Option<usize>| match (slots, whole.take()) {
        (None, Some(whole)) => Ok(whole),
        _ => {
            let mut options = options.clone();
            options.compile.slots = slots;
            options.compile.ahead = wishes.prefetch != Prefetch::Off;
            compile(&checkpoint, &options).map_err(|e| e.to_string())
        }
    };
    let plan = |compiled: &Compiled, held: Held| {
        MemoryPlan::new(&compiled.program, device.target(), wishes.memory(compiled.context, held))
    };
    let mut split = None;
    if backend(device) == "wgpu" && wishes.experts == ExpertWish::Fit {
        let compiled = compile(None).map_err(|e| found.wrong(e))?;
        let fits = plan(&compiled, Held::All).is_ok();
        split = wishes.divide(&compiled, fits, device.target()).map_err(|e| LoadError::Memory(e.to_string()))?;
        whole.replace(Some(compiled));
    }
    let (compiled, plan) = match &split {
        Some((_, split)) => {
            (divided(&checkpoint, &options, wishes, split).map_err(|e| found.wrong(e))?, split.cpu.clone())
        }
        None => {
            let fitted = residency::fit(wishes.experts, compile, plan).map_err(|e| found.wrong(e))?;
            fitted.map_err(|e| LoadError::Memory(e.to_string()))?
        }
    };
    let (seconds, kernels) = (compiled.time.as_secs_f64(), compiled.program.kernels.len());
    tracing::info!(family = compiled.family, device = device.target().name, seconds, kernels, "compiled");
    let archived = KvInfo::of(&compiled.program).archive.is_some();
    if let Some(note) = &compiled.note {
        tracing::warn!("{note}");
    } else if wishes.kv.and_then(Kv::archive).is_some() && !archived {
        tracing::warn!(
            "TurboQuant is left out: no layer has heads that it can rotate and a history longer than its window"
        );
    }
    let lossy = wishes.experts_per_token.map(|most| lossy(&checkpoint, &options, most)).transpose();
    let lossy = lossy.map_err(|e| found.wrong(e))?.flatten();
    let Compiled { program, family, fingerprint, context, note, .. } = compiled;
    let weights = found.directory().to_owned();
    Ok(Model { checkpoint, weights, program, plan, split, family, fingerprint, packaged: false, context, lossy, note })
}

/// Compiles for layers on two devices, each with what is best there.
fn divided(checkpoint: &Checkpoint, options: &Options, wishes: &Wishes, split: &Split) -> Result<Compiled, String> {
    let mut options = options.clone();
    options.build.activations = wishes.precision.build(wishes.kv, true).activations;
    options.build.f32_from = Some(split.first - 1);
    tracing::info!(on_gpu = split.layers, on_cpu = split.first - 1, "layers on two devices");
    compile(checkpoint, &options).map_err(|e| e.to_string())
}

/// How a bound on the experts of a token changes a model; not at all where it routes to no more.
fn lossy(checkpoint: &Checkpoint, options: &Options, most: usize) -> Result<Option<String>, String> {
    let mut whole = options.clone();
    whole.build.experts_per_token = None;
    let mixture = compile(checkpoint, &whole).map_err(|e| e.to_string())?.program.mixture();
    let top_k = mixture.ok_or("--experts-per-token (SWIFTLM_TOP_K): the model has no experts")?.top_k;
    let lossy = (most < top_k).then(|| format!("experts_per_token={most} of {top_k}"));
    if let Some(lossy) = &lossy {
        tracing::warn!("{lossy}: this computes less than the model says");
    }
    Ok(lossy)
}

fn backend(device: &dyn Device) -> &'static str {
    if device.target().name == "cpu" { "cpu" } else { "wgpu" }
}

impl Prepared {
    /// Compiles, or opens a package, and plans.
    ///
    /// # Errors
    /// What is wrong with the model, or that it does not fit.
    pub fn new(found: Found, wishes: &Wishes, progress: &Progress) -> Result<Self, LoadError> {
        let device = wishes.open().map_err(|e| found.wrong(e))?;
        if let Some(reason) = wishes.contradiction(device.as_ref()) {
            return Err(found.wrong(reason));
        }
        let model = if is_package(found.directory()) {
            package::open(&found, wishes, device.as_ref())?
        } else {
            progress.report("compile", 0.0);
            let model = compiled(&found, wishes, device.as_ref())?;
            progress.report("compile", 1.0);
            model
        };
        Ok(Self { found, backend: backend(device.as_ref()), device, model, io: wishes.io, prefetch: wishes.prefetch })
    }

    /// Facts for `/health` and `/v1/models`; the weights count as planned.
    pub fn info(&self) -> ModelInfo {
        let written = std::fs::metadata(self.found.directory().join("config.json")).and_then(|m| m.modified());
        let created = written.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
        let layers = placement::layers(&self.model.program);
        let split = self.model.split.as_ref().map(|(_, split)| split);
        let gpu = split.map(|split| &split.gpu);
        ModelInfo {
            id: self.found.name.clone(),
            created: if self.found.name == demo::NAME { demo::CREATED } else { created },
            fingerprint: self.model.fingerprint.clone(),
            architecture: self.model.family.clone(),
            packaged: self.model.packaged,
            lossy: self.model.lossy.clone(),
            backend: self.backend.to_owned(),
            device: self.device.target().name.clone(),
            weights_bytes: self.model.plan.weights + gpu.map_or(0, |gpu| gpu.weights),
            kv_bytes: self.model.plan.kv() + gpu.map_or(0, MemoryPlan::kv),
            kv: KvInfo { note: self.model.note.clone(), ..KvInfo::of(&self.model.program) },
            layers,
            gpu_layers: match split {
                Some(split) => split.layers,
                None if self.backend == "wgpu" => layers,
                None => 0,
            },
        }
    }

    /// The files in `directory` where this model's prefix cache outlives the process.
    ///
    /// # Errors
    /// The model's folder cannot be read, or the files' not be made.
    pub fn prefix_files(&self, directory: &Path) -> std::io::Result<PrefixFiles> {
        let split = self.model.split.as_ref().map_or(String::new(), |(_, split)| split.first.to_string());
        let version = env!("CARGO_PKG_VERSION");
        let how = [&*self.model.fingerprint, self.backend, &self.device.target().name, &split, version];
        PrefixFiles::open(directory, &prefix_files::key(&how, &[self.found.directory(), &self.model.weights])?)
    }

    /// Where the model's files lie.
    pub fn directory(&self) -> &Path {
        self.found.directory()
    }

    /// The plan as a table.
    pub fn describe(&self) -> String {
        let gpu = self.model.split.as_ref().map(|(_, split)| format!("\n{}", split.gpu));
        format!("{}{}", self.model.plan, gpu.unwrap_or_default())
    }

    /// The plan.
    pub fn plan(&self) -> &MemoryPlan {
        &self.model.plan
    }

    /// Positions that the model was made for.
    pub fn context(&self) -> usize {
        self.model.context
    }

    /// The launches.
    pub fn program(&self) -> &Program {
        &self.model.program
    }

    /// Reads the weights and makes the kernels.
    ///
    /// # Errors
    /// A weight cannot be read, or the device fails.
    pub fn into_executable(self, progress: &Progress) -> Result<Executable, LoadError> {
        let Self { found, device, model, io, prefetch, .. } = self;
        let Model { checkpoint, weights, program, plan, split, .. } = model;
        let (device, rest) = match split {
            Some((cpu, split)) => (cpu, Some(Rest { first: split.first, device })),
            None => (device, None),
        };
        let checkpoint = Arc::new(checkpoint);
        let start = Instant::now();
        let fraction = |done: usize, total: usize| done as f64 / total.max(1) as f64;
        // What is read again and again shall not lie in the page cache, too.
        let mut fetches = program.plans.iter().flatten().flat_map(|plan| &plan.fetches).peekable();
        let streamed = fetches.peek().is_some() || plan.layers.is_some();
        if fetches.peek().is_some() && prefetch != Prefetch::Off && fetches.all(|fetch| fetch.ahead.is_none()) {
            tracing::warn!("--ssd-prefetch is left out: no layer chooses experts as the one before it does");
        }
        let open = || Uncached::open(Arc::clone(&checkpoint), &weights, found.directory(), io.into());
        let uncached = streamed.then(|| Arc::new(open()));
        let options = ExecutableOptions {
            kv_pages: plan.kv_pages,
            max_sequences: plan.max_sequences,
            table_stride: plan.table_stride,
            layers: plan.layers,
            rest,
            experts: uncached.clone().map(|source| source as Arc<dyn ExpertSource>),
            progress: &mut |step| match step {
                LoadProgress::Weights { done, total } => progress.report("load", fraction(done, total)),
                LoadProgress::Kernels { done, total } => progress.report("warm", fraction(done, total)),
            },
        };
        let wrong = |reason: String| LoadError::Model { model: found.name.clone(), reason };
        let bytes = launch_bytes(&program);
        let source: &dyn WeightSource = uncached.as_deref().map_or(&*checkpoint, |source| source);
        let mut executable = Executable::load(device, program, source, options).map_err(|e| wrong(e.to_string()))?;
        if prefetch == Prefetch::Auto {
            executable.measure_ahead();
        }
        tracing::info!(seconds = start.elapsed().as_secs_f64(), "weights loaded, kernels made");
        if Debug::from_env().map_err(wrong)?.level >= 2 {
            let table = profile(&mut executable, &bytes).map_err(|e| wrong(e.to_string()))?;
            tracing::info!(target: "slm", "launches of a decode step:\n{table}");
        }
        Ok(executable)
    }
}

/// Weight bytes that the launches of each call of a decode step read, in order.
fn launch_bytes(program: &Program) -> Vec<Vec<usize>> {
    let one = |func: usize| program.plans[func].iter().find(|plan| plan.class == ShapeClass::One);
    let plans = program.module.main.iter().filter_map(|call| one(call.func));
    plans.map(|plan| plan.dispatches.iter().map(|d| d.template.decode_bytes()).collect()).collect()
}

/// Times every launch of a first token's step by the device's own clock.
fn profile(executable: &mut Executable, bytes: &[Vec<usize>]) -> Result<String, StepError> {
    executable.warm_up()?;
    let launches = executable.profile_step(&executable.first_token())?;
    executable.warm_up()?;
    let line = |launch: &ProfiledLaunch| {
        let bytes = bytes.get(launch.call).and_then(|call| call.get(launch.launch)).copied().unwrap_or(0);
        let ns = launch.nanoseconds.max(1) as f64;
        let rate = if bytes == 0 { String::new() } else { format!("{:9.2} GB/s", bytes as f64 / ns) };
        format!("{:9.1} us {rate:>14}  {:<14} {}", ns / 1e3, launch.template, launch.loc)
    };
    Ok(launches.iter().map(line).collect::<Vec<_>>().join("\n"))
}
