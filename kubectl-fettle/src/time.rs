//! Time as people read it in passing.

use jiff::Timestamp;

/// How long it is from one instant to another, in its two largest units: `12s`, `4m10s`, `3h5m`, `2d4h`. None is negative:
/// the clocks of two machines differ.
pub fn between(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.as_second().saturating_sub(from.as_second()).max(0);
    let (days, hours, minutes, rest) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let two = |large: i64, unit: &str, small: i64, next: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{next}") }
    };
    match (days, hours, minutes) {
        (1.., ..) => two(days, "d", hours, "h"),
        (_, 1.., _) => two(hours, "h", minutes, "m"),
        // Above ten minutes nobody counts seconds.
        (_, _, 10..) => format!("{minutes}m"),
        (_, _, 1..) => two(minutes, "m", rest, "s"),
        _ => format!("{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let at = |seconds: i64| between(Timestamp::UNIX_EPOCH, Timestamp::from_second(seconds).unwrap());
        let said: Vec<String> = [0, 59, 60, 250, 600, 3600, 11_100, 86_400, 187_200].into_iter().map(at).collect();
        assert_eq!(said, ["0s", "59s", "1m", "4m10s", "10m", "1h", "3h5m", "1d", "2d4h"]);
        assert_eq!(between(Timestamp::from_second(5).unwrap(), Timestamp::UNIX_EPOCH), "0s");
    }
}
