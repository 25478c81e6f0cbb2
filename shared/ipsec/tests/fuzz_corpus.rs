//! The fuzzer's corpus (`tests/fuzz/corpus` at the top of the repository), run
//! through what the fuzz target runs: what was found once stays found.
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod fuzz;

use std::path::Path;

#[test]
fn what_charon_sends_is_read_or_an_error() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/vici");
    let mut files: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus is not there");
    for file in files {
        let input = std::fs::read(&file).unwrap();
        let result = std::panic::catch_unwind(|| fuzz::vici::run(&input));
        assert!(result.is_ok(), "with {}", file.display());
    }
}
