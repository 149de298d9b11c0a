//! Kernels of every template: verified, run by the interpreter and compared with sums in f64 written down here.

mod archived;
mod attention;
mod classes;
mod decode;
mod dense;
mod experts;
mod harness;
mod latent;
mod lowered;
mod mutants;
mod recurrent;
mod refused;
mod samples;
