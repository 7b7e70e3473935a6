// What tensors are resized with. libtorch 1.13 believes a size and factors that do not fit each other: the
// linear kinds then read beside their tensor, without a check. Each call has one of the two here, and the
// other follows from it.
#pragma once
#include "memory.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>

#include <string>

namespace {

// Factors become steps through memory that are not checked when they are far out.
bool is_tame(double factor) { return factor >= 1e-3 && factor <= 1e3; }

// Places are computed in 32 bits for tensors of 32 bits: up to here they are off by less than half an element,
// which is what there is to spare.
constexpr int64_t MAX_SIDE = int64_t(1) << 21;

bool is_resize(const std::string &name) {
  return name.rfind("aten::upsample_", 0) == 0 || name.rfind("aten::_upsample_", 0) == 0;
}

bool is_of_factors(c10::TypePtr type) {
  if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
  if (auto list = type->cast<c10::ListType>()) type = list->getElementType();
  return type->kind() == c10::TypeKind::FloatType;
}

bool are_tame(const c10::IValue &value) {
  if (value.isNone()) return true;
  if (value.isDouble()) return is_tame(value.toDouble());
  if (!value.isDoubleList()) return false;
  const auto factors = value.toDoubleList();
  for (size_t n = 0; n < factors.size(); n++) {
    if (!is_tame(factors.get(n))) return false;
  }
  return true;
}

// Refuses a call with arguments that are not as above.
void check_resize(const c10::FunctionSchema &schema, const torch::jit::Stack &stack) {
  auto refuse = [&](const std::string &what) { throw Refused("`" + schema.name() + "` has " + what); };
  const auto &arguments = schema.arguments();
  bool sized = false, scaled = false;
  for (size_t n = 0; n < arguments.size(); n++) {
    const c10::IValue &value = torch::jit::peek(stack, n, arguments.size());
    if (value.isNone()) continue;
    if (value.isTensor()) {
      if (!value.toTensor().defined()) continue;
      for (int64_t side : value.toTensor().sizes()) {
        if (side > MAX_SIDE) refuse("a tensor with a side of more than " + std::to_string(MAX_SIDE));
      }
    } else if (is_of_factors(arguments[n].type())) {
      scaled = true;
      if (!are_tame(value)) refuse("factors that are not between 0.001 and 1000");
    } else if (value.isList()) {
      sized = true;
    }
  }
  if (sized && scaled) refuse("a size and factors, which need not fit each other");
}

} // namespace
