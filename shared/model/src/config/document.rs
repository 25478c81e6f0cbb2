//! A TOML document read key by key, so that everything wrong with it can be told at once.
