//! What the demo prints, as text. No I/O.

use crate::protocol::{Reused, TaskResult};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// One run of a task: the time from sending it to having its result, and that.
pub(super) type TimedResult = (Duration, TaskResult);

/// The lines of the file-type guest, `PATH: TYPE PROBABILITY`, in columns.
pub(super) fn file_types(output: &str) -> String {
    let split = |line: &'_ str| -> Option<(String, String, String)> {
        let (path, answer) = line.rsplit_once(": ")?;
        let (label, score) = answer.split_once(' ')?;
        Some((format!("{path}:"), label.to_owned(), score.to_owned()))
    };
    let rows: Vec<_> = output.lines().map(|line| (line, split(line))).collect();
    let width = |of: fn(&(String, String, String)) -> &str| {
        let lengths = rows.iter().filter_map(|(_, row)| row.as_ref().map(of));
        lengths.map(|text| text.chars().count()).max().unwrap_or_default()
    };
    let (paths, labels) = (width(|row| &row.0), width(|row| &row.1));
    let mut text = String::new();
    for (line, row) in &rows {
        // Writing to a string never fails.
        let _ = match row {
            Some((path, label, score)) => {
                writeln!(text, "  {path:paths$}  {label:labels$}  {score}")
            }
            None => writeln!(text, "  {line}"),
        };
    }
    text
}

/// A guest's output, moved in.
pub(super) fn indented(output: &str) -> String {
    output.lines().map(|line| format!("  {line}\n")).collect()
}

/// Where the time of each task went, cold and warm.
pub(super) fn table(tasks: &[(&str, TimedResult, Vec<TimedResult>)]) -> String {
    const COLUMNS: [&str; 5] = ["queued", "compiled", "loaded", "ran", "total"];
    let mut text = format!("  {:27}", "");
    for column in COLUMNS {
        let _ = write!(text, "{column:>10}");
    }
    text.push_str("   reused\n");
    for (name, cold, warm) in tasks {
        let mut row = |label: String, times: [f64; 5], reused: String| {
            let _ = write!(text, "  {label:27}");
            for time in times {
                let _ = write!(text, "{time:>10.1}");
            }
            let _ = writeln!(text, "   {reused}");
        };
        row(format!("{name}, first"), times(cold), reused(std::slice::from_ref(cold)));
        let medians = std::array::from_fn(|column| {
            median(warm.iter().map(|run| times(run)[column]).collect())
        });
        row(format!("{name}, next {}", warm.len()), medians, reused(warm));
    }
    text
}

fn times((total, result): &TimedResult) -> [f64; 5] {
    let took = &result.timings;
    [took.queued, took.compiled, took.loaded, took.ran, total.as_secs_f64() * 1e3]
}

/// What every one of the runs found ready.
fn reused(runs: &[TimedResult]) -> String {
    let all = |of: fn(&Reused) -> bool| runs.iter().all(|(_, result)| of(&result.reused));
    let model = |reused: &Reused| reused.graphs_reused > 0 && reused.graphs_loaded == 0;
    let found: Vec<_> = [("program", all(|reused| reused.module)), ("model", all(model))]
        .into_iter()
        .filter_map(|(name, found)| found.then_some(name))
        .collect();
    if found.is_empty() { "nothing".to_owned() } else { found.join(", ") }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half.wrapping_sub(1)), values.get(half)) {
        (Some(low), Some(high)) if values.len().is_multiple_of(2) => (low + high) / 2.0,
        (_, Some(middle)) => *middle,
        _ => 0.0,
    }
}

/// A word for a shell.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A path as short as it can be from this directory.
pub(super) fn short(path: &Path, working_dir: &Path) -> String {
    let path = match path.strip_prefix(working_dir) {
        Ok(below) if !below.as_os_str().is_empty() => below,
        _ => path,
    };
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(total: u64, ran: f64, warm: bool) -> TimedResult {
        let json = json!({
            "task_id": "a",
            "timings": {"queued": 0.1, "compiled": 2.0, "loaded": 3.0, "ran": ran},
            "reused": {"module": warm, "graphs_reused": u32::from(warm), "graphs_loaded": u32::from(!warm)},
        });
        let result = TaskResult::decode(json.to_string().as_bytes()).expect("a result");
        (Duration::from_millis(total), result)
    }

    #[test]
    fn file_types_stand_in_columns() {
        let output = "a.rs: rust 0.9986\nsome: name.png: png 1.0000\nsomething else\n";
        assert_eq!(
            file_types(output),
            "  a.rs:            rust  0.9986\n  some: name.png:  png   1.0000\n  something else\n"
        );
    }

    #[test]
    fn the_table_has_the_first_run_and_the_median_of_the_others() {
        let warm = vec![run(9, 8.0, true), run(3, 1.0, true), run(4, 2.0, true)];
        assert_eq!(
            table(&[("file types", run(700, 500.0, false), warm)]),
            "                                 queued  compiled    loaded       ran     total   reused\n\
             \x20 file types, first                 0.1       2.0       3.0     500.0     700.0   nothing\n\
             \x20 file types, next 3                0.1       2.0       3.0       2.0       4.0   program, model\n"
        );
    }

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn words_are_quoted_for_a_shell_where_they_must_be() {
        assert_eq!(quoted("--dir=/a/b::."), "--dir=/a/b::.");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn paths_are_shown_from_where_one_is() {
        assert_eq!(short(Path::new("/a/b/c"), Path::new("/a")), "b/c");
        assert_eq!(short(Path::new("/a/b"), Path::new("/c")), "/a/b");
        assert_eq!(short(Path::new("/a"), Path::new("/a")), "/a");
    }
}
