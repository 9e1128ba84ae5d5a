//! What every program needs: logging, output that never blocks, and the signals that stop it.

mod duration;
mod line_queue;
mod logging;
mod signals;
mod small_file;

pub use duration::duration;
pub use line_queue::LineQueue;
pub use logging::{RESULT, flush_log, init_logging, last_words};
pub use signals::StopSignals;
pub use small_file::{decode, open_regular, read_small_file};
