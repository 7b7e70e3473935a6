//! Damaged models of each encoding, by bytes and by name, to the real library.
//!
//! They come of a fixed seed. Each batch runs in a process of its own, so that
//! one that crashes is found, and named by its number. A long run by hand:
//! `DAMAGE_CASES=200000 cargo test --features openvino --lib -- --nocapture damaged_models`;
//! `DAMAGE_ONLY=ENCODING:NUMBER` runs one case in the test's own process.

mod seeds;

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use fastrand::Rng;
use wasmtime_wasi_nn::wit::{ExecutionTarget, TensorType};

use self::seeds::Seeds;
use super::OpenVino;
use super::tests::{config, nn};
use crate::cancel::Cancel;
use crate::nn::Nn;
use crate::nn::backends::{Backend as _, Encoding, Request};
use crate::nn::source::Source;
use crate::nn::tensors::Port;
use crate::task::GraphDir;

/// Of each encoding, where no variable says otherwise.
const CASES: u64 = 1000;

/// How many run in one process.
const BATCH: u64 = 500;

/// Bytes of data that a batch may take: what a model declares is not to be had.
const MEMORY: u64 = 4 << 30;

/// The most bytes of an input that is made.
const MOST: u64 = 16 << 20;

/// Which batch a process is to run: an encoding, the first case and the one
/// behind the last.
const PART: &str = "DAMAGE_PART";

/// What came of the cases.
#[derive(Default)]
struct Tally {
    /// Taken by what looks at a model before the library does.
    proven: usize,
    /// Compiled by the library.
    compiled: usize,
    /// Computed.
    ran: usize,
}

#[test]
fn damaged_models_end_in_an_answer() {
    if let Ok(only) = std::env::var("DAMAGE_ONLY") {
        let (encoding, case) = only.split_once(':').expect("ENCODING:NUMBER");
        let case = case.parse().expect("a number");
        return batch(encoding, case, case + 1);
    }
    let cases = std::env::var("DAMAGE_CASES").map_or(CASES, |n| n.parse().expect("a number"));
    let mut wrong = Vec::new();
    for encoding in seeds::ENCODINGS {
        let mut tally = Tally::default();
        for first in (0..cases).step_by(BATCH as usize) {
            match in_a_process(encoding.name, first, cases.min(first + BATCH)) {
                Ok(part) => {
                    tally.proven += part.proven;
                    tally.compiled += part.compiled;
                    tally.ran += part.ran;
                }
                Err(crash) => wrong.push(crash),
            }
        }
        println!(
            "{}: of {cases} models {} were proven, {} compiled and {} ran",
            encoding.name, tally.proven, tally.compiled, tally.ran
        );
        // Or the library has not been tried.
        let least = cases as usize / 100;
        assert!(tally.proven > least && tally.ran > 0, "{}: too few", encoding.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs a batch in a process of its own, which is this test program, and says
/// at which case it crashed.
fn in_a_process(encoding: &str, first: u64, end: u64) -> Result<Tally, String> {
    let this = std::env::current_exe().expect("the system tells where this program is");
    let name = std::thread::current().name().expect("a test has a name").replace(
        "damaged_models_end_in_an_answer",
        "part_of_the_damaged_models_in_a_process_of_its_own",
    );
    let mut child = Command::new(this)
        .args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(PART, format!("{encoding}:{first}:{end}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program starts again");
    let mut errors = child.stderr.take().expect("it is piped");
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        errors.read_to_end(&mut said).map(|_| said)
    });
    let (mut last, mut tally) = (String::from("none"), None);
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
        let line = line.expect("text");
        if let Some(case) = line.strip_prefix("case ") {
            last = case.to_owned();
        }
        if let Some(counts) = line.strip_prefix("tally ") {
            let counts: Vec<usize> =
                counts.split(' ').map(|count| count.parse().expect("a number")).collect();
            tally = Some(Tally { proven: counts[0], compiled: counts[1], ran: counts[2] });
        }
    }
    let status = child.wait().expect("it has ended");
    let said = said.join().expect("no panic").expect("read");
    match tally {
        Some(tally) if status.success() => Ok(tally),
        _ => Err(format!(
            "{encoding}, case {last}: {}, after it said {:?}",
            status.signal().map_or(status.to_string(), |signal| format!("signal {signal}")),
            String::from_utf8_lossy(&said[said.len().saturating_sub(300)..])
        )),
    }
}

/// By the test above, which tells it what to run.
#[test]
#[ignore = "damaged_models_end_in_an_answer runs it, in a process of its own"]
fn part_of_the_damaged_models_in_a_process_of_its_own() {
    let Ok(part) = std::env::var(PART) else { return };
    let parts: Vec<_> = part.split(':').collect();
    let [encoding, first, end] = parts[..] else { panic!("{part}") };
    let limit = rustix::process::Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    rustix::process::setrlimit(rustix::process::Resource::Data, limit).expect("a limit");
    batch(encoding, first.parse().expect("a number"), end.parse().expect("a number"));
}

/// Runs these cases in this process, and prints each number before.
fn batch(encoding: &str, first: u64, end: u64) {
    let encoding = *seeds::ENCODINGS.iter().find(|e| e.name == encoding).expect("an encoding");
    let (seeds, nn) = (Seeds::of(encoding), nn());
    let backend = OpenVino::new(config(), 1 << 30);
    let folder = tempfile::tempdir().expect("a directory");
    let mut tally = Tally::default();
    for case in first..end {
        println!("\ncase {case}");
        let mut rng = Rng::with_seed(case);
        let parts = seeds.damaged(&mut rng);
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        by_bytes(&backend, encoding, &slices, &mut tally);
        // The same way, but for where the bytes come from.
        if case % 8 == 0 {
            by_name(&nn, encoding, folder.path(), &parts);
        }
    }
    println!("\ntally {} {} {}", tally.proven, tally.compiled, tally.ran);
}

fn by_bytes(backend: &OpenVino, encoding: &Encoding, parts: &[&[u8]], tally: &mut Tally) {
    let target = ExecutionTarget::Cpu;
    if backend.check(encoding.id, target, parts).is_err() {
        return;
    }
    tally.proven += 1;
    let source = Source::new(encoding.id, target, parts);
    let Ok(compiled) = backend.compile(&source, &Cancel::default()) else { return };
    tally.compiled += 1;
    let Ok(mut request) = compiled.model.request() else { return };
    let mut written = compiled.inputs.iter().enumerate();
    if !written.all(|(index, port)| write(&mut *request, index, port)) {
        return;
    }
    if request.run(&Cancel::default()).is_err() {
        return;
    }
    tally.ran += 1;
    for index in 0..compiled.outputs.len() {
        // Each byte is there.
        let mut sum = 0u64;
        let read = |bytes: &[u8]| sum = bytes.iter().map(|&byte| u64::from(byte)).sum();
        request.read(index, &mut { read }).ok();
        std::hint::black_box(sum);
    }
}

/// Writes ones, or says that it can't.
fn write(request: &mut dyn Request, index: usize, port: &Port) -> bool {
    let Some(dims) = &port.shape else { return false };
    let shape: Option<Vec<u32>> =
        dims.iter().map(|dim| u32::try_from(dim.min.max(1)).ok()).collect();
    let (Some(shape), Some(bits)) = (shape, port.element.bits()) else { return false };
    let elements = shape.iter().try_fold(1u64, |all, &dim| all.checked_mul(dim.into()));
    let bytes = elements.and_then(|elements| elements.checked_mul(bits)).map(|bits| bits / 8);
    match bytes.filter(|&bytes| bytes <= MOST) {
        Some(bytes) => {
            request.write(index, TensorType::U8, &shape, &vec![1; bytes as usize]).is_ok()
        }
        None => false,
    }
}

fn by_name(nn: &Nn, encoding: &Encoding, folder: &Path, parts: &[Vec<u8>]) {
    for (file, bytes) in encoding.files.iter().zip(parts) {
        std::fs::write(folder.join(file), bytes).expect("written");
    }
    let graph = GraphDir {
        encoding: encoding.name.to_owned(),
        dir: folder.to_owned(),
        name: "damaged".to_owned(),
    };
    drop(nn.context(&[graph], std::sync::Arc::default()));
}

#[test]
fn undamaged_models_run() {
    let backend = OpenVino::new(config(), 1 << 30);
    for encoding in seeds::ENCODINGS {
        for model in Seeds::of(encoding).models() {
            let parts: Vec<&[u8]> = model.iter().map(Vec::as_slice).collect();
            let mut tally = Tally::default();
            let checked = backend.check(encoding.id, ExecutionTarget::Cpu, &parts);
            assert_eq!(checked, Ok(()), "{}", encoding.name);
            by_bytes(&backend, encoding, &parts, &mut tally);
            assert_eq!((tally.compiled, tally.ran), (1, 1), "{}", encoding.name);
        }
    }
}
