//! The ZIP file: which entries there may be, and how large.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write as _;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveWriter, ZipSliceArchive};

use super::pickle::Numbers;
use super::{code, pickle, refused, short};
use crate::nn::not_a_model;
use crate::nn::refusal::{Errno, Refusal};

/// The most entries of an archive.
pub(in crate::nn) const MAX_ENTRIES: usize = 65_536;
/// How much larger than the file its entries may be in all, beside a number of
/// bytes that small ones may always have: numbers are not compressed, code is.
const MAX_EXPANSION: u64 = 2;
const ALWAYS: u64 = 64 << 20;
/// The most bytes of a name in the archive.
const MAX_NAME: usize = 512;

/// The entries that libtorch reads, by their names below the archive's folder.
#[derive(Default)]
struct Entries<'a> {
    code: BTreeMap<String, Cow<'a, [u8]>>,
    data: Numbers<'a>,
    constants: Numbers<'a>,
    /// `data.pkl`, `constants.pkl`, `version`, `byteorder`.
    others: BTreeMap<&'static str, Cow<'a, [u8]>>,
}

/// Where an entry belongs.
enum Place<'n> {
    Code,
    Data(&'n str),
    Constants(&'n str),
    Other(&'static str),
    /// libtorch does without it.
    Unread,
}

/// Proves an archive, and gives it as libtorch is to read it.
///
/// # Errors
///
/// It is not one, or holds what is not allowed.
pub(in crate::nn) fn prove(parts: &[&[u8]]) -> Result<Vec<u8>, Refusal> {
    let &[bytes] = parts else {
        let text = format!("a TorchScript model is 1 builder, not {}", parts.len());
        return Err(Refusal::argument(text));
    };
    let archive = ZipArchive::from_slice(bytes).map_err(|error| not_zip(bytes, &error))?;
    let entries = read(bytes, &archive)?;
    let needed = |name: &'static str| {
        entries.others.get(name).ok_or_else(|| refused(format!("it has no entry `{name}`")))
    };
    version(needed("version")?)?;
    if entries.others.get("byteorder").is_some_and(|order| **order != *b"little") {
        return Err(refused("its numbers are not in the order of this machine"));
    }
    let classes = code::prove(&entries.code)?;
    for (name, numbers, is) in [
        ("data.pkl", &entries.data, pickle::Whole::Object),
        ("constants.pkl", &entries.constants, pickle::Whole::Tensors),
    ] {
        pickle::prove(needed(name)?, numbers, &classes, is)
            .map_err(|error| refused(format!("`{name}`, {error}")))?;
    }
    write(&entries)
}

fn not_zip(bytes: &[u8], error: &rawzip::Error) -> Refusal {
    // Of a damaged archive there is no more to say.
    let instead = if bytes.starts_with(b"PK") { String::new() } else { not_a_model::told(bytes) };
    Refusal::new(
        Errno::InvalidEncoding,
        format!(
            "the model is not a TorchScript archive ({} bytes, beginning with {:?}): {error}{instead}",
            bytes.len(),
            bytes[..bytes.len().min(8)].escape_ascii().to_string(),
        ),
    )
}

fn read<'a>(bytes: &[u8], archive: &'a ZipSliceArchive<&'a [u8]>) -> Result<Entries<'a>, Refusal> {
    let limit = MAX_EXPANSION * bytes.len() as u64 + ALWAYS;
    let (mut entries, mut found, mut total) = (Entries::default(), archive.entries(), 0_u64);
    let mut folder: Option<String> = None;
    let mut count = 0;
    while let Some(entry) = found.next_entry().map_err(|error| not_zip(bytes, &error))? {
        count += 1;
        if count > MAX_ENTRIES {
            return Err(Refusal::too_large(format!(
                "the TorchScript archive has more than {MAX_ENTRIES} entries"
            )));
        }
        if entry.is_dir() {
            continue;
        }
        let path = entry.file_path();
        let name = path.as_ref();
        let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\\:".contains(byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.iter().all(plain) {
            return Err(refused("an entry has a name that libtorch does not write"));
        }
        let name = String::from_utf8_lossy(name);
        let (first, below) = name
            .split_once('/')
            .ok_or_else(|| refused(format!("the entry `{}` is in no folder", short(&name))))?;
        if folder.get_or_insert_with(|| first.to_owned()) != first {
            return Err(refused(format!("the entry `{}` is in another folder", short(&name))));
        }
        let place = Place::of(below)?;
        if let Place::Unread = place {
            continue;
        }
        let broken =
            |error: String| refused(format!("the entry `{}` is damaged: {error}", short(&name)));
        let data = archive.get_entry(entry.wayfinder()).map_err(|e| broken(e.to_string()))?;
        let (packed, claim) = (data.data(), data.claim_verifier());
        total = total.saturating_add(claim.uncompressed_size);
        if total > limit {
            return Err(Refusal::too_large(format!(
                "the TorchScript archive of {} bytes comes to more than {limit} when it is read",
                bytes.len()
            )));
        }
        let content = match entry.compression_method() {
            CompressionMethod::STORE => Cow::Borrowed(packed),
            CompressionMethod::DEFLATE => {
                let mut content = vec![0; claim.uncompressed_size as usize];
                let parts = std::iter::once(packed);
                let length = decompress_slice_iter_to_slice(&mut content, parts, false, true)
                    .map_err(|error| broken(format!("{error:?}")))?;
                content.truncate(length);
                Cow::Owned(content)
            }
            other => return Err(broken(format!("it is compressed by method {other:?}"))),
        };
        let own = rawzip::ZipVerification {
            crc: rawzip::crc32(&content),
            uncompressed_size: content.len() as u64,
        };
        claim.valid(own).map_err(|error| broken(error.to_string()))?;
        if !entries.keep(place, below, content) {
            return Err(refused(format!("there are two entries `{}`", short(&name))));
        }
    }
    Ok(entries)
}

impl<'n> Place<'n> {
    fn of(name: &'n str) -> Result<Place<'n>, Refusal> {
        let flat = |name: &str| !name.is_empty() && !name.contains('/');
        let others = ["version", "byteorder", "data.pkl", "constants.pkl"];
        if let Some(other) = others.into_iter().find(|other| *other == name) {
            return Ok(Place::Other(other));
        }
        if let Some(key) = name.strip_prefix("data/").filter(|key| flat(key)) {
            return Ok(Place::Data(key));
        }
        if let Some(key) = name.strip_prefix("constants/").filter(|key| flat(key)) {
            return Ok(Place::Constants(key));
        }
        if name.starts_with("code/") {
            return Ok(match name.ends_with(".debug_pkl") {
                true => Place::Unread,
                false => Place::Code,
            });
        }
        // What is for the mobile interpreter, and what goes with a model.
        let unread = ["extra/", ".data/", "mobile_debug_handles.pkl", "bytecode", "traced_inputs"];
        if unread.iter().any(|prefix| name.starts_with(prefix)) {
            return Ok(Place::Unread);
        }
        // `model.json`, `attributes.pkl` and `tensors/` are of PyTorch before 1.2.
        Err(refused(format!(
            "`{}` is not an entry of archives of PyTorch 1.4 or later",
            short(name)
        )))
    }
}

impl<'a> Entries<'a> {
    /// Whether it is the first one of its name.
    fn keep(&mut self, place: Place<'_>, name: &str, content: Cow<'a, [u8]>) -> bool {
        match place {
            Place::Code => self.code.insert(name.to_owned(), content).is_none(),
            Place::Data(key) => self.data.insert(key.to_owned(), content).is_none(),
            Place::Constants(key) => self.constants.insert(key.to_owned(), content).is_none(),
            Place::Other(name) => self.others.insert(name, content).is_none(),
            Place::Unread => true,
        }
    }
}

/// A number in a file of its own.
fn version(text: &[u8]) -> Result<(), Refusal> {
    let text = text.trim_ascii();
    match text.len() <= 4 && !text.is_empty() && text.iter().all(u8::is_ascii_digit) {
        true => Ok(()),
        false => Err(refused("its version is not a number")),
    }
}

fn write(entries: &Entries<'_>) -> Result<Vec<u8>, Refusal> {
    let mut names: Vec<(String, &[u8])> = Vec::new();
    names.extend(entries.others.iter().map(|(name, data)| ((*name).to_owned(), &**data)));
    names.extend(entries.code.iter().map(|(name, data)| (name.clone(), &**data)));
    for (folder, numbers) in [("data", &entries.data), ("constants", &entries.constants)] {
        names.extend(numbers.iter().map(|(key, data)| (format!("{folder}/{key}"), &**data)));
    }
    let size: usize = names.iter().map(|(name, data)| 2 * name.len() + data.len() + 256).sum();
    let mut archive = ZipArchiveWriter::new(Vec::with_capacity(size));
    let failed = |error: &dyn std::fmt::Display| Refusal::runtime(error.to_string());
    for (name, data) in names {
        let started = archive.new_file(format!("model/{name}")).start();
        let (mut entry, config) = started.map_err(|e| failed(&e))?;
        let mut writer = config.wrap(&mut entry);
        writer.write_all(data).map_err(|e| failed(&e))?;
        let (_, descriptor) = writer.finish().map_err(|e| failed(&e))?;
        entry.finish(descriptor).map_err(|e| failed(&e))?;
    }
    archive.finish().map_err(|e| failed(&e))
}
