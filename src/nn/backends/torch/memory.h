// How calls fail, and the memory of tensors: counted, and where a run can be ended.
#pragma once
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/version.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

namespace {

// ---- Failures ----

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Cancelled : std::runtime_error {
  Cancelled() : std::runtime_error("it was to end") {}
};
struct TooLarge : std::runtime_error {
  using std::runtime_error::runtime_error;
};

torch_status tell(torch_error error, torch_status status, const char *text) {
  if (error.text != nullptr && error.size > 0) {
    size_t length = std::min(std::strlen(text), error.size - 1);
    std::memcpy(error.text, text, length);
    error.text[length] = 0;
  }
  return status;
}

// ---- Memory: what tensors take is counted, and is where a run can be ended ----

struct Account {
  explicit Account(uint64_t limit) : limit(limit) {}
  std::atomic<uint64_t> used{0};
  const uint64_t limit;
  std::atomic<bool> exceeded{false};
};

// Whose run this thread is in.
struct Running {
  std::shared_ptr<Account> account;
  const int32_t *cancelled = nullptr;
  bool is_cancelled() const {
    return cancelled != nullptr && __atomic_load_n(cancelled, __ATOMIC_RELAXED) != 0;
  }
};
thread_local Running *running = nullptr;

struct Scope {
  Running now;
  Running *before;
  Scope(std::shared_ptr<Account> account, const int32_t *cancelled)
      : now{std::move(account), cancelled}, before(running) {
    running = &now;
  }
  ~Scope() { running = before; }
};

template <typename Body> torch_status guarded(torch_error error, Body body) {
  try {
    body();
    return TORCH_OK;
  } catch (const Refused &e) {
    return tell(error, TORCH_REFUSED, e.what());
  } catch (const Cancelled &e) {
    return tell(error, TORCH_CANCELLED, e.what());
  } catch (const TooLarge &e) {
    return tell(error, TORCH_TOO_LARGE, e.what());
  } catch (const std::bad_alloc &) {
    return tell(error, TORCH_TOO_LARGE, "there is no more memory");
  } catch (const c10::Error &e) {
    return tell(error, TORCH_FAILED, e.what_without_backtrace());
  } catch (const std::exception &e) {
    return tell(error, TORCH_FAILED, e.what());
  } catch (...) {
    return tell(error, TORCH_FAILED, "it failed without a reason");
  }
}

// A run within its account. Interpreters pass on what an allocation threw as an error of their
// own, so it is asked for again here.
template <typename Body>
torch_status within(std::shared_ptr<Account> account, const int32_t *cancelled, torch_error error,
                    Body body) {
  Scope scope(account, cancelled);
  account->exceeded = false;
  torch_status status = guarded(error, body);
  if (status == TORCH_OK) return status;
  if (scope.now.is_cancelled()) return tell(error, TORCH_CANCELLED, "it was to end");
  if (account->exceeded) {
    std::string text = "its tensors would take more than " + std::to_string(account->limit) + " bytes";
    return tell(error, TORCH_TOO_LARGE, text.c_str());
  }
  return status;
}

// Before the bytes of a tensor: libtorch frees some by their address alone.
struct Block {
  size_t size;
  std::shared_ptr<Account> account;
};

constexpr size_t ALIGNMENT = 64;
static_assert(sizeof(Block) <= ALIGNMENT, "a block's head has its place");

void free_block(void *data) {
  if (data == nullptr) return;
  Block *block = reinterpret_cast<Block *>(static_cast<char *>(data) - ALIGNMENT);
  if (block->account) block->account->used -= block->size;
  block->~Block();
  std::free(block);
}

struct Counting final : c10::Allocator {
  static c10::DataPtr make(size_t size) {
    void *data = size == 0 ? nullptr : allocated(size);
    return {data, data, &free_block, c10::Device(c10::kCPU)};
  }

  static void *allocated(size_t size) {
    std::shared_ptr<Account> account;
    if (running != nullptr) {
      if (running->is_cancelled()) throw Cancelled();
      account = running->account;
      if (size > account->limit || account->used + size > account->limit) {
        account->exceeded = true;
        throw std::bad_alloc();
      }
    }
    void *memory = nullptr;
    if (size > SIZE_MAX - ALIGNMENT || posix_memalign(&memory, ALIGNMENT, size + ALIGNMENT) != 0) {
      throw std::bad_alloc();
    }
    if (account) account->used += size;
    new (memory) Block{size, std::move(account)};
    return static_cast<char *>(memory) + ALIGNMENT;
  }

  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3)
  c10::DataPtr allocate(size_t size) override { return make(size); }
  void copy_data(void *to, const void *from, size_t count) const override {
    default_copy_data(to, from, count);
  }
#else
  c10::DataPtr allocate(size_t size) const override { return make(size); }
#endif
};

} // namespace
