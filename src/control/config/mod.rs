//! The configuration file: one TOML file, read once, validated whole.

mod model;

pub use model::{
    Config, Device, DirectorConfig, DpdkConfig, Idle, InterfaceConfig, LogConfig, LogFormat,
    MacAddress, Role, Route,
};
