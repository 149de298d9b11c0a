//! Instructions of hot kernels on every instruction set of the machine, which are the same from run to run where times are
//! not: `cargo bench -p swiftlm-cpu --bench instructions [-- PART_OF_A_NAME]`. Linux only.
//!
//! Counters of the processor are not there in many virtual machines, so a child runs a launch on one thread, once to have
//! everything in place, and once step by step under the parent's eyes (`ptrace`).

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

#[cfg(target_os = "linux")]
mod cases;

#[cfg(target_os = "linux")]
mod counted {
    #![allow(unsafe_code, reason = "a process is traced by system calls")]

    use std::process::Command;

    use swiftlm_cpu::IsaKind;
    use swiftlm_ir::quant::{Affine, Float, Format};

    use super::cases::{self, Case, On};

    const NAMES: [&str; 11] = [
        "product of 1 row, 4 bits",
        "product of 1 row, 8 bits",
        "product of 1 row, bf16",
        "product of 64 rows, 4 bits",
        "product of 64 rows, 8 bits",
        "product of 64 rows, bf16",
        "attention behind 1024, f16",
        "attention behind 1024, 8 bits",
        "attention behind 1024, 4 bits",
        "attention behind 1024, k4v4",
        "attention behind 1024, k3v3",
    ];

    fn case(name: &str, isa: IsaKind) -> Case {
        let on = On { isa, threads: 1, from_memory: false };
        let codes = |bits| Format::Affine(Affine { bits, group: 64, scale: Float::Bf16 });
        let (what, of) = name.split_once(", ").expect("a name has two parts");
        if what.starts_with("attention") {
            let kv = match of {
                "8 bits" => "affine8_g64_f16",
                "4 bits" => "affine4_g64_f16",
                other => other,
            };
            return cases::attend(on, (32, 8, 64), kv, 1024, 1);
        }
        let format = match of {
            "4 bits" => codes(4),
            "8 bits" => codes(8),
            _ => Format::BF16,
        };
        cases::linear(on, format, Some(8), (2048, 256), if what.contains("64") { 64 } else { 1 })
    }

    /// The child: a launch between two stops.
    fn run(name: &str, isa: IsaKind) {
        let mut case = case(name, isa);
        case.run();
        // SAFETY: asks to be traced, and stops; no memory is touched.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            case.run();
            libc::raise(libc::SIGSTOP);
        }
    }

    /// Steps a child from one stop to the next.
    fn count(name: &str, isa: IsaKind) -> u64 {
        let this = std::env::current_exe().expect("a program has a path");
        let mut child =
            Command::new(this).args(["--child", name, &format!("{isa:?}")]).spawn().expect("it starts again");
        let id = child.id() as libc::pid_t;
        let mut status = 0;
        let mut steps = 0;
        // SAFETY: the child is ours and stops itself; `status` outlives the calls.
        unsafe {
            libc::waitpid(id, &raw mut status, 0);
            assert!(libc::WIFSTOPPED(status), "the child asked to be traced");
            loop {
                libc::ptrace(libc::PTRACE_SINGLESTEP, id, 0, 0);
                libc::waitpid(id, &raw mut status, 0);
                assert!(libc::WIFSTOPPED(status), "the child stops before it ends");
                match libc::WSTOPSIG(status) {
                    libc::SIGTRAP => steps += 1,
                    _ => break,
                }
            }
            libc::ptrace(libc::PTRACE_KILL, id, 0, 0);
        }
        child.wait().expect("the child ends");
        steps
    }

    pub(super) fn main() {
        let args: Vec<String> = std::env::args().collect();
        if let Some(at) = args.iter().position(|a| a == "--child") {
            let isa = IsaKind::available().into_iter().find(|isa| format!("{isa:?}") == args[at + 2]);
            return run(&args[at + 1], isa.expect("the parent names one that is there"));
        }
        let wanted = args.into_iter().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
        println!("| launch | instruction set | instructions | of a byte | of 1000 multiply-adds |");
        println!("|---|---|---|---|---|");
        for name in NAMES.into_iter().filter(|name| name.contains(&wanted)) {
            for isa in IsaKind::available().into_iter().filter(|isa| *isa != IsaKind::Portable) {
                let (steps, case) = (count(name, isa), case(name, isa));
                let (bytes, products) = (case.bytes as f64, case.products as f64);
                let (byte, products) = (steps as f64 / bytes, 1e3 * steps as f64 / products);
                println!("| {name} | {isa:?} | {steps} | {byte:.3} | {products:.1} |");
            }
        }
    }
}

fn main() {
    #[cfg(target_os = "linux")]
    counted::main();
    #[cfg(not(target_os = "linux"))]
    println!("instructions are counted on Linux only");
}
