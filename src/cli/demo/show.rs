//! What the demo prints, as text and as JSON. No I/O.

use super::rows::{Line, Row};
use crate::protocol::TaskResult;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// One run of a task: the time from sending it to having its result, and that.
pub(super) type TimedResult = (Duration, TaskResult);

/// A row of the table, once its task has run.
#[derive(Debug)]
pub(super) struct Shown {
    title: &'static str,
    model: &'static str,
    /// The model's encoding, and what ran it.
    ran_on: [String; 2],
    lines: Vec<Line>,
    /// The task's error, in place of times.
    error: Option<String>,
    /// Milliseconds of the first run, and medians of the others.
    times: [[f64; 5]; 2],
    repeated: usize,
}

/// The times, in their order.
const TIMES: [&str; 5] = ["queued", "compiled", "loaded", "ran", "total"];

/// Widths of the columns; all of it goes into a terminal of 80.
const TITLE: usize = 18;
const ANSWER: usize = 43;
const TIME: usize = 7;

impl Shown {
    /// A task that has run `1 + next.len()` times.
    pub(super) fn ran(
        row: &Row,
        lines: Vec<Line>,
        first: &TimedResult,
        next: &[TimedResult],
    ) -> Shown {
        let medians = std::array::from_fn(|column| {
            median(next.iter().map(|run| times(run)[column]).collect())
        });
        Shown {
            title: row.title,
            model: row.model,
            ran_on: [row.encoding.to_owned(), first.1.backends.join(", ")],
            lines,
            error: None,
            times: [times(first), medians],
            repeated: next.len(),
        }
    }

    /// A task that has failed.
    pub(super) fn failed(row: &Row, error: String) -> Shown {
        Shown {
            title: row.title,
            model: row.model,
            ran_on: [row.encoding.to_owned(), String::new()],
            lines: Vec::new(),
            error: Some(error),
            times: [[0.0; 5]; 2],
            repeated: 0,
        }
    }

    /// Whether its task has run well.
    pub(super) fn has_run(&self) -> bool {
        self.error.is_none()
    }

    /// Its part of the table: title, model, and where that ran beside the answer, and the times of
    /// the first run and the later ones in the first line.
    pub(super) fn text(&self) -> String {
        let [encoding, backend] = &self.ran_on;
        let on = format!("on {backend}");
        let left = match backend.as_str() {
            "" => vec![self.title, self.model, encoding.as_str()],
            backend if backend == encoding => vec![self.title, self.model, backend],
            _ => vec![self.title, self.model, encoding.as_str(), on.as_str()],
        };
        let answer: Vec<String> = match &self.error {
            Some(error) => wrapped(&format!("failed: {error}"), ANSWER),
            None => self.answer(),
        };
        let mut text = String::new();
        for index in 0..left.len().max(answer.len()) {
            let cell = |cells: &[&str]| (*cells.get(index).unwrap_or(&"")).to_owned();
            let left = cell(&left);
            let right = answer.get(index).map_or("", String::as_str);
            let mut line = format!("{left:TITLE$} {right:ANSWER$}");
            if index == 0 && self.error.is_none() {
                let [first, next] = self.times.map(|times| times[4]);
                let _ = write!(line, " {first:>TIME$.1} {next:>TIME$.1}");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// What is said about each file, under the names of the files.
    fn answer(&self) -> Vec<String> {
        let longest = self.lines.iter().map(|line| line.path.chars().count()).max().unwrap_or(0);
        // A long name stands above what is said.
        let names = longest.min(ANSWER / 2);
        let mut cells = Vec::new();
        for Line { path, says } in &self.lines {
            let fits = path.chars().count() <= names;
            if !fits {
                cells.extend(cut(path, ANSWER));
            }
            for (index, part) in wrapped(says, ANSWER - names - 2).into_iter().enumerate() {
                let name = if fits && index == 0 { path.as_str() } else { "" };
                cells.push(format!("{name:names$}  {part}"));
            }
        }
        cells
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let times = |times: &[f64; 5]| -> Value {
            TIMES
                .iter()
                .zip(times)
                .map(|(name, ms)| ((*name).to_owned(), json!(ms)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let lines = self.lines.iter().map(|line| json!({"path": line.path, "says": line.says}));
        let mut object = json!({
            "task": self.title,
            "model": self.model,
            "encoding": self.ran_on[0],
            "backend": self.ran_on[1],
            "answers": lines.collect::<Vec<_>>(),
        });
        match &self.error {
            Some(error) => object["error"] = json!(error),
            None => {
                object["first_ms"] = times(&self.times[0]);
                object["next_ms"] = times(&self.times[1]);
                object["repeated"] = json!(self.repeated);
            }
        }
        object
    }
}

/// The table's first lines.
pub(super) fn heading() -> String {
    let line = "\u{2500}".repeat(TITLE + ANSWER + 2 * TIME + 3);
    format!(
        "{:TITLE$} {:ANSWER$} {:>TIME$} {:>TIME$}\n{line}\n",
        "task, model", "answer", "first", "next"
    )
}

fn times((total, result): &TimedResult) -> [f64; 5] {
    let took = &result.timings;
    [took.queued, took.compiled, took.loaded, took.ran, total.as_secs_f64() * 1e3]
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

/// Lines of at most `width` characters, broken at spaces where there are some.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        for (index, part) in cut(word, width).into_iter().enumerate() {
            let Some(line) = lines.last_mut() else { break };
            let used = line.chars().count();
            if index == 0 && (used == 0 || used + 1 + part.chars().count() <= width) {
                *line += if used == 0 { "" } else { " " };
                *line += &part;
            } else {
                lines.push(part);
            }
        }
    }
    lines
}

/// Parts of at most `width` characters.
fn cut(word: &str, width: usize) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    characters.chunks(width).map(|part| part.iter().collect()).collect()
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

    fn shown(lines: &[(&str, &str)]) -> Shown {
        let line = |(path, says): &(&str, &str)| Line {
            path: (*path).to_owned(),
            says: (*says).to_owned(),
        };
        Shown {
            title: "photos",
            model: "a model",
            ran_on: ["onnx".to_owned(), "openvino".to_owned()],
            lines: lines.iter().map(line).collect(),
            error: None,
            times: [[0.1, 2.0, 3.0, 500.0, 712.34], [0.1, 0.0, 0.0, 3.0, 4.06]],
            repeated: 3,
        }
    }

    #[test]
    fn a_row_has_the_answers_and_the_times_in_80_columns() {
        let row = shown(&[
            ("cat.png", "tiger cat 0.42"),
            ("a.png", "one two three four five six seven eight nine"),
        ]);
        let line = "\u{2500}".repeat(78);
        let expected = format!(
            "task, model        answer                                        first    next\n\
             {line}\n\
             photos             cat.png  tiger cat 0.42                       712.3     4.1\n\
             a model            a.png    one two three four five six seven\n\
             onnx                        eight nine\n\
             on openvino\n"
        );
        assert_eq!(heading() + &row.text(), expected);
    }

    #[test]
    fn long_names_stand_above_and_long_words_are_broken() {
        let name = "a".repeat(50);
        let row = shown(&[(&name, "rust 1.00")]).text();
        assert!(row.lines().all(|line| line.chars().count() <= 80), "{row}");
        assert!(row.contains("rust 1.00"), "{row}");
        assert_eq!(row.matches('a').count(), 50 + "a model".matches('a').count(), "{row}");
        assert_eq!(wrapped("aaaa bb c", 3), ["aaa", "a", "bb", "c"]);
        assert_eq!(wrapped("", 3), [""]);
    }

    #[test]
    fn a_failed_task_has_its_error_and_no_times() {
        let row = Shown { error: Some("no such model".to_owned()), ..shown(&[]) };
        assert!(row.text().contains("failed: no such model"), "{}", row.text());
        assert!(!row.text().contains("712"), "{}", row.text());
        assert_eq!(row.json()["error"], "no such model");
        assert!(row.json()["first_ms"].is_null());
    }

    #[test]
    fn programs_get_all_the_times() {
        let json = shown(&[("cat.png", "tiger cat 0.42")]).json();
        assert_eq!(
            json["answers"][0],
            serde_json::json!({"path": "cat.png", "says": "tiger cat 0.42"})
        );
        assert_eq!(json["first_ms"]["ran"], 500.0);
        assert_eq!(json["next_ms"]["total"], 4.06);
        assert_eq!((&json["encoding"], &json["backend"]), (&"onnx".into(), &"openvino".into()));
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
