//! Sequences, state pools, scheduling and sampling. Knows token ids, programs and devices; never models, files, HTTP or text.
//!
//! From below: [`weights`] brings weights to a device, [`executable`] binds a compiled program to it and runs one step of
//! packed tokens, [`state`] hands out the pages that sequences keep their history in, [`scheduler`] packs steps, [`sampler`]
//! turns logits into tokens, [`experts`] brings those of a mixture that do not fit, and [`engine`] does all of it on one thread behind [`request::Generate`]. [`budget`] says
//! beforehand what fits.
//!
//! Loading goes `MemoryPlan::new` → `Executable::load` (with the plan's pages, sequences and stride) → `warm_up` →
//! `Engine::start`; ending goes `Engine::drain` → `Engine::shutdown`.

pub mod budget;
pub mod engine;
pub mod executable;
pub mod experts;
pub mod request;
pub mod sampler;
pub mod scheduler;
pub mod state;
pub mod weights;

pub use budget::{ContextWish, DoesNotFit, MemoryPlan, MemoryRequest};
pub use engine::{Engine, EngineOptions};
pub use executable::{Batch, Executable, ExecutableOptions, LoadError, Progress, StepError};
pub use weights::WeightSource;
