//! Pure: refused
