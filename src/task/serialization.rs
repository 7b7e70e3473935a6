//! How what serde has no short form for is written between two processes.

/// Bytes as one block, not as a list of numbers.
pub(crate) mod bytes {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;
    use std::fmt;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_owned())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}

/// A path as it is, which need not be UTF-8.
pub(crate) mod path {
    use serde::{Deserializer, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::{Path, PathBuf};

    pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        super::bytes::serialize(path.as_os_str().as_bytes(), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        super::bytes::deserialize(from).map(|bytes| OsString::from_vec(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use crate::task::{
        Binary, Captured, Code, EntryPoint, Failure, Grant, GraphDir, Limits, ModuleSource,
        Outcome, Preopen, TaskId, TaskSpec,
    };
    use serde::{Serialize, de::DeserializeOwned};
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::time::Duration;

    fn over<T: Serialize + DeserializeOwned>(value: &T) -> T {
        postcard::from_bytes(&postcard::to_stdvec(value).expect("plain data")).expect("the same")
    }

    #[test]
    fn a_task_and_its_outcome_are_the_same_in_another_process() {
        let odd = OsString::from_vec(b"/models/\xff".to_vec());
        let grant = Grant {
            args: vec!["guest".into(), "ü".into()],
            env: vec![("A".into(), String::new())],
            dirs: vec![Preopen { host: odd.clone().into(), guest: "/m".into(), writable: true }],
            entry: EntryPoint::Invoke("f".into()),
            nn: Some(vec![GraphDir {
                encoding: "openvino".into(),
                dir: odd.into(),
                name: "net".into(),
            }]),
            limits: Limits {
                timeout: Some(Duration::MAX),
                run: None,
                memory: Some(u64::MAX),
                output: 7,
            },
            serving: None,
            notes: vec!["a note".into()],
        };
        let id = TaskId::new("a").expect("an id");
        let binary = Binary::new(*b"\0asm");
        let task = |source| TaskSpec::new(id.clone(), source, grant.clone());
        let by_url = task(ModuleSource::Url("http://h/x.wasm".into()));
        assert_eq!(over(&by_url), by_url);
        let with_bytes = task(ModuleSource::Bytes(binary.clone()));
        let there = over(&with_bytes);
        assert_eq!(there.code(), &Code::Held(binary.digest()), "its bytes go over apart");
        assert_eq!((there.id(), there.grant()), (with_bytes.id(), with_bytes.grant()));

        let stdout = Captured { bytes: vec![0, 0xff, b'a'], dropped: 3 };
        let outcome = Outcome { stdout, ..Outcome::failed(Failure::Exit(-1)) };
        assert_eq!(over(&outcome), outcome);
    }

    #[test]
    fn an_id_that_is_none_is_not_taken_from_another_process() {
        for id in [String::new(), "x".repeat(TaskId::MAX_LEN + 1)] {
            let bytes = postcard::to_stdvec(&id).expect("a text");
            assert!(postcard::from_bytes::<TaskId>(&bytes).is_err());
        }
    }
}
