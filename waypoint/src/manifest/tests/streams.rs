//! Pure: streams
