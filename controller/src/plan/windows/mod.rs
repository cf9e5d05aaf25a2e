//! When devices may begin, by the clock: maintenance windows, freezes, a time of day.
//!
//! [`Calendar`] answers for a group and an instant whether a start is allowed, for how long still, or why not and when
//! again ([`Calendar::at`]), and whether a try of some length still fits ([`Calendar::fits`]). [`LocalTime`] is a time of
//! day at which devices apply by themselves. All of it is a function of its arguments: there is no clock here, and zones
//! come from the database that is built in ([`Zone`]), so that every replica on every host says the same.
//!
//! What a window means where the clock changes:
//!
//! - A start in the hour that is missing is at the instant at which the clock jumps.
//! - A start in the hour that comes twice is the first of the two, and only that.
//! - A duration is elapsed time: a window of 4 h from 01:00 ends at 06:00 by the wall clock if it goes forward in between.
//!
//! A window has its first instant and does not have its last. Windows that overlap or touch are one; a freeze that begins
//! inside ends it. Only the schedule's fields are croner's. Its search in zones is not used: it follows cron, where only a
//! fixed time of day is moved out of a missing hour (and lost if that ends on a day that the schedule does not name),
//! while a list or a step, such as `0,30 2 * * *`, opens nothing there and twice in a doubled hour.
//!
//! What a question costs is said at [`Calendar`].

mod calendar;
mod freeze;
mod local_time;
mod schedule;
mod window;
mod zone;

pub use calendar::{Answer, Calendar, Closing, Fit, Gate};
pub use freeze::{Freeze, FreezeEnd, FreezeError};
pub use local_time::{LocalTime, LocalTimeError, Moment};
pub use schedule::Field;
pub use window::{Window, WindowError};
pub use zone::{UnknownZone, Zone};
