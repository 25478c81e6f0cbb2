//! Tests of the shard: see below.
