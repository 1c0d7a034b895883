//! Pure: matching
