//! keysieve
