//! Front: tests of what becomes of YAML: each builds a mesh of objects and asks about requests.
mod anything;
mod closed;
mod conformance;
mod destinations;
mod incremental;
mod large;
mod matching;
mod mission;
mod refused;
mod selection;
mod streams;
mod world;
