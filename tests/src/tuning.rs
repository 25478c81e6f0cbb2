//! Workers and offloads other than the defaults, for the whole suite at once:
//! whatever holds with the defaults must hold with them.
//!
//! `PRIVNET_TEST_WORKERS=N` gives every program of ours N workers, and
//! `PRIVNET_TEST_WITHOUT` takes offloads away: `all`, or names with commas between.

use std::num::NonZeroU8;

use anyhow::{Context, Result};
use privnet_model::offload::{Offload, Offloads};

/// What the programs under test are told beyond what a test tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// The number of workers, where it is not the program's own choice.
    pub workers: Option<NonZeroU8>,
    /// The offloads that may be used.
    pub offloads: Offloads,
}

impl Tuning {
    /// What the environment says; an error names the variable that makes no sense.
    pub fn from_environment() -> Result<Self> {
        let read = |name: &str| match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
            Err(error) => Err(error).context(name.to_owned()),
        };
        let workers = read("PRIVNET_TEST_WORKERS")?;
        let without = read("PRIVNET_TEST_WITHOUT")?;
        Self::parse(workers.as_deref(), without.as_deref())
    }

    /// The same, and the defaults where the environment makes no sense: whoever
    /// runs the tests has asked [`Self::from_environment`] and told it.
    pub fn current() -> Self {
        Self::from_environment().unwrap_or_default()
    }

    fn parse(workers: Option<&str>, without: Option<&str>) -> Result<Self> {
        let workers = workers
            .map(|text| {
                text.parse()
                    .with_context(|| format!("PRIVNET_TEST_WORKERS: {text:?} is no such number"))
            })
            .transpose()?;
        let mut offloads = Offloads::ALL;
        match without {
            None => {}
            Some("all") => offloads = Offloads::NONE,
            Some(names) => {
                for name in names.split(',') {
                    let known = Offload::ALL.into_iter().find(|one| one.as_str() == name);
                    let offload = known.with_context(|| {
                        format!(
                            "PRIVNET_TEST_WITHOUT: {name:?} is neither `all` nor of {:?}",
                            Offload::ALL.map(Offload::as_str)
                        )
                    })?;
                    offloads = offloads.without(offload);
                }
            }
        }
        Ok(Self { workers, offloads })
    }

    /// Top-level lines for a daemon's config file, all of them here.
    pub fn config(self) -> String {
        let workers = self.workers.map(|number| format!("workers = {number}\n"));
        workers.unwrap_or_default() + &self.offload_config()
    }

    /// Those about offloads: none, where all may be used.
    pub fn offload_config(self) -> String {
        let off: Vec<String> = self.without().map(|one| format!("{one} = false")).collect();
        if off.is_empty() {
            return String::new();
        }
        format!("offload = {{ {} }}\n", off.join(", "))
    }

    /// Arguments for `privnet-wg`.
    pub fn arguments(self) -> Vec<String> {
        let workers = self.workers.map(|number| format!("--workers={number}"));
        let without = self.without().map(|one| format!("--without={one}"));
        workers.into_iter().chain(without).collect()
    }

    fn without(self) -> impl Iterator<Item = Offload> {
        Offload::ALL
            .into_iter()
            .filter(move |one| !self.offloads.contains(*one))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn without_variables_nothing_is_added() {
        let tuning = Tuning::parse(None, None).unwrap();
        assert_eq!(tuning, Tuning::default());
        assert_eq!(tuning.config(), "");
        assert!(tuning.arguments().is_empty());
    }

    #[test]
    fn variables_become_config_and_arguments() {
        let tuning = Tuning::parse(Some("4"), Some("tun_tso,udp_gso")).unwrap();
        assert_eq!(
            tuning.config(),
            "workers = 4\noffload = { tun_tso = false, udp_gso = false }\n"
        );
        assert_eq!(
            tuning.arguments(),
            ["--workers=4", "--without=tun_tso", "--without=udp_gso"]
        );
        let none = Tuning::parse(None, Some("all")).unwrap();
        assert_eq!(none.offloads, Offloads::NONE);
        assert_eq!(none.arguments().len(), Offload::ALL.len());
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_named() {
        for (workers, without, named) in [
            (Some("0"), None, "PRIVNET_TEST_WORKERS"),
            (Some("many"), None, "PRIVNET_TEST_WORKERS"),
            (None, Some("gso"), "PRIVNET_TEST_WITHOUT"),
            (None, Some("tun_tso, udp_gso"), "PRIVNET_TEST_WITHOUT"),
        ] {
            let error = Tuning::parse(workers, without).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
