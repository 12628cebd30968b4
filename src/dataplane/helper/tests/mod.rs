mod expectation;
mod stream;
