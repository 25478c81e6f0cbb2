//! What was measured, and `tests/IMAGE.md`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use privnet_tests::guest::Architecture;
use serde::{Deserialize, Serialize};

/// What one image showed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    role: String,
    rows: Vec<(String, String)>,
    /// What a program in the guest printed, with a heading.
    quotes: Vec<(String, String)>,
}

impl Figures {
    pub(crate) fn new(role: &str) -> Self {
        Self {
            role: role.to_owned(),
            rows: Vec::new(),
            quotes: Vec::new(),
        }
    }

    /// Tells something that holds, and keeps it.
    pub(crate) fn row(&mut self, what: &str, value: impl std::fmt::Display) {
        println!("  {}: {what}: {value}", self.role);
        self.rows.push((what.to_owned(), value.to_string()));
    }

    pub(crate) fn quote(&mut self, heading: &str, text: &str) {
        println!("  {}: {heading}", self.role);
        for line in text.lines() {
            println!("      {line}");
        }
        self.quotes.push((heading.to_owned(), text.to_owned()));
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        std::fs::write(file, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| file.display().to_string())
    }
}

/// Writes the page: one for each architecture.
pub(crate) fn write(architecture: Architecture, tested: &[Figures]) -> Result<()> {
    let (page, target) = match architecture {
        Architecture::Amd64 => ("IMAGE.md", "test-image"),
        Architecture::Arm64 => ("IMAGE-arm64.md", "test-image-arm64"),
    };
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(page);
    let mut page = format!(
        "# The images for {}, booted\n\n\
         Written by `make {target}`; each line is something that it demanded, with what it saw, or says that it was\n\
         left out; sizes, memory and `systemd-analyze` are told as they were. The guests run under QEMU without KVM on\n\
         a machine with other things to do: an instance boots several times as fast.\n",
        architecture.name()
    );
    for figures in tested {
        let _ = write!(
            page,
            "\n## {}\n\n| what | seen |\n|---|---|\n",
            figures.role
        );
        for (what, value) in &figures.rows {
            let _ = writeln!(page, "| {what} | {value} |");
        }
        for (heading, text) in &figures.quotes {
            let _ = write!(page, "\n{heading}:\n\n```text\n{text}\n```\n");
        }
    }
    std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))
}
