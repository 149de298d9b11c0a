//! The e-graph's choice beside the cheapest that its terms allow, and beside rewriting in place, on every case that is
//! optimised. `published.rs` does the same with every published model.

use swiftlm_golden_tests::extraction::of_func;
use swiftlm_golden_tests::worth::of_cases;
use swiftlm_ir::text::parse_graph;

#[test]
fn the_choice_is_the_cheapest_in_every_case() {
    let mut choices = 0;
    for p in of_cases().values().flatten() {
        assert_eq!(p.picked, p.least, "{p:?}");
        // Whatever rewriting in place comes to is among the terms.
        assert!(p.least <= p.standing.min(p.in_place).min(p.where_paid), "{p:?}");
        choices += p.islands.0;
    }
    assert!(choices > 20, "{choices} islands have something to choose");
}

/// Where rules compete, one order of them does not serve all; a rule alone needs none.
#[test]
fn an_order_of_rules_loses_where_they_compete() {
    let cases = of_cases();
    assert!(cases["`cases/order`"].len() > 2);
    for p in &cases["`cases/order`"] {
        assert!(p.picked < p.in_place, "{p:?}");
    }
    for p in &cases["`cases/rules`"] {
        assert!(p.picked == p.in_place && p.in_place < p.standing, "{p:?}");
    }
}

/// Prices by hand: 64 for a launch, 4 for what rides along with one (`egraph::cost`); weights here are below 1 KiB.
#[test]
fn prices_are_those_counted_by_hand() {
    let func = "func @case(%x: flow f32[T,8]) {
  w\"gate\": f32[8,8]
  %g = linear %x, w\"gate\"
  %a = scale %g {factor=0.3}
  %s = sigmoid %a
  %y = mul %a, %s
  return %y
}
";
    let p = of_func(&parse_graph(func).unwrap_or_else(|e| panic!("{e:?}")));
    // scale, sigmoid, mul; silu(scale); scale, sigmoid, mul and a factor behind it; silu(scale).
    assert_eq!([p.standing, p.picked, p.in_place, p.where_paid], [64 + 12, 64 + 8, 64 + 16, 64 + 8]);
    assert_eq!((p.least, p.gap, p.islands), (64 + 8, 0.0, (1, 1)));
}
