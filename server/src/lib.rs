//! The OpenAI-compatible server: HTTP, prompts and text. The engine behind it sees token ids only.

pub mod text;
