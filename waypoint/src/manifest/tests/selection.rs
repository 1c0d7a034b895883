//! Pure: selection
