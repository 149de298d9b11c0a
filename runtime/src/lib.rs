//! Sequences, state pools, scheduling and sampling. Knows token ids, programs and devices; never models, files, HTTP or text.

pub mod request;
