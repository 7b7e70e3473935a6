// See shim.h. Everything that libtorch may throw is caught where the worker calls.
#include "shim.h"

#include "memory.h"
#include "outputs.h"
#include "proofs.h"
#include "watch.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <unordered_set>
#include <vector>

namespace {

// ---- The archive, in memory ----

struct Bytes final : caffe2::serialize::ReadAdapterInterface {
  Bytes(const uint8_t *bytes, size_t length) : bytes(bytes), length(length) {}
  size_t size() const override { return length; }
  size_t read(uint64_t from, void *to, size_t count, const char *) const override {
    if (from >= length) return 0;
    count = std::min<uint64_t>(count, length - from);
    std::memcpy(to, bytes + from, count);
    return count;
  }
  const uint8_t *bytes;
  size_t length;
};

} // namespace

// ---- What the handles are ----

struct Input {
  std::string name;
  torch_argument kind;
  bool optional;
  jit::IValue otherwise;
};

struct Shared {
  jit::Module module;
  std::vector<Input> inputs;
  std::vector<std::string> outputs;
  bool declared;
  bool stateful = false;
  bool writes_inputs = false;
  std::string schema;
};

struct torch_model {
  std::shared_ptr<Shared> shared;
};

struct torch_context {
  std::shared_ptr<Shared> shared;
  // A copy of it, made by the first run, if the model has a state.
  c10::optional<jit::Module> module;
  std::shared_ptr<Account> account;
  std::vector<c10::optional<jit::IValue>> inputs;
  std::vector<Output> outputs;
};

struct torch_tensor {
  at::Tensor tensor;
};

namespace {

Input input_of(const c10::Argument &argument, const std::string &schema) {
  Input input{argument.name(), TORCH_TENSOR, false, jit::IValue()};
  c10::TypePtr type = argument.type();
  if (auto optional = type->cast<c10::OptionalType>()) {
    type = optional->getElementType();
    input.optional = true;
  }
  if (argument.default_value()) {
    input.optional = true;
    input.otherwise = *argument.default_value();
  }
  switch (type->kind()) {
  case c10::TypeKind::TensorType: input.kind = TORCH_TENSOR; break;
  case c10::TypeKind::IntType: input.kind = TORCH_INT; break;
  case c10::TypeKind::FloatType: input.kind = TORCH_FLOAT; break;
  case c10::TypeKind::BoolType: input.kind = TORCH_TRUTH; break;
  default:
    throw Refused("its argument `" + argument.name() + "` can't be a tensor of wasi-nn: " + schema);
  }
  return input;
}

// Constants are in the code, which contexts share: one that is written to would pass from task to task.
void check_constants(const std::shared_ptr<jit::Graph> &graph, const std::string &method) {
  jit::AliasDb writers(graph);
  std::vector<jit::Block *> open{graph->block()};
  while (!open.empty()) {
    jit::Block *block = open.back();
    open.pop_back();
    for (jit::Node *node : block->nodes()) {
      if (node->kind() == c10::prim::Constant && writers.hasWriters(node->output())) {
        throw Refused("`" + method + "` writes to a constant");
      }
      for (jit::Block *inner : node->blocks()) open.push_back(inner);
    }
  }
}

// Whether it gives what is in something: of an attribute, in the end. Who writes to an element of a list
// does not write to the list.
bool takes_out(const jit::Node *node) {
  static const std::unordered_set<std::string> takers{
      "prim::GetAttr",    "prim::ListUnpack", "prim::TupleIndex",  "prim::TupleSlice", "prim::TupleUnpack",
      "aten::__getitem__", "aten::get",        "aten::items",       "aten::pop",        "aten::values"};
  return takers.count(node->kind().toQualString()) > 0;
}

// What `forward` writes to, besides what it makes itself: the module's state, its arguments. `trains`
// says that an object of the model is not in evaluation mode.
void find_writes(Shared &shared, const jit::Method &method, bool trains) {
  auto graph = method.graph()->copy();
  jit::Inline(*graph);
  auto each = [&](auto visit) {
    std::vector<jit::Block *> open{graph->block()};
    while (!open.empty()) {
      jit::Block *block = open.back();
      open.pop_back();
      for (jit::Node *node : block->nodes()) {
        visit(node);
        for (jit::Block *inner : node->blocks()) open.push_back(inner);
      }
    }
  };
  std::vector<jit::Node *> training;
  each([&](jit::Node *node) {
    // What is called around a `with` is not in the graph.
    if (node->kind() == c10::prim::Enter) trains = shared.stateful = true;
    bool sets = node->kind() == c10::prim::SetAttr;
    if ((!sets && node->kind() != c10::prim::GetAttr) || node->s(c10::attr::name) != "training") return;
    if (sets) {
      trains = true;
    } else if (node->output()->type()->kind() == c10::TypeKind::BoolType) {
      training.push_back(node);
    }
  });
  check_constants(graph, method.name());
  // In evaluation mode layers leave what they count in training as it is.
  if (!trains) {
    for (jit::Node *node : training) {
      jit::WithInsertPoint here(node);
      node->output()->replaceAllUsesWith(graph->insertConstant(false));
    }
    jit::ConstantPropagationImmutableTypes(graph);
  }
  each([&](jit::Node *node) {
    if (node->kind() == c10::prim::SetAttr) shared.stateful = true;
  });
  jit::AliasDb writers(graph);
  each([&](jit::Node *node) {
    if (!takes_out(node)) return;
    for (jit::Value *value : node->outputs()) {
      if (writers.hasWriters(value)) shared.stateful = true;
    }
  });
  for (size_t n = 1; n < graph->inputs().size(); n++) {
    if (writers.hasWriters(graph->inputs()[n])) shared.writes_inputs = true;
  }
}

std::shared_ptr<Shared> load(const uint8_t *bytes, size_t size, const Allowed &allowed) {
  auto shared = std::make_shared<Shared>();
  shared->module = jit::load(std::make_shared<Bytes>(bytes, size), c10::Device(c10::kCPU));
  jit::Module &module = shared->module;
  for (jit::Function *function : module._ivalue()->compilation_unit()->get_functions()) {
    auto *with_graph = jit::tryToGraphFunction(*function);
    if (with_graph == nullptr) throw Refused("`" + function->name() + "` has no code of its own");
    for (const jit::Node *node : with_graph->graph()->nodes()) {
      check_node(node, allowed, "`" + function->qualname().qualifiedName() + "`");
    }
    // They are called around a `with`, so that they are in no other one's graph.
    if (function->name() == "__enter__" || function->name() == "__exit__") {
      Extent().of(function);
      auto graph = with_graph->graph()->copy();
      jit::Inline(*graph);
      check_constants(graph, function->name());
    }
  }
  auto method = module.find_method("forward");
  if (!method) throw Refused("the model has no method `forward`");
  Extent().of(&method->function());
  Attributes().check(jit::IValue(module._ivalue()), module.type(), "self");
  module.eval();
  // That has set what is called `training` in modules, whatever it was, and in nothing else.
  Attributes attributes;
  attributes.check(jit::IValue(module._ivalue()), module.type(), "self");
  const c10::FunctionSchema &schema = method->function().getSchema();
  std::ostringstream text;
  text << schema;
  shared->schema = text.str();
  for (size_t n = 1; n < schema.arguments().size(); n++) {
    shared->inputs.push_back(input_of(schema.arguments()[n], shared->schema));
  }
  if (schema.returns().size() != 1 || !is_output(schema.returns()[0].type())) {
    throw Refused("what it returns can't be tensors of wasi-nn: " + shared->schema);
  }
  shared->declared = declare(schema.returns()[0].type(), "", shared->outputs);
  if (shared->declared && shared->outputs.size() == 1) call_the_one(shared->outputs[0]);
  find_writes(*shared, *method, attributes.trains);
  return shared;
}

jit::IValue argument_of(const Input &input, const at::Tensor &tensor) {
  if (input.kind == TORCH_TENSOR) return tensor;
  if (tensor.numel() != 1) throw Refused("`" + input.name + "` is one number");
  switch (input.kind) {
  case TORCH_INT: return tensor.item().toLong();
  case TORCH_FLOAT: return tensor.item().toDouble();
  default: return tensor.item().toLong() != 0;
  }
}

void run(torch_context &context) {
  const Shared &shared = *context.shared;
  context.outputs.clear();
  if (!context.module) context.module = shared.stateful ? shared.module.deepcopy() : shared.module;
  std::vector<jit::IValue> arguments;
  for (size_t n = 0; n < shared.inputs.size(); n++) {
    const jit::IValue &value = context.inputs[n] ? *context.inputs[n] : shared.inputs[n].otherwise;
    if (value.isTensor() && (shared.stateful || shared.writes_inputs)) {
      arguments.push_back(value.toTensor().clone());
    } else {
      arguments.push_back(value);
    }
  }
  auto method = context.module->get_method("forward");
  // One plan for inputs of all shapes, instead of one that is made anew for each.
  jit::GraphOptimizerEnabledGuard plain(false);
  jit::IValue answer = method(std::move(arguments));
  Outputs outputs{shared.stateful, {}};
  outputs.add(answer, method.function().getSchema().returns()[0].type(), "");
  if (outputs.found.size() == 1) call_the_one(outputs.found[0].name);
  number(outputs.found);
  context.outputs = std::move(outputs.found);
}

} // namespace

// ---- The interface ----

uint32_t proplet_torch_interface(void) { return PROPLET_TORCH_INTERFACE; }

const char *proplet_torch_version(void) { return TORCH_VERSION; }

torch_status proplet_torch_prepare(torch_error error) {
  return guarded(error, [] {
    static std::once_flag once;
    std::call_once(once, [] {
      // Tensors may outlive whatever has an end.
      static Counting &allocator = *new Counting();
      c10::SetCPUAllocator(&allocator, 255);
      // Nothing that is allowed starts work of its own.
      at::set_num_interop_threads(1);
    });
  });
}

torch_status proplet_torch_thread(int32_t threads, torch_error error) {
  return guarded(error, [&] {
    // Done once for each thread, and would undo what follows.
    at::get_num_threads();
    at::set_num_threads(threads);
  });
}

torch_status proplet_torch_load(const uint8_t *bytes, size_t size, const char *operators,
                                uint64_t memory, const int32_t *cancelled, torch_model **model,
                                torch_error error) {
  return within(std::make_shared<Account>(memory), cancelled, error, [&] {
    c10::InferenceMode inference;
    Watch watch;
    Allowed allowed(operators);
    *model = new torch_model{load(bytes, size, allowed)};
  });
}

void proplet_torch_free_model(torch_model *model) { delete model; }

size_t proplet_torch_inputs(const torch_model *model) { return model->shared->inputs.size(); }

torch_input proplet_torch_input(const torch_model *model, size_t index) {
  const Input &input = model->shared->inputs.at(index);
  return {input.name.c_str(), input.kind, input.optional};
}

int64_t proplet_torch_declared_outputs(const torch_model *model) {
  return model->shared->declared ? static_cast<int64_t>(model->shared->outputs.size()) : -1;
}

const char *proplet_torch_declared_output(const torch_model *model, size_t index) {
  return model->shared->outputs.at(index).c_str();
}

int32_t proplet_torch_stateful(const torch_model *model) { return model->shared->stateful; }

const char *proplet_torch_schema(const torch_model *model) { return model->shared->schema.c_str(); }

torch_status proplet_torch_context(torch_model *model, uint64_t memory, torch_context **context,
                                   torch_error error) {
  return guarded(error, [&] {
    const auto &shared = model->shared;
    std::vector<c10::optional<jit::IValue>> inputs(shared->inputs.size());
    auto account = std::make_shared<Account>(memory);
    *context = new torch_context{shared, c10::nullopt, account, std::move(inputs), {}};
  });
}

void proplet_torch_free_context(torch_context *context) { delete context; }

torch_status proplet_torch_set(torch_context *context, size_t index, torch_element element,
                               const uint32_t *shape, size_t rank, const uint8_t *data,
                               void (*release)(void *), void *owner, torch_error error) {
  // Released once: by the tensor when there is one, by this otherwise.
  std::shared_ptr<void> owned(owner, [release](void *owner) {
    if (release != nullptr) release(owner);
  });
  return guarded(error, [&] {
    c10::InferenceMode inference;
    const Input &input = context->shared->inputs.at(index);
    context->inputs.at(index) = c10::nullopt;
    std::vector<int64_t> sizes(shape, shape + rank);
    auto options = at::TensorOptions().dtype(scalar_of(element));
    at::Tensor tensor;
    if (release != nullptr && input.kind == TORCH_TENSOR) {
      // The bytes were handed over, so that they are not constant any more.
      tensor = at::from_blob(const_cast<uint8_t *>(data), sizes, [owned](void *) {}, options);
    } else {
      tensor = at::empty(sizes, options);
      if (tensor.nbytes() > 0) std::memcpy(tensor.data_ptr(), data, tensor.nbytes());
    }
    context->inputs.at(index) = argument_of(input, tensor);
  });
}

torch_status proplet_torch_run(torch_context *context, const int32_t *cancelled, torch_error error) {
  return within(context->account, cancelled, error, [&] {
    c10::InferenceMode inference;
    Watch watch;
    run(*context);
  });
}

size_t proplet_torch_outputs(const torch_context *context) { return context->outputs.size(); }

torch_output proplet_torch_output(const torch_context *context, size_t index) {
  const Output &output = context->outputs.at(index);
  return {output.name.c_str(),
          output.element,
          static_cast<size_t>(output.tensor.dim()),
          output.tensor.sizes().data(),
          static_cast<const uint8_t *>(output.tensor.data_ptr()),
          output.tensor.nbytes()};
}

torch_status proplet_torch_take(const torch_context *context, size_t index, torch_tensor **tensor,
                                torch_error error) {
  return guarded(error, [&] { *tensor = new torch_tensor{context->outputs.at(index).tensor}; });
}

void proplet_torch_free_tensor(torch_tensor *tensor) { delete tensor; }
