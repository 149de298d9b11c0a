//! What the e-graph makes of functions, priced beside what else could be made of them: nothing, rewriting in place, and
//! the cheapest of all terms. All prices are the compiler's own (`egraph::cost`).

use swiftlm_compiler::egraph::cost::cost;
use swiftlm_compiler::egraph::run::{Island, run_observed};
use swiftlm_compiler::passes::{canon, siblings};
use swiftlm_compiler::rules::{Rule, all};
use swiftlm_compiler::{CompileOptions, Seen, compile};
use swiftlm_ir::graph::{Graph, Module};

use crate::greedy::{Greed, reachable, rewritten, standing};
use crate::least::least;

/// Prices of a function, its islands added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    /// Name of the function.
    pub func: String,
    /// Without a rule.
    pub standing: u64,
    /// As the compiler picked it.
    pub picked: u64,
    /// With every rule applied in place wherever it matches.
    pub in_place: u64,
    /// With rules applied in place where that pays at once.
    pub where_paid: u64,
    /// Of the cheapest terms.
    pub least: u64,
    /// How much dearer than its cheapest terms the compiler's choice is, in parts of that, of the worst island.
    pub gap: f64,
    /// Islands that have something to choose, of all.
    pub islands: (usize, usize),
}

impl Prices {
    fn add(&mut self, island: &Island<'_>, rules: &[Rule]) {
        let egraph = island.egraph;
        let choice = island.picked.unwrap_or_else(|| panic!("{}: extraction failed", self.func));
        let computed = reachable(island.roots, |class| egg::Language::children(&choice[&egraph.find(class)]));
        let own = |class: &egg::Id| cost(egraph, &choice[&egraph.find(*class)]).expect("what is picked is well-typed");
        let several = |class: &egg::Id| egraph[*class].nodes.len() > 1;
        let picked: u64 = computed.iter().map(own).sum();
        let least =
            least(egraph, island.roots).unwrap_or_else(|e| panic!("{}, island {}: {e}", self.func, island.number));
        self.standing += standing(island);
        self.picked += picked;
        self.in_place += rewritten(island, rules, Greed::Everywhere);
        self.where_paid += rewritten(island, rules, Greed::WherePaid);
        self.least += least;
        self.gap = self.gap.max((picked as f64 - least as f64) / (least as f64).max(1.0));
        self.islands.0 += usize::from(computed.iter().any(several));
        self.islands.1 += 1;
    }
}

/// Prices of every function of a module, compiled with the compiler's own options.
///
/// # Errors
/// It does not compile.
pub fn of_module(module: &Module) -> Result<Vec<Prices>, String> {
    let (rules, mut prices) = (all(), vec![]);
    let options = CompileOptions { max_binding: usize::MAX / 2, ..CompileOptions::default() };
    let compiled = compile(module, &options, &mut |pass, seen| match seen {
        Seen::Graph(func) if pass == "siblings" => {
            prices.push(Prices { func: func.name.clone(), ..Prices::default() });
        }
        Seen::EGraph(_, island) => {
            prices.last_mut().expect("siblings merge before the e-graph").add(&island, &rules);
        }
        Seen::Graph(_) => {}
    });
    compiled.map(|_| prices).map_err(|e| e.to_string())
}

/// Prices of a function alone.
pub fn of_func(func: &Graph) -> Prices {
    let rules = all();
    let mut prices = Prices { func: func.name.clone(), ..Prices::default() };
    run_observed(&siblings::run(&canon::run(func)), &rules, &mut |island| prices.add(&island, &rules));
    prices
}
