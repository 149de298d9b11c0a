//! OpenAI's API: requests to engine requests, engine events to replies.

pub mod body;
pub mod chat;
pub mod choice;
pub mod completions;
pub mod fields;
pub mod messages;
pub mod models;
pub mod prompt;
pub mod reply;
pub mod run;
pub mod sampling;
pub mod scores;
pub mod settings;
pub mod stream;
pub mod tokens;
