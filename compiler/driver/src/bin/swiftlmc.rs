//! `swiftlmc`: makes packages, and inspects, verifies and compares them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use swiftlm_driver::hub::resolve;
use swiftlm_driver::package::{Cost, Deviation, Outline, PackOptions, Tolerance, diff, inspect, pack, verify};
use swiftlm_driver::precision::{Kv, Precision};

/// Compiles a model ahead of time to a package that `swiftlm --model PACKAGE` serves.
#[derive(Debug, Parser)]
#[command(name = "swiftlmc", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    pack: Option<PackFlags>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what a package is
    Inspect {
        /// The package
        package: PathBuf,
        /// Print JSON: the manifest and what a step costs
        #[arg(long)]
        json: bool,
    },
    /// Compare every byte with its hash, and the program's logits with the certificate
    Verify {
        /// The package
        package: PathBuf,
        /// Model directory of a package that does not hold its weights
        #[arg(long)]
        weights: Option<PathBuf>,
        /// CPU threads; one per core if absent
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        threads: usize,
    },
    /// Print how two packages differ: choices, rules, kernels, predicted cost
    Diff {
        /// The first package
        first: PathBuf,
        /// The second package
        second: PathBuf,
    },
}

/// What a program is made for: it decides how activations are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Vector units.
    #[default]
    Cpu,
    /// Vulkan, Metal or Direct3D.
    Wgpu,
}

#[derive(Args, Debug)]
struct PackFlags {
    /// Model: a directory or a hub id
    model: String,
    /// Where the package goes; one that is there is replaced
    #[arg(short, long)]
    output: PathBuf,
    /// Prompt tokens computed in one step
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    prefill_size: u32,
    /// Sequences in one batch at most
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    parallel: u32,
    /// The device that the program is made for; it runs on others, too
    #[arg(long, value_enum, default_value_t)]
    target: Target,
    /// How activations are rounded
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// How keys and values are stored; f16 if absent, f32 where the precision is exact
    #[arg(long, value_enum)]
    kv: Option<Kv>,
    /// MiB that one argument of a launch may span: what the device binds at least
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..))]
    max_binding: u32,
    /// Leave the weights in the model's directory; the package then names them by size and hash
    #[arg(long)]
    in_place: bool,
    /// Write experts as records that are read at once, in the order of the kernels: for models larger than memory
    #[arg(long, conflicts_with = "in_place")]
    repack: bool,
    /// Make no certificate of logits, for models that do not fit in this machine's memory
    #[arg(long)]
    no_certificate: bool,
    /// CPU threads for the certificate; one per core if absent
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
}

impl PackFlags {
    fn options(&self) -> PackOptions {
        let mut options = PackOptions {
            in_place: self.in_place,
            repack: self.repack,
            without_certificate: self.no_certificate,
            threads: self.threads,
            ..PackOptions::default()
        };
        options.program.build = self.precision.build(self.kv, self.target == Target::Cpu);
        options.program.compile.chunk = self.prefill_size as usize;
        options.program.compile.max_rows = self.parallel.min(self.prefill_size) as usize;
        options.program.compile.max_binding = (self.max_binding as usize) << 20;
        options
    }
}

fn run(cli: Cli) -> Result<String, Box<dyn std::error::Error>> {
    match (cli.command, cli.pack) {
        (Some(Command::Inspect { package, json: false }), _) => Ok(inspect(&Outline::read(&package)?)),
        (Some(Command::Inspect { package, json: true }), _) => {
            let package = Outline::read(&package)?;
            let facts = serde_json::json!({"manifest": package.manifest, "cost": Cost::of(&package.program)});
            Ok(serde_json::to_string_pretty(&facts)? + "\n")
        }
        (Some(Command::Verify { package, weights, threads }), _) => {
            let found = verify(&package, weights.as_deref(), threads)?;
            let mut text = format!("{} files of {} bytes are as they were made\n", found.files, found.bytes);
            match found.certified {
                None => text.push_str("there is no certificate: logits were not compared\n"),
                Some(certified) => {
                    for Deviation { depth, own, reference } in certified.deviations {
                        text.push_str(&format!(
                            "depth {depth}: logits off by {own:.1e} from when it was made, {reference:.1e} from the model's\n"
                        ));
                    }
                    let Tolerance { own, reference } = certified.tolerance;
                    text.push_str(&format!("at most {own:.0e} and {reference:.0e} may be: the certificate holds\n"));
                }
            }
            Ok(text + &format!("package {}\n", found.hash))
        }
        (Some(Command::Diff { first, second }), _) => {
            let text = diff(&Outline::read(&first)?, &Outline::read(&second)?);
            Ok(if text.is_empty() { "no difference\n".to_owned() } else { text })
        }
        (None, Some(flags)) => {
            let model = resolve(&flags.model, &mut |_| {})?;
            let manifest = pack(&model, &flags.output, &flags.options())?;
            Ok(format!("package {} at {}\n", manifest.hash, flags.output.display()))
        }
        (None, None) => Err("name a model, or one of inspect, verify, diff: see --help".into()),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(text) => {
            // A closed pipe (`| head`) is no failure worth words.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "swiftlmc: {error}");
            ExitCode::FAILURE
        }
    }
}
