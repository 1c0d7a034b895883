//! Pure: tests of the compiler.
