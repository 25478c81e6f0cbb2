//! What the fuzz targets (`tests/fuzz` at the top of the repository) do with their
//! input. The same functions run on the corpus in every test run: see
//! `fuzz_corpus.rs`. They panic where something does not hold, and know nothing of
//! the fuzzer.

mod input;
#[path = "../../src/reference.rs"]
#[expect(dead_code, reason = "the crate's own tests use the rest")]
mod reference;
pub(crate) mod tun_input;
pub(crate) mod uapi;
pub(crate) mod udp_input;
mod world;
