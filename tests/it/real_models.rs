//! Guests with trained models, beside what a reference said about the same photos, sound and text
//! when the set-up ran: OpenVINO's Python API with Pillow, and the package that the faces' model
//! comes in (`fixtures/real.py`).

use crate::support::{On, Stage, Task, Worker, assets};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What this build can run ONNX on.
const BACKENDS: &[&str] = &[
    #[cfg(feature = "openvino")]
    "openvino",
    #[cfg(feature = "onnx")]
    "rten",
];

const PHOTOS: [&str; 4] = ["cat.png", "coffee.png", "rocket.jpg", "astronaut.png"];

fn real(name: &str) -> PathBuf {
    assets().join("fixtures/real").join(name)
}

fn expected(model: &str) -> Value {
    let json = std::fs::read(real(model).join("expected.json")).expect("the reference's answer");
    serde_json::from_slice(&json).expect("JSON")
}

/// A worker with one backend.
struct Asked {
    stage: Stage,
    _worker: Worker,
    backend: &'static str,
}

impl Asked {
    fn new(backend: &'static str) -> Asked {
        let dirs = real("").display().to_string();
        let stage = Stage::new(On::Embedded);
        let worker = stage.worker(&[("dirs", &dirs), ("nn-backend", backend)]);
        Asked { stage, _worker: worker, backend }
    }

    /// What the guest says about each of the files, which are in the folder `of`.
    #[track_caller]
    fn say(&self, guest: &str, model: &str, how: How, of: &str, files: &[&str]) -> Vec<Value> {
        let folder = |name: &str, path: &str| format!("--dir={}::{path}", real(name).display());
        let mut args = vec![folder(model, "model"), folder(of, "files")];
        let mut task = Task::guest(guest).env("JSON", "1");
        match how {
            How::Bytes(encoding) => task = task.env("ENCODING", encoding),
            How::Name(encoding) => {
                task = task.env("GRAPH", model);
                args.push(format!("-Snn-graph={encoding}::{}", real(model).display()));
            }
        }
        let files: Vec<_> = files.iter().map(|file| format!("files/{file}")).collect();
        let inputs: Vec<_> = files.iter().map(String::as_str).collect();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let result = self.stage.run(task.args(&args).inputs(&inputs));
        let said: Vec<Value> = result
            .stdout()
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
            .collect();
        assert_eq!(result.0["backends"], json!([self.backend]), "{guest}");
        let paths: Vec<_> = said.iter().map(|line| line["path"].as_str()).collect();
        assert_eq!(paths, inputs.into_iter().map(Some).collect::<Vec<_>>(), "{guest}");
        said
    }
}

/// How the guest comes to its model, in this encoding.
#[derive(Clone, Copy, Debug)]
enum How {
    Bytes(&'static str),
    Name(&'static str),
}

#[track_caller]
fn close(said: &Value, expected: &Value, tolerance: f64, what: &str) {
    let (said, expected) = (said.as_f64().expect("a number"), expected.as_f64().expect("one"));
    assert!((said - expected).abs() <= tolerance, "{what}: {said}, not {expected}");
}

/// The same classes in the same order, each as likely.
fn classified(asked: &Asked, guest: &str, how: How) {
    let expected = expected("efficientnet");
    for (photo, said) in PHOTOS.iter().zip(asked.say(guest, "efficientnet", how, "photos", &PHOTOS))
    {
        let (said, expected) = (&said["classes"], &expected[photo]);
        for place in 0..5 {
            let what = format!("{guest}, {how:?}: {photo}: {said} is not {expected}");
            assert_eq!(said[place][0], expected[place][0], "{what}");
            // Two programs see pixels that differ by one of 255 levels here and there.
            close(&said[place][1], &expected[place][1], 0.005, &what);
        }
    }
    // What anybody sees in it.
    assert_eq!(expected["coffee.png"][0][0], "espresso");
    assert_eq!(expected["cat.png"][0][0], "tiger cat");
}

#[test]
fn photos_are_classified_as_by_openvinos_own_api() {
    for backend in BACKENDS {
        let asked = Asked::new(backend);
        classified(&asked, "classify", How::Bytes("onnx"));
        classified(&asked, "classify", How::Name("onnx"));
        classified(&asked, "classify-component", How::Bytes("onnx"));
        classified(&asked, "classify-component", How::Name("onnx"));
        if *backend == "openvino" {
            classified(&asked, "classify", How::Bytes("openvino"));
            classified(&asked, "classify-component", How::Name("openvino"));
        }
    }
}

/// The tensor itself in place of the photo: nothing but the model can differ.
#[test]
fn a_tensor_is_classified_as_by_openvinos_own_api() {
    let output = std::fs::read(real("efficientnet").join("output0.bin")).expect("the answer");
    let mut probabilities: Vec<_> = output
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect();
    probabilities.sort_by(|a, b| b.total_cmp(a));
    for backend in BACKENDS {
        let asked = Asked::new(backend);
        let tensor = ["input0.bin"];
        let how = How::Name("onnx");
        let said = asked.say("classify", "efficientnet", how, "efficientnet", &tensor);
        for (place, expected) in probabilities.iter().take(5).enumerate() {
            close(&said[0]["classes"][place][1], &json!(expected), 1e-4, backend);
        }
    }
}

/// The same over HTTP: the photo is the body of a request, the model is there by its name.
#[test]
fn photos_in_requests_are_classified_as_by_openvinos_own_api() {
    let dirs = real("").display().to_string();
    let expected = expected("efficientnet");
    let names = std::fs::read_to_string(real("efficientnet").join("classes.txt")).expect("names");
    let names: Vec<&str> = names.lines().collect();
    for backend in BACKENDS {
        let stage = Stage::new(On::Embedded);
        let _worker = stage.worker(&[
            ("dirs", &dirs),
            ("nn-backend", backend),
            ("http-enabled", "true"),
            ("http-bind", "127.0.0.1"),
        ]);
        let graph = format!("-Snn-graph=onnx::{}", real("efficientnet").display());
        let server = Task::guest("http-image").env("GRAPH", "efficientnet").args(&[&graph]);
        let started = stage.result(&stage.start(server));
        let port = started.stdout().strip_prefix("started at port ").expect("a server");
        for photo in PHOTOS {
            let body = std::fs::read(real("photos").join(photo)).expect("a photo");
            let url = format!("http://127.0.0.1:{port}/");
            let answer = ureq::post(&url).send(&body).expect("an answer");
            let said = answer.into_body().read_to_string().expect("text");
            let said: Value = serde_json::from_str(&said).expect("JSON");
            for place in 0..5 {
                let (said, expected) = (&said["classes"][place], &expected[photo][place]);
                let class = said[0].as_u64().expect("a number") as usize;
                assert_eq!(names[class], expected[0], "{backend}: {photo}");
                close(&said[1], &expected[1], 0.005, photo);
            }
        }
    }
}

fn heard(asked: &Asked, guest: &str, how: How) {
    let expected = expected("voice");
    let said = &asked.say(guest, "voice", how, "voice", &["speech.wav"])[0];
    let frames = |value: &Value| value["probabilities"].as_array().expect("a list").clone();
    let (all, reference) = (frames(said), frames(&expected));
    assert_eq!(all.len(), reference.len());
    assert!(all.len() > 150);
    // Each inference goes on from the state of the one before.
    for (frame, (said, expected)) in all.iter().zip(&reference).enumerate() {
        close(said, expected, 1e-3, &format!("{guest}, {how:?}, frame {frame}"));
    }
    let (speech, spoken) = (&said["speech"], expected["spoken"].as_array().expect("a list"));
    assert_eq!(speech.as_array().map(Vec::len), Some(spoken.len()), "{speech}");
    for (index, spoken) in spoken.iter().enumerate() {
        close(&speech[index][0], &spoken[0], 0.1, "it begins");
        close(&speech[index][1], &spoken[1], 0.2, "it ends");
    }
}

#[test]
fn speech_is_heard_where_there_is_some() {
    for backend in BACKENDS {
        let asked = Asked::new(backend);
        heard(&asked, "voice", How::Bytes("onnx"));
        heard(&asked, "voice", How::Name("onnx"));
        heard(&asked, "voice-component", How::Bytes("onnx"));
    }
}

#[test]
fn a_line_of_text_is_read() {
    let expected = expected("line");
    assert_eq!(expected["read"], expected["written"]);
    for backend in BACKENDS {
        let asked = Asked::new(backend);
        for how in [How::Bytes("onnx"), How::Name("onnx")] {
            let said = &asked.say("read", "line", how, "line", &["line.png"])[0];
            assert_eq!(said["text"], expected["written"], "{backend}");
            close(&said["score"], &expected["score"], 1e-3, backend);
        }
    }
}

/// OpenVINO alone has TensorFlow Lite.
#[cfg(feature = "openvino")]
#[test]
fn faces_are_found_as_by_the_models_own_package() {
    let expected = expected("faces");
    let asked = Asked::new("openvino");
    for how in [How::Bytes("tensorflowlite"), How::Name("tensorflowlite")] {
        for (photo, said) in PHOTOS.iter().zip(asked.say("faces", "faces", how, "photos", &PHOTOS))
        {
            let count = |faces: &Value| faces.as_array().map(Vec::len);
            let (said, expected) = (&said["faces"], &expected[photo]);
            assert_eq!(count(said), count(expected), "{how:?}: {photo}: {said}");
            for face in 0..count(expected).expect("a list") {
                close(&said[face]["score"], &expected[face]["score"], 0.01, photo);
                for edge in 0..4 {
                    // In pixels of the photo.
                    close(&said[face]["box"][edge], &expected[face]["box"][edge], 1.5, photo);
                }
            }
        }
    }
    assert_eq!(expected["astronaut.png"].as_array().map(Vec::len), Some(1));
    assert_eq!(expected["cat.png"], json!([]));
}

/// A guest says what it can't use, and nothing of what is not asked for.
#[test]
fn a_file_that_is_no_picture_is_told() {
    let asked = Asked::new(BACKENDS[0]);
    let folder = |name: &str, path: &str| format!("--dir={}::{path}", real(name).display());
    let args = [folder("efficientnet", "model"), folder("voice", "files")];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let task = Task::guest("classify").env("ENCODING", "onnx").args(&args);
    let result = asked.stage.run(task.inputs(&["files/speech.wav"]));
    result.failed(&["cannot see what is in files/speech.wav: it is neither PNG nor JPEG"]);
}
