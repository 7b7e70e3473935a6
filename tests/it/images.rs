//! Images of a registry: through Propeller's proxy, and pulled by the worker.

use crate::support::{
    Access, Call, DockerRegistry, ImageProxy, On, PART, Part, Stage, Task, cached,
    over_both_brokers, proplet, wat,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

over_both_brokers!(
    an_image_comes_through_the_proxy_in_parts,
    a_proxy_that_says_nothing_or_half_is_named,
    an_image_that_is_too_large_or_no_code_is_an_error,
    a_task_that_waits_for_an_image_is_stopped,
);

const NAME: &str = "registry.example/team/guest:v1";

fn image(name: &str) -> Task {
    Task::bare().set("image_url", name)
}

/// The guest, and behind its code so much that it comes in several parts: a custom
/// section.
fn large_guest() -> Vec<u8> {
    let mut module = wat("hello");
    let size = 2 * PART;
    let mut length = Vec::new();
    let mut rest = size + 2;
    while rest >= 0x80 {
        length.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    length.push(rest as u8);
    module.push(0);
    module.extend(length);
    module.extend([1, b'x']);
    module.extend(std::iter::repeat_n(7, size));
    module
}

fn an_image_comes_through_the_proxy_in_parts(on: On) {
    let stage = Stage::new(on);
    let proxy = ImageProxy::start(&stage, |name| {
        let parts = Part::cut(&large_guest(), PART);
        assert_eq!(parts.len(), 3);
        let of = |name: &str, part: &Part| (name.to_owned(), part.clone());
        let foreign = Part { index: 0, total: 1, bytes: vec![1] };
        vec![
            of("another/image", &foreign),
            of(name, &parts[2]),
            of(name, &parts[0]),
            of(name, &parts[0]),
            of(name, &Part { index: 9, total: 3, bytes: vec![1] }),
            of("another/image", &parts[1]),
            of(name, &parts[1]),
            // What comes again later is for nobody.
            of(name, &parts[1]),
        ]
    });
    let _worker = stage.worker(&[("executors", "2")]);
    let both = [NAME, NAME].map(|name| stage.start(image(name)));
    for id in &both {
        stage.result(id).succeeded("hello\n");
    }
    stage.run(image(&format!("oci://{NAME}"))).succeeded("hello\n");
    let asked = proxy.asked();
    assert!(!asked.is_empty() && asked.iter().all(|name| name == NAME), "{asked:?}");
}

fn a_proxy_that_says_nothing_or_half_is_named(on: On) {
    let stage = Stage::new(on);
    let proxy = ImageProxy::start(&stage, |name| match name {
        "half" => vec![(name.to_owned(), Part { index: 1, total: 2, bytes: vec![1] })],
        _ => vec![],
    });
    let _worker = stage.worker(&[("executors", "1"), ("image-timeout", "300ms")]);
    let silent = stage.run(image(NAME));
    silent.failed(&[
        NAME,
        "registry proxy did not answer within 300ms",
        "nothing came",
        "--registry",
    ]);
    stage.run(image("half")).failed(&["1 of 2 parts came, missing 0", "--image-timeout"]);
    stage.settle();
    assert_eq!(proxy.asked(), [NAME, "half"]);
}

fn an_image_that_is_too_large_or_no_code_is_an_error(on: On) {
    let stage = Stage::new(on);
    let _proxy = ImageProxy::start(&stage, |name| {
        let part = |index, total, bytes| (name.to_owned(), Part { index, total, bytes });
        match name {
            "large" => vec![part(0, 3, vec![0; 6000]), part(1, 3, vec![0; 6000])],
            "empty" => vec![part(0, 1, vec![])],
            _ => vec![part(0, 1, b"#!/bin/sh\n".to_vec())],
        }
    });
    let _worker = stage.worker(&[("executors", "1"), ("module-size", "10000")]);
    let cases = [
        ("large", "12000 bytes or more, over the limit of 10000 (--module-size)"),
        ("empty", "the proxy sent an empty one"),
        ("text", "not a WebAssembly binary"),
    ];
    for (name, expected) in cases {
        let id = stage.start(image(name));
        stage.result(&id).failed(&[expected]);
        assert_eq!(stage.results_in_the_end(&id), 1, "{name}");
    }
}

fn a_task_that_waits_for_an_image_is_stopped(on: On) {
    let stage = Stage::new(on);
    let proxy = ImageProxy::start(&stage, |_| vec![]);
    let _worker = stage.worker(&[("executors", "1")]);
    let id = stage.start(image(NAME));
    stage.until("it is asked for", || !proxy.asked().is_empty());
    stage.stop(&id);
    stage.result(&id).failed(&["stopped"]);
    stage.settle();
}

/// By its digest on the disk. A new task asks the proxy: the name may have moved.
#[test]
fn an_image_of_the_proxy_is_kept_for_the_invocations_of_the_next_process() {
    let stage = Stage::new(On::Embedded);
    let silent = Arc::<AtomicBool>::default();
    let proxy = ImageProxy::start(&stage, {
        let silent = silent.clone();
        move |name| match silent.load(Ordering::SeqCst) {
            true => vec![],
            false => {
                let parts = Part::cut(&large_guest(), PART);
                parts.into_iter().map(|part| (name.to_owned(), part)).collect()
            }
        }
    });
    let state = tempfile::tempdir().expect("a folder");
    let settings = [
        ("executors", "1"),
        ("image-timeout", "500ms"),
        ("stateless", "false"),
        ("state-dir", state.path().to_str().expect("text")),
    ];
    let mut worker = stage.worker(&settings);
    let id = stage.start(image(&format!("oci://{NAME}")).set("latent", true));
    stage.call(Call::of(&id)).succeeded("hello\n");
    let images = state.path().join(&stage.worker_id).join("cache/images");
    // The image by its digest, and what its name came to.
    let expected = [64, large_guest().len() as u64 + 32];
    stage.until("it is on the disk", || cached(&images) == expected);
    worker.shut_down();
    worker.ended();
    silent.store(true, Ordering::SeqCst);
    let asked = proxy.asked().len();
    let _worker = stage.worker(&settings);
    stage.call(Call::of(&id)).succeeded("hello\n");
    assert_eq!(proxy.asked().len(), asked);
    stage.run(image(NAME)).failed(&["registry proxy did not answer within 500ms"]);
}

#[test]
fn an_image_with_a_digest_is_pulled_from_its_own_registry() {
    let stage = Stage::new(On::Embedded);
    let proxy = ImageProxy::start(&stage, |_| vec![]);
    let _worker = stage.worker(&[("executors", "1")]);
    let name = format!("127.0.0.1:9/guest:v1@sha256:{}", "a".repeat(64));
    stage.run(image(&name)).failed(&[&name, "no answer from 127.0.0.1:9"]);
    stage.run(image("UPPER/case@sha256:12")).failed(&["not the name of an image"]);
    assert!(proxy.asked().is_empty());
}

const WASM: &str = "application/wasm";

/// Against Docker's registry.
mod registry {
    use super::*;

    #[test]
    #[ignore = "needs docker-registry; .ci/run installs it"]
    fn an_image_is_pulled_by_tag_and_by_digest_and_kept() {
        let mut registry = DockerRegistry::start(Access::Anyone, false);
        let digest = registry.push("team/guest:v1", &[(WASM, &wat("hello"))]);
        let state = tempfile::tempdir().expect("a folder");
        let place = registry.place();
        let settings = [
            ("executors", "1"),
            ("registry", place.as_str()),
            ("stateless", "false"),
            ("state-dir", state.path().to_str().expect("text")),
        ];
        let stage = Stage::new(On::Embedded);
        let mut worker = stage.worker(&settings);
        let whole = registry.name(&format!("team/guest:v1@{digest}"));
        for name in [registry.name("team/guest:v1"), "team/guest:v1".to_owned(), whole.clone()] {
            stage.run(image(&name)).succeeded("hello\n");
        }
        let other = registry.name(&format!("team/guest:v1@sha256:{}", "a".repeat(64)));
        stage.run(image(&other)).failed(&[&other, "manifest unknown"]);
        stage.run(image("team/other")).failed(&["team/other", "answers"]);
        // What is known by its digest needs no registry.
        registry.end();
        worker.shut_down();
        worker.ended();
        let _worker = stage.worker(&settings);
        stage.run(image(&whole)).succeeded("hello\n");
        stage.run(image("team/guest:v1")).failed(&["no answer from"]);
    }

    #[test]
    #[ignore = "needs docker-registry; .ci/run installs it"]
    fn a_registry_is_told_user_and_password_or_a_token() {
        let stage = Stage::new(On::Embedded);
        let name = "team/guest:v1";
        for (access, right, wrong) in [
            (
                Access::User,
                vec![("registry-user", "me"), ("registry-password", "secret")],
                vec![("registry-user", "me"), ("registry-password", "guess")],
            ),
            (Access::Token, vec![("registry-token", "any")], vec![]),
        ] {
            let registry = DockerRegistry::start(access, false);
            registry.push(name, &[(WASM, &wat("hello"))]);
            for (login, is_right) in [(right, true), (wrong, false)] {
                let place = registry.place();
                let mut settings = vec![("executors", "1"), ("registry", place.as_str())];
                settings.extend(login);
                let mut worker = stage.worker(&settings);
                let result = stage.run(image(name));
                match is_right {
                    true => result.succeeded("hello\n"),
                    false => result.failed(&["refuses access", "--registry-user"]),
                }
                worker.shut_down();
                worker.ended();
            }
        }
    }

    #[test]
    #[ignore = "needs docker-registry; .ci/run installs it"]
    fn a_registry_is_trusted_by_a_file_of_its_authority() {
        let registry = DockerRegistry::start(Access::Anyone, true);
        registry.push("guest:v1", &[(WASM, &wat("hello"))]);
        let stage = Stage::new(On::Embedded);
        let (place, ca) = (registry.place(), registry.ca());
        let settings = [("executors", "1"), ("registry", &place)];
        let mut worker = stage.worker(&settings);
        stage.run(image("guest:v1")).failed(&["no answer from", "certificate"]);
        worker.shut_down();
        worker.ended();
        let _worker = stage.worker(&[settings[0], settings[1], ("registry-ca-cert", &ca)]);
        stage.run(image("guest:v1")).succeeded("hello\n");
    }

    #[test]
    #[ignore = "needs docker-registry; .ci/run installs it"]
    fn the_layer_with_the_code_is_found_by_its_media_type() {
        let registry = DockerRegistry::start(Access::Anyone, false);
        let code = wat("hello");
        let noise = vec![1; 4 * code.len()];
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        /// Media types and bytes.
        type Layers<'a> = &'a [(&'a str, &'a [u8])];
        let cases: [(&str, Layers<'_>); 5] = [
            ("wasm-to-oci", &[("application/vnd.wasm.content.layer.v1+wasm", &code)]),
            ("wasmcloud", &[("application/vnd.module.wasm.content.layer.v1+wasm", &code)]),
            ("beside", &[("text/plain", &noise), (WASM, &code)]),
            // What oras makes of a file without a type.
            ("oras", &[(tar, &code), ("text/plain", b"x")]),
            ("container", &[(gzip, &noise)]),
        ];
        let stage = Stage::new(On::Embedded);
        let place = registry.place();
        let _worker =
            stage.worker(&[("executors", "1"), ("registry", &place), ("module-size", "1000000")]);
        for (name, layers) in cases {
            registry.push(name, layers);
            let result = stage.run(image(name));
            match name {
                "container" => result.failed(&["no WebAssembly", gzip, "wkg oci push"]),
                _ => result.succeeded("hello\n"),
            }
        }
        registry.push("large", &[(WASM, &vec![0; 1_000_001])]);
        stage.run(image("large")).failed(&["over the limit of 1000000 (--module-size)"]);
    }

    #[test]
    #[ignore = "needs docker-registry; .ci/run installs it"]
    fn run_and_submit_take_images() {
        let registry = DockerRegistry::start(Access::Anyone, false);
        registry.push("guest:v1", &[(WASM, &wat("hello"))]);
        let (place, name) = (registry.place(), registry.name("guest:v1"));
        let ran = proplet(&["run", "--registry", &place, &format!("oci://{name}")], b"", &[]);
        assert_eq!((ran.code, ran.text()), (Some(0), "hello\n"), "{}", ran.stderr);
        let stage = Stage::new(On::Embedded);
        let _worker = stage.worker(&[("executors", "1"), ("registry", &place)]);
        let environment = stage.environment(stage.address, &[]);
        let set: Vec<_> = environment
            .variables()
            .filter_map(|(name, value)| Some((name, value.to_str()?)))
            .collect();
        let ran = proplet(&["submit", "--image", &name], b"", &set);
        assert_eq!((ran.code, ran.text()), (Some(0), "hello\n"), "{}", ran.stderr);
    }
}
