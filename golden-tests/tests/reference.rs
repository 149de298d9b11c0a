//! The host reference against the rows: the truth for ops agrees with the programs that define the models.

use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::run::{arg_max, exact, relative_error};
use swiftlm_ir::reference::{Session, Token};

#[test]
fn logits_on_the_host_reference() {
    for name in names() {
        let row = Row::open(&name);
        let model = swiftlm_models::build(&row.config, &row.index, &exact()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut session = Session::new(&model.module, &row).unwrap_or_else(|e| panic!("{name}: {e}"));
        let prompt = row.prompt.iter().enumerate();
        let tokens: Vec<Token> = prompt.map(|(p, id)| Token { id: *id, sequence: 0, position: p as u32 }).collect();
        let rows: Vec<usize> = (0..tokens.len()).collect();
        let logits = session.step(&tokens, &rows).unwrap_or_else(|e| panic!("{name}: {e}"));
        let error = relative_error(&logits.concat(), &row.logits);
        assert!(error <= 1e-4, "{name}: error {error:.2e}");
        let mut last = logits.last().cloned().expect("a prompt is not empty");
        for (n, expected) in row.greedy.iter().enumerate() {
            let id = arg_max(&last);
            assert_eq!(id, *expected, "{name}: greedy token {n}");
            let token = Token { id, sequence: 0, position: (tokens.len() + n) as u32 };
            last = session.step(&[token], &[0]).unwrap_or_else(|e| panic!("{name}: {e}")).remove(0);
        }
    }
}
