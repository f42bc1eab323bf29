//! The real program, driven from outside.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

mod classic;
