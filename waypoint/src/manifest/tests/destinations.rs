//! Pure: destinations
