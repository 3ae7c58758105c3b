// Functions of the library that Python calls.

#pragma once

#include <new>
#include <type_traits>

#include "steps.hpp"

namespace densekit {

// A step as a function with C's conventions: it takes structs by value and throws nothing. It returns 1 if memory ran out, 2
// after another exception, otherwise 0.
template <auto step>
struct Exported;
template <class... Arguments, void (*step)(Arguments...)>
struct Exported<step> {
  static int call(std::remove_cvref_t<Arguments>... arguments) noexcept {
    try {
      step(arguments...);
      return 0;
    } catch (const std::bad_alloc&) {
      return 1;
    } catch (...) {
      return 2;
    }
  }
};

}  // namespace densekit

// Compile a step for values of type T, and export a pointer to it.
#define EXPORT_TYPE(step, T, name)                                                                                     \
  template decltype(densekit::step<T>) densekit::step<T>;                                                              \
  extern "C" {                                                                                                         \
  auto* step##_##name = &densekit::Exported<densekit::step<T>>::call;                                                  \
  }

// In all types: pointers step_float64, step_float32 and step_bfloat16.
#define EXPORT(step)                                                                                                   \
  EXPORT_TYPE(step, double, float64)                                                                                   \
  EXPORT_TYPE(step, float, float32)                                                                                    \
  EXPORT_TYPE(step, densekit::bfloat16, bfloat16)
