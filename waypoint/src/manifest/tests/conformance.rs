//! Pure: conformance
