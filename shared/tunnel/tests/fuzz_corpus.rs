//! The fuzzer's corpus (`tests/fuzz/corpus` at the top of the repository), run
//! through what the fuzz targets run: what was found once stays found.
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod fuzz;

use std::path::Path;

/// Runs every file of a target's corpus.
fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    let mut files: Vec<_> = std::fs::read_dir(corpus.join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus is not there");
    for file in files {
        let input = std::fs::read(&file).unwrap();
        let result = std::panic::catch_unwind(|| run(&input));
        assert!(result.is_ok(), "with {}", file.display());
    }
}

#[test]
fn what_comes_from_the_network_goes_where_it_may_and_nowhere_else() {
    replay("udp_input", fuzz::udp_input::run);
}

#[test]
fn what_comes_from_the_tun_arrives_as_the_kernel_would_have_sent_it() {
    replay("tun_input", fuzz::tun_input::run);
}

#[test]
fn what_is_told_of_a_device_makes_another_one_like_it() {
    replay("uapi", fuzz::uapi::run);
}
