//! What every program needs: logging, output that never blocks, and the signals that stop it.

mod duration;
mod environment;
mod host;
mod line_queue;
mod logging;
pub mod metrics;
mod number;
pub mod otlp;
mod shell;
mod signals;
mod small_file;
mod timestamp;
mod version;

pub use duration::duration;
pub use environment::from_environment;
pub use host::{host_name, system};
pub use line_queue::LineQueue;
pub use logging::{RESULT, STEP, Verbosity, flush_log, init_logging, last_words, print_line, set_status};
pub use number::{count, size};
pub use shell::{print_completions, write_manual};
pub use signals::{Hangups, StopSignals};
pub use small_file::{decode, open_regular, read_file, read_small_file};
pub use timestamp::datable;
pub use version::long_version;
