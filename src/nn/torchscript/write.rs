//! TorchScript archives, as PyTorch would save them: for tests, those of
//! `tests/it` too.

use std::io::Write as _;

/// The pickle of one object, and the numbers of its tensors.
pub(crate) struct Object {
    pickle: Vec<u8>,
    pub(crate) numbers: Vec<Vec<u8>>,
}

impl Object {
    /// Of a class of `code/__torch__.py`.
    pub(crate) fn new(class: &str) -> Object {
        Object { pickle: [&b"\x80\x02"[..], &begun(class)].concat(), numbers: Vec::new() }
    }

    fn named(mut self, name: &str, value: &[u8]) -> Object {
        self.pickle.extend(text(name));
        self.pickle.extend(value);
        self
    }

    /// An attribute, as its instructions.
    pub(crate) fn with(self, name: &str, value: &[u8]) -> Object {
        self.named(name, value)
    }

    /// A truth value.
    pub(crate) fn truth(self, name: &str, value: bool) -> Object {
        self.named(name, if value { b"\x88" } else { b"\x89" })
    }

    pub(crate) fn number(self, name: &str, value: i32) -> Object {
        self.named(name, &number(value))
    }

    /// An object without attributes.
    pub(crate) fn empty(self, name: &str, class: &str) -> Object {
        self.named(name, &[begun(class), b"ub".to_vec()].concat())
    }

    /// A tensor of f32 in one row.
    pub(crate) fn tensor(self, name: &str, values: &[f32]) -> Object {
        let count = values.len() as i32;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor_of(name, "FloatStorage", count, (0, &[count], &[1]), bytes)
    }

    /// A tensor as its parts say: how many numbers there are, the offset, sizes and
    /// strides, the bytes.
    pub(crate) fn tensor_of(
        mut self,
        name: &str,
        storage: &str,
        count: i32,
        (offset, sizes, strides): (i32, &[i32], &[i32]),
        bytes: Vec<u8>,
    ) -> Object {
        let key = self.numbers.len().to_string();
        self.numbers.push(bytes);
        let value = tensor(storage, &key, count, (offset, sizes, strides));
        self.named(name, &value)
    }

    /// A list of one tensor of f32 in one row.
    pub(crate) fn list_of_tensor(self, name: &str, values: &[f32]) -> Object {
        let begin = b"ctorch.jit._pickle\nbuild_tensorlist\n(](";
        self.around_tensor(name, begin, values, b"etR")
    }

    /// A tensor of f32 in one row, with these instructions around it.
    pub(crate) fn around_tensor(
        self,
        name: &str,
        begin: &[u8],
        values: &[f32],
        end: &[u8],
    ) -> Object {
        let (count, key) = (values.len() as i32, self.numbers.len().to_string());
        let tensor = tensor("FloatStorage", &key, count, (0, &[count], &[1]));
        let mut object = self.named(name, &[begin, &tensor, end].concat());
        object.numbers.push(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        object
    }

    /// The whole pickle.
    pub(crate) fn pickle(&self) -> Vec<u8> {
        [&self.pickle[..], b"ub."].concat()
    }
}

fn begun(class: &str) -> Vec<u8> {
    format!("c__torch__\n{class}\n)").into_bytes().into_iter().chain(*b"\x81}(").collect()
}

/// The instructions of a tensor with the numbers of an entry.
fn tensor(
    storage: &str,
    key: &str,
    count: i32,
    (offset, sizes, strides): (i32, &[i32], &[i32]),
) -> Vec<u8> {
    let dims = |dims: &[i32]| {
        let dims: Vec<u8> = dims.iter().flat_map(|&dim| number(dim)).collect();
        [&b"("[..], &dims, b"t"].concat()
    };
    let parts = [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{storage}\n").into_bytes(),
        text(key),
        text("cpu"),
        number(count),
        b"tQ".to_vec(),
        number(offset),
        dims(sizes),
        dims(strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ];
    parts.concat()
}

/// The instructions of a number.
pub(crate) fn number(value: i32) -> Vec<u8> {
    [&b"J"[..], &value.to_le_bytes()].concat()
}

/// The instructions of a text.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// The pickle of no constants.
pub(crate) const NO_CONSTANTS: &[u8] = b"\x80\x02).";

/// An archive of this code and object.
pub(crate) fn model(code: &str, object: &Object) -> Vec<u8> {
    model_with(code, object, (NO_CONSTANTS, &[]))
}

/// The same, whose code has these numbers as the constant `CONSTANTS.c0`.
pub(crate) fn model_with_constant(code: &str, object: &Object, values: &[f32]) -> Vec<u8> {
    let count = values.len() as i32;
    let numbers: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = tensor("FloatStorage", "0", count, (0, &[count], &[1]));
    let pickle = [&b"\x80\x02"[..], &tensor, b"\x85."].concat();
    model_with(code, object, (&pickle[..], &[("constants/0".to_owned(), &numbers[..])]))
}

fn model_with(
    code: &str,
    object: &Object,
    (constants, more): (&[u8], &[(String, &[u8])]),
) -> Vec<u8> {
    let pickle = object.pickle();
    let mut entries = vec![
        ("data.pkl".to_owned(), &pickle[..]),
        ("code/__torch__.py".to_owned(), code.as_bytes()),
        ("constants.pkl".to_owned(), constants),
        ("version".to_owned(), b"3\n"),
    ];
    let numbers = object.numbers.iter().enumerate();
    entries.extend(numbers.map(|(index, data)| (format!("data/{index}"), &data[..])));
    entries.extend(more.iter().cloned());
    archive(&entries)
}

/// An archive of these entries.
pub(crate) fn archive(entries: &[(String, &[u8])]) -> Vec<u8> {
    let entries = entries.iter().map(|(name, data)| (format!("model/{name}"), *data));
    zip(&entries.collect::<Vec<_>>())
}

/// A ZIP file of these entries.
pub(crate) fn zip(entries: &[(String, &[u8])]) -> Vec<u8> {
    let mut archive = rawzip::ZipArchiveWriter::new(Vec::new());
    for (name, data) in entries {
        let (mut entry, config) = archive.new_file(name.as_str()).start().expect("an entry");
        let mut writer = config.wrap(&mut entry);
        writer.write_all(data).expect("memory");
        let (_, descriptor) = writer.finish().expect("written");
        entry.finish(descriptor).expect("written");
    }
    archive.finish().expect("an archive")
}

/// A class with a method `forward` of these arguments and lines.
pub(crate) fn class(attributes: &[&str], head: &str, body: &[&str]) -> String {
    let mut code = "class Model(Module):\n  __parameters__ = []\n  __buffers__ = []\n".to_owned();
    for attribute in attributes {
        code.push_str(&format!("  {attribute}\n"));
    }
    code.push_str(&format!("  def forward(self: __torch__.Model,\n    {head}:\n"));
    for line in body {
        code.push_str(&format!("    {line}\n"));
    }
    code
}

/// `y = relu(x + [1, 2, 3, 4])`.
pub(crate) fn tiny() -> Vec<u8> {
    let body = ["b = self.b", "return torch.relu(torch.add(x, b, alpha=1))"];
    let code = class(&["training : bool", "b : Tensor"], "x: Tensor) -> Tensor", &body);
    model(&code, &Object::new("Model").truth("training", false).tensor("b", &[1.0, 2.0, 3.0, 4.0]))
}
