//! What people may ask to see: the `SLM_*` variables, read once, the same in every program.

use std::path::PathBuf;

use swiftlm_compiler::{Choices, Seen};

fn known_rule(name: &str) -> bool {
    swiftlm_compiler::rules::all().iter().any(|rule| rule.name.as_str() == name)
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debug {
    /// `SLM_DEBUG`: 1 the program's facts, 2 launches timed, 3 rules applied, 4 kernels, 5 graphs after each pass,
    /// 6 e-graphs.
    pub level: u8,
    /// `SLM_DUMP`: a directory for graphs by pass, e-graphs, plans and kernels.
    pub dump: Option<PathBuf>,
    /// `SLM_RULES=-name,-name`: rewrite rules to do without.
    pub without_rules: Vec<String>,
    /// `SLM_NOOPT=1`: nothing is decided for speed; `SLM_CHAOS=seed`: at random.
    pub choices: Choices,
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
        let chaos = match std::env::var("SLM_CHAOS") {
            Err(_) => None,
            Ok(text) => Some(text.parse().map_err(|_| format!("SLM_CHAOS: expected a seed, got `{text}`"))?),
        };
        let choices = match (std::env::var("SLM_NOOPT").as_deref(), chaos) {
            (Err(_) | Ok("0"), None) => Choices::Best,
            (Err(_) | Ok("0"), Some(seed)) => Choices::Random(seed),
            (Ok("1"), None) => Choices::Plain,
            (Ok("1"), Some(_)) => return Err("SLM_NOOPT and SLM_CHAOS exclude each other".to_owned()),
            (Ok(text), _) => return Err(format!("SLM_NOOPT: expected 0 or 1, got `{text}`")),
        };
        Ok(Self { level, dump: std::env::var_os("SLM_DUMP").map(PathBuf::from), without_rules, choices })
    }

    /// Shows what the compiler made, as far as it was asked for.
    ///
    /// # Errors
    /// The dump directory cannot be written.
    pub fn seen(&self, number: usize, pass: &str, seen: Seen<'_>) -> std::io::Result<()> {
        let level = match seen {
            Seen::Graph(_) => 5,
            Seen::EGraph(..) => 6,
        };
        if self.level < level && self.dump.is_none() {
            return Ok(());
        }
        let (text, file) = match seen {
            Seen::Graph(graph) => {
                (swiftlm_ir::text::print_graph(graph), format!("{number:02}-{pass}-{}.slir", graph.name))
            }
            Seen::EGraph(func, island) => {
                (island.dot(), format!("{number:02}-{pass}-{func}-island{}.dot", island.number))
            }
        };
        if self.level >= level {
            tracing::info!(target: "slm", "after {pass}:\n{text}");
        }
        self.write(&file, &text)
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
