//! Kernels that are wrong in one way each: the verifier must refuse them.
