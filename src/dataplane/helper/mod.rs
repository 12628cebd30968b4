//! Helpers: protocols that name the endpoints of further connections in their text.
mod stream;
mod ftp;
mod expectation;
#[cfg(test)]
mod tests;
