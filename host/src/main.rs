//! keysieve
fn main() {}
