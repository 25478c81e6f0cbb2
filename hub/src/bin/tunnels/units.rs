//! Figures as a person reads them: SI bytes (as network rates are) and times
//! in their one or two largest units.

use jiff::Timestamp;

/// `12s`, `5m`, `3h`, `4d`: the largest unit that fits.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = seconds_between(since, now);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `12s`, `5m 3s`, `3h 20m`, `4d 2h`: the two largest units.
pub(crate) fn span(since: Timestamp, now: Timestamp) -> String {
    let seconds = seconds_between(since, now);
    let two = |size, unit, rest_size, rest_unit| {
        let (count, rest) = (seconds / size, seconds % size / rest_size);
        format!("{count}{unit} {rest}{rest_unit}")
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => two(60, 'm', 1, 's'),
        3600..86_400 => two(3600, 'h', 60, 'm'),
        _ => two(86_400, 'd', 3600, 'h'),
    }
}

/// Clocks differ and are set: what lies in the future is now.
fn seconds_between(since: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0)
}

/// `0 B`, `850 B`, `3.4 MB`, `120 GB`: two or three digits.
pub(crate) fn bytes(count: f64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = if count.is_finite() {
        count.max(0.0)
    } else {
        0.0
    };
    let mut unit = 0;
    // Compared as rounded, so that 999.9 kB is 1.0 MB and not 1000 kB.
    while value.round() >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit > 0 && value < 9.95 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// The same, of a counter.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn total(count: u64) -> String {
    bytes(count as f64)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn pair(seconds: i64) -> (Timestamp, Timestamp) {
        let since = "2026-11-21T00:00:00Z".parse::<Timestamp>().unwrap();
        (since, since + jiff::SignedDuration::from_secs(seconds))
    }

    #[test]
    fn bytes_have_two_or_three_digits() {
        for (count, text) in [
            (0.0, "0 B"),
            (0.4, "0 B"),
            (999.4, "999 B"),
            (999.6, "1.0 kB"),
            (9_940.0, "9.9 kB"),
            (9_960.0, "10 kB"),
            (999_499.0, "999 kB"),
            (999_500.0, "1.0 MB"),
            (3_400_000.0, "3.4 MB"),
            (1.8e19, "18 EB"),
            (f64::NAN, "0 B"),
            (-1.0, "0 B"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(total(u64::MAX), "18 EB");
    }

    #[test]
    fn times_have_their_largest_units() {
        for (seconds, short, long) in [
            (-5, "0s", "0s"),
            (0, "0s", "0s"),
            (59, "59s", "59s"),
            (61, "1m", "1m 1s"),
            (3_599, "59m", "59m 59s"),
            (12_000, "3h", "3h 20m"),
            (172_799, "47h", "1d 23h"),
            (400_000, "4d", "4d 15h"),
        ] {
            let (since, now) = pair(seconds);
            assert_eq!(
                (age(since, now).as_str(), span(since, now).as_str()),
                (short, long)
            );
        }
    }
}
