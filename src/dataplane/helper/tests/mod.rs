#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::excessive_nesting,
    reason = "numbers of small tests"
)]

mod expectation;
mod stream;
