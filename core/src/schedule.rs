//! Five-field cron in UTC, as Vixie's cron reads it: where day-of-month and day-of-week are both
//! restricted a day matches either; a field that begins with `*` (also `*/2`) counts as unrestricted.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, ToSpan, tz::TimeZone};

/// A parsed schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    days_restricted: bool,
    weekdays_restricted: bool,
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleError(pub String);

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScheduleError {}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(ScheduleError(format!(
                "a schedule has five fields (minute hour day-of-month month day-of-week), this has {}",
                fields.len()
            )));
        };
        let mut weekdays = parse_field("day-of-week", weekday, 0, 7, &WEEKDAYS, 0)?;
        // 7 is Sunday, as 0 is.
        if weekdays & (1 << 7) != 0 {
            weekdays = (weekdays | 1) & 0x7f;
        }
        let schedule = Self {
            minutes: parse_field("minute", minute, 0, 59, &[], 0)?,
            hours: parse_field("hour", hour, 0, 23, &[], 0)?,
            days: parse_field("day-of-month", day, 1, 31, &[], 0)?,
            months: parse_field("month", month, 1, 12, &MONTHS, 1)?,
            weekdays,
            days_restricted: !day.starts_with('*'),
            weekdays_restricted: !weekday.starts_with('*'),
        };
        if schedule.next_after(Timestamp::UNIX_EPOCH).is_none() {
            return Err(ScheduleError("the schedule never matches a day".into()));
        }
        Ok(schedule)
    }
}

fn parse_field(what: &str, text: &str, min: u32, max: u32, names: &[&str], base: u32) -> Result<u64, ScheduleError> {
    let bad = |why: &str| ScheduleError(format!("{what} {:?}: {why}", walwarden_verifier::ids::shown(text)));
    let value = |t: &str| -> Result<u32, ScheduleError> {
        if let Some(position) = names.iter().position(|n| n.eq_ignore_ascii_case(t)) {
            return Ok(position as u32 + base);
        }
        let digits = !t.is_empty() && t.len() <= 4 && t.bytes().all(|b| b.is_ascii_digit());
        let number: u32 =
            if digits { t.parse().map_err(|_| bad("not a number"))? } else { return Err(bad("not a number")) };
        if number < min || number > max { Err(bad(&format!("must be {min} to {max}"))) } else { Ok(number) }
    };
    let mut set = 0u64;
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => {
                let step: u32 = step.parse().map_err(|_| bad("the step is not a number"))?;
                if step == 0 || step > 60 {
                    return Err(bad("the step must be 1 to 60"));
                }
                (range, Some(step))
            }
            None => (item, None),
        };
        let (from, to) = if range == "*" {
            (min, if what == "day-of-week" { 6 } else { max })
        } else if let Some((from, to)) = range.split_once('-') {
            (value(from)?, value(to)?)
        } else {
            let from = value(range)?;
            (from, if step.is_some() { max } else { from })
        };
        if from > to {
            return Err(bad("the range is empty"));
        }
        for n in (from..=to).step_by(step.unwrap_or(1) as usize) {
            set |= 1 << n;
        }
    }
    Ok(set)
}

impl Schedule {
    fn matches_day(&self, month: i8, day: i8, weekday: i8) -> bool {
        if self.months & (1 << month) == 0 {
            return false;
        }
        let by_day = self.days & (1 << day) != 0;
        let by_weekday = self.weekdays & (1 << weekday) != 0;
        match (self.days_restricted, self.weekdays_restricted) {
            (true, true) => by_day || by_weekday,
            _ => by_day && by_weekday,
        }
    }

    /// The first tick strictly after `after`; `None` where none follows within eight years (leap days).
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let start = after.to_zoned_datetime(TimeZone::UTC).datetime();
        let mut date = start.date();
        for offset in 0..(366 * 8) {
            if self.matches_day(date.month(), date.day(), date.weekday().to_sunday_zero_offset()) {
                for hour in (0..24i8).filter(|h| self.hours & (1 << h) != 0) {
                    for minute in (0..60i8).filter(|m| self.minutes & (1 << m) != 0) {
                        let tick = date.at(hour, minute, 0, 0);
                        if offset > 0 || tick > start {
                            return tick.to_zoned_datetime(TimeZone::UTC).ok().map(|z| z.timestamp());
                        }
                    }
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, after: &str) -> String {
        let schedule: Schedule = cron.parse().unwrap();
        schedule.next_after(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn ticks() {
        for (cron, after, expected) in [
            ("0 2 * * *", "2026-11-24T01:59:59Z", "2026-11-24T02:00:00Z"),
            ("0 2 * * *", "2026-11-24T02:00:00Z", "2026-11-25T02:00:00Z"),
            ("*/15 * * * *", "2026-11-24T02:07:00Z", "2026-11-24T02:15:00Z"),
            ("0 2,14 * * *", "2026-11-24T03:00:00Z", "2026-11-24T14:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            // Both restricted: either matches. 2026-11-27 is a Friday.
            ("0 0 13 * fri", "2026-11-24T00:00:00Z", "2026-11-27T00:00:00Z"),
            // A star-step counts as unrestricted: both must match.
            ("0 0 */2 * fri", "2026-11-24T00:00:00Z", "2026-11-27T00:00:00Z"),
            ("0 0 */2 * sat", "2026-11-24T00:00:00Z", "2026-12-05T00:00:00Z"),
            ("0 0 * * 7", "2026-11-24T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("30 4 1 JAN-mar *", "2026-11-24T00:00:00Z", "2027-01-01T04:30:00Z"),
        ] {
            assert_eq!(next(cron, after), expected, "{cron}");
        }
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "a * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "0 0 31 2 *",
            "@daily",
            "1,,2 * * * *",
            "-1 * * * *",
        ] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }
}
