//! What a run does by the clock, whether or not anything arrives.

use std::{future::pending, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tick {
    /// The time that the observer wanted has passed.
    Clock,
    /// The user asks for the figures so far.
    Interim,
}

/// Ticks of the clock, and the user's questions.
pub(crate) struct Ticks {
    clock: Option<Interval>,
    #[cfg(unix)]
    quit: Option<tokio::signal::unix::Signal>,
}

impl Ticks {
    /// One tick each `period`, if there is to be any; and on Unix one for each SIGQUIT (Ctrl-\), as `ping(8)`.
    pub(crate) fn each(period: Option<Duration>) -> Self {
        let clock = period.map(|period| {
            let mut clock = interval(period);
            clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
            clock
        });
        #[cfg(unix)]
        let quit = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::quit()).ok();
        Self {
            clock,
            #[cfg(unix)]
            quit,
        }
    }

    /// Waits for the next one, or for ever. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Tick {
        let clock = async {
            match &mut self.clock {
                Some(clock) => drop(clock.tick().await),
                None => pending().await,
            }
        };
        #[cfg(unix)]
        let quit = async {
            match &mut self.quit {
                Some(quit) => drop(quit.recv().await),
                None => pending().await,
            }
        };
        #[cfg(not(unix))]
        let quit = pending();
        tokio::select! {
            () = clock => Tick::Clock,
            () = quit => Tick::Interim,
        }
    }
}
