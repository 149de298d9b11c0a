//! Sequences, state pools, scheduling and sampling. Knows token ids, programs and devices; never models, files, HTTP or text.

pub mod budget;
pub mod engine;
pub mod executable;
pub mod request;
pub mod sampler;
pub mod scheduler;
pub mod state;
pub mod weights;

pub use engine::{Engine, EngineOptions};
pub use executable::{Batch, Executable, ExecutableOptions, LoadError, Progress, StepError};
pub use weights::WeightSource;
