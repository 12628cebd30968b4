//! Counts, rates and times: the one place where they change their types.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts here are far below 2^52, and floats are cut on purpose"
)]

use std::time::Duration;

/// A count as a float.
#[inline]
pub(crate) fn fraction(count: u64) -> f64 {
    count as f64
}

/// A float cut to a count; 0 if it is negative.
#[inline]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}

/// A float as a number of packets or flows.
pub(crate) fn count(value: f64) -> u32 {
    value.round() as u32
}

/// Cycles of a duration.
pub(crate) fn cycles(duration: Duration, hz: u64) -> u64 {
    whole(duration.as_secs_f64() * fraction(hz))
}

/// Nanoseconds of cycles.
#[inline]
pub(crate) fn nanoseconds(cycles: u64, hz: u64) -> u64 {
    whole(fraction(cycles) * 1e9 / fraction(hz.max(1)))
}

/// Seconds of cycles.
pub(crate) fn seconds(cycles: u64, hz: u64) -> f64 {
    fraction(cycles) / fraction(hz.max(1))
}

/// A figure with three decimals.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
