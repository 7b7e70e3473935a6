// What of a model is proven when libtorch has read it, before anything of it runs: the operators of its
// methods, how far they come, and the types of its attributes.
#pragma once
#include "factors.h"
#include "memory.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <set>
#include <sstream>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace {

namespace jit = torch::jit;

// ---- What methods may hold ----

// Nodes of the method that runs, with those that it calls in their place.
constexpr uint64_t MAX_NODES = 1000000;

struct Allowed {
  std::unordered_set<std::string> operators;
  std::unordered_set<std::string> overloads;
  explicit Allowed(const char *lines) {
    std::istringstream all(lines);
    for (std::string line; std::getline(all, line);) {
      if (line.rfind('-', 0) == 0) {
        overloads.insert(line.substr(1));
      } else if (!line.empty()) {
        operators.insert(line);
      }
    }
  }
};

bool holds_class(const c10::TypePtr &type) {
  if (type->kind() == c10::TypeKind::ClassType || type->kind() == c10::TypeKind::InterfaceType ||
      type->kind() == c10::TypeKind::AnyType) {
    return true;
  }
  for (const auto &part : type->containedTypes()) {
    if (holds_class(part)) return true;
  }
  return false;
}

// What is computed is looked at when it is there.
bool is_tame_factor(const jit::Value *value) {
  const jit::Node *node = value->node();
  if (node->kind() == c10::prim::ListConstruct) {
    return std::all_of(node->inputs().begin(), node->inputs().end(), is_tame_factor);
  }
  auto constant = jit::toIValue(value);
  return !constant || are_tame(*constant);
}

void check_node(const jit::Node *node, const Allowed &allowed, const std::string &method) {
  const std::string name = node->kind().toQualString();
  auto refuse = [&](const std::string &what) {
    throw Refused(what + ", which " + method + " has");
  };
  if (allowed.operators.count(name) == 0) refuse("the operator `" + name + "` is not allowed");
  for (c10::Symbol attribute : node->attributeNames()) {
    auto kind = node->kindOf(attribute);
    if (kind == jit::AttributeKind::g || kind == jit::AttributeKind::gs) {
      refuse("`" + name + "` has code within");
    }
  }
  if (node->kind() == c10::prim::unchecked_cast) {
    // A class that an object is not of has other places for its attributes.
    auto from = node->input(0)->type();
    auto to = node->output()->type();
    if (auto optional = from->cast<c10::OptionalType>()) from = optional->getElementType();
    if (holds_class(to) && !(*from == *to)) refuse("an object is taken for one of another class");
  }
  if (const c10::FunctionSchema *schema = node->maybeSchema()) {
    if (allowed.overloads.count(name + "." + schema->overload_name()) > 0) {
      refuse("the operator `" + name + "." + schema->overload_name() + "` is not allowed");
    }
    bool resizes = is_resize(name);
    for (size_t n = 0; n < schema->arguments().size() && n < node->inputs().size(); n++) {
      const c10::Argument &argument = schema->arguments()[n];
      if (argument.is_out()) refuse("`" + name + "` writes into a tensor that it is given");
      if (resizes && is_of_factors(argument.type()) && !is_tame_factor(node->input(n))) {
        refuse("`" + name + "` has factors that are not between 0.001 and 1000");
      }
    }
  }
  for (const jit::Block *block : node->blocks()) {
    for (const jit::Node *inner : block->nodes()) check_node(inner, allowed, method);
  }
}

jit::Function *called(const jit::Node *node) {
  if (node->kind() == c10::prim::CallFunction) {
    if (auto type = node->input(0)->type()->cast<c10::FunctionType>()) return type->function();
  } else if (node->kind() == c10::prim::CallMethod) {
    const std::string &name = node->s(c10::attr::name);
    if (auto type = node->input(0)->type()->cast<c10::ClassType>()) return type->findMethod(name);
  } else {
    return nullptr;
  }
  throw Refused("a method of an interface is called, and what that is only a run tells");
}

// How many nodes a function comes to when what it calls is put in its place.
class Extent {
public:
  uint64_t of(jit::Function *function) {
    auto known = counted.find(function);
    if (known != counted.end()) return known->second;
    auto *with_graph = jit::tryToGraphFunction(*function);
    if (with_graph == nullptr) throw Refused("`" + function->name() + "` has no code of its own");
    if (!open.insert(function).second) throw Refused("`" + function->name() + "` calls itself");
    uint64_t nodes = of(with_graph->graph()->block());
    open.erase(function);
    return counted[function] = nodes;
  }

private:
  uint64_t of(const jit::Block *block) {
    uint64_t nodes = 0;
    for (const jit::Node *node : block->nodes()) {
      nodes += 1;
      if (jit::Function *function = called(node)) nodes += of(function);
      for (const jit::Block *inner : node->blocks()) nodes += of(inner);
      if (nodes > MAX_NODES) {
        throw TooLarge("its methods come to more than " + std::to_string(MAX_NODES) + " operations");
      }
    }
    return nodes;
  }
  std::unordered_map<jit::Function *, uint64_t> counted;
  std::unordered_set<jit::Function *> open;
};

// ---- What attributes may hold ----

bool is_plain(const at::Tensor &tensor) {
  return tensor.defined() && tensor.device().is_cpu() && tensor.layout() == at::kStrided &&
         !tensor.is_quantized() && !tensor.is_complex();
}

// The interpreter takes an attribute for what its class declares, an object for one of its class.
class Attributes {
public:
  void check(const jit::IValue &value, const c10::TypePtr &type, const std::string &name) {
    if (!conforms(value, type)) {
      throw Refused("the attribute `" + name + "` is not " + type->annotation_str());
    }
  }

  // Whether an object has `training`, and it is true.
  bool trains = false;

private:
  std::set<const void *> seen;

  bool all(const c10::List<jit::IValue> &list, const c10::TypePtr &type) {
    for (size_t n = 0; n < list.size(); n++) {
      if (!conforms(list.get(n), type)) return false;
    }
    return true;
  }

  bool conforms(const jit::IValue &value, const c10::TypePtr &type) {
    switch (type->kind()) {
    case c10::TypeKind::TensorType:
      return value.isTensor() && is_plain(value.toTensor());
    case c10::TypeKind::NoneType:
      return value.isNone();
    case c10::TypeKind::BoolType:
      return value.isBool();
    case c10::TypeKind::IntType:
      return value.isInt();
    case c10::TypeKind::FloatType:
      return value.isDouble();
    case c10::TypeKind::StringType:
      return value.isString();
    case c10::TypeKind::NumberType:
      return value.isInt() || value.isDouble();
    case c10::TypeKind::DeviceObjType:
      return value.isDevice();
    case c10::TypeKind::OptionalType:
      return value.isNone() || conforms(value, type->expectRef<c10::OptionalType>().getElementType());
    case c10::TypeKind::ListType: {
      const auto &element = type->expectRef<c10::ListType>().getElementType();
      return value.isList() && *value.toList().elementType() == *element && all(value.toList(), element);
    }
    case c10::TypeKind::DictType: {
      if (!value.isGenericDict()) return false;
      const auto &declared = type->expectRef<c10::DictType>();
      auto dict = value.toGenericDict();
      if (!(*dict.keyType() == *declared.getKeyType()) || !(*dict.valueType() == *declared.getValueType())) {
        return false;
      }
      for (const auto &item : dict) {
        if (!conforms(item.key(), declared.getKeyType()) ||
            !conforms(item.value(), declared.getValueType())) {
          return false;
        }
      }
      return true;
    }
    case c10::TypeKind::TupleType: {
      const auto parts = type->expectRef<c10::TupleType>().elements();
      if (!value.isTuple() || value.toTupleRef().elements().size() != parts.size()) return false;
      for (size_t n = 0; n < parts.size(); n++) {
        if (!conforms(value.toTupleRef().elements()[n], parts[n])) return false;
      }
      return true;
    }
    case c10::TypeKind::ClassType: {
      if (!value.isObject()) return false;
      auto object = value.toObject();
      auto declared = type->expect<c10::ClassType>();
      if (object->type() != declared || object->slots().size() != declared->numAttributes()) return false;
      if (!seen.insert(object.get()).second) return true;
      for (size_t n = 0; n < declared->numAttributes(); n++) {
        check(object->getSlot(n), declared->getAttribute(n), declared->getAttributeName(n));
        bool training = declared->getAttributeName(n) == "training" && object->getSlot(n).isBool();
        trains = trains || (training && object->getSlot(n).toBool());
      }
      return true;
    }
    default:
      return false;
    }
  }
};

} // namespace
