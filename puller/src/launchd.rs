//! A job as a property list for launchd, the scheduler of macOS. Text only.

use crate::schedule::{Job, JobName, When};
use jiff::civil::Time;
use pullback_shared::fault::{Fault, Kind};

/// What launchd calls the job.
pub fn label(name: JobName) -> String {
    format!("com.github.pullback.{}", name.word())
}

/// The text of the property list. launchd makes up for a run that was due while the machine slept, not for one while it
/// was off.
pub fn plist(job: &Job) -> Result<String, Fault> {
    let calendar: Vec<(&str, i8)> = match &job.when {
        When::Hourly => vec![("Minute", 0)],
        When::Daily(time) => vec![("Hour", time.hour()), ("Minute", time.minute())],
        When::Weekly(time) => vec![("Weekday", 0), ("Hour", time.hour()), ("Minute", time.minute())],
        When::On(_) => {
            return Err(Fault::new(Kind::Usage, "launchd has no language for `--on-calendar`")
                .hint("use `--at HH:MM` or `--hourly`"));
        }
    };
    let words = job.command.iter().map(|word| format!("    <string>{}</string>\n", escaped(word)));
    let variables = job.environment.iter().map(|(name, value)| {
        format!("    <key>{}</key>\n    <string>{}</string>\n", escaped(name), escaped(value))
    });
    let calendar = calendar
        .iter()
        .map(|(key, number)| format!("    <key>{key}</key>\n    <integer>{number}</integer>\n"));
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <!-- Written by `puller schedule install`; `puller schedule uninstall {name}` removes it. -->\n\
         <plist version=\"1.0\">\n\
         <dict>\n  \
           <key>Label</key>\n  \
           <string>{label}</string>\n  \
           <key>ProgramArguments</key>\n  \
           <array>\n{words}  </array>\n  \
           <key>EnvironmentVariables</key>\n  \
           <dict>\n{variables}  </dict>\n  \
           <key>StartCalendarInterval</key>\n  \
           <dict>\n{calendar}  </dict>\n\
         </dict>\n\
         </plist>\n",
        name = job.name.word(),
        label = label(job.name),
        words = words.collect::<String>(),
        variables = variables.collect::<String>(),
        calendar = calendar.collect::<String>(),
    ))
}

/// The command in a property list that [`plist`] wrote, and when it runs.
pub fn read(text: &str) -> Option<(Vec<String>, When)> {
    let within = |key: &str, tag: &str| {
        let after = text.split_once(&format!("<key>{key}</key>"))?.1;
        Some(after.split_once(&format!("<{tag}>"))?.1.split_once(&format!("</{tag}>"))?.0)
    };
    let words = within("ProgramArguments", "array")?.split("<string>").skip(1);
    let words = words.map(|word| word.split_once("</string>").map(|(word, _)| unescaped(word)));
    let calendar = within("StartCalendarInterval", "dict")?;
    let number = |key: &str| -> Option<i8> {
        let after = calendar.split_once(&format!("<key>{key}</key>"))?.1;
        after.split_once("<integer>")?.1.split_once("</integer>")?.0.parse().ok()
    };
    let time = |hour: i8| Time::new(hour, number("Minute")?, 0, 0).ok();
    let when = match (number("Weekday"), number("Hour")) {
        (_, None) => When::Hourly,
        (None, Some(hour)) => When::Daily(time(hour)?),
        (Some(_), Some(hour)) => When::Weekly(time(hour)?),
    };
    Some((words.collect::<Option<_>>()?, when))
}

/// `&` first when written, last when read.
const ENTITIES: [(&str, &str); 3] = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")];

fn escaped(text: &str) -> String {
    ENTITIES.iter().fold(text.to_owned(), |text, (plain, entity)| text.replace(plain, entity))
}

fn unescaped(text: &str) -> String {
    ENTITIES.iter().rev().fold(text.to_owned(), |text, (plain, entity)| text.replace(entity, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::{hostile, job};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_plist_gives_back_the_job_it_was_made_of(word in hostile()) {
            let job = job(&word);
            let text = plist(&job).expect("a calendar that launchd has");
            prop_assert_eq!(read(&text), Some((job.command, job.when)));
        }
    }

    #[test]
    fn every_calendar_is_read_as_it_was_written() {
        let ten = Time::constant(10, 30, 0, 0);
        for when in [When::Hourly, When::Daily(ten), When::Weekly(ten)] {
            let text = plist(&Job { when: when.clone(), ..job("x") }).expect("a calendar that launchd has");
            assert_eq!(read(&text).map(|read| read.1), Some(when));
        }
        let on = Job { when: When::On("daily".to_owned()), ..job("x") };
        assert_eq!(plist(&on).expect_err("no such calendar").kind, Kind::Usage);
    }
}
