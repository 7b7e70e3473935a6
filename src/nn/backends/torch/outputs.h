// What a method returns, as outputs in order and by name.
#pragma once
#include "proofs.h"

#include <ATen/Functions.h>
#include <torch/csrc/jit/api/module.h>

#include <string>
#include <unordered_map>
#include <vector>

namespace {

// ---- Outputs ----

bool is_output(const c10::TypePtr &type) {
  switch (type->kind()) {
  case c10::TypeKind::TensorType:
  case c10::TypeKind::IntType:
  case c10::TypeKind::FloatType:
  case c10::TypeKind::BoolType:
    return true;
  case c10::TypeKind::OptionalType:
    return is_output(type->expectRef<c10::OptionalType>().getElementType());
  case c10::TypeKind::ListType:
    return is_output(type->expectRef<c10::ListType>().getElementType());
  case c10::TypeKind::DictType: {
    const auto &dict = type->expectRef<c10::DictType>();
    auto key = dict.getKeyType()->kind();
    return (key == c10::TypeKind::StringType || key == c10::TypeKind::IntType) &&
           is_output(dict.getValueType());
  }
  case c10::TypeKind::TupleType: {
    const auto parts = type->expectRef<c10::TupleType>().elements();
    return std::all_of(parts.begin(), parts.end(), is_output);
  }
  default:
    return false;
  }
}

std::string joined(const std::string &before, const std::string &name) {
  return before.empty() || name.empty() ? before + name : before + "." + name;
}

std::string field(const c10::TupleType &type, size_t index) {
  if (type.schema() && index < type.schema()->arguments().size()) {
    return type.schema()->arguments()[index].name();
  }
  return "";
}

// The outputs that a type says there are; false if only a run tells.
bool declare(const c10::TypePtr &type, const std::string &name, std::vector<std::string> &names) {
  switch (type->kind()) {
  case c10::TypeKind::TupleType: {
    const auto &tuple = type->expectRef<c10::TupleType>();
    for (size_t n = 0; n < tuple.elements().size(); n++) {
      if (!declare(tuple.elements()[n], joined(name, field(tuple, n)), names)) return false;
    }
    return true;
  }
  case c10::TypeKind::ListType:
  case c10::TypeKind::DictType:
  case c10::TypeKind::OptionalType:
    return false;
  default:
    names.push_back(name);
    return true;
  }
}

torch_element element_of(at::ScalarType type) {
  switch (type) {
  case at::kHalf: return TORCH_F16;
  case at::kFloat: return TORCH_F32;
  case at::kDouble: return TORCH_F64;
  case at::kByte: return TORCH_U8;
  case at::kInt: return TORCH_I32;
  case at::kLong: return TORCH_I64;
  case at::kBFloat16: return TORCH_BF16;
  case at::kBool: return TORCH_BOOL;
  case at::kChar: return TORCH_I8;
  case at::kShort: return TORCH_I16;
  default: throw Refused("an output has elements of a type that wasi-nn has no name for");
  }
}

at::ScalarType scalar_of(torch_element element) {
  switch (element) {
  case TORCH_F16: return at::kHalf;
  case TORCH_F32: return at::kFloat;
  case TORCH_F64: return at::kDouble;
  case TORCH_U8: return at::kByte;
  case TORCH_I32: return at::kInt;
  case TORCH_I64: return at::kLong;
  case TORCH_BF16: return at::kBFloat16;
  default: throw Refused("an input of this type");
  }
}

struct Output {
  std::string name;
  at::Tensor tensor;
  torch_element element;
};

constexpr size_t MAX_OUTPUTS = 4096;

struct Outputs {
  // What the context has must not change what it gave.
  bool copies;
  std::vector<Output> found;

  void add(const jit::IValue &value, const c10::TypePtr &type, const std::string &name) {
    if (value.isTuple()) {
      const auto &parts = value.toTupleRef().elements();
      auto tuple = type ? type->cast<c10::TupleType>() : nullptr;
      for (size_t n = 0; n < parts.size(); n++) {
        bool known = tuple && n < tuple->elements().size();
        add(parts[n], known ? tuple->elements()[n] : nullptr, joined(name, known ? field(*tuple, n) : ""));
      }
    } else if (value.isList()) {
      auto list = value.toList();
      for (size_t n = 0; n < list.size(); n++) add(list.get(n), nullptr, name);
    } else if (value.isGenericDict()) {
      for (const auto &item : value.toGenericDict()) {
        auto key = item.key().isString() ? item.key().toStringRef() : std::to_string(item.key().toInt());
        add(item.value(), nullptr, joined(name, key));
      }
    } else if (value.isNone()) {
      return;
    } else {
      push(name, tensor_of(value));
    }
  }

private:
  static at::Tensor tensor_of(const jit::IValue &value) {
    if (value.isTensor()) return value.toTensor();
    if (value.isInt()) return at::full({1}, value.toInt(), at::kLong);
    if (value.isDouble()) return at::full({1}, value.toDouble(), at::kDouble);
    if (value.isBool()) return at::full({1}, value.toBool(), at::kBool);
    throw Refused("an output is neither a tensor nor a number");
  }

  void push(const std::string &name, const at::Tensor &given) {
    if (found.size() == MAX_OUTPUTS) {
      throw TooLarge("there are more than " + std::to_string(MAX_OUTPUTS) + " outputs");
    }
    if (!is_plain(given)) throw Refused("an output is not a dense tensor in memory");
    at::Tensor tensor = given.detach().contiguous().resolve_neg();
    if (copies && tensor.data_ptr() == given.data_ptr()) tensor = tensor.clone();
    torch_element element = element_of(tensor.scalar_type());
    found.push_back({name, std::move(tensor), element});
  }
};

// As Wasmtime's own backend has it, for who asks by name.
void call_the_one(std::string &name) {
  if (name.empty()) name = "output";
}

// Several outputs of one name would be one for who asks by name.
void number(std::vector<Output> &outputs) {
  std::unordered_map<std::string, size_t> count;
  for (const Output &output : outputs) count[output.name] += 1;
  std::unordered_map<std::string, size_t> next;
  for (Output &output : outputs) {
    if (!output.name.empty() && count[output.name] > 1) {
      output.name += "." + std::to_string(next[output.name]++);
    }
  }
}

} // namespace
