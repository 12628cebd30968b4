//! Bindings.
#![allow(missing_docs)]
