// Each operator that a method calls, with the numbers that it is called with: where a run can be ended,
// and where numbers are refused with which libtorch's own sums would go round.
#pragma once
#include "factors.h"
#include "memory.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <limits>
#include <string>

namespace {

// Sizes, pads, steps and dilations are added and multiplied by two before they are checked, if at all:
// `reflection_pad1d` by two of -2^63 has checks, passes them and reads beside its tensor. Products of
// two of these fit.
constexpr int64_t MAX_NUMBER = int64_t(1) << 31;

bool is_small(int64_t number) { return number >= -MAX_NUMBER && number <= MAX_NUMBER; }

// `x[2:]` is a slice to the largest number there is, and each of the two is brought within the tensor.
bool is_end(int64_t number) {
  return number == std::numeric_limits<int64_t>::max() || number == std::numeric_limits<int64_t>::min();
}

bool are_small(const c10::IValue &value) {
  if (value.isInt()) return is_small(value.toInt());
  if (!value.isIntList()) return true;
  const auto numbers = value.toIntList();
  for (size_t n = 0; n < numbers.size(); n++) {
    if (!is_small(numbers.get(n))) return false;
  }
  return true;
}

// Whether it counts or places something. What tensors are computed with may be as large as it likes.
bool is_number(c10::TypePtr type) {
  if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
  if (auto list = type->cast<c10::ListType>()) type = list->getElementType();
  return type->kind() == c10::TypeKind::IntType || type->kind() == c10::TypeKind::SymIntType;
}

void watched(const c10::OperatorHandle &called, torch::jit::Stack *stack) {
  if (running != nullptr && running->is_cancelled()) throw Cancelled();
  const c10::FunctionSchema &schema = called.schema();
  const auto &arguments = schema.arguments();
  if (is_resize(schema.name())) check_resize(schema, *stack);
  for (size_t n = 0; n < arguments.size(); n++) {
    const c10::IValue &value = torch::jit::peek(*stack, n, arguments.size());
    if (are_small(value) || !is_number(arguments[n].type())) continue;
    bool ends = schema.name() == "aten::slice" && value.isInt() && is_end(value.toInt()) &&
                (arguments[n].name() == "start" || arguments[n].name() == "end");
    if (ends) continue;
    throw Refused("`" + arguments[n].name() + "` of `" + schema.name() + "` is beyond " +
                  std::to_string(MAX_NUMBER));
  }
  // What it calls itself is libtorch's own.
  c10::impl::ExcludeDispatchKeyGuard inner(c10::DispatchKey::TESTING_ONLY_GenericMode);
  called.callBoxed(stack);
}

// As PyTorch's own tests put a function before all operators: nothing else uses this key.
TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&watched>());
}

// Operators of this thread are watched while it lives.
struct Watch {
  c10::impl::IncludeDispatchKeyGuard mode{c10::DispatchKey::TESTING_ONLY_GenericMode};
};

} // namespace
