// A whole layer of the fused dense block on a CPU where there are no gradients: its steps one after the other, for as
// many pictures at a time as stay in the cache. What it needs is made of its parameters here: in Python that takes longer
// than the layer does for a single picture.

#include <cmath>

#include "layer_steps.hpp"
#include "scratch.hpp"

using namespace densekit;

namespace {

// A batch norm as a scale and a shift.
template <class A>
class Affine {
 public:
  Affine(const A* weight, const A* bias, const A* mean, const A* var, double eps, int64_t channels)
      : values_(2 * channels), channels_(channels) {
    for (int64_t c = 0; c < channels; ++c) {
      values_[c] = weight[c] / std::sqrt(var[c] + A(eps));
      values_[channels + c] = bias[c] - mean[c] * values_[c];
    }
  }
  const A* scale() const { return values_.data(); }
  const A* shift() const { return values_.data() + channels_; }

 private:
  Scratch<A> values_;
  int64_t channels_;
};

// Weights in the type to multiply in.
template <class T>
class Cast {
 public:
  Cast(const void* weights, bool wide, int64_t number, int threads)
      : values_(wide ? number : 0), data_(wide ? values_.data() : static_cast<const T*>(weights)) {
    if (!wide) return;
    const auto* from = static_cast<const Acc<T>*>(weights);
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t i = 0; i < number; ++i) values_[i] = store<T>(from[i]);
  }
  const T* data() const { return data_; }

 private:
  Scratch<T> values_;
  const T* data_;
};

}  // namespace

#define DEFINE(T, NAME)                                                                                                \
  extern "C" void infer_layer_##NAME(                                                                                  \
      const T* x, int64_t x_stride, const Acc<T>* weight, const Acc<T>* bias, const Acc<T>* mean, const Acc<T>* var,   \
      double eps, const void* matrix, const Acc<T>* weight2, const Acc<T>* bias2, const Acc<T>* mean2,                 \
      const Acc<T>* var2, double eps2, const void* kernels, int64_t s0, int64_t s1, int64_t s2, int64_t s3, T* out,    \
      int64_t out_stride, int64_t wide, int64_t pictures, int64_t N, int64_t H, int64_t W, int64_t in, int64_t middle, \
      int64_t out_channels, int threads) {                                                                             \
    const Affine<Acc<T>> norm(weight, bias, mean, var, eps, in);                                                       \
    const Affine<Acc<T>> norm2(weight2, bias2, mean2, var2, eps2, middle);                                             \
    const Cast<T> product(matrix, wide, middle * in, threads);                                                         \
    const Cast<T> convolution(kernels, wide, out_channels * middle * 9, threads);                                      \
    const Scratch<T> z(pictures * H * W * middle);                                                                     \
    for (int64_t n = 0; n < N; n += pictures) {                                                                        \
      const int64_t number = std::min(pictures, N - n), first = n * H * W;                                             \
      bnrelu_product_##NAME(x + first * x_stride, x_stride, norm.scale(), norm.shift(), product.data(), z.data(),      \
                            nullptr, number * H * W, in, middle, threads);                                             \
      bnrelu_convolve_##NAME(z.data(), middle, norm2.scale(), norm2.shift(), convolution.data(), s0, s1, s2,           \
                             s3, out + first * out_stride, out_stride, nullptr, number, H, W, middle, out_channels,    \
                             threads);                                                                                 \
    }                                                                                                                  \
  }

DEFINE(double, float64)
DEFINE(float, float32)
#ifndef __AMX_BF16__  // product.cpp says why
DEFINE(bfloat16, bfloat16)
#endif
