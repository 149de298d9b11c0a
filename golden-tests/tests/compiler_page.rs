//! `docs/compiler.md` shows what the programs print: every block behind a command is that command's output.

use clap::Parser;
use swiftlm_driver::dump::cli::Flags;
use swiftlm_golden_tests::generated::{assert_fresh, workspace};

const PAGE: &str = "docs/compiler.md";
/// Begins the line that names the command of the block below it.
const MARK: &str = "<!-- shown by: ";

/// Output of `cat FILE` or `kernel-dump MODEL …`, paths from the workspace on; behind `| sed -n A,Bp` lines A to B of it.
fn output(command: &str) -> String {
    let (program, lines) = match command.split_once(" | sed -n ") {
        Some((program, span)) => (program, Some(span)),
        None => (command, None),
    };
    let mut words: Vec<String> = program.split_whitespace().map(|w| w.trim_matches('\'').to_owned()).collect();
    let path = workspace().join(&words[1]);
    let text = match words[0].as_str() {
        "cat" => std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{command}: {e}")),
        "kernel-dump" => {
            words[1] = path.to_string_lossy().into_owned();
            let flags = Flags::try_parse_from(words).unwrap_or_else(|e| panic!("{command}: {e}"));
            flags.text().unwrap_or_else(|e| panic!("{command}: {e}"))
        }
        other => panic!("{command}: `{other}` is not run here"),
    };
    let Some(span) = lines else { return text };
    let number = |text: &str| text.parse::<usize>().unwrap_or_else(|e| panic!("{command}: {e}"));
    let (first, last) = span.trim_end_matches('p').split_once(',').unwrap_or_else(|| panic!("{command}: no span"));
    let (first, last) = (number(first), number(last));
    let shown: Vec<&str> = text.lines().skip(first - 1).take(last + 1 - first).collect();
    assert_eq!(shown.len(), last + 1 - first, "{command}: there are fewer lines");
    shown.join("\n") + "\n"
}

#[test]
fn the_page_shows_what_is_printed() {
    let page = std::fs::read_to_string(workspace().join(PAGE)).unwrap_or_else(|e| panic!("{PAGE}: {e}"));
    let (mut fresh, mut shown) = (String::new(), 0);
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        fresh.push_str(line);
        fresh.push('\n');
        let Some(command) = line.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        let fence =
            lines.next().filter(|l| l.starts_with("```")).unwrap_or_else(|| panic!("{command}: no block below"));
        assert!(lines.any(|l| l == "```"), "{command}: its block does not end");
        fresh.push_str(&format!("{fence}\n{}\n```\n", output(command).trim_end()));
        shown += 1;
    }
    assert!(shown > 5, "{PAGE} shows {shown} outputs");
    assert_fresh(PAGE, &fresh, "compiler_page");
}
