/* What the worker calls of libtorch: a C interface over its C++ one, compiled by build.rs into
 * libproplet_torch and opened at run time (native.rs has the same declarations in Rust).
 *
 * No call throws. One that can fail returns a status and writes a text that ends in NUL to `error`.
 * A context has one caller at a time; models may be used by several.
 */
#ifndef PROPLET_TORCH_SHIM_H
#define PROPLET_TORCH_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* To be raised with each change below. */
#define PROPLET_TORCH_INTERFACE 1

typedef enum {
  TORCH_OK = 0,
  /* Something of the model that is not allowed, or not supported. */
  TORCH_REFUSED = 1,
  TORCH_FAILED = 2,
  TORCH_CANCELLED = 3,
  /* More memory than the limit. */
  TORCH_TOO_LARGE = 4
} torch_status;

typedef enum {
  TORCH_F16 = 0,
  TORCH_F32 = 1,
  TORCH_F64 = 2,
  TORCH_U8 = 3,
  TORCH_I32 = 4,
  TORCH_I64 = 5,
  TORCH_BF16 = 6,
  TORCH_BOOL = 7,
  TORCH_I8 = 8,
  TORCH_I16 = 9
} torch_element;

/* What an argument of the method is. */
typedef enum { TORCH_TENSOR = 0, TORCH_INT = 1, TORCH_FLOAT = 2, TORCH_TRUTH = 3 } torch_argument;

typedef struct {
  char *text;
  size_t size;
} torch_error;

typedef struct torch_model torch_model;
typedef struct torch_context torch_context;
typedef struct torch_tensor torch_tensor;

typedef struct {
  const char *name;
  torch_argument kind;
  /* Its default value, or none, stands in for it. */
  int32_t optional;
} torch_input;

typedef struct {
  /* Empty if it has none. */
  const char *name;
  torch_element element;
  size_t rank;
  const int64_t *shape;
  const uint8_t *data;
  size_t bytes;
} torch_output;

uint32_t proplet_torch_interface(void);
/* That of the headers. */
const char *proplet_torch_version(void);
/* Before all others; once more changes nothing. */
torch_status proplet_torch_prepare(torch_error error);
/* For each thread that loads or runs: how many threads it may compute with. */
torch_status proplet_torch_thread(int32_t threads, torch_error error);

/* Loads an archive, holds all its methods against `operators` and its attributes against their
 * types, before anything of it runs. A line of `operators` is `aten::add`, or `-aten::view.dtype`
 * for an overload that is refused. `cancelled` is read while tensors are made. */
torch_status proplet_torch_load(const uint8_t *bytes, size_t size, const char *operators,
                                uint64_t memory, const int32_t *cancelled, torch_model **model,
                                torch_error error);
void proplet_torch_free_model(torch_model *model);
size_t proplet_torch_inputs(const torch_model *model);
torch_input proplet_torch_input(const torch_model *model, size_t index);
/* The number of outputs, or none (-1) where only a run tells. */
int64_t proplet_torch_declared_outputs(const torch_model *model);
const char *proplet_torch_declared_output(const torch_model *model, size_t index);
/* Whether a run leaves something behind in the model. */
int32_t proplet_torch_stateful(const torch_model *model);
/* The method with its types. */
const char *proplet_torch_schema(const torch_model *model);

/* Its tensors, and its copy of the model's state, if it has one, take no more than `memory`. */
torch_status proplet_torch_context(torch_model *model, uint64_t memory, torch_context **context,
                                   torch_error error);
void proplet_torch_free_context(torch_context *context);
/* Makes `data` an input, which is as long as type and shape say: a copy of it or, with `release`,
 * itself, until `release(owner)` is called, also where this fails. */
torch_status proplet_torch_set(torch_context *context, size_t index, torch_element element,
                               const uint32_t *shape, size_t rank, const uint8_t *data,
                               void (*release)(void *), void *owner, torch_error error);
torch_status proplet_torch_run(torch_context *context, const int32_t *cancelled,
                               torch_error error);
size_t proplet_torch_outputs(const torch_context *context);
/* Of the last run; its memory stays until the next one, or until the tensor that
 * proplet_torch_take has given is freed. */
torch_output proplet_torch_output(const torch_context *context, size_t index);
torch_status proplet_torch_take(const torch_context *context, size_t index, torch_tensor **tensor,
                                torch_error error);
void proplet_torch_free_tensor(torch_tensor *tensor);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
