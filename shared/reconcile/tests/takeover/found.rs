//! Histories that once broke an invariant, shortened to what mattered.
