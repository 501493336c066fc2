//! Columns on their way between Arrow and Python.

mod arrow_batch;
mod inputs;
mod numpy;
mod outputs;
mod shared_buffer;

pub use arrow_batch::{ArrowBatch, fields};
pub use inputs::Input;
pub use numpy::Numpy;
pub use outputs::{from_arrow, from_numpy};
