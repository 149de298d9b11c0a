//! The OpenAI-compatible server: HTTP, prompts and text. The engine behind it sees token ids only.

pub mod absent;
pub mod app;
pub mod bench;
pub mod commands;
pub mod demo;
pub mod error;
pub mod events;
pub mod flags;
pub mod guard;
pub mod health;
pub mod hub;
pub mod kv;
pub mod load;
pub mod memory;
pub mod metrics;
pub mod openai;
mod package;
pub mod plot;
pub mod prepare;
pub mod progress;
pub mod quality;
pub mod residency;
pub mod router;
pub mod signals;
pub mod state;
mod table;
pub mod text;
