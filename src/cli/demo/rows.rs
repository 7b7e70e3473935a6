//! The rows of the demo's table: which guest is asked about which files, and what
//! its answer says to a person. No I/O.

use super::place::{Files, Place};
use anyhow::{Context as _, anyhow};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A task of the demo.
#[derive(Debug)]
pub(super) struct Row {
    /// What it is about.
    pub(super) title: &'static str,
    pub(super) model: &'static str,
    /// In which encoding that is.
    pub(super) encoding: &'static str,
    pub(super) guest: Guest,
    /// As the guest has them.
    pub(super) paths: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cli_args: Vec<String>,
    reads: Reads,
}

/// A guest: the name of its file, and what that holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) file: &'static str,
    pub(super) code: &'static [u8],
}

/// A line of an answer: about which file, and what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) path: String,
    pub(super) says: String,
}

/// How the guest's output is read.
#[derive(Clone, Copy, Debug)]
enum Reads {
    /// An object a line, with `path`, and what this makes of it.
    Objects(fn(&Value) -> Option<String>),
    /// The lines of the guide's task.
    Guide,
}

/// A kind of tasks, for the files that it is for.
struct Kind {
    title: &'static str,
    model: &'static str,
    encoding: &'static str,
    guest: Guest,
    /// The folder of the model, which is the name of its graph, too.
    folder: &'static str,
    /// How the names of its files end; without any they are all for it.
    endings: &'static [&'static str],
    /// What it is shown without files of the user's: below the folder of the models.
    shown: &'static [&'static str],
    says: fn(&Value) -> Option<String>,
}

const PICTURES: &[&str] = &["png", "jpg", "jpeg"];

macro_rules! guest {
    ($name:literal) => {
        Guest {
            file: concat!($name, ".wasm"),
            code: include_bytes!(concat!("../../../fixtures/guests/bin/", $name, ".wasm")),
        }
    };
}

const KINDS: [Kind; 4] = [
    Kind {
        title: "photos",
        model: "EfficientNet-Lite0",
        encoding: "onnx",
        guest: guest!("classify"),
        folder: "real/efficientnet",
        endings: PICTURES,
        shown: &["real/photos/cat.png", "real/photos/coffee.png", "real/photos/rocket.jpg"],
        says: classes,
    },
    Kind {
        title: "speech",
        model: "silero",
        encoding: "onnx",
        guest: guest!("voice"),
        folder: "real/voice",
        endings: &["wav"],
        shown: &["real/voice/speech.wav"],
        says: speech,
    },
    Kind {
        title: "line of text",
        model: "rapidocr",
        encoding: "onnx",
        guest: guest!("read"),
        folder: "real/line",
        // Which of a user's pictures are lines of text nobody knows.
        endings: &[],
        shown: &["real/line/line.png"],
        says: text,
    },
    Kind {
        title: "faces",
        model: "MediaPipe",
        encoding: "tensorflowlite",
        guest: guest!("faces"),
        folder: "real/faces",
        endings: PICTURES,
        shown: &["real/photos/astronaut.png", "real/photos/cat.png"],
        says: faces,
    },
];

const FILE_TYPE: Guest = guest!("file-type");
const CLASSIFICATION: Guest = guest!("classification");

/// Whether something in this build runs models of an encoding.
pub(super) fn served(encoding: &str) -> bool {
    match encoding {
        "onnx" => true,
        // Elsewhere OpenVINO has no way to it.
        "tensorflowlite" => cfg!(all(feature = "openvino", target_os = "linux")),
        _ => cfg!(feature = "openvino"),
    }
}

/// The rows for these files, or for those that the demo has itself. Not all of
/// them need be [`served`].
pub(super) fn rows(place: &Place, named: Option<&Files>) -> Vec<Row> {
    let mut rows: Vec<_> = KINDS.iter().filter_map(|kind| kind.row(place, named)).collect();
    let shown = Files::shown(place);
    rows.push(file_types(place, named.unwrap_or(&shown)));
    if named.is_none() {
        rows.push(guide(place));
    }
    rows
}

impl Kind {
    /// `None` if none of the files is for it.
    fn row(&self, place: &Place, named: Option<&Files>) -> Option<Row> {
        let model = place.model(self.folder);
        let name = self.folder.rsplit('/').next()?;
        let mut dirs = vec![(model.clone(), "/model".to_owned())];
        let paths: Vec<String> = match named {
            None => {
                let first = self.shown.first()?;
                let (folder, _) = first.rsplit_once('/')?;
                dirs.push((place.model(folder), ".".to_owned()));
                let names = self.shown.iter().filter_map(|path| path.rsplit('/').next());
                names.map(str::to_owned).collect()
            }
            Some(files) => {
                dirs.extend(files.dirs.iter().cloned());
                let paths = files.paths.iter().filter(|path| self.is_for(path));
                paths.cloned().collect()
            }
        };
        if paths.is_empty() {
            return None;
        }
        let mut cli_args = dir_args(&dirs);
        // By its name: the guest reads nothing of the model.
        cli_args.push(format!("-Snn-graph={}::{}", self.encoding, model.display()));
        let env = [("MODEL_DIR", "/model"), ("GRAPH", name), ("JSON", "1")];
        Some(Row {
            title: self.title,
            model: self.model,
            encoding: self.encoding,
            guest: self.guest,
            paths,
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            cli_args,
            reads: Reads::Objects(self.says),
        })
    }

    fn is_for(&self, path: &str) -> bool {
        let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
        self.endings.contains(&ending.as_str())
    }
}

/// Which types the files are of.
fn file_types(place: &Place, files: &Files) -> Row {
    // The files' own names must not be in the model's way.
    let mut dirs = vec![(place.model("magika"), "/model".to_owned())];
    dirs.extend(files.dirs.iter().cloned());
    let env = [("MODEL_DIR", "/model"), ("JSON", "1")];
    Row {
        title: "file types",
        model: "Magika",
        encoding: "openvino",
        guest: FILE_TYPE,
        paths: files.paths.clone(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        cli_args: dir_args(&dirs),
        reads: Reads::Objects(file_type),
    }
}

fn guide(place: &Place) -> Row {
    Row {
        title: "the guide's task",
        model: "MobileNet",
        encoding: "openvino",
        guest: CLASSIFICATION,
        paths: Vec::new(),
        env: BTreeMap::new(),
        cli_args: dir_args(&[(place.model("mobilenet"), "fixture".to_owned())]),
        reads: Reads::Guide,
    }
}

/// A `--dir` for each directory. Importing wasi-nn is asking for it.
fn dir_args(dirs: &[(PathBuf, String)]) -> Vec<String> {
    dirs.iter().map(|(host, guest)| format!("--dir={}::{guest}", host.display())).collect()
}

impl Row {
    /// The guest's output in words.
    pub(super) fn lines(&self, output: &str) -> anyhow::Result<Vec<Line>> {
        let says = match self.reads {
            Reads::Objects(says) => says,
            Reads::Guide => return guide_lines(output),
        };
        output
            .lines()
            .map(|line| -> anyhow::Result<Line> {
                let object: Value = serde_json::from_str(line)?;
                let path = object["path"].as_str().context("no path")?.to_owned();
                let says = says(&object).context("no answer")?;
                Ok(Line { path, says })
            })
            .collect::<anyhow::Result<_>>()
            .with_context(|| format!("what the guest printed: {output}"))
    }
}

/// The likeliest classes, down to a tenth of the first one's likelihood.
fn classes(object: &Value) -> Option<String> {
    let classes = object["classes"].as_array()?;
    let score = |class: &Value| class[1].as_f64();
    let first = score(classes.first()?)?;
    let likely = classes.iter().take(3).filter(|class| score(class) >= Some(first / 10.0));
    let words = likely.map(|class| Some(format!("{} {:.2}", class[0].as_str()?, score(class)?)));
    Some(words.collect::<Option<Vec<_>>>()?.join(", "))
}

fn speech(object: &Value) -> Option<String> {
    let spans = object["speech"].as_array()?.iter();
    let words = spans
        .map(|span| Some(format!("{:.1} to {:.1} s", span[0].as_f64()?, span[1].as_f64()?)))
        .collect::<Option<Vec<_>>>()?;
    Some(match words.as_slice() {
        [] => "nobody speaks".to_owned(),
        words => format!("somebody speaks from {}", words.join(", ")),
    })
}

fn text(object: &Value) -> Option<String> {
    Some(format!("\u{201c}{}\u{201d} {:.2}", object["text"].as_str()?, object["score"].as_f64()?))
}

fn faces(object: &Value) -> Option<String> {
    let faces = object["faces"].as_array()?.iter();
    let words = faces
        .map(|face| {
            let edge = |at: usize| face["box"][at].as_f64();
            let (left, top) = (edge(0)?, edge(1)?);
            let (width, height) = (edge(2)? - left, edge(3)? - top);
            let score = face["score"].as_f64()?;
            Some(format!("{width:.0}x{height:.0} at {left:.0}, {top:.0} {score:.2}"))
        })
        .collect::<Option<Vec<_>>>()?;
    Some(match words.as_slice() {
        [] => "no face".to_owned(),
        [word] => format!("a face {word}"),
        words => format!("{} faces {}", words.len(), words.join(", ")),
    })
}

fn file_type(object: &Value) -> Option<String> {
    Some(format!("{} {:.2}", object["label"].as_str()?, object["score"].as_f64()?))
}

fn guide_lines(output: &str) -> anyhow::Result<Vec<Line>> {
    let top = output.lines().find_map(|line| line.split_once("sorted top 5: "));
    let (_, results) =
        top.ok_or_else(|| anyhow!("no classes in what the guest printed: {output}"))?;
    let classes = results.split("InferenceResult(").skip(1).filter_map(|rest| {
        let (class, rest) = rest.split_once(", ")?;
        let (score, _) = rest.split_once(')')?;
        Some(format!("{class} ({:.2})", score.parse::<f32>().ok()?))
    });
    let classes: Vec<_> = classes.take(3).collect();
    Ok(vec![Line {
        path: "tensor.bgr".to_owned(),
        says: format!(
            "classes {}. The model is not trained: its cost is real, its classes are not",
            classes.join(", ")
        ),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn place() -> Place {
        Place { models: "/models".into(), checkout: None, library: None }
    }

    #[test]
    fn answers_are_words() {
        let photo = json!({"classes": [["espresso", 0.951], ["cup", 0.0951], ["soup", 0.007]]});
        assert_eq!(classes(&photo).as_deref(), Some("espresso 0.95, cup 0.10"));
        assert_eq!(classes(&json!({"classes": []})), None);
        let heard = json!({"speech": [[0.8, 2.08], [3.0, 4.2]]});
        let words = "somebody speaks from 0.8 to 2.1 s, 3.0 to 4.2 s";
        assert_eq!(speech(&heard).as_deref(), Some(words));
        assert_eq!(speech(&json!({"speech": []})).as_deref(), Some("nobody speaks"));
        let read = json!({"text": "a \u{201c}b\u{201d}", "score": 0.988});
        assert_eq!(text(&read).as_deref(), Some("\u{201c}a \u{201c}b\u{201d}\u{201d} 0.99"));
        let face = json!({"score": 0.94, "box": [174.3, 69.8, 279.4, 175.0]});
        let one = "a face 105x105 at 174, 70 0.94";
        assert_eq!(faces(&json!({"faces": [face]})).as_deref(), Some(one));
        assert_eq!(faces(&json!({"faces": []})).as_deref(), Some("no face"));
        let kind = json!({"label": "rust", "score": 1.0});
        assert_eq!(file_type(&kind).as_deref(), Some("rust 1.00"));
    }

    #[test]
    fn the_guides_lines_are_its_classes_and_that_they_mean_nothing() {
        let output = "Executed graph inference\nFound results, sorted top 5: \
                      [InferenceResult(904, 0.386), InferenceResult(5, 0.2)]\n";
        let lines = guide_lines(output).expect("lines");
        assert!(lines[0].says.starts_with("classes 904 (0.39), 5 (0.20). "), "{lines:?}");
        assert!(lines[0].says.contains("not trained"), "{lines:?}");
        let error = guide_lines("Loaded graph\n").expect_err("no classes").to_string();
        assert!(error.contains("Loaded graph"), "{error}");
    }

    #[test]
    fn without_files_each_kind_has_its_own() {
        let rows = rows(&place(), None);
        let titles: Vec<_> = rows.iter().map(|row| row.title).collect();
        assert_eq!(
            titles,
            ["photos", "speech", "line of text", "faces", "file types", "the guide's task"]
        );
        assert_eq!(rows[0].paths, ["cat.png", "coffee.png", "rocket.jpg"]);
        assert_eq!(
            rows[0].cli_args,
            [
                "--dir=/models/real/efficientnet::/model",
                "--dir=/models/real/photos::.",
                "-Snn-graph=onnx::/models/real/efficientnet"
            ]
        );
        assert_eq!(rows[0].env["GRAPH"], "efficientnet");
    }

    #[test]
    fn a_build_without_openvino_has_the_rows_of_onnx() {
        let rows = rows(&place(), None);
        let served: Vec<_> =
            rows.iter().filter(|row| served(row.encoding)).map(|row| row.title).collect();
        match cfg!(feature = "openvino") {
            true => assert!(served.len() >= 5, "{served:?}"),
            false => assert_eq!(served, ["photos", "speech", "line of text"]),
        }
    }

    #[test]
    fn of_the_users_files_each_kind_gets_those_that_it_is_for() {
        let files = Files {
            dirs: vec![(Path::new("/home/a").to_owned(), ".".to_owned())],
            paths: ["a.JPG", "b.wav", "c.rs", "png"].map(str::to_owned).into(),
        };
        let rows = rows(&place(), Some(&files));
        let paths: Vec<_> = rows.iter().map(|row| (row.title, row.paths.join(" "))).collect();
        let expected = [
            ("photos", "a.JPG"),
            ("speech", "b.wav"),
            ("faces", "a.JPG"),
            ("file types", "a.JPG b.wav c.rs png"),
        ];
        assert_eq!(paths, expected.map(|(title, paths)| (title, paths.to_owned())));
        assert!(
            rows[0].cli_args.contains(&"--dir=/home/a::.".to_owned()),
            "{:?}",
            rows[0].cli_args
        );
    }
}
