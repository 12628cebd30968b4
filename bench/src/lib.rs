//! What the programs and the micro benchmarks of this package share: traffic, and a worker's data
//! plane to send it through.

pub mod counts;
pub mod flows;
pub mod template;
pub mod world;
