//! What the fuzz target of this crate (`tests/fuzz` at the top of the repository)
//! does with its input. The same function runs on the corpus in every test run: see
//! `fuzz_corpus.rs`. It panics where something does not hold, and knows nothing of
//! the fuzzer.

pub(crate) mod vici;
