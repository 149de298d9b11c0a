//! Texts that nobody meant: whatever is parsed, there is an answer and no panic, and what parses verifies or not.

mod random;

use proptest::prelude::*;
use swiftlm_ir::text::{parse, parse_graph, print};
use swiftlm_ir::verify::verify;

/// What texts are made of, whole and in part.
const PIECES: &[&str] = &[
    "slir 1\n",
    "vocabulary 8\n",
    "rope 0 = magnitude 1 [1, 2]\n",
    "state 0..2 = paged(heads=1, dim=4, k=f16, v=f16)\n",
    "state 2 = ring(window=0, heads=1, dim=4, k=f16, v=f16)\n",
    "func @f(%x: flow f32[T,4]) {\n",
    "func @g(%s: state paged(heads=0, dim=0, k=f32, v=f32)) {\n",
    "return %x\n",
    "}\n",
    "main {\n",
    "call @f \"a.{0..2}\" state 0..2\n",
    "w\"a\": affine4_g64_bf16[8,64]\n",
    "w\"{a,b}\": f32[0,0]\n",
    "%y = linear %x, w\"a\"",
    "%k = kv.k %s",
    "%h = split_heads %x {heads=0}",
    "%a = attend %y, %k, %k {scale=inf, window=0, cap=0}",
    " : f32[T,1,4]",
    " : history(heads=0, dim=0)",
    " : history(window=2, heads=1, dim=4)",
    " @loc\n",
    "param %x\n",
    "%",
    "@",
    "\"",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    "=",
    "->",
    "..",
    "\\",
    ";",
    "\n",
    " ",
    "-1",
    "1e999",
    "99999999999999999999",
    "NaN",
    "moe.route_weights",
    "%w = moe.route_weights %x, %x {routing=softmax, normalize=true}",
    "f32[R]",
    "u32[T,2]",
    "é",
    "\u{0}",
    "\r\n",
    "\t",
];

/// Neither parser panics, and what comes out of one is fit for the verifier and the printer.
fn survives(text: &str) {
    let _ = parse_graph(text);
    match parse(text) {
        Ok(module) => {
            let _ = verify(&module);
            let printed = print(&module);
            let again = parse(&printed).map(|m| print(&m));
            assert_eq!(again.as_deref(), Ok(printed.as_str()));
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            errors.iter().for_each(|e| assert!(!e.to_string().is_empty()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn characters(text in "\\PC{0,200}") {
        survives(&text);
    }

    #[test]
    fn pieces(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        survives(&pieces.concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A good text with some of it cut out, doubled, or replaced by what stands elsewhere or by a piece.
    #[test]
    fn mutated_texts(
        module in random::module(),
        cuts in proptest::collection::vec((any::<u32>(), any::<u32>(), 1usize..24, 0u8..4), 1..6),
    ) {
        let mut text: Vec<char> = print(&module).chars().collect();
        for (at, from, len, kind) in cuts {
            let (at, from) = (at as usize % text.len().max(1), from as usize % text.len().max(1));
            let end = (at + len).min(text.len());
            let other: Vec<char> = text[from..(from + len).min(text.len())].to_vec();
            let piece: Vec<char> = PIECES[from % PIECES.len()].chars().collect();
            let by = match kind {
                0 => vec![],
                1 => [&text[at..end], &text[at..end]].concat(),
                2 => other,
                _ => piece,
            };
            text.splice(at..end, by);
        }
        survives(&text.iter().collect::<String>());
    }
}
