//! Prometheus metrics: [`registry`] is the one table of their names, units and meaning.

mod collector;
pub(super) mod exporter;
pub mod registry;
