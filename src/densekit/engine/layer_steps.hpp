// The steps that a layer is made of, for a file that calls them. Those that define them include this too, so that the
// compiler compares.

#pragma once

#include "rows.hpp"

#define DECLARE(T, NAME)                                                                                               \
  extern "C" void bnrelu_product_##NAME(const T* x, int64_t x_stride, const densekit::Acc<T>* scale,                   \
                                        const densekit::Acc<T>* shift, const T* weights, T* out, double* moments,      \
                                        int64_t rows, int64_t in, int64_t out_channels, int threads);                  \
  extern "C" void bnrelu_convolve_##NAME(                                                                              \
      const T* x, int64_t x_stride, const densekit::Acc<T>* scale, const densekit::Acc<T>* shift, const T* weights,    \
      int64_t s0, int64_t s1, int64_t s2, int64_t s3, T* out, int64_t out_stride, double* moments, int64_t N,          \
      int64_t H, int64_t W, int64_t in, int64_t out_channels, int threads);

DECLARE(double, float64)
DECLARE(float, float32)
DECLARE(densekit::bfloat16, bfloat16)
#undef DECLARE
