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
