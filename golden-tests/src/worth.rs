//! What the e-graph is worth, family by family and case by case: how often its choice is cheaper than rewriting in place,
//! and how far it is from the cheapest.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

use swiftlm_ir::quant::Archive;
use swiftlm_ir::text::parse_graph;
use swiftlm_models::{ArchivePolicy, BuildOptions};

use crate::cases;
use crate::extraction::{Prices, of_func, of_module};
use crate::published::Published;

/// Prices of functions, by what they are functions of.
pub type Worth = BTreeMap<String, Vec<Prices>>;

/// Prices of all functions of models, by family, without an archive and with one where that makes a difference.
///
/// # Panics
/// A model does not compile.
pub fn of_models(models: &[Published]) -> Worth {
    let mut families = Worth::new();
    let archive = Archive::of_bits(4, 4).expect("4 bits are an archive");
    let archived = BuildOptions {
        archive: Some(ArchivePolicy { archive, boundary: 0, careful: false }),
        ..BuildOptions::default()
    };
    for model in models {
        let built = |options: &BuildOptions| {
            swiftlm_models::build(&model.config, &model.index, options)
                .unwrap_or_else(|e| panic!("{}: {e}", model.name))
        };
        let (plain, archived) = (built(&BuildOptions::default()), built(&archived));
        let prices =
            |built: &swiftlm_models::Model| of_module(&built.module).unwrap_or_else(|e| panic!("{}: {e}", model.name));
        families.entry(plain.family.clone()).or_default().extend(prices(&plain));
        if archived.module != plain.module {
            families.entry(format!("{}, archive", plain.family)).or_default().extend(prices(&archived));
        }
    }
    families
}

/// Prices of the cases that are optimised, by directory.
///
/// # Panics
/// A case does not parse.
pub fn of_cases() -> Worth {
    let mut directories = Worth::new();
    for file in cases::all().iter().filter(|file| file.commands.iter().any(|command| command == "optimize")) {
        let func = parse_graph(&file.source).unwrap_or_else(|e| panic!("{}: {e:?}", file.name));
        let directory = file.name.split('/').next().unwrap_or_default();
        let prices = Prices { func: file.name.clone(), ..of_func(&func) };
        directories.entry(format!("`cases/{directory}`")).or_default().push(prices);
    }
    directories
}

/// How often the compiler's choice is cheaper, as dear and dearer than another.
pub fn against<'p>(prices: impl IntoIterator<Item = &'p Prices>, other: fn(&Prices) -> u64) -> [usize; 3] {
    let mut counts = [0; 3];
    for p in prices {
        counts[match p.picked.cmp(&other(p)) {
            Ordering::Less => 0,
            Ordering::Equal => 1,
            Ordering::Greater => 2,
        }] += 1;
    }
    counts
}

/// A row of a table in Markdown for each.
pub fn rows(worth: &Worth) -> String {
    let mut text = String::new();
    for (name, prices) in worth {
        let cell = |other| {
            let [cheaper, equal, dearer] = against(prices, other);
            format!("{cheaper}, {equal}, {dearer}")
        };
        let (standing, in_place, where_paid) = (cell(|p| p.standing), cell(|p| p.in_place), cell(|p| p.where_paid));
        writeln!(text, "| {name} | {} | {standing} | {in_place} | {where_paid} |", prices.len())
            .expect("a string grows");
    }
    text
}
