//! Text on its way in and out: template, tokenizer, incremental decoding, stop strings. Knows no HTTP and no engine.

pub mod decoder;
pub mod dialect;
pub mod json;
pub mod model;
mod python;
pub mod stop;
pub mod template;
pub mod tokenizer;

pub use decoder::TextDecoder;
pub use dialect::{Dialect, Segment};
pub use model::{TextError, TextModel};
pub use stop::StopMatcher;
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
