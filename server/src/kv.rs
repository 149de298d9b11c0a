//! How a loaded model keeps keys and values, for whoever asks.

use serde::Serialize;
use swiftlm_ir::plan::Program;
use swiftlm_ir::ty::StateType;

/// What `/health` says of keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KvInfo {
    /// How keys are stored, recent ones where there is an archive.
    pub keys: String,
    /// How values are.
    pub values: String,
    /// Bytes that one more token of a long conversation takes.
    pub bytes_per_token: usize,
    /// Where older tokens are kept.
    pub archive: Option<ArchiveInfo>,
    /// Layers with keys and values.
    pub layers: usize,
    /// Why it is otherwise than was asked for, if it is.
    pub note: Option<String>,
}

/// What `/health` says of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArchiveInfo {
    /// How its keys are stored.
    pub keys: String,
    /// How its values are.
    pub values: String,
    /// Tokens at the start that are not read from it.
    pub first: usize,
    /// Tokens before a query that are not, at least.
    pub last: usize,
    /// Layers that have one: those with heads that can be rotated, and without a window or with a long one.
    pub layers: usize,
}

impl KvInfo {
    /// Of a program.
    pub fn of(program: &Program) -> Self {
        let states = &program.module.states;
        let paged = || states.iter().filter(|state| matches!(state, StateType::Paged { .. }));
        let Some(StateType::Paged { k, v, .. }) = paged().next() else { return Self::default() };
        let archive = |state: &StateType| match state {
            StateType::Paged { archive, .. } => *archive,
            StateType::Recurrent(_) => None,
        };
        let archives: Vec<_> = states.iter().filter_map(archive).collect();
        Self {
            keys: k.to_string(),
            values: v.to_string(),
            bytes_per_token: program.kv_bytes_per_token(),
            archive: archives.first().map(|a| ArchiveInfo {
                keys: a.k.to_string(),
                values: a.v.to_string(),
                first: a.first,
                last: a.last,
                layers: archives.len(),
            }),
            layers: paged().count(),
            note: None,
        }
    }

    /// Keys and values of older tokens in a word, where they are not kept as they are; or why they are, against what was
    /// asked for.
    pub fn archived(&self) -> Option<String> {
        let archive = self.archive.as_ref().map(|a| format!("{}/{}", a.keys, a.values));
        match (archive, &self.note) {
            (Some(archive), Some(note)) => Some(format!("{archive} ({note})")),
            (archive, note) => archive.or_else(|| note.clone()),
        }
    }
}
