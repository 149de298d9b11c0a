//! Flags, sub-commands and variables that the documentation names and this build does not have yet: they are refused by
//! name, since a flag that does nothing is worse than none.

/// Flags without a feature behind them.
const FLAGS: [&str; 11] = [
    "--thinking-budget",
    "--vision",
    "--no-vision",
    "--audio",
    "--draft-model",
    "--num-draft-tokens",
    "--mtp",
    "--ngram",
    "--calibrate",
    "--metrics-address",
    "--allow-remote-media",
];

/// Sub-commands without a feature behind them.
const COMMANDS: [&str; 2] = ["chat", "doctor"];

/// The sentence to end with, if the command line or the environment names such a thing.
pub fn refusal(arguments: &[String], variable: impl Fn(&str) -> bool) -> Option<String> {
    let known = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    for argument in known {
        let name = argument.split('=').next().unwrap_or_default();
        if FLAGS.contains(&name) {
            return Some(format!("this build has no such feature as {name}"));
        }
    }
    if let Some(command) = arguments.get(1).filter(|argument| COMMANDS.contains(&argument.as_str())) {
        return Some(format!("this build has no sub-command {command}"));
    }
    FLAGS.iter().find_map(|flag| {
        let name = format!("SWIFTLM_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
        variable(&name).then(|| format!("this build has no such feature as {flag} ({name} is set); unset it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        let arguments = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let none = |_: &str| false;
        assert!(refusal(&arguments("swiftlm --model x --port 1"), none).is_none());
        assert!(
            refusal(&arguments("swiftlm --num-draft-tokens=4"), none)
                .is_some_and(|text| text.contains("--num-draft-tokens"))
        );
        assert!(refusal(&arguments("swiftlm chat"), none).is_some_and(|text| text.contains("chat")));
        assert!(refusal(&arguments("swiftlm"), |name| name == "SWIFTLM_MTP").is_some());
    }
}
