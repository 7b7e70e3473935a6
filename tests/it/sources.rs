//! Where a task's module comes from: `file` and `image_url`.

use crate::support::{Answer, On, Stage, Task, Web, over_both_brokers, wat};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

over_both_brokers!(
    a_file_may_be_broken_into_lines,
    a_module_comes_from_the_web,
    what_the_web_does_not_give_is_an_error_that_names_the_address,
);

fn a_file_may_be_broken_into_lines(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "1")]);
    let symbols = STANDARD.encode(wat("hello"));
    let lines = |end: &str| {
        let lines: Vec<_> = symbols.as_bytes().chunks(76).map(String::from_utf8_lossy).collect();
        lines.join(end) + end
    };
    for file in [lines("\n"), lines("\r\n"), lines(" \t"), STANDARD_NO_PAD.encode(wat("hello"))] {
        stage.run(Task::bare().set("file", file)).succeeded("hello\n");
    }
}

fn a_module_comes_from_the_web(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "1")]);
    let web = Web::serve(&[
        ("/hello.wasm", Answer::Whole(wat("hello"))),
        ("/unmeasured", Answer::Unmeasured(wat("hello"))),
    ]);
    let first = stage.run(Task::bare().set("image_url", web.url("/hello.wasm")));
    first.succeeded("hello\n");
    assert_eq!(first.0["reused"]["module"], false);
    // The same bytes are the same module, wherever they come from.
    let second = stage.run(Task::bare().set("image_url", web.url("/unmeasured")));
    second.succeeded("hello\n");
    assert_eq!(second.0["reused"]["module"], true);
    // An upload goes before an address.
    stage.run(Task::wat("hello").set("image_url", web.url("/none"))).succeeded("hello\n");
}

fn what_the_web_does_not_give_is_an_error_that_names_the_address(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "1"), ("module-size", "10000")]);
    let web = Web::serve(&[
        ("/large", Answer::Whole(vec![0; 10_001])),
        ("/endless", Answer::Unmeasured(vec![0; 1 << 20])),
        ("/cut-off", Answer::CutOff(wat("hello"))),
        ("/page", Answer::Whole(b"<!DOCTYPE html><title>Sign in</title>".to_vec())),
        ("/missing", Answer::NotFound),
    ]);
    let cases = [
        ("/large", "over the limit of 10000 (--module-size)"),
        ("/endless", "over the limit of 10000 (--module-size)"),
        ("/missing", "404"),
        ("/cut-off", "fetching the module"),
    ];
    for (path, expected) in cases {
        let url = web.url(path);
        let id = stage.start(Task::bare().set("image_url", &url));
        stage.result(&id).failed(&[expected, &url]);
        assert_eq!(stage.results_in_the_end(&id), 1, "{path}");
    }
    stage.run(Task::bare().set("image_url", web.url("/page"))).failed(&["HTML"]);
    let nobody = "http://127.0.0.1:9/guest.wasm";
    stage.run(Task::bare().set("image_url", nobody)).failed(&[nobody]);
}

/// ARCHITECTURE.md, case 115.
#[test]
fn code_comes_from_no_private_address_that_is_not_named() {
    let inside = Web::serve(&[
        ("/hello.wasm", Answer::Whole(wat("hello"))),
        ("/v2/guest/manifests/v1", Answer::Whole(b"{}".to_vec())),
    ]);
    let moved = Answer::Moved(inside.url("/hello.wasm"));
    let image = Answer::Moved(inside.url("/v2/guest/manifests/v1"));
    let named = Web::serve(&[("/hello.wasm", moved), ("/v2/guest/manifests/v1", image)]);
    let stage = Stage::new(On::Embedded);
    let host = |web: &Web| web.url("").trim_start_matches("http://").to_owned();
    let (hosts, registry) = (format!("*,{}", host(&named)), named.url(""));
    let settings = [("executors", "1"), ("image-hosts", &hosts), ("registry", &registry)];
    let _worker = stage.worker(&settings);
    let port = host(&inside).rsplit_once(':').expect("a port").1.to_owned();
    let digest = "a".repeat(64);
    for address in [
        inside.url("/hello.wasm"),
        format!("http://localhost:{port}/hello.wasm"),
        format!("http://[::ffff:127.0.0.1]:{port}/hello.wasm"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        format!("{}/guest:v1", host(&inside)),
        format!("localhost:{port}/guest:v1@sha256:{digest}"),
        // By a redirect of one that is named.
        named.url("/hello.wasm"),
        "guest:v1".to_owned(),
    ] {
        stage.run(Task::bare().set("image_url", &address)).failed(&[&address, "--image-hosts"]);
    }
    assert_eq!(inside.requests(), 0, "not even a connection");
    assert!(named.requests() > 0, "that one is asked");
}
