//! Models that are put together layer by layer, and the guest that hands one over.

use std::fmt::Write as _;

/// wasi-nn's numbers for types.
const F32: u8 = 1;
const I64: u8 = 5;

/// A model, and what a guest gives to it.
pub struct Model {
    pub xml: String,
    pub weights: Vec<u8>,
    /// Type, dimensions and elements.
    inputs: Vec<(u8, Vec<u32>, Vec<u8>)>,
}

/// Precision of an element type, as a port has it.
fn precision(ty: &str) -> &str {
    match ty {
        "f32" => "FP32",
        "i32" => "I32",
        "i64" => "I64",
        _ => "BOOL",
    }
}

pub fn port(id: usize, ty: &str, shape: &str) -> String {
    let dims: String = shape
        .split(',')
        .filter(|dim| !dim.is_empty())
        .map(|dim| format!("<dim>{}</dim>", if dim == "?" { "-1" } else { dim }))
        .collect();
    format!("<port id='{id}' precision='{}'>{dims}</port>", precision(ty))
}

/// Layers with ids from 0, and their edges, as far as they are put together.
#[derive(Default)]
pub struct Net {
    layers: String,
    edges: String,
    pub weights: Vec<u8>,
    inputs: Vec<(u8, Vec<u32>, Vec<u8>)>,
    /// The output's port of each layer.
    outs: Vec<usize>,
}

impl Net {
    /// An input, and what it is given.
    pub fn input(&mut self, ty: &str, shape: &str, dims: &[u32], bytes: Vec<u8>) -> usize {
        let number = if ty == "f32" { F32 } else { I64 };
        self.inputs.push((number, dims.to_vec(), bytes));
        let data = format!("<data element_type='{ty}' shape='{shape}'/>");
        let outputs = format!("<output>{}</output>", port(0, ty, shape));
        self.add("Parameter", "opset1", &(data + &outputs), 0)
    }

    /// A constant.
    pub fn constant(&mut self, ty: &str, shape: &str, bytes: &[u8]) -> usize {
        let data = format!(
            "<data element_type='{ty}' shape='{shape}' offset='{}' size='{}'/>",
            self.weights.len(),
            bytes.len()
        );
        self.weights.extend_from_slice(bytes);
        let outputs = format!("<output>{}</output>", port(0, ty, shape));
        self.add("Const", "opset1", &(data + &outputs), 0)
    }

    /// A layer that reads these, with one output of its own.
    pub fn layer(
        &mut self,
        ty: &str,
        opset: &str,
        data: &str,
        of: &[usize],
        out: (&str, &str),
    ) -> usize {
        let ports: String = (0..of.len()).map(|id| format!("<port id='{id}'/>")).collect();
        let more = format!(
            "{data}<input>{ports}</input><output>{}</output>",
            port(of.len(), out.0, out.1)
        );
        let id = self.add(ty, opset, &more, of.len());
        for (slot, from) in of.iter().enumerate() {
            self.edge(*from, id, slot);
        }
        id
    }

    fn add(&mut self, ty: &str, version: &str, more: &str, out: usize) -> usize {
        let id = self.outs.len();
        self.outs.push(out);
        let _ = write!(
            self.layers,
            "<layer id='{id}' name='layer{id}' type='{ty}' version='{version}'>{more}</layer>"
        );
        id
    }

    fn edge(&mut self, from: usize, to: usize, slot: usize) {
        let out = self.outs[from];
        let _ = write!(
            self.edges,
            "<edge from-layer='{from}' from-port='{out}' to-layer='{to}' to-port='{slot}'/>"
        );
    }

    /// The model whose result is this layer's.
    pub fn model(mut self, of: usize) -> Model {
        let result = self.add("Result", "opset1", "<input><port id='0'/></input>", 0);
        self.edge(of, result, 0);
        let xml = format!(
            "<?xml version='1.0'?><net name='hostile' version='11'><layers>{}</layers>\
             <edges>{}</edges></net>",
            self.layers, self.edges
        );
        Model { xml, weights: self.weights, inputs: self.inputs }
    }
}

pub fn i64s(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A guest that loads the model by its own bytes, or by the name `hostile`, and
/// prints its first output in hexadecimal, or "errno N" of the first call that
/// fails.
pub fn guest(model: &Model, by_name: bool) -> Vec<u8> {
    let mut data = String::new();
    let mut end = 4096;
    let mut put = |bytes: &[u8]| {
        let at = end;
        end += bytes.len().next_multiple_of(16);
        let text: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let _ = writeln!(data, "(data (i32.const {at}) \"{text}\")");
        at
    };
    let (xml, weights) = (put(model.xml.as_bytes()), put(&model.weights));
    let mut calls = String::new();
    let _ = match by_name {
        true => write!(
            calls,
            "(call $must (call $load_by_name (i32.const {}) (i32.const 7) (i32.const 128)))",
            put(b"hostile")
        ),
        false => write!(
            calls,
            "(i32.store (i32.const 512) (i32.const {xml}))
             (i32.store (i32.const 516) (i32.const {}))
             (i32.store (i32.const 520) (i32.const {weights}))
             (i32.store (i32.const 524) (i32.const {}))
             (call $must (call $load (i32.const 512) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 128)))",
            model.xml.len(),
            model.weights.len()
        ),
    };
    calls.push_str(
        "(call $must (call $init_execution_context (i32.load (i32.const 128)) (i32.const 132)))",
    );
    for (index, (ty, dims, bytes)) in model.inputs.iter().enumerate() {
        let shape: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let _ = write!(
            calls,
            "(i32.store (i32.const 192) (i32.const {}))
             (i32.store (i32.const 196) (i32.const {}))
             (i32.store (i32.const 200) (i32.const {ty}))
             (i32.store (i32.const 204) (i32.const {}))
             (i32.store (i32.const 208) (i32.const {}))
             (call $must (call $set_input (i32.load (i32.const 132)) (i32.const {index}) (i32.const 192)))",
            put(&shape),
            dims.len(),
            put(bytes),
            bytes.len()
        );
    }
    let out = put(&[0; 4096]);
    let text = format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_ephemeral_nn" "load" (func $load (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name" (func $load_by_name (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context" (func $init_execution_context (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set_input (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "get_output" (func $get_output (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  {data}
  (data (i32.const 64) "errno 0\n")
  (data (i32.const 80) "0123456789abcdef")
  (func $print (param $at i32) (param $len i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $len))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $must (param $errno i32)
    (if (local.get $errno)
      (then
        (i32.store8 (i32.const 70) (i32.add (i32.const 48) (local.get $errno)))
        (call $print (i32.const 64) (i32.const 8))
        (call $proc_exit (i32.const 0)))))
  (func (export "_start")
    (local $i i32)
    {calls}
    (call $must (call $compute (i32.load (i32.const 132))))
    (call $must (call $get_output (i32.load (i32.const 132)) (i32.const 0) (i32.const {out}) (i32.const 4096) (i32.const 136)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (i32.load (i32.const 136))))
        (call $print (i32.add (i32.const 80)
          (i32.shr_u (i32.load8_u offset={out} (local.get $i)) (i32.const 4))) (i32.const 1))
        (call $print (i32.add (i32.const 80)
          (i32.and (i32.load8_u offset={out} (local.get $i)) (i32.const 15))) (i32.const 1))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (i32.store8 (i32.const 100) (i32.const 10))
    (call $print (i32.const 100) (i32.const 1))))"#
    );
    wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}
