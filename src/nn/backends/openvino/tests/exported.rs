//! Graphs as the library has compiled them, taken over by the next process.

use super::*;
use crate::nn::onnx::write as onnx;

/// `relu(x + [1, 2, 3, 4])` in each encoding; a file of the fuzz targets' is one
/// of their models.
fn models() -> Vec<(GraphEncoding, Vec<Vec<u8>>)> {
    let (xml, weights) = add("1");
    let file = |place: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(place);
        std::fs::read(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()))
    };
    vec![
        (GraphEncoding::Openvino, vec![xml, weights]),
        (GraphEncoding::Onnx, vec![onnx::add()]),
        (GraphEncoding::Tensorflowlite, vec![file("tflite/tiny")]),
        (GraphEncoding::Tensorflow, vec![file("tensorflow/add")]),
    ]
}

#[test]
fn an_exported_graph_gives_the_same_answers_in_the_next_process() {
    for (encoding, parts) in models() {
        let backend = OpenVino::new(config(), u64::MAX);
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let source = Source::new(encoding, ExecutionTarget::Cpu, &parts);
        let compiled = backend.compile(&source, &Cancel::default()).expect("compiled");
        let exported = compiled.model.export().expect("exported");
        let again = OpenVino::new(config(), u64::MAX);
        let mut garbage = exported.clone();
        garbage.fill(0xaa);
        assert!(again.import(&source, garbage).is_err());
        let size = exported.len() as u64;
        let imported = again.import(&source, exported).expect("imported");
        assert_eq!(imported.weight, compiled.weight + size);
        assert_eq!(imported.inputs, compiled.inputs);
        assert_eq!(imported.outputs, compiled.outputs);
        // The library refers to what was imported.
        drop((compiled, vec![0xaa_u8; size as usize]));
        let mut request = imported.model.request().expect("a request");
        request.write(0, TensorType::Fp32, &[1, 4], &floats(&[1.0; 4])).expect("written");
        request.run(&Cancel::default()).expect("computed");
        let mut output = Vec::new();
        request.read(0, &mut |bytes| output = bytes.to_vec()).expect("an output");
        assert_eq!(output, floats(&[2.0, 3.0, 4.0, 5.0]), "{encoding:?}");
    }
}

#[test]
fn graphs_of_each_encoding_are_taken_over_from_the_disk() {
    for (encoding, parts) in models() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = std::sync::Arc::new(
            crate::disk::DiskCache::open(&dir.path().join("cache"), 1 << 30).expect("a cache"),
        );
        let graphs = dir.path().join("graph");
        std::fs::create_dir(&graphs).expect("made");
        let known = OpenVino::new(config(), u64::MAX);
        let files = known.encodings().iter().find(|e| e.id == encoding).expect("it is served");
        for (file, bytes) in files.files.iter().zip(&parts) {
            std::fs::write(graphs.join(file), bytes).expect("written");
        }
        let graph = crate::task::GraphDir {
            encoding: files.name.to_owned(),
            dir: graphs,
            name: "sum".to_owned(),
        };
        // What a process does that starts now: how many models it compiles.
        let starts = || {
            let nn = Nn::new(NnConfig {
                openvino: config(),
                backend: Some(BackendName::OpenVino),
                graphs: vec![graph.clone()],
                disk: Some(disk.clone()),
                cache_bytes: 1 << 30,
                model_bytes: 1 << 28,
                ..NnConfig::default()
            });
            nn.context(std::slice::from_ref(&graph), Arc::default()).expect("a context");
            nn.stats().graphs_compiled
        };
        assert_eq!(starts(), 1, "{encoding:?}");
        // It is written behind the task's back.
        let end = Instant::now() + Duration::from_secs(60);
        while starts() > 0 {
            assert!(Instant::now() < end, "{encoding:?} is not kept");
        }
    }
}
