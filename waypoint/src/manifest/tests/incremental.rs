//! Pure: incremental
