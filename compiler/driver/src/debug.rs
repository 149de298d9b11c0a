//! What people may ask to see: the `SLM_*` variables, read once, the same in every program.

use std::path::PathBuf;

use swiftlm_ir::graph::Graph;

fn known_rule(name: &str) -> bool {
    swiftlm_compiler::rules::all().iter().any(|rule| rule.name.as_str() == name)
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debug {
    /// `SLM_DEBUG`: 1 the program's facts, 3 rules applied, 4 kernels,
    /// 5 graphs after each pass.
    pub level: u8,
    /// `SLM_DUMP`: a directory for graphs by pass, plans and kernels.
    pub dump: Option<PathBuf>,
    /// `SLM_RULES=-name,-name`: rewrite rules to do without.
    pub without_rules: Vec<String>,
}

impl Debug {
    /// Reads the environment.
    ///
    /// # Errors
    /// A value that is no level.
    pub fn from_env() -> Result<Self, String> {
        let level = match std::env::var("SLM_DEBUG") {
            Err(_) => 0,
            Ok(text) => match text.parse() {
                Ok(level) if level <= 6 => level,
                _ => return Err(format!("SLM_DEBUG: expected a level from 0 to 6, got `{text}`")),
            },
        };
        let mut without_rules = vec![];
        for word in std::env::var("SLM_RULES").unwrap_or_default().split(',').filter(|w| !w.is_empty()) {
            let name = word.strip_prefix('-').filter(|name| known_rule(name));
            let name = name.ok_or_else(|| format!("SLM_RULES: expected `-` and the name of a rule, got `{word}`"))?;
            without_rules.push(name.to_owned());
        }
        Ok(Self { level, dump: std::env::var_os("SLM_DUMP").map(PathBuf::from), without_rules })
    }

    /// Shows a function after a pass, as far as it was asked for.
    ///
    /// # Errors
    /// The dump directory cannot be written.
    pub fn graph(&self, number: usize, pass: &str, graph: &Graph) -> std::io::Result<()> {
        if self.level < 5 && self.dump.is_none() {
            return Ok(());
        }
        let text = swiftlm_ir::text::print_graph(graph);
        if self.level >= 5 {
            tracing::info!(target: "slm", "after {pass}:\n{text}");
        }
        self.write(&format!("{number:02}-{pass}-{}.slir", graph.name), &text)
    }

    /// Writes a text to the dump directory, if there is one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> std::io::Result<()> {
        let Some(dir) = &self.dump else { return Ok(()) };
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(name), text)
    }
}
