//! Drives each target for `FUZZ_SECONDS` (2) with its corpus and mutations of
//! it. `FUZZ_SEED` repeats a run.

use super::*;
use std::fs;
use std::panic::catch_unwind;
use std::time::Instant;

/// The longest input, and the most that are kept.
const LENGTH: usize = 4096;
const KEPT: usize = 2000;

#[test]
fn messages() {
    drive("message", message);
}

#[test]
fn task_arguments() {
    drive("arguments", arguments);
}

#[test]
fn models() {
    drive("xml", xml);
}

#[test]
fn onnx_models() {
    drive("onnx", onnx);
}

#[test]
fn tensorflow_lite_models() {
    drive("tflite", tflite);
}

#[test]
fn tensorflow_graphs() {
    drive("tensorflow", tensorflow);
}

#[test]
fn torchscript_archives() {
    drive("torchscript", torchscript);
}

#[test]
fn calls_of_wasi_nn() {
    drive("nn", nn);
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn drive(name: &str, target: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = root.join("fuzz/corpus").join(name);
    let files = fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let mut inputs: Vec<_> = paths.iter().map(|path| fs::read(path).expect("a file")).collect();
    assert!(!inputs.is_empty(), "{} is empty", corpus.display());
    for input in &inputs {
        check(name, target, input, None);
    }
    let mutator = Mutator { words: words(&inputs) };
    let seed = setting("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let end = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS").unwrap_or(2));
    let mut runs = 0u64;
    while Instant::now() < end {
        let input = mutator.mutated(&inputs, &mut random);
        check(name, target, &input, Some(seed));
        runs += 1;
        // Without knowing what an input reaches, keep a few by chance: they
        // wander further away from the corpus.
        if random.u32(..64) == 0 && !input.is_empty() {
            match inputs.len() {
                KEPT => {
                    let at = random.usize(paths.len()..KEPT);
                    inputs[at] = input;
                }
                _ => inputs.push(input),
            }
        }
    }
    println!("{name}: {runs} inputs, FUZZ_SEED={seed}");
}

fn check(name: &str, target: fn(&[u8]), input: &[u8], seed: Option<u64>) {
    if catch_unwind(|| target(input)).is_err() {
        let path = std::env::temp_dir().join(format!("proplet-fuzz-{name}"));
        let kept = fs::write(&path, input).map_or_else(|e| e.to_string(), |()| "kept".into());
        panic!(
            "the target `{name}` fails (seed {seed:?}); {}: {kept}: {:?}",
            path.display(),
            String::from_utf8_lossy(input)
        );
    }
}

/// The words of the corpus and the marks between them.
fn words(inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = inputs
        .iter()
        .flat_map(|input| {
            input.chunk_by(|a, b| a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric())
        })
        .map(<[u8]>::to_vec)
        .collect();
    words.sort();
    words.dedup();
    words
}

struct Mutator {
    words: Vec<Vec<u8>>,
}

impl Mutator {
    fn mutated(&self, inputs: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
        let pick = |random: &mut fastrand::Rng| &inputs[random.usize(..inputs.len())];
        let mut input = pick(random).clone();
        for _ in 0..1 << random.u32(..4) {
            let at = random.usize(..=input.len());
            let length = random.usize(..=(input.len() - at).min(64));
            match random.u32(..10) {
                0 => {
                    input.drain(at..at + length);
                }
                1 => {
                    let part = input[at..at + length].to_vec();
                    for _ in 0..random.usize(1..8) {
                        input.splice(at..at, part.iter().copied());
                    }
                }
                2 => {
                    let other = pick(random);
                    let from = random.usize(..=other.len());
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
                3..=5 => {
                    let word = &self.words[random.usize(..self.words.len())];
                    input.splice(at..at + length.min(word.len()), word.iter().copied());
                }
                6 => {
                    const NUMBERS: [&str; 8] = [
                        "0",
                        "-1",
                        "1e999",
                        "255",
                        "4294967296",
                        "9223372036854775807",
                        "18446744073709551615",
                        "99999999999999999999",
                    ];
                    let number = NUMBERS[random.usize(..NUMBERS.len())];
                    input.splice(at..at, number.bytes());
                }
                7 => input.insert(at, random.u8(..)),
                8 if at < input.len() => input[at] ^= 1 << random.u32(..8),
                _ if at < input.len() => input[at] = random.u8(..),
                _ => {}
            }
            input.truncate(LENGTH);
        }
        input
    }
}
